"""A daemon that misbehaves, for the clients of clamd and spamd: silent, drip, reset, EOF, cut, garbage, split, slow reader.

``serve(behave)`` listens on a free loopback port (or on a unix socket) and gives each connection to ``behave(conn,
stop)`` in a thread. Behaviours are made by the functions below from a ``read`` function, which takes one whole request
from the connection (``clamd_request``, ``spamd_request``), and the honest reply. ``stop`` ends every wait: no test sleeps
longer than the client's own time limit.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Read = Callable[[socket.socket], bytes]
Behave = Callable[[socket.socket, threading.Event], None]


def _exactly(conn: socket.socket, count: int) -> bytes:
    out = b""
    while len(out) < count:
        part = conn.recv(min(65536, count - len(out)))
        if not part:
            raise EOFError
        out += part
    return out


def clamd_request(conn: socket.socket) -> bytes:
    """One ``nCOMMAND`` line; for INSTREAM also the stream, which is returned."""
    line = b""
    while not line.endswith(b"\n"):
        line += _exactly(conn, 1)
    if line != b"nINSTREAM\n":
        return line
    stream = b""
    while True:
        (size,) = struct.unpack("!L", _exactly(conn, 4))
        if not size:
            return stream
        stream += _exactly(conn, size)


def spamd_request(conn: socket.socket) -> bytes:
    """Everything up to the client's half-close."""
    out = b""
    while part := conn.recv(65536):
        out += part
    return out


def honest(read: Read, reply: bytes) -> Behave:
    def behave(conn: socket.socket, stop: threading.Event) -> None:
        read(conn)
        conn.sendall(reply)

    return behave


def silent(read: Read) -> Behave:
    """Takes the request and never answers."""

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        read(conn)
        stop.wait()

    return behave


def drip(read: Read, reply: bytes, pause: float) -> Behave:
    """One octet at a time, each in time for a limit on a single read, all of them too late."""

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        read(conn)
        for at in range(len(reply)):
            conn.sendall(reply[at : at + 1])
            if stop.wait(pause):
                return

    return behave


def split(read: Read, reply: bytes, pause: float = 0.01) -> Behave:
    """The honest reply, in three pieces."""
    third = max(1, len(reply) // 3)

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        read(conn)
        for piece in (reply[:third], reply[third : 2 * third], reply[2 * third :]):
            conn.sendall(piece)
            stop.wait(pause)

    return behave


def reset(read: Read, reply: bytes = b"") -> Behave:
    """RST instead of an answer, or after a part of it."""

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        read(conn)
        conn.sendall(reply)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return behave


def reset_at_once(conn: socket.socket, stop: threading.Event) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def eof_at_once(conn: socket.socket, stop: threading.Event) -> None:
    """Accepts and closes."""


def early(reply: bytes) -> Behave:
    """Answers before it has read anything, and closes."""

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        conn.sendall(reply)
        conn.shutdown(socket.SHUT_WR)
        stop.wait(0.05)

    return behave


def slow_reader(read: Read, reply: Callable[[bytes], bytes], late: float = 0.1) -> Behave:
    """Begins to read late, with small buffers: a client that trusts one ``send`` to take everything misframes here.

    ``reply`` is made from what was read.
    """

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        stop.wait(late)
        conn.sendall(reply(read(conn)))

    return behave


def never_reads(conn: socket.socket, stop: threading.Event) -> None:
    stop.wait()


def endless(conn: socket.socket, stop: threading.Event) -> None:
    """Never stops talking."""
    while not stop.is_set():
        conn.sendall(b"stream: " * 4096)


@contextlib.contextmanager
def serve(behave: Behave, path: Path | None = None, buffer: int = 0) -> Iterator[str]:
    """Listens until the block ends; gives the socket's spelling for a configuration. ``buffer``: SO_RCVBUF."""
    stop = threading.Event()
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_STREAM)
    if buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    listener.bind(str(path) if path else ("127.0.0.1", 0))
    listener.listen(16)
    spelling = f"unix:{path}" if path else f"127.0.0.1:{listener.getsockname()[1]}"
    threads: list[threading.Thread] = []

    def one(conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError, EOFError):
            behave(conn, stop)

    def accept() -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=one, args=(conn,), daemon=True)
            threads.append(thread)
            thread.start()

    accepter = threading.Thread(target=accept, daemon=True)
    accepter.start()
    try:
        yield spelling
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepter.join(2)
        for thread in threads:
            thread.join(2)


def refused() -> str:
    """A loopback port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
