"""Several messages that come into a mailbox together or not at all, over a crash too (RFC 9051 6.4.7 COPY, RFC 3502 MULTIAPPEND).

Format (documented nowhere else): ``adding.<token>`` in the index's directory, there only while such a command is under way::

    filterd-adding 1
    <boot id> <process id> <its start> [synced]
    <mailbox id> <file name without flags>      a line for each message, before it gets that name

It is there before the first name is made, and gone before the command is answered: with many messages, or several goes, on the disk
(``synced``), which costs three syncs. With fewer than SYNCED_FROM of them these would be most of the command's time: their file is
not synced, and means nothing once the machine has started anew, so that a power failure (not a killed process) may leave a part.

What comes in several goes, or more than is written at once, is put aside until all of it is there: as ``1``, ``2``, ... in the
account's ``tmp/filterd-adding-<token>``, synced. The last go renames them into the mailbox, under one lock and with one transaction
of the index. So nobody ever sees a part of them, and a crash before leaves nothing but that directory (``tree.sweep``).

Whoever opens the account, or comes after a writer that died with the lock, takes away what is named in a file of a process that is
no more, unless the index has one of them: then the messages are all there and were seen, somebody may rely on them by now (and have
removed the originals), and only the file goes. He first gives the file another name (``undoing.<token>``): a command that is
under way all the same, though nobody here sees its process, then finds no file to remove, and fails instead of answering for
what is gone.

Names of new messages are unique (time, process, number), UIDs are not: those of a command that failed are given out again, and so
are the names of its copies. What it left named, because its end failed as well, is then in the index.
One message needs none of this. An mbox account has no such file names: it marks its messages (``mbox_delivery``), each
``append`` by itself, so that of a copy from another account that goes in several a crash may leave the first ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from filterd.store import durable
from filterd.store import flags as fl
from filterd.store.base import Attempt, StoreUnavailable
from filterd.store.durable import Dir, Disk, NewFile, opened
from filterd.store.index import AFTER_KILL

if TYPE_CHECKING:
    from filterd.store.core import Core
    from filterd.store.delivery import Draft

FIRST_LINE = "filterd-adding 1"
ADDING, UNDOING = "adding.", "undoing."
ASIDE = "filterd-adding-"
SYNCED = " synced"
SYNCED_FROM = 500  # messages


def this_process(disk: Disk) -> str:
    return f"{disk.boot_id()} {os.getpid()} {_start(os.getpid())}"


def _start(pid: int) -> str:
    """When a process began, "" when there is none. A number alone is given out again, in a container after each restart."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def is_alive(disk: Disk, mark: str) -> bool:
    """Does the process that wrote this still run?"""
    boot, _, rest = mark.partition(" ")
    pid, _, start = rest.partition(" ")
    return boot == disk.boot_id() and pid.isdigit() and bool(start) and _start(int(pid)) == start


class FileAttempt(Attempt):
    """Of a Maildir account; may outlive the open account."""

    def __init__(self, core: Core, synced: bool = True) -> None:
        self.last = True
        self.drafts: list[Draft] = []  # what was put aside
        self._disk = core.settings.disk
        self._path = core.index_path
        self._temporary = f"{core.path}/tmp"
        self._synced = synced
        self._token = core.settings.ids.token(8)
        self._lines = [FIRST_LINE, this_process(self._disk) + (SYNCED if synced else "")]
        self._written = False
        self._place: Dir | None = None
        self._count = 0

    @classmethod
    def of(cls, core: Core, count: int) -> FileAttempt | None:
        """For so many messages at once; one needs none."""
        return cls(core, count >= SYNCED_FROM) if count > 1 else None

    def place(self) -> Dir:
        """Where messages wait for the others."""
        if self._place is None:
            self._write()  # so that nobody takes the directory for that of a dead process
            with opened(self._disk, self._temporary) as at:
                self._disk.make_dir(at, ASIDE + self._token)
            self._place = self._disk.open_dir(f"{self._temporary}/{ASIDE}{self._token}")
        return self._place

    def put_aside(self, file: NewFile) -> str:
        """Its name in ``place``, where it was written; the descriptor is let go of."""
        self._count += 1
        name = str(self._count)
        self._disk.publish(file, name)
        return name

    def add(self, names: Iterable[tuple[str, str]]) -> None:
        """(mailbox id, file name) of messages that come next."""
        self._lines += [f"{mid} {fl.split_name(name)[0]}" for mid, name in names]
        self._write()

    def _write(self) -> None:
        data = "\n".join([*self._lines, ""]).encode("ascii", "surrogateescape")
        with opened(self._disk, self._path) as at:
            durable.replace_small(self._disk, at, ADDING + self._token, data, self._synced)
        self._written = True

    def end(self) -> None:
        self._leave()
        if not self._written:
            return
        try:
            with opened(self._disk, self._path) as at:
                self._disk.unlink(at, ADDING + self._token)
                if self._synced:
                    self._disk.sync_dir(at)
        except FileNotFoundError:
            raise StoreUnavailable(
                "this process was held for dead: the messages may have been taken away again"
            ) from None
        except OSError as error:
            raise StoreUnavailable(f"store: {error.strerror or error}") from error
        self._written = False
        del self._lines[2:]

    def _leave(self) -> None:
        """Nothing waits any more. What cannot be removed is swept later."""
        self.drafts.clear()
        if self._place is None:
            return
        place, self._place = self._place, None
        try:
            with contextlib.suppress(OSError), opened(self._disk, self._temporary) as at:
                for name in os.listdir(place.fd):
                    self._disk.unlink(place, name)
                self._disk.remove_dir(at, ASIDE + self._token)
        finally:
            place.close()


