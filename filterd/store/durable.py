"""The only place that makes things last: fsync, link, rename, flock (HOUSE items 10, 17; STYLE 1).

What a caller may rely on after a power failure (ext4, xfs, btrfs; no network file system):

* the octets of a file survive once ``sync`` returned; before that it may be empty, cut short, or complete;
* a directory entry made, renamed or removed survives once ``sync_dir`` of that directory returned; before that each change
  may be kept or lost by itself, but a rename is kept or lost whole;
* an SQLite commit survives when it was made with ``synchronous=FULL``; else any later part of the commits may be missing.

So a new message is: ``write_new`` (no name yet), ``sync``, ``publish`` (gets its name), ``sync_dir``, and only then an answer.

``RealDisk`` writes new files without a name (O_TMPFILE) where the system can, so a crash leaves nothing behind; else under a
name in ``tmp``. ``tests/crash`` records the steps through a subclass of it and replays every state the disk may be left in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filterd.store.base import StoreUnavailable
from filterd.store.nowait import read_cached

LOCK_SECONDS = 10.0
LOCK_STEPS = (0.0, 0.0001, 0.0002, 0.0004, 0.0008, 0.0016)  # the last one repeats
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
MAX_LOCK_MARK = 4096
TURN_OCTETS = 8  # behind the note: the number of the holder's turn
EVERYTHING = b"*"  # the note when what was touched does not fit
_PROC = os.path.isdir("/proc/self")
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}


@dataclass(slots=True)
class Dir:
    """An open directory. ``path`` is for people and for the crash rig; the descriptor is what is used."""

    path: str
    fd: int

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(slots=True)
class NewFile:
    """A written file that has no name in the mail store yet. ``temporary`` is its name in ``at``, "" for none."""

    at: Dir
    fd: int
    temporary: str
    inode: int
    size: int
    mtime: int  # nanoseconds


@dataclass(slots=True)
class OpenFile:
    """A file that is changed in place: an mbox."""

    at: Dir
    name: str
    fd: int

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Lock(Protocol):
    """A writer lock between processes that can hold a note which outlives a killed holder (not a power failure)."""

    def acquire(self, seconds: float) -> None:
        """Raises StoreUnavailable when it stays taken."""
        ...

    def release(self) -> None: ...

    def note(self) -> bytes: ...

    def set_note(self, note: bytes) -> None: ...

    def begin_turn(self) -> None:
        """The holder begins: from now on ``turn`` is odd. A holder that was killed leaves it so."""
        ...

    def end_turn(self) -> None:
        """The holder has committed all: ``turn`` is even and larger than it ever was."""
        ...

    def turn(self) -> int:
        """For whoever does not hold the lock, on the loop too: while this is the same even number nothing was changed.

        -1 when it cannot be told without waiting."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """The durable primitives. All may raise OSError. Names are single path components."""

    def boot_id(self) -> str:
        """Changes when the machine started anew, i.e. when un-synced writes may be lost."""
        ...

    def now(self) -> int:
        """The file system's idea of now, nanoseconds: to be compared with mtimes only."""
        ...

    def open_dir(self, path: str) -> Dir: ...

    def make_dir(self, at: Dir, name: str) -> None: ...

    def write_new(
        self, at: Dir, data: bytes, mtime: int | None = None, temporary: Dir | None = None
    ) -> NewFile:
        """``mtime`` in seconds. ``at`` is where it will be published, ``temporary`` where it may lie until then."""
        ...

    def sync(self, file: NewFile) -> None: ...

    def publish(self, file: NewFile, name: str) -> None:
        """Give it its name in ``at`` (which must be free) and let go of it."""
        ...

    def discard(self, file: NewFile) -> None: ...

    def link(self, source: Dir, name: str, target: Dir, new: str) -> None: ...

    def rename(self, source: Dir, name: str, target: Dir, new: str) -> None: ...

    def unlink(self, at: Dir, name: str) -> None: ...

    def remove_dir(self, at: Dir, name: str) -> None: ...

    def sync_dir(self, at: Dir) -> None: ...

    def append(self, at: Dir, name: str, data: bytes) -> None:
        """To an existing file; not durable."""
        ...

    def extend_new(self, file: NewFile, data: bytes) -> None:
        """More octets for a file that has no name yet."""
        ...

    def open_file(self, at: Dir, name: str) -> OpenFile:
        """To be changed in place; an ordinary file, made when it is not there."""
        ...

    def write_at(self, file: OpenFile, offset: int, data: bytes) -> None:
        """Overwrite or extend; not durable before ``sync_file``."""
        ...

    def set_size(self, file: OpenFile, size: int) -> None: ...

    def sync_file(self, file: OpenFile) -> None: ...

    def open_mail_lock(self, path: str, rules: LockRules) -> MailLock: ...

    def open_lock(self, at: Dir, name: str) -> Lock: ...

    def committed(self, path: str, database: sqlite3.Connection, durable: bool) -> None:
        """An SQLite transaction was committed (for the crash rig; nothing to do on a real disk)."""
        ...


