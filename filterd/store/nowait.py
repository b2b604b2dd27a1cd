"""Reading what the kernel has in memory, and nothing else: what would wait for a disk is answered "not now" (HOUSE item 17).

``openat2`` with RESOLVE_CACHED (Linux 5.12) opens a name that the kernel remembers, ``preadv2`` with RWF_NOWAIT reads pages that
are in its cache. A system, a sandbox or a file system without them answers "not now" to everything, and the pool does the work.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_CACHED = 0x20
_HOW = struct.pack("QQQ", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0, _RESOLVE_CACHED)
_NEVER = {errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.E2BIG}
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class CachedOpen:
    """``able`` turns False when the system proves to have no such thing."""

    __slots__ = ("_syscall", "able")

    def __init__(self) -> None:
        self.able = bool(_NOWAIT)
        # With the GIL held: the call never waits, and to hand the GIL around would cost more than it.
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall

    def __call__(self, directory: int, name: str) -> int:
        """A descriptor, -1 for not now (or no such name)."""
        if not self.able:
            return -1
        fd = int(self._syscall(_OPENAT2, directory, os.fsencode(name), _HOW, len(_HOW)))
        if fd < 0 and ctypes.get_errno() in _NEVER:
            self.able = False
        return fd


def read_cached(fd: int, size: int, offset: int = 0) -> bytes | None:
    """Just so many octets; None: not now, or there are fewer."""
    if not _NOWAIT:
        return None
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, [buffer], offset, _NOWAIT)
    except OSError:
        return None
    return bytes(buffer) if count == size else None
