"""Files that mail is put into because an alias says so: an mbox, or a Maildir (its path ends in "/").

Durable on return, and once: what was done before a crash, or before its end could be written down, is known again. In a Maildir the
name of the file derives from the item's id; in an mbox the area of the message is made of the item alone, so that the same
item makes the same octets, with a field ``X-Filterd-Item`` to find them by. What a crash left half written at the end of an mbox
is cut off. Who reads the mail away between the crash and the next try gets it a second time; nothing else does.

Rules (fixed): the folder that the configuration names, and each folder from there to the file, belongs to root or to us and nobody
else may write it; none of them below that one, and not the file, is a link; the file is an ordinary one of ours with no second
name that nobody else may write. So nobody can put another file in its place between look and use. Folders are not made,
but for a Maildir itself. Programs that change an mbox are kept out by its locks (``durable.MailLock``).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from filterd.store.base import StoreUnavailable
from filterd.store.durable import Dir, Disk, LockRules, OpenFile, opened

OTHERS = 0o022
ITEM_FIELD = b"X-Filterd-Item"
FROM_LINE = re.compile(rb"^(>*From )", re.MULTILINE)
FOLDERS = ("tmp", "new", "cur")
FORBIDDEN = "is not written"
TRIES = 10  # to get hold of an mbox that others replace
BLOCK = 4096  # what a disk writes or does not write


@dataclass(frozen=True, slots=True)
class FileMail:
    """One message for a file. ``item``: its id in the queue; ``created``: seconds since the epoch; ``doubtful``: maybe there"""

    sender: str
    data: bytes
    item: str
    created: float
    doubtful: bool = True


def deliver(disk: Disk, path: str, folder: str, mail: FileMail, locks: LockRules) -> None:
    """``folder``: the one of the configuration that ``path`` is below. Raises StoreUnavailable with the reason."""
    try:
        checked(path, folder)
        if path.endswith("/"):
            _into_maildir(disk, path.rstrip("/"), mail)
        else:
            _into_mbox(disk, path, mail, locks)
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error


def checked(path: str, folder: str) -> None:
    """Raises StoreUnavailable when a rule forbids to write ``path``, OSError when that cannot be seen."""
    place = folder.rstrip("/")
    _trusted(place, os.stat(place), folder=True)
    *below, last = path.rstrip("/")[len(place) + 1 :].split("/")
    for name in below:
        place += f"/{name}"
        _trusted(place, os.lstat(place), folder=True)
    place += f"/{last}"
    with contextlib.suppress(FileNotFoundError):
        facts = os.lstat(place)
        if path.endswith("/"):
            _trusted(place, facts, folder=True)
            for name in FOLDERS:
                with contextlib.suppress(FileNotFoundError):
                    _trusted(f"{place}/{name}", os.lstat(f"{place}/{name}"), folder=True)
            return
        _trusted(place, facts, folder=False)
        if facts.st_nlink != 1:
            raise StoreUnavailable(f"{place} {FORBIDDEN}: it has another name, too")


def _trusted(path: str, facts: os.stat_result, folder: bool) -> None:
    if stat.S_ISLNK(facts.st_mode):
        raise StoreUnavailable(f"{path} {FORBIDDEN}: it is a link")
    if not (stat.S_ISDIR(facts.st_mode) if folder else stat.S_ISREG(facts.st_mode)):
        raise StoreUnavailable(f"{path} {FORBIDDEN}: it is no {'folder' if folder else 'ordinary file'}")
    if facts.st_uid not in (0, os.geteuid()):
        raise StoreUnavailable(f"{path} {FORBIDDEN}: it belongs to somebody else")
    if facts.st_mode & OTHERS:
        raise StoreUnavailable(f"{path} {FORBIDDEN}: others may write there")


def unix_text(data: bytes) -> bytes:
    """LF line ends, a final one too: what programs and files of this system have."""
    text = data.replace(b"\r\n", b"\n")
    return text if text.endswith(b"\n") else text + b"\n"


def from_line(sender: str, at: float) -> bytes:
    """The line that a message begins with in an mbox, as programs know it, too."""
    who = "".join(ch if ch.isprintable() and not ch.isspace() else "-" for ch in sender) or "MAILER-DAEMON"
    return f"From {who} {time.asctime(time.gmtime(at))}\n".encode("utf-8", "replace")


# -- Maildir ---------------------------------------------------------------------------------------------


def _into_maildir(disk: Disk, path: str, mail: FileMail) -> None:
    parent, own = os.path.split(path)
    _made(disk, parent, own)
    for name in FOLDERS:
        _made(disk, path, name)
    base = f"{int(mail.created)}.F{mail.item}.{os.uname().nodename.replace('/', '_').replace(':', '_')}"
    with opened(disk, f"{path}/new") as new, opened(disk, f"{path}/tmp") as tmp:
        if mail.doubtful and any(name.split(":")[0] == base for name in os.listdir(f"{path}/cur")):
            with opened(disk, f"{path}/cur") as cur:  # perhaps a crash came before its folder was synced
                disk.sync_dir(cur)
            return
        file = disk.write_new(new, unix_text(mail.data), temporary=tmp)
        try:
            disk.sync(file)
            with contextlib.suppress(
                FileExistsError
            ):  # it is there: only its folder is made durable once more
                disk.publish(file, base)
        finally:
            disk.discard(file)
        disk.sync_dir(new)


def _made(disk: Disk, parent: str, name: str) -> None:
    with opened(disk, parent) as at:
        try:
            disk.make_dir(at, name)
        except FileExistsError:
            return
        disk.sync_dir(at)


# -- mbox ---------------------------------------------------------------------------------------------


def area(mail: FileMail) -> bytes:
    """The octets of one message, mboxrd: always the same for the same item."""
    text = FROM_LINE.sub(rb">\1", unix_text(mail.data))
    return _head(mail) + text + b"\n"


def _head(mail: FileMail) -> bytes:
    return from_line(mail.sender, mail.created) + ITEM_FIELD + f": {mail.item}\n".encode()


def _into_mbox(disk: Disk, path: str, mail: FileMail, locks: LockRules) -> None:
    folder, name = os.path.split(path)
    with opened(disk, folder) as at, _held(disk, at, path, name, locks) as file:
        end = os.fstat(file.fd).st_size
        new = area(mail)
        if mail.doubtful and end:
            start = _there(file.fd, mail, new)
            if start is None:
                disk.sync_file(file)
                disk.sync_dir(at)
                return
            end = start
            disk.set_size(file, end)
        last = os.pread(file.fd, min(2, end), max(0, end - 2))
        before = b"\n" * (2 - (len(last) - len(last.rstrip(b"\n")))) if end else b""
        try:
            disk.write_at(file, end, before + new)
            disk.sync_file(file)
        except OSError:
            with contextlib.suppress(OSError):  # no room: nothing of it stays
                disk.set_size(file, end)
            raise
        disk.sync_dir(at)


@contextlib.contextmanager
def _held(disk: Disk, at: Dir, path: str, name: str, locks: LockRules) -> Iterator[OpenFile]:
    """The file, open and locked, and still the one of that name."""
    lock = disk.open_mail_lock(path, locks)
    for _ in range(TRIES):
        file = disk.open_file(at, name)
        try:
            lock.acquire(file.fd)
            try:
                if _same(file, at, name):
                    yield file
                    return
            finally:
                lock.release(file.fd)
        finally:
            file.close()
    raise StoreUnavailable(f"{path} is replaced again and again")


def _same(file: OpenFile, at: Dir, name: str) -> bool:
    """Nobody put another one in its place while we waited."""
    try:
        return os.path.samestat(os.fstat(file.fd), os.stat(name, dir_fd=at.fd, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _there(fd: int, mail: FileMail, new: bytes) -> int | None:
    """Where to write: the end, or the beginning of what a crash left of this message. None: it is there, whole."""
    head = _head(mail)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as octets:
        end = len(octets)
        start = octets.rfind(head)
        if start < 0:
            rest = octets[max(0, end - len(new)) :]
            begun = rest.rstrip(b"\0")  # no mbox ends so: room that a crash left empty
            end -= len(rest) - len(begun)
            for size in range(len(head) - 1, 4, -1):
                if begun.endswith(head[:size]) and octets[max(0, end - size - 2) : end - size] in (
                    b"",
                    b"\n\n",
                ):
                    return end - size  # where we begin a message, not in the middle of somebody's line
            return end
        if octets[start : start + len(new)] == new:
            return None
        after = octets.find(b"\nFrom ", start + 1)
        if after >= 0:  # others wrote behind it: what is half there stays, and is followed by a whole one
            begun = octets[start:after].rstrip(b"\0\n")
            return end if new.startswith(begun) and len(begun) < len(new.rstrip(b"\n")) else None
        return start if end <= start + len(new) and _torn(octets, start, new) else None


def _torn(octets: mmap.mmap, start: int, new: bytes) -> bool:
    """Is what stands from ``start`` to the end some blocks of ``new``, the others never written?"""
    at = start
    while at < len(octets):
        stop = min(len(octets), (at // BLOCK + 1) * BLOCK)
        if not new[at - start : stop - start].startswith(octets[at:stop].rstrip(b"\0")):
            return False
        at = stop
    return True
