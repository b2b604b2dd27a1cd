"""One mbox file: opened, locked against other programs, read and written by offset; and the folder that it is in our index.

Invariants: nobody writes without ``held``; a descriptor is used only while its inode is the one under the name (programs may put
another file there). After each change the mtime is given three odd last digits (``stamp``): the kernel's clock is coarse, and a
program that writes in the same tick would else leave the mtime as we know it.

``.mailboxes/<mailbox id>/`` in the account's directory holds what Maildir keeps in the folder: ``.filterd-mailbox`` and
``filterd-keywords`` as ``folder`` describes them, and ``file``, the path of the mbox below the account's directory ("" is INBOX).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from filterd.store.base import StoreUnavailable
from filterd.store.durable import Disk, LockRules, OpenFile
from filterd.store.folder import Folder
from filterd.store.index import MailboxRow
from filterd.store.mbox_scan import Scanner

CHUNK = 1024 * 1024


class MboxFile:
    """Not for two threads at once."""

    __slots__ = ("_held", "_lock", "at", "disk", "file", "name", "path")

    def __init__(self, disk: Disk, path: str, rules: LockRules) -> None:
        self.disk = disk
        self.path = path
        directory, self.name = os.path.split(path)
        self.at = disk.open_dir(directory)
        self.file = OpenFile(self.at, self.name, -1)
        self._lock = disk.open_mail_lock(path, rules)
        self._held = 0

    def close(self) -> None:
        self.file.close()
        self.at.close()

    def exists(self) -> bool:
        try:
            os.stat(self.name, dir_fd=self.at.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def times(self) -> tuple[int, int]:
        """mtime in nanoseconds and size: by these a change is noticed."""
        try:
            facts = os.stat(self.name, dir_fd=self.at.fd, follow_symlinks=False)
        except FileNotFoundError:
            return 0, 0
        return facts.st_mtime_ns, facts.st_size

    def size(self) -> int:
        return os.fstat(self.file.fd).st_size

    def _same(self) -> bool:
        if self.file.fd < 0:
            return False
        try:
            now = os.stat(self.name, dir_fd=self.at.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(now, os.fstat(self.file.fd))

    def renew(self) -> None:
        """Have the file open that is there; made when there is none."""
        if not self._held and not self._same():
            made = not self.exists()
            self.file.close()
            self.file = self.disk.open_file(self.at, self.name)
            if made:
                self.disk.sync_dir(self.at)

    @contextlib.contextmanager
    def held(self, seconds: float | None = None) -> Iterator[None]:
        """Locked against other programs; may be taken again inside. Raises StoreUnavailable when somebody else stays in."""
        if self._held:
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1
            return
        for _ in range(10):
            self.renew()
            self._lock.acquire(self.file.fd, seconds)
            if self._same():
                break
            self._lock.release(self.file.fd)  # another file came in its place while we waited
        else:
            raise StoreUnavailable(f"{self.path} is replaced again and again")
        self._held = 1
        try:
            yield
        finally:
            self._held = 0
            self._lock.release(self.file.fd)

    def touch(self) -> None:
        self._lock.touch()

    def read(self, offset: int, octets: int) -> bytes:
        """Less only at the end of the file."""
        data = os.pread(self.file.fd, octets, offset)
        if len(data) == octets or not data:
            return data
        pieces = [data]
        have = len(data)
        while have < octets and (data := os.pread(self.file.fd, octets - have, offset + have)):
            pieces.append(data)
            have += len(data)
        return b"".join(pieces)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        while start < end and (data := self.read(start, min(CHUNK, end - start))):
            yield data
            start += len(data)

    def scanner(self) -> Scanner:
        return Scanner(self.read, self.size())

    def write(self, offset: int, data: bytes) -> None:
        self.disk.write_at(self.file, offset, data)

    def cut(self, size: int) -> None:
        self.disk.set_size(self.file, size)

    def sync(self) -> None:
        self.disk.sync_file(self.file)

    def stamp(self) -> tuple[int, int]:
        """Give the mtime digits that the kernel would not; mtime and size now."""
        facts = os.fstat(self.file.fd)
        mtime = facts.st_mtime_ns // 1000 * 1000 + (facts.st_mtime_ns % 1000 + 457) % 1000
        try:
            os.utime(self.file.fd, ns=(facts.st_atime_ns, mtime))
        except PermissionError:  # not our file: changes within a tick may stay unseen until the next one
            return facts.st_mtime_ns, facts.st_size
        return os.fstat(self.file.fd).st_mtime_ns, facts.st_size


class MboxFolder(Folder):
    """A mailbox in an mbox file. ``top`` is its directory in ``.mailboxes``; ``new`` and ``cur`` are where the file lies."""

    __slots__ = ("mbox",)

    def __init__(self, disk: Disk, path: str, row: MailboxRow, home: str, mbox: MboxFile) -> None:
        self.disk = disk
        self.path = path
        self.id, self.mid, self.name = row.id, row.mid, row.name
        self.mbox = mbox
        self.top = disk.open_dir(home)
        self.new = self.cur = mbox.at

    def close(self) -> None:
        self.top.close()
        self.mbox.close()

    def times(self) -> tuple[int, int]:
        return self.mbox.times()


def mbox_of(folder: Folder) -> MboxFile:
    """Of a folder that an mbox layout has opened."""
    assert isinstance(folder, MboxFolder)
    return folder.mbox
