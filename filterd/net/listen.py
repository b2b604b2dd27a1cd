"""Listening sockets: addresses as people write them, binding, and the accept loop.

An address is ``HOST:PORT``, ``[V6]:PORT``, ``:PORT`` (all interfaces, both families) or ``unix:/PATH``. The sockets are
bound once, by the parent; each forked worker runs its own ``Server`` on the same inherited socket.

The accept loop asks ``Admission`` before anything else is spent on a client (no TLS, no task, no object of ours); who is
refused gets one short line without waiting, or just the end under implicit TLS. One connection is admitted at a time,
then the loop turns: the other connections get their share, and so do the other workers that the same socket woke. Who has
more connections of a listener than another worker leaves the next one to that for a moment (``filterd.net.share``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from filterd.net.limits import Admission, Ticket, plain_ip
from filterd.net.proxy import Proxies, ProxyFault
from filterd.net.share import PATIENCE, Share

REFUSE_BATCH = 64  # refused in one go before other connections get their turn
BACKLOG = 1024
OUT_OF_FILES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
PAUSE = 0.5  # seconds without accepting when the process has no descriptors left

log = logging.getLogger("filterd.net")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """``path`` for a unix socket, else ``host`` ("" = all interfaces) and ``port`` (0: the kernel chooses)."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> ListenAddress:
    """Raises ValueError with a text for the operator."""
    if text.startswith("unix:"):
        path = text[5:]
        if not path.startswith("/"):
            raise ValueError(f"{text!r}: a unix socket needs an absolute path, as in unix:/run/filterd/lmtp")
        if len(path.encode()) > 107:
            raise ValueError(f"{text!r}: the path of a unix socket may have at most 107 octets")
        return ListenAddress(path=path)
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{text!r}: expected HOST:PORT, [IPV6]:PORT or unix:/PATH")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:{port}")
    return ListenAddress(host="" if host == "*" else host, port=int(port))


def bind(address: ListenAddress, *, backlog: int = BACKLOG, mode: int = 0o660) -> socket.socket:
    """A listening, non-blocking socket. ``mode`` is for a unix socket. Raises OSError."""
    if address.path:
        return _bind_unix(address.path, backlog, mode)
    last: OSError | None = None
    for family, sockaddr in _candidates(address):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            last = error
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if sockaddr[0] == "::" else 1)
            sock.bind(sockaddr)
            sock.listen(backlog)
        except OSError as error:
            sock.close()
            last = error
            continue
        sock.setblocking(False)
        return sock
    raise last or OSError(errno.EADDRNOTAVAIL, f"nothing to bind for {address}")


def _candidates(address: ListenAddress) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    if address.host in ("", "::"):
        # One socket for both families; hosts without IPv6 fall back to IPv4.
        return [(socket.AF_INET6, ("::", address.port)), (socket.AF_INET, ("0.0.0.0", address.port))]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, (str(sockaddr[0]), int(sockaddr[1]))) for family, _, _, _, sockaddr in found]


