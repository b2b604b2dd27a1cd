"""One Maildir folder on disk: its directories and the small file that outlives the index.

Format (documented nowhere else): ``.filterd-mailbox`` in the folder's directory, text lines ``key value``::

    filterd-mailbox 1
    id 0123456789abcdef
    uidvalidity 1790000000
    uids 2001
    modseqs 3001
    special \\Junk

``uids`` and ``modseqs`` are marks: every UID and modseq ever given out is smaller. They move in blocks of BLOCK with one
synced write (HOUSE item 13); after an unclean stop numbering goes on at the mark.

File names: ``<sec>.M<usec>P<pid>Q<n>[K<key>].<host>,S=<octets>,W=<virtual octets>,U=<mailbox id>.<uid>`` and, in ``cur``,
``:2,<flags>``. ``filterd-keywords`` beside it names the flag letters, in the format of ``dovecot-keywords``.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import NamedTuple

from filterd.store import durable
from filterd.store.base import StoreUnavailable
from filterd.store.durable import Dir, Disk
from filterd.store.index import MailboxRow

MAILBOX_FILE = ".filterd-mailbox"
KEYWORDS_FILE = "filterd-keywords"
BLOCK = 1000
MAX_UID = 2**32 - 1
MAX_SMALL_FILE = 4 * 1024 * 1024
_OURS = re.compile(r",U=([0-9a-f]{16})\.([0-9]{1,10})(?=[,:]|$)")
_KEY = re.compile(r"^([0-9]{1,12})\.[^./]*K([0-9a-f]{16})\.")
_SECONDS = re.compile(r"^([0-9]{1,12})\.")
_UNFIT = re.compile(r"[^\x21-\x39\x3b-\x7e]|/")  # not printable ASCII, or a colon


@dataclass(slots=True)
class MailboxFile:
    """What ``.filterd-mailbox`` says."""

    id: str
    uidvalidity: int
    uids: int
    modseqs: int
    special: str = ""

    def render(self) -> bytes:
        special = f"special {self.special}\n" if self.special else ""
        return (
            f"filterd-mailbox 1\nid {self.id}\nuidvalidity {self.uidvalidity}\nuids {self.uids}\n"
            f"modseqs {self.modseqs}\n{special}"
        ).encode()

    @staticmethod
    def parse(data: bytes) -> MailboxFile | None:
        """None for what is not such a file."""
        lines = data.decode("ascii", "replace").split("\n")
        values = dict(line.split(" ", 1) for line in lines if " " in line)
        try:
            file = MailboxFile(
                values["id"],
                int(values["uidvalidity"]),
                int(values["uids"]),
                int(values["modseqs"]),
                values.get("special", ""),
            )
        except (KeyError, ValueError):
            return None
        return file if re.fullmatch("[0-9a-f]{16}", file.id) and lines[0] == "filterd-mailbox 1" else None


@dataclass(frozen=True, slots=True)
class Rest:
    """Of a scan (``rescan``): what it found and has not come to. ``turn`` of the lock and ``times`` when it was left."""

    arrivals: list[tuple[str, int, int]]
    trust: int
    turn: int
    times: tuple[int, int]


class Place(NamedTuple):
    """Where a text is, and by what its file is known again: columns of the index."""

    uid: int
    name: str
    fresh: int
    form: int
    inode: int
    size: int
    mtime: int


class Folder:
    """Open directories of one mailbox. ``id`` is the mailbox's number in the index."""

    __slots__ = ("ahead", "cur", "disk", "id", "mid", "name", "new", "path", "rest", "top")

    def __init__(self, disk: Disk, path: str, row: MailboxRow) -> None:
        self.disk = disk
        self.path = path
        self.id, self.mid, self.name = row.id, row.mid, row.name
        self.rest: Rest | None = None
        self.ahead: dict[int, Place] = {}  # of the messages that will be read next (``views.read_many``)
        opened: list[Dir] = []
        try:
            for place in (path, f"{path}/new", f"{path}/cur"):
                opened.append(disk.open_dir(place))
        except BaseException:
            for at in opened:
                at.close()
            raise
        self.top, self.new, self.cur = opened

    def close(self) -> None:
        for at in (self.top, self.new, self.cur):
            at.close()

    def place(self, fresh: int) -> Dir:
        return self.new if fresh else self.cur

    def times(self) -> tuple[int, int]:
        """mtimes of new and cur in nanoseconds."""
        return os.fstat(self.new.fd).st_mtime_ns, os.fstat(self.cur.fd).st_mtime_ns

    def reserve(self, row: MailboxRow, uids: int, modseqs: int = 1) -> None:
        """Make sure that so many more can be given out; one synced write when the block is used up."""
        if row.uidnext + uids <= row.uid_mark and row.modseq + modseqs < row.modseq_mark:
            return
        if row.uidnext + uids > MAX_UID:
            raise StoreUnavailable("the mailbox has used up its UIDs")
        if row.uidnext + uids > row.uid_mark:
            row.uid_mark = min(row.uidnext + uids + BLOCK, MAX_UID)
        if row.modseq + modseqs >= row.modseq_mark:
            row.modseq_mark = row.modseq + modseqs + BLOCK
        self.write_mailbox_file(row)

    def write_mailbox_file(self, row: MailboxRow) -> None:
        file = MailboxFile(row.mid, row.uidvalidity, row.uid_mark, row.modseq_mark, row.special_use)
        durable.replace_small(self.disk, self.top, MAILBOX_FILE, file.render())

    def write_keywords(self, keywords: tuple[str, ...]) -> None:
        text = "".join(f"{at} {word}\n" for at, word in enumerate(keywords))
        durable.replace_small(self.disk, self.top, KEYWORDS_FILE, text.encode())

    def read_keywords(self) -> tuple[str, ...]:
        data = read_small(self.top, KEYWORDS_FILE)
        words: dict[int, str] = {}
        for line in (data or b"").decode("utf-8", "replace").split("\n"):
            number, _, word = line.partition(" ")
            if number.isdigit() and int(number) < 64 and word:
                words[int(number)] = word
        return tuple(words.get(at, f"unknown-{at}") for at in range(max(words, default=-1) + 1))


