"""inotify through libc: one instance a process tells of changes that other programs make in watched directories.

Only "something happened there" is passed on: names are never read, the store looks for itself. When the kernel's queue ran over,
everything counts as changed. A system without inotify gives no events; the stat sweep of ``changes`` is the net below.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR = 0x4000, 0x8000, 0x01000000
WATCHED = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR
BUFFER = 64 * 1024
_EVENT = struct.Struct("iIII")


class Inotify:
    """``fd`` is -1 where there is none."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = -1
        with contextlib.suppress(AttributeError):
            self.fd = int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def add(self, path: str) -> int:
        """The watch's number, -1 when it cannot be watched (not there, too many). The same path has the same number."""
        return int(self._libc.inotify_add_watch(self.fd, os.fsencode(path), WATCHED)) if self.fd >= 0 else -1

    def remove(self, watch: int) -> None:
        if self.fd >= 0 and watch >= 0:
            self._libc.inotify_rm_watch(self.fd, watch)

    def events(self) -> tuple[set[int], bool]:
        """(watches where something changed, the queue ran over) since the last call."""
        try:
            data = os.read(self.fd, BUFFER)
        except BlockingIOError:
            return set(), False
        found: set[int] = set()
        over = False
        at = 0
        while at + _EVENT.size <= len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            over = over or bool(mask & IN_Q_OVERFLOW)
            if not mask & IN_IGNORED:
                found.add(watch)
        return found, over

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
