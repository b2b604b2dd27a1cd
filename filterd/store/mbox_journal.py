"""Changes in the midst of mbox files that a crash cannot leave half done: expunging, longer headers, moving.

Why in place and not by a new file and a rename: other programs hold descriptors, record locks and dot-locks of the file that is
there; what they append to a file that was renamed away would be lost. So, like Dovecot, we write over the old octets under the
locks that everybody respects; unlike Dovecot we first write down durably what we are about to do. Price: what follows the first
change is written twice.

Format (documented nowhere else): ``journal`` in ``.mailboxes``, there only while such a change is under way::

    filterd-mbox-journal 1
    <octets> <at> <old size> <new size> <digest before> <digest of the end> <path>       a line for each file
    (empty line)
    the new octets of each file from <at> on

Once it has its name (synced, and the directory too) it is carried out, by its writer or by whoever comes after a crash, before
anything else is done with the account: both files of a move change, or none. ``path`` is below the account's directory, "" is
INBOX. A longer file gets its size first, a shorter one last. So after a crash the size and the octets between the two
sizes tell what was done, and what other programs may have appended meanwhile is behind the one size or behind the other; it is
kept. When somebody has rewritten the file so that our offsets mean nothing (``digest before``), the messages of the
journal that are missing in the file are appended to it: none is lost.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from filterd.store import mbox_format as fmt
from filterd.store.durable import Dir, Disk
from filterd.store.folder import read_small
from filterd.store.mbox_file import CHUNK, MboxFile
from filterd.store.mbox_scan import Scanner

log = logging.getLogger("filterd.store")

JOURNAL = "journal"
FIRST_LINE = b"filterd-mbox-journal 1"
ANCHOR = 4096
SECTOR = 512
NONE = "-"

Piece = bytes | tuple[int, int]  # octets, or a part of the file as it is


@dataclass(slots=True)
class Change:
    """New octets of a file from ``at`` on. ``path`` as in the journal."""

    path: str
    mbox: MboxFile
    at: int
    pieces: Sequence[Piece]

    @property
    def octets(self) -> int:
        return sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in self.pieces)


@dataclass(slots=True)
class _Entry:
    """A line of the journal; ``start`` is where its octets begin."""

    octets: int
    at: int
    old: int
    new: int
    before: str
    end: str
    path: str
    start: int = 0


def _digest(pieces: Iterator[bytes]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()


def _before(mbox: MboxFile, at: int) -> str:
    return _digest(mbox.pieces(max(0, at - ANCHOR), at))


def carry_out(disk: Disk, home: Dir, changes: Sequence[Change]) -> None:
    """All files held. When it returns all changes are on disk; ``done`` comes after the index has them too."""
    write_down(disk, home, changes)
    with _Journal(home) as journal:
        longer = [entry for entry in journal.entries if entry.new > entry.old]
        try:
            for change, entry in zip(changes, journal.entries, strict=True):
                if entry.new > entry.old:
                    change.mbox.cut(entry.new)
        except OSError:  # no room: nothing has been written yet
            for change, entry in zip(changes, journal.entries, strict=True):
                if entry in longer and change.mbox.size() > entry.old:
                    change.mbox.cut(entry.old)
                    change.mbox.sync()
            done(disk, home)
            raise
        for change, entry in zip(changes, journal.entries, strict=True):
            _apply(journal, entry, change.mbox, entry.old)


def write_down(disk: Disk, home: Dir, changes: Sequence[Change]) -> None:
    """All files held. From now on whoever opens the account carries it out."""
    lines = [FIRST_LINE]
    for change in changes:
        change.mbox.sync()  # flags and the like: what the journal goes by must not be lost
        old, new = change.mbox.size(), change.at + change.octets
        end = _digest(change.mbox.pieces(new, old)) if new < old else NONE
        line = (
            f"{change.octets} {change.at} {old} {new} {_before(change.mbox, change.at)} {end} {change.path}"
        )
        lines.append(line.encode("utf-8", "surrogateescape"))
    _write(disk, home, b"\n".join(lines) + b"\n\n", changes)


def _write(disk: Disk, home: Dir, head: bytes, changes: Sequence[Change]) -> None:
    file = disk.write_new(home, head)
    try:
        for change in changes:
            for piece in change.pieces:
                if isinstance(piece, bytes):
                    disk.extend_new(file, piece)
                    continue
                for data in change.mbox.pieces(*piece):
                    disk.extend_new(file, data)
                    change.mbox.touch()
        disk.sync(file)
        disk.publish(file, JOURNAL)
    except BaseException:
        disk.discard(file)
        raise
    disk.sync_dir(home)


def done(disk: Disk, home: Dir) -> None:
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(home, JOURNAL)
    disk.sync_dir(home)


def _apply(journal: _Journal, entry: _Entry, mbox: MboxFile, size: int) -> None:
    """``size``: where what is to be kept behind ends; a longer file has its size already."""
    if entry.new > entry.old:
        mbox.sync()  # the room is there before anything is in it
    at = entry.at
    for data in journal.octets(entry):
        mbox.write(at, data)
        at += len(data)
        mbox.touch()
    if entry.new < entry.old <= size:
        mbox.sync()
        mbox.cut(entry.new)
    mbox.sync()


# -- after a crash ----------------------------------------------------------------------------------------------------------


class _Journal:
    """The journal that lies there, open."""

    def __init__(self, home: Dir) -> None:
        self._fd = os.open(JOURNAL, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=home.fd)
        self.entries: list[_Entry] = []

    def __enter__(self) -> _Journal:
        head = b""
        while b"\n\n" not in head and (data := os.pread(self._fd, CHUNK, len(head))):
            head += data
        text, found, _ = head.partition(b"\n\n")
        lines = text.split(b"\n")
        if found and lines[0] == FIRST_LINE:
            start = len(text) + 2
            for line in lines[1:]:
                fields = line.decode("utf-8", "surrogateescape").split(" ", 6)
                octets, at, old, new = map(int, fields[:4])
                entry = _Entry(octets, at, old, new, fields[4], fields[5], fields[6], start)
                self.entries.append(entry)
                start += entry.octets
            if start != os.fstat(self._fd).st_size:  # it was never whole: nothing has been done by it
                self.entries.clear()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, offset: int, octets: int) -> bytes:
        pieces = []
        while octets > 0 and (data := os.pread(self._fd, octets, offset)):
            pieces.append(data)
            offset += len(data)
            octets -= len(data)
        return b"".join(pieces)

    def octets(self, entry: _Entry, start: int = 0) -> Iterator[bytes]:
        while start < entry.octets:
            data = self.read(entry.start + start, min(CHUNK, entry.octets - start))
            if not data:
                raise OSError(errno.EIO, "the journal is cut short")
            yield data
            start += len(data)


def recover(disk: Disk, home: Dir, open_mbox: Callable[[str], MboxFile]) -> bool:
    """Finish what the journal says, if there is one. True when there was."""
    if read_small(home, JOURNAL) is None:
        return False
    while _recover(disk, home, open_mbox):
        log.info("mbox journal: other programs have appended meanwhile, written anew")
    done(disk, home)
    return True


def _recover(disk: Disk, home: Dir, open_mbox: Callable[[str], MboxFile]) -> bool:
    """True when a new journal was written that must be carried out instead."""
    with _Journal(home) as journal, contextlib.ExitStack() as stack:
        mboxes = []
        for entry in journal.entries:
            mbox = open_mbox(entry.path)
            stack.callback(mbox.close)
            stack.enter_context(mbox.held())
            mboxes.append(mbox)
        ends = [_kept_from(journal, *each) for each in zip(journal.entries, mboxes, strict=True)]
        moved = [
            end == entry.old != entry.new and mbox.size() > end
            for entry, mbox, end in zip(journal.entries, mboxes, ends, strict=True)
        ]
        if any(moved):
            _write_anew(disk, home, journal, mboxes, ends, moved)
            return True
        for entry, mbox, end in zip(journal.entries, mboxes, ends, strict=True):
            if end < 0:
                _rescue(journal, entry, mbox)
                continue
            if mbox.size() < entry.new:
                mbox.cut(entry.new)
            _apply(journal, entry, mbox, end)
            mbox.stamp()
    return False


def _kept_from(journal: _Journal, entry: _Entry, mbox: MboxFile) -> int:
    """Where that begins what others have appended since: at the old size or at the new one. -1: the file is another one."""
    size = mbox.size()
    if size < min(entry.old, entry.new) or _before(mbox, entry.at) != entry.before:
        return -1
    if entry.new > entry.old:
        return entry.new if size >= entry.new and _is_ours(journal, entry, mbox) else entry.old
    if entry.new < entry.old:
        whole = size >= entry.old and _digest(mbox.pieces(entry.new, entry.old)) == entry.end
        return entry.old if whole else entry.new
    return entry.old


def _is_ours(journal: _Journal, entry: _Entry, mbox: MboxFile) -> bool:
    """What lies between the old size and the new one was written by us, or is room that we made."""
    for start in range(entry.old, entry.new, SECTOR):
        octets = min(SECTOR, entry.new - start)
        have = mbox.read(start, octets)
        if not have.strip(b"\0"):
            continue
        ours = journal.read(entry.start + start - entry.at, octets)
        if have != ours and any(mine and mine != octet for mine, octet in zip(have, ours, strict=True)):
            return False
    return True


def _write_anew(
    disk: Disk, home: Dir, journal: _Journal, mboxes: list[MboxFile], ends: list[int], moved: list[bool]
) -> None:
    """The same changes with what others have appended behind them, so that a second crash cannot lose it."""
    lines, changes = [FIRST_LINE], []
    for entry, mbox, end, other in zip(journal.entries, mboxes, ends, moved, strict=True):
        pieces: list[Piece] = list(journal.octets(entry))
        size = mbox.size()
        if end >= 0 and (other or size > end):
            pieces.append((end, size))
        change = Change(entry.path, mbox, entry.at, pieces)
        new = entry.at + change.octets
        digest = _digest(mbox.pieces(new, size)) if new < size else NONE
        line = f"{change.octets} {entry.at} {size} {new} {entry.before} {digest} {entry.path}"
        lines.append(line.encode("utf-8", "surrogateescape"))
        changes.append(change)
    file = disk.write_new(home, b"\n".join(lines) + b"\n\n")
    try:
        for change in changes:
            for piece in change.pieces:
                for data in (piece,) if isinstance(piece, bytes) else change.mbox.pieces(*piece):
                    disk.extend_new(file, data)
        disk.sync(file)
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(home, JOURNAL + ".new")
        disk.publish(file, JOURNAL + ".new")
    except BaseException:
        disk.discard(file)
        raise
    disk.rename(home, JOURNAL + ".new", home, JOURNAL)
    disk.sync_dir(home)


def _rescue(journal: _Journal, entry: _Entry, mbox: MboxFile) -> None:
    """Somebody has rewritten the file while our change was half done: add what it lacks."""
    log.warning("%s was rewritten by another program after a crash: missing messages are appended", mbox.path)
    known = set()
    for area in mbox.scanner().areas(0):
        known.add(hashlib.sha256(fmt.text_of(mbox.read(area.offset, area.size))).digest())
    start = entry.start
    scanner = Scanner(
        lambda offset, octets: journal.read(start + offset, min(octets, entry.octets - offset)), entry.octets
    )
    for area in scanner.areas(0):
        data = journal.read(start + area.offset, area.size)
        if area.mail and hashlib.sha256(fmt.text_of(data)).digest() not in known:
            end = mbox.size()
            mbox.write(end, glue(mbox, end) + data)
    mbox.sync()
    mbox.stamp()


def glue(mbox: MboxFile, size: int) -> bytes:
    """The line ends that a From_ line at the end of the file needs before it."""
    last = mbox.read(max(0, size - 3), min(3, size))
    if not last or last.endswith((b"\n\n", b"\n\r\n")) or last in (b"\n", b"\r\n"):
        return b""
    return b"\n" if last.endswith(b"\n") else b"\n\n"
