"""The datagram socket by which workers and commands wake the sending process.

A lost or unheard datagram costs nothing but time: the sending process looks by itself as well. A socket's path may have 107
octets; a longer one is reached through the directory's descriptor.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

NAME = "wake"
LOOK, RETRY = b"1", b"retry"  # something is due; the operator wants it now, rest or no rest
PATH_OCTETS = 107


class Bell:
    """The ringing side."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def ring(self, word: bytes = LOOK) -> None:
        """When nobody sends at the moment: the sending process looks as soon as it starts."""
        with contextlib.suppress(OSError):
            _at(self._directory, lambda path: self._socket.sendto(word, path))

    def close(self) -> None:
        self._socket.close()


def listen(directory: Path) -> socket.socket:
    """The hearing side's socket, non-blocking; replaces the one of a process that was killed. Raises OSError."""
    (directory / NAME).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        _at(directory, sock.bind)
        os.chmod(directory / NAME, 0o600)
    except BaseException:
        sock.close()
        raise
    return sock


def heard(sock: socket.socket) -> set[bytes]:
    """All words that were sent since."""
    words: set[bytes] = set()
    with contextlib.suppress(OSError):
        while True:
            words.add(sock.recv(64))
    return words


def _at(directory: Path, use: Callable[[str], object]) -> None:
    path = str(directory / NAME)
    if len(os.fsencode(path)) <= PATH_OCTETS:
        use(path)
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{fd}/{NAME}")
    finally:
        os.close(fd)