def undo_dead(core: Core) -> None:
    """Under the lock: take away what commands of dead processes have left. The mailboxes are healed by whoever looks at them."""
    found = [name for name in os.listdir(core.index_dir.fd) if name.startswith((ADDING, UNDOING))]
    for name in found:
        with contextlib.suppress(FileNotFoundError):
            _undo(core, name)


def _undo(core: Core, name: str) -> None:
    disk = core.settings.disk
    with open(f"{core.index_path}/{name}", encoding="ascii", errors="surrogateescape") as file:
        lines = file.read().split("\n")
    if name.startswith(ADDING):
        lines += [""]  # it may be cut short anywhere
        synced = lines[1].endswith(SYNCED)
        if lines[0] != FIRST_LINE or (not synced and not lines[1].startswith(disk.boot_id() + " ")):
            disk.unlink(
                core.index_dir, name
            )  # cut short, or of another boot: what it names may have been answered
            return
        if is_alive(disk, lines[1].removesuffix(SYNCED)):
            return
        if _known(core, _named(lines[2:])):
            disk.unlink(core.index_dir, name)
            disk.sync_dir(core.index_dir)
            return
        other = UNDOING + name.removeprefix(ADDING)
        disk.rename(core.index_dir, name, core.index_dir, other)
        disk.sync_dir(core.index_dir)
        name = other
    doomed = _named(lines[2:])
    for row in core.index.mailboxes():
        if row.mid in doomed:
            with contextlib.suppress(FileNotFoundError):
                _remove(disk, core.path_of(row.directory), doomed[row.mid])
            with core.index.transaction():
                core.index.execute("update mailbox set stale=? where id=? and stale=0", (AFTER_KILL, row.id))
    disk.unlink(core.index_dir, name)
    disk.sync_dir(core.index_dir)


def _named(lines: Iterable[str]) -> dict[str, set[str]]:
    """File names without flags, by mailbox id."""
    out: dict[str, set[str]] = {}
    for line in lines:
        mid, _, base = line.partition(" ")
        if base:
            out.setdefault(mid, set()).add(base)
    return out


def _known(core: Core, names: Mapping[str, set[str]]) -> bool:
    """Has the index any of them? They come into it together."""
    for row in core.index.mailboxes():
        if row.mid in names:
            rows = core.index.query("select name from hot where mbox=?", (row.id,))
            if any(fl.split_name(str(name))[0] in names[row.mid] for (name,) in rows):
                return True
    return False


def _remove(disk: Disk, folder: str, bases: set[str]) -> None:
    for part in ("new", "cur"):
        with opened(disk, f"{folder}/{part}") as at:
            _remove_from(disk, at, bases)


def _remove_from(disk: Disk, at: Dir, bases: set[str]) -> None:
    for name in os.listdir(at.fd):
        if fl.split_name(name)[0] in bases:
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(at, name)
    disk.sync_dir(at)
