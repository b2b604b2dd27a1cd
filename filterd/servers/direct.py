"""Answers straight from the pool's thread to the socket, past the loop (PROTOTYPES 3: faster than sendfile or mmap).

Only for a plain connection whose transport has nothing left to write, and only while a job of that connection is under way, so
that nobody else writes. The descriptor is a duplicate made on the loop: when the loop closes the connection meanwhile, the
thread writes to the dead socket and not to whoever got its number. What a slow client does not take at once is handed back.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

HOLD_SECONDS = 0.025  # so long one job may keep the account
PATIENCE = 0.004  # seconds that the thread waits for the client each time
PIECES = 512  # below IOV_MAX


class DirectSink:
    """``filterd.imap.work.Sink`` on a socket's duplicate. Made and closed on the loop."""

    __slots__ = ("_end", "_fd", "_poll")

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)
        self._poll: select.poll | None = None
        self._end = 0.0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def begin(self) -> None:
        self._end = time.monotonic() + HOLD_SECONDS

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self._end

    def write(self, pieces: Sequence[bytes]) -> list[bytes]:
        """What is left; the connection's end is for the transport to find out."""
        at = 0
        while at < len(pieces):
            block = pieces[at : at + PIECES]
            try:
                sent = os.writev(self._fd, block)
            except BlockingIOError:
                if not self._writable():
                    return list(pieces[at:])
                continue
            except OSError:
                return list(pieces[at:])
            for piece in block:
                if sent < len(piece):
                    break
                sent -= len(piece)
                at += 1
            if sent:
                rest = self._rest(pieces[at], sent)
                if rest:
                    return [rest, *pieces[at + 1 :]]
                at += 1
        return []

    def _writable(self) -> bool:
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLOUT)
        return bool(self._poll.poll(PATIENCE * 1000))

    def _rest(self, piece: bytes, sent: int) -> bytes:
        """Go on within one piece."""
        view = memoryview(piece)
        while sent < len(view):
            try:
                sent += os.write(self._fd, view[sent:])
            except BlockingIOError:
                if not self._writable():
                    break
            except OSError:
                break
        return bytes(view[sent:])
