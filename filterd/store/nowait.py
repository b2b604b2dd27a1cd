"""Reading what the kernel has in memory, and nothing else: what would wait for a disk is answered "not now" (HOUSE item 17).

``openat2`` with RESOLVE_CACHED (Linux 5.12) opens a name that the kernel remembers, ``preadv2`` with RWF_NOWAIT reads pages that
are in its cache. A system, a sandbox or a file system without them answers "not now" to everything, and the pool does the work.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable

_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_CACHED = 0x20
_HOW = struct.pack("QQQ", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0, _RESOLVE_CACHED)
_NEVER = {errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.E2BIG}
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_BUFFER = 65_536


class CachedOpen:
    """``able`` turns False when the system proves to have no such thing. For one thread: the loop's."""

    __slots__ = ("_buffer", "_syscall", "able")

    def __init__(self) -> None:
        self.able = bool(_NOWAIT)
        self._buffer = memoryview(b"")
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

    def read(self, fd: int, size: int) -> bytes | None:
        """``read_cached`` from the beginning, into a buffer that is made once."""
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(max(size, _BUFFER)))
        part = self._buffer[:size]
        try:
            count = os.preadv(fd, (part,), 0, _NOWAIT)
        except OSError:
            return None
        return bytes(part) if count == size else None


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


_AT_FDCWD = -100
_BASIC = 0x7FF  # STATX_BASIC_STATS
_STATX = struct.Struct("=32xQQ48xqI4xqI12xII")  # of struct statx: inode, size, ctime, mtime, device
Stamp = tuple[int, int, int, int, int]  # device, inode, mtime, size, ctime; a file that changed has another


def stamp_of(
    path: str, call: Callable[..., int] | None = getattr(ctypes.PyDLL(None), "statx", None)
) -> Stamp:
    """What ``stamped`` says of ``os.stat``, with the GIL held: the loop asks once or twice a message, the answer is in the
    kernel's memory, and while another thread has the GIL the loop would wait for it hundreds of times as long as for the
    answer. Raises OSError."""
    if call is None:  # no Linux, or a C library from before 2018
        return stamped(os.stat(path))
    buffer = ctypes.create_string_buffer(256)
    if call(_AT_FDCWD, os.fsencode(path), 0, _BASIC, buffer) < 0:
        return stamped(os.stat(path))  # raises the right error
    inode, size, ctime, ctime_ns, mtime, mtime_ns, major, minor = _STATX.unpack_from(buffer)
    return os.makedev(major, minor), inode, mtime * 10**9 + mtime_ns, size, ctime * 10**9 + ctime_ns


def stamped(found: os.stat_result) -> Stamp:
    """The same of what was looked up otherwise."""
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_ctime_ns