class FlockLock(Lock):
    """flock with a retry of our own: SQLite's and the kernel's queues have long tails (PROTOTYPES 2)."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._written = 0  # octets of the note to wipe
        self._turn = 1

    def acquire(self, seconds: float) -> None:
        deadline = 0.0
        for pause in itertools.chain(LOCK_STEPS, itertools.repeat(LOCK_STEPS[-1])):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + seconds
                if now >= deadline:
                    raise StoreUnavailable(f"the lock {self._path} stays taken") from None
                time.sleep(pause)

    def release(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def note(self) -> bytes:
        note = os.pread(self._fd, MAX_LOCK_MARK, 0).rstrip(b"\0")
        self._written = len(note)
        return note

    def set_note(self, note: bytes) -> None:
        if len(note) > MAX_LOCK_MARK:
            note = EVERYTHING
        os.pwrite(self._fd, note + b"\0" * (self._written - len(note)), 0)
        self._written = len(note)

    def begin_turn(self) -> None:
        self._turn = int.from_bytes(os.pread(self._fd, TURN_OCTETS, MAX_LOCK_MARK), "little") | 1
        os.pwrite(self._fd, self._turn.to_bytes(TURN_OCTETS, "little"), MAX_LOCK_MARK)

    def end_turn(self) -> None:
        os.pwrite(self._fd, (self._turn + 1).to_bytes(TURN_OCTETS, "little"), MAX_LOCK_MARK)

    def turn(self) -> int:
        data = read_cached(self._fd, TURN_OCTETS, MAX_LOCK_MARK)
        return -1 if data is None else int.from_bytes(data, "little")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class LockRules:
    """How a mailbox file is locked against other programs: ``dotlock`` (``dotlock-try``: unless its directory forbids), ``fcntl``,
    ``flock``, in this order; how many seconds we wait; after how many a dot-lock that nobody touches counts as forgotten."""

    methods: tuple[str, ...] = ("dotlock", "fcntl")
    seconds: float = 10.0
    stale: float = 300.0


class MailLock:
    """The locks that mail programs agree on (liblockfile, Dovecot, mutt, procmail), taken together or not at all.

    The dot-lock ``FILE.lock`` is made by a hard link, which is sure on NFS too; it holds ``pid:host``. One of a dead process of
    this host is broken at once, another one when it has not been touched for ``stale`` seconds. The record lock belongs to the
    open file description where the system can (F_OFD_SETLK), so that closing another descriptor does not drop it. A lock
    that is taken by somebody lets go of all we had, so that two programs with another order never wait for each other.
    """

    def __init__(self, path: str, rules: LockRules) -> None:
        self._path = f"{path}.lock"
        self._rules = rules
        self._host = os.uname().nodename
        self._dotted = False
        self._count = itertools.count()

    def acquire(self, fd: int, seconds: float | None = None) -> None:
        """Raises StoreUnavailable when it stays taken."""
        deadline = time.monotonic() + (self._rules.seconds if seconds is None else seconds)
        pause = 0.001
        while not all(self._try(method, fd) for method in self._rules.methods):
            self.release(fd)
            if time.monotonic() >= deadline:
                raise StoreUnavailable(f"another program has locked {self._path.removesuffix('.lock')}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def release(self, fd: int) -> None:
        for method in reversed(self._rules.methods):
            if method == "fcntl" and fd >= 0:
                _record_lock(fd, fcntl.F_UNLCK)
            elif method == "flock" and fd >= 0:
                fcntl.flock(fd, fcntl.LOCK_UN)
        if self._dotted:
            self._dotted = False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def touch(self) -> None:
        """We are still at it."""
        if self._dotted:
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def _try(self, method: str, fd: int) -> bool:
        if method == "fcntl":
            return fd < 0 or _record_lock(fd, fcntl.F_WRLCK)
        if method == "flock":
            try:
                if fd >= 0:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True
        try:
            self._dotted = self._dot()
        except PermissionError as error:
            if method == "dotlock-try":
                return True
            raise StoreUnavailable(
                f"{self._path} cannot be made ({error.strerror}): see store.mbox.locks"
            ) from error
        return self._dotted

    def _dot(self) -> bool:
        directory = os.path.dirname(self._path)
        mine = f"{directory}/.lk{os.getpid()}.{self._host[:40]}.{id(self):x}.{next(self._count)}"
        fd = os.open(mine, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.write(fd, f"{os.getpid()}:{self._host}\n".encode())
            with contextlib.suppress(FileExistsError):
                os.link(mine, self._path)
            facts = os.fstat(fd)
            if facts.st_nlink == 2:  # NFS: the answer may get lost, the link count does not
                return True
            self._break(facts.st_mtime, f"{mine}.old")
            return False
        finally:
            os.close(fd)
            os.unlink(mine)

    def _break(self, now: float, aside: str) -> None:
        """Remove a lock that nobody holds any more, and only that one."""
        try:
            facts = os.lstat(self._path)
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                data = os.read(fd, 300)
            finally:
                os.close(fd)
            if not self._is_dead(data.strip()) and now - facts.st_mtime <= self._rules.stale:
                return
            os.rename(self._path, aside)
            if os.lstat(aside).st_ino != facts.st_ino:  # another one, made meanwhile: give it back
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self._path)
            os.unlink(aside)
        except FileNotFoundError:
            return

    def _is_dead(self, note: bytes) -> bool:
        """``note`` names a process of this host that is no more."""
        pid, _, host = note.partition(b":")
        here = host.decode("utf-8", "replace") in ("", self._host)
        return (
            here
            and pid.isdigit()
            and 0 < int(pid) < 2**22
            and not os.path.isdir(f"/proc/{int(pid)}")
            and _PROC
        )


def _record_lock(fd: int, kind: int) -> bool:
    """A record lock on the whole file. False: somebody has it."""
    command = getattr(fcntl, "F_OFD_SETLK", fcntl.F_SETLK)
    try:
        fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
    except (PermissionError, BlockingIOError):
        return False
    return True


class RealDisk(Disk):
    """One a process is enough. ``boot`` replaces the kernel's boot id (tests)."""

    def __init__(self, boot: str | None = None, unnamed: bool = True) -> None:
        self._boot = boot
        self._unnamed = unnamed and hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")
        self._count = itertools.count()

    def boot_id(self) -> str:
        if self._boot is None:
            try:
                self._boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
            except OSError:
                self._boot = (
                    f"process-{os.getpid()}-{time.monotonic_ns()}"  # unknown: each start counts as a new boot
                )
        return self._boot

    def now(self) -> int:
        return time.time_ns()

    def open_dir(self, path: str) -> Dir:
        return Dir(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def make_dir(self, at: Dir, name: str) -> None:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=at.fd)

    def write_new(
        self, at: Dir, data: bytes, mtime: int | None = None, temporary: Dir | None = None
    ) -> NewFile:
        fd, name = self._create(at, temporary)
        holder = at if temporary is None else temporary
        file = NewFile(at, fd, "", 0, len(data), 0)
        file.temporary = name and f"{holder.path}/{name}"
        try:
            view = memoryview(data)
            done = os.write(fd, view)
            while done < len(data):
                done += os.write(fd, view[done:])
            if mtime is not None:
                os.utime(fd, ns=(mtime * 1_000_000_000, mtime * 1_000_000_000))
            facts = os.fstat(fd)
        except BaseException:
            self.discard(file)
            raise
        file.inode, file.mtime = facts.st_ino, facts.st_mtime_ns
        return file

    def _create(self, at: Dir, temporary: Dir | None) -> tuple[int, str]:
        if self._unnamed:
            try:
                return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE, dir_fd=at.fd), ""
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
                self._unnamed = False
        holder = at if temporary is None else temporary
        name = f"{time.time_ns()}.P{os.getpid()}Q{next(self._count)}.filterd"
        create = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, create, FILE_MODE, dir_fd=holder.fd), name

    def sync(self, file: NewFile) -> None:
        os.fsync(file.fd)

    def publish(self, file: NewFile, name: str) -> None:
        if file.temporary:
            os.link(file.temporary, name, dst_dir_fd=file.at.fd, follow_symlinks=False)
            os.unlink(file.temporary)
        else:
            os.link(f"/proc/self/fd/{file.fd}", name, dst_dir_fd=file.at.fd, follow_symlinks=True)
        os.close(file.fd)
        file.fd = -1

    def discard(self, file: NewFile) -> None:
        if file.fd >= 0:
            os.close(file.fd)
            file.fd = -1
            if file.temporary:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.temporary)

    def link(self, source: Dir, name: str, target: Dir, new: str) -> None:
        os.link(name, new, src_dir_fd=source.fd, dst_dir_fd=target.fd, follow_symlinks=False)

    def rename(self, source: Dir, name: str, target: Dir, new: str) -> None:
        os.rename(name, new, src_dir_fd=source.fd, dst_dir_fd=target.fd)

    def unlink(self, at: Dir, name: str) -> None:
        os.unlink(name, dir_fd=at.fd)

    def remove_dir(self, at: Dir, name: str) -> None:
        os.rmdir(name, dir_fd=at.fd)

    def sync_dir(self, at: Dir) -> None:
        os.fsync(at.fd)

    def append(self, at: Dir, name: str, data: bytes) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=at.fd)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def extend_new(self, file: NewFile, data: bytes) -> None:
        view = memoryview(data)
        done = 0
        while done < len(data):
            done += os.write(file.fd, view[done:])
        file.size += len(data)

    def open_file(self, at: Dir, name: str) -> OpenFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(name, flags, FILE_MODE, dir_fd=at.fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise StoreUnavailable(f"{at.path}/{name} is no ordinary file")
        return OpenFile(at, name, fd)

    def write_at(self, file: OpenFile, offset: int, data: bytes) -> None:
        view = memoryview(data)
        done = 0
        while done < len(data):
            done += os.pwrite(file.fd, view[done:], offset + done)

    def set_size(self, file: OpenFile, size: int) -> None:
        """Longer: with room for it on the disk."""
        had = os.fstat(file.fd).st_size
        if size > had:
            os.posix_fallocate(file.fd, had, size - had)
        else:
            os.ftruncate(file.fd, size)

    def sync_file(self, file: OpenFile) -> None:
        os.fsync(file.fd)

    def open_mail_lock(self, path: str, rules: LockRules) -> MailLock:
        return MailLock(path, rules)

    def open_lock(self, at: Dir, name: str) -> Lock:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return FlockLock(os.open(name, flags, FILE_MODE, dir_fd=at.fd), f"{at.path}/{name}")

    def committed(self, path: str, database: sqlite3.Connection, durable: bool) -> None:
        """SQLite has done it."""


# -- composed of the primitives ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(disk: Disk, path: str) -> Iterator[Dir]:
    at = disk.open_dir(path)
    try:
        yield at
    finally:
        at.close()


def replace_small(disk: Disk, at: Dir, name: str, data: bytes, durable: bool = True) -> None:
    """Put ``data`` under ``name`` at once and whole. Readers see the old file or the new one, also after a crash."""
    file = disk.write_new(at, data)
    try:
        if durable:
            disk.sync(file)
        temporary = f".{name.lstrip('.')}.{os.getpid()}.{file.inode}"
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(at, temporary)  # of a process that was killed here
        disk.publish(file, temporary)
    except BaseException:
        disk.discard(file)
        raise
    disk.rename(at, temporary, at, name)
    if durable:
        disk.sync_dir(at)


def make_dirs(disk: Disk, path: str) -> None:
    """The directory and its parents, durable."""
    missing = []
    while not os.path.isdir(path):
        path, name = os.path.split(path.rstrip("/"))
        missing.append(name)
    while missing:
        with opened(disk, path) as at:
            with contextlib.suppress(FileExistsError):
                disk.make_dir(at, missing[-1])
            disk.sync_dir(at)
        path = os.path.join(path, missing.pop())


def extend_file(at: Dir, name: str, length: int, data: bytes) -> None:
    """Cut a file to ``length`` octets and write ``data`` behind them; synced. For derived data: the crash rig does not see it."""
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=at.fd)
    try:
        os.ftruncate(fd, length)
        view = memoryview(data)
        done = 0
        while done < len(data):
            done += os.pwrite(fd, view[done:], length + done)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_complete(path: str, data: bytes, mode: int) -> None:
    """A new file in a directory that we may not read: it has ``mode`` only once all of it is on the disk, 0600 before."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes) -> None:
    """For other parts of the server: replace a whole file, durable on return."""
    disk = RealDisk()
    with opened(disk, str(path.parent)) as at:
        replace_small(disk, at, path.name, data)


def digest(data: bytes) -> bytes:
    """SHA-256, for names that derive from content."""
    return hashlib.sha256(data).digest()