def _bind_unix(path: str, backlog: int, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        Path(path).chmod(mode)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Take away a socket that nobody listens on any more; leave anything else alone."""
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
        except OSError:
            return


def bound_address(sock: socket.socket) -> ListenAddress:
    """Where a socket listens, with the port the kernel chose."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return ListenAddress(path=str(name))
    return ListenAddress(host=str(name[0]), port=int(name[1]))


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


class Factory(Protocol):
    """Makes the protocol of one connection, which must release the ticket when the connection is lost."""

    def __call__(self, ticket: Ticket) -> asyncio.Protocol: ...


class Server:
    """Accepts on one socket in one worker.

    ``factory(ticket)`` makes the protocol of a connection. ``context`` gives the TLS context of an implicit-TLS
    listener at each connection (so a reloaded certificate is used at once), None for a plain one. ``refusal`` is
    sent to who is not admitted on a plain listener. ``proxies``: each connection begins with a PROXY header, before TLS, and
    counts as the client's that it names; who is no proxy of ours is cut off. ``share``: what the other workers on this socket have.
    ``counted`` is told of each connection whether it was taken.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: Factory,
        admission: Admission,
        *,
        context: Callable[[], ssl.SSLContext] | None = None,
        refusal: bytes = b"",
        handshake_seconds: float = 30.0,
        share: Share | None = None,
        proxies: Proxies | None = None,
        counted: Callable[[bool], None] | None = None,
    ) -> None:
        self.sock = sock
        self._counted = counted
        self._proxies = proxies
        self._share = share
        self._factory = factory
        self._admission = admission
        self._context = context
        self._refusal = refusal
        self._handshake_seconds = handshake_seconds
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[None]] = set()
        self._accepting = False

    def start(self) -> None:
        self._accepting = True
        self._loop.add_reader(self.sock.fileno(), self._accept)

    def stop(self) -> None:
        """Accept no more; the socket stays open (the parent owns it). Who was accepted already is served."""
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self.sock.fileno())
            if self._share is not None:
                self._share.close()

    def cut_handshakes(self) -> None:
        """The program ends: who has not finished the TLS handshake, or the PROXY header, is not waited for."""
        if self._context is not None or self._proxies is not None:
            for task in self._starting:
                task.cancel()

    def _accept(self) -> None:
        if self._share is not None and self._share.others_first:
            self._loop.remove_reader(self.sock.fileno())
            self._loop.call_later(PATIENCE, self._take)
        else:
            self._take_next()

    def _take(self) -> None:
        """We waited: whoever is still there is ours."""
        if self._accepting:
            self._loop.add_reader(self.sock.fileno(), self._accept)
            self._take_next()

    def _take_next(self) -> None:
        for _ in range(REFUSE_BATCH):
            try:
                client, peer = self.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in OUT_OF_FILES:
                    self._rest(error)
                    return
                continue  # the client is gone already (ECONNABORTED and the like)
            ip = None if client.family == socket.AF_UNIX else plain_ip(peer)[0]
            if self._proxies is not None and not self._proxies.trusts(ip):
                log.info("%s is no proxy of ours (server.proxy_trusted)", ip)
                client.close()
                continue
            # a proxy's own address counts for nothing: its clients are counted when it has told them
            ticket = self._admission.admit(ip if self._proxies is None else None)
            if ticket is None:
                self._refuse(client)
                continue
            self._admit(client, ip, ticket)
            return

    def _admit(self, client: socket.socket, ip: str | None, ticket: Ticket) -> None:
        client.setblocking(False)
        if self._share is not None:
            self._share.enter()
            ticket.gone = self._share.leave
        if ip is not None:
            with contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        task = self._loop.create_task(self._serve(client, ticket))
        ticket.evict = partial(_cancel, task)  # until the connection has its own way
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def _rest(self, error: OSError) -> None:
        log.error("cannot accept: %s", error.strerror)
        self._loop.remove_reader(self.sock.fileno())
        self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if self._accepting:
            self._loop.add_reader(self.sock.fileno(), self._accept)

    def _refuse(self, client: socket.socket) -> None:
        if self._counted is not None:
            self._counted(False)
        with client:
            if self._refusal and self._context is None:
                client.setblocking(False)
                with contextlib.suppress(OSError):
                    client.send(self._refusal)

    async def _introduced(self, proxies: Proxies, client: socket.socket, ticket: Ticket) -> bool:
        """Read the PROXY header; False when its client is refused. Raises ProxyFault, TimeoutError, OSError."""
        found = await proxies.read(client)
        peer = plain_ip(client.getpeername())[0] or "a unix socket"
        if found.ip is None:
            ticket.introduce(None, f"PROXY v{found.version} by {peer}")
            return True
        ticket.introduce((found.ip, found.port), f"PROXY v{found.version} by {peer}")
        return self._admission.readmit(ticket, found.ip)

    async def _serve(self, client: socket.socket, ticket: Ticket) -> None:
        try:
            if self._proxies is not None and not await self._introduced(self._proxies, client, ticket):
                ticket.release()
                self._refuse(client)
                return
            if self._counted is not None:
                self._counted(True)
            context = self._context() if self._context is not None else None
            await self._loop.connect_accepted_socket(
                lambda: self._factory(ticket),
                client,
                ssl=context,
                ssl_handshake_timeout=self._handshake_seconds if context is not None else None,
            )
        except (TimeoutError, OSError, ssl.SSLError, ProxyFault) as error:
            why = f": {error}" if isinstance(error, ProxyFault) else ""
            log.info("connection failed before its greeting: %s%s", type(error).__name__, why)
            ticket.release()
            client.close()
        except asyncio.CancelledError:
            ticket.release()
            client.close()
            raise