def read_mailbox_file(at: Dir) -> MailboxFile | None:
    data = read_small(at, MAILBOX_FILE)
    return MailboxFile.parse(data) if data else None


def read_small(at: Dir, name: str) -> bytes | None:
    """A small file of ours; None when it is not there."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at.fd)
        try:
            data = b""
            while len(data) < MAX_SMALL_FILE and (piece := os.read(fd, MAX_SMALL_FILE)):
                data += piece
            return data
        finally:
            os.close(fd)
    return None


# -- file names -----------------------------------------------------------------------------------------------------------


def safe_host(host: str) -> str:
    """The host part of a file name (Maildir: ``/`` and ``:`` as octal escapes)."""
    host = host.replace("/", "\\057").replace(":", "\\072").replace(",", "\\054")
    return re.sub(r"[^\x21-\x7e]", "_", host)[:64] or "localhost"


def claimed_uid(base: str, mid: str) -> int:
    """The UID that a file name carries for this mailbox, 0 for none."""
    match = _OURS.search(base)
    if match is None or match[1] != mid:
        return 0
    uid = int(match[2])
    return uid if 0 < uid <= MAX_UID else 0


def with_uid(base: str, mid: str, uid: int) -> str:
    """The base name carrying this UID instead of any other, and nothing that Maildir does not allow."""
    return f"{stem(base)},U={mid}.{uid}"


def stem(base: str) -> str:
    """The base name without a UID."""
    short = _UNFIT.sub("_", _OURS.sub("", base))
    return short[:160] if len(short) > 200 else short


def key_of(base: str) -> tuple[int, bytes] | None:
    """(delivery time, delivery key) that a name carries."""
    match = _KEY.match(base)
    return (int(match[1]), bytes.fromhex(match[2])) if match else None


def seconds_of(base: str) -> int:
    """The delivery time in a name, 0 when it has none."""
    match = _SECONDS.match(base)
    return int(match[1]) if match else 0
