"""What another mail server's Maildir holds, as it is found there: the plan of an adoption (HOUSE item 18).

``Source`` is what a reader (``adopt_dovecot``, ``adopt_courier``) makes of a folder tree; nothing is changed by reading. ``number``
gives each message its UID: the one of the other server where it has written one down, else the next free ones, in the order of
the delivery times in the names. That order depends on nothing but the files, so an adoption that was cut short gives the same
UIDs when it is run again: messages that have arrived meanwhile (``placed``) keep theirs.
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
import stat
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from filterd.store import flags as fl
from filterd.store import names
from filterd.store.base import MAX_DEPTH, MAX_KEYWORDS, SEPARATOR, BadName
from filterd.store.durable import Dir
from filterd.store.folder import MAX_UID, seconds_of, stem
from filterd.store.intake import MAX_FILE_OCTETS

PLACES = ("cur", "new")  # looked through in this order
MAX_CONTROL_OCTETS = 256 * 1024 * 1024  # of a dovecot-uidlist: two million messages
SNIFF_OCTETS = 12
PLAIN, GZIP, BZIP2, XZ = "", "gzip", "bzip2", "xz"
# Dovecot's zlib and mail_crypt plugins write such files under ordinary names.
_CODINGS = ((b"\x1f\x8b\x08", GZIP), (b"BZh", BZIP2), (b"\xfd7zXZ\0", XZ))
_UNREADABLE = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"Dovecot-LZ4", "lz4"),
    (b"CRYPTED\x03\x07", "mail_crypt"),
)
_OUR_FIELD = re.compile(r",U=[0-9a-f]{16}\.[0-9]{1,10}(?=,|$)")


class AdoptError(Exception):
    """It cannot be done; nothing was changed unless the text says so. The text tells what to do next."""


@dataclass(slots=True)
class Message:
    """A file. ``base``: its name up to the first colon; ``letters``: what its new name is to have behind ``:2,``.

    ``keywords``: further keywords (numbers in ``Mailbox.keywords``) that a name cannot say. ``date``: INTERNALDATE, seconds.
    """

    place: str
    name: str
    base: str
    letters: str
    date: int
    size: int
    coding: str = PLAIN
    uid: int = 0
    listed: bool = False  # the other server has given the UID
    keywords: tuple[int, ...] = ()


@dataclass(slots=True)
class Mailbox:
    """``shown``: the folder as the source spells it, below its root. ``uidvalidity`` 0: there is none to be kept.

    ``modseq``: every one that the other server has given out is smaller; 0: nobody knows. ``listed``: base -> UID, as the other
    server wrote it down; ``extras``: base -> key -> value, for the keys of ``uidl.KEPT``.
    """

    name: str
    shown: str
    path: str
    uidvalidity: int = 0
    nextuid: int = 1
    modseq: int = 1
    guid: str = ""
    keywords: tuple[str, ...] = ()
    messages: list[Message] = field(default_factory=list)
    listed: dict[str, int] = field(default_factory=dict)
    extras: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    special: str = ""

    def count(self, listed: bool) -> int:
        return sum(message.listed == listed for message in self.messages)


@dataclass(slots=True)
class Source:
    """``blocked``: why it cannot be adopted. ``notes``: what is not kept. ``floor``: UIDVALIDITYs of new mailboxes are greater."""

    kind: str
    path: str
    mailboxes: list[Mailbox] = field(default_factory=list)
    subscriptions: tuple[str, ...] = ()
    floor: int = 0
    notes: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)


# -- files ------------------------------------------------------------------------------------------------------------------


def read_control(path: str) -> bytes | None:
    """A control file of the other server; None when it is not there. Raises AdoptError when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AdoptError(f"{path}: {error.strerror}") from error
    with open(fd, "rb") as file:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            return None
        if facts.st_size > MAX_CONTROL_OCTETS:
            raise AdoptError(f"{path} is too large to be true ({facts.st_size} octets)")
        return file.read()


def text_lines(data: bytes) -> list[str]:
    """Lines as file names are spelled in Python (octets that are no UTF-8 come through); no other line end than LF counts."""
    lines = os.fsdecode(data).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return lines


def base_of(name: str) -> str:
    """The part of a file name that never changes."""
    return name.partition(":")[0]


def without_our_field(base: str) -> str:
    """A base as it was before filterd saw it."""
    return _OUR_FIELD.sub("", base)


def list_messages(path: str, notes: list[str], blocked: list[str]) -> list[Message]:
    """The mail files of a Maildir folder, with what their names and inodes say. ``letters`` as they are on disk."""
    out = []
    odd = coded = 0
    for place in PLACES:
        where = f"{path}/{place}"
        try:
            entries = sorted(entry.name for entry in os.scandir(where) if not entry.name.startswith("."))
            at = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise AdoptError(f"{where}: {error.strerror}") from error
        try:
            for name in entries:
                message = _look(at, place, name, blocked, path)
                if message is None:
                    odd += 1
                    continue
                coded += message.coding != PLAIN
                out.append(message)
        finally:
            os.close(at)
    if odd:
        notes.append(f"{odd} entries are no mail files (links, directories, larger than 512 MiB) and stay")
    if coded:
        notes.append(f"{coded} compressed files are stored decompressed")
    return out


def _look(at: int, place: str, name: str, blocked: list[str], path: str) -> Message | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except OSError as error:
        if os.path.islink(f"{path}/{place}/{name}"):
            return None
        raise AdoptError(
            f"{path}/{place}/{name!r}: {error.strerror}; run it as a user who may read it"
        ) from error
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_FILE_OCTETS:
            return None
        head = os.read(fd, SNIFF_OCTETS)
    finally:
        os.close(fd)
    for magic, what in _UNREADABLE:
        if head.startswith(magic):
            text = f"files are written by Dovecot's {what}; turn them into plain ones first: doveadm backup"
            if text not in blocked:
                blocked.append(text)
    coding = next((coding for magic, coding in _CODINGS if head.startswith(magic)), PLAIN)
    letters = fl.clean(fl.split_name(name)[1])
    date = facts.st_mtime_ns // 1_000_000_000
    return Message(place, name, base_of(name), letters, date, facts.st_size, coding)


def plain_octets(data: bytes, coding: str) -> bytes:
    """What a (perhaps compressed) file says. A file that only looks compressed is taken as it is."""
    try:
        if coding == GZIP:
            return _gunzip(data)
        if coding == BZIP2:
            out = bz2.BZ2Decompressor().decompress(data, MAX_FILE_OCTETS + 1)
        elif coding == XZ:
            out = lzma.LZMADecompressor().decompress(data, MAX_FILE_OCTETS + 1)
        else:
            return data
    except (OSError, EOFError, lzma.LZMAError, zlib.error):
        return data
    if len(out) > MAX_FILE_OCTETS:
        raise AdoptError("a compressed message is larger than 512 MiB")
    return out


def _gunzip(data: bytes) -> bytes:
    """All members, as Dovecot may have appended some."""
    out = b""
    while data:
        engine = zlib.decompressobj(31)
        out += engine.decompress(data, MAX_FILE_OCTETS + 1 - len(out))
        if len(out) > MAX_FILE_OCTETS:
            raise AdoptError("a compressed message is larger than 512 MiB")
        if not engine.eof:
            raise EOFError
        data = engine.unused_data
    return out


def read_message(at: Dir, message: Message) -> bytes:
    """The octets to be stored. Raises OSError."""
    fd = os.open(message.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at.fd)
    with open(fd, "rb") as file:
        return plain_octets(file.read(MAX_FILE_OCTETS + 1), message.coding)


# -- names and keywords -----------------------------------------------------------------------------------------------------


def fitting_name(parts: Iterable[str], taken: Collection[str], notes: list[str]) -> str:
    """A mailbox name for a folder found: its own if that is possible and free, else one near it, and a note."""
    wanted = list(parts)
    shown = SEPARATOR.join(wanted)
    try:
        name = names.normalise(shown)
        clash = any(SEPARATOR in part for part in wanted)
    except BadName:
        name, clash = "", True
    if not clash and name not in taken:
        return name
    if clash:
        name = _near(wanted)
    free, number = name, 2
    while free in taken or free == names.INBOX:
        free, number = f"{name}-{number}", number + 1
    notes.append(f"the folder {shown!r} becomes {free!r}")
    return free


def _near(parts: list[str]) -> str:
    clean = []
    for part in parts:
        part = "".join("_" if ord(char) < 32 or 0x7F <= ord(char) < 0xA0 else char for char in part)
        part = part.encode("utf-8", "replace").decode().replace(SEPARATOR, "_")
        clean.append(part.replace("\u2028", "_").replace("\u2029", "_") or "_")
    if len(clean) > MAX_DEPTH:
        clean = [*clean[: MAX_DEPTH - 1], "_".join(clean[MAX_DEPTH - 1 :])]
    name = SEPARATOR.join(clean)
    while True:
        try:
            return names.normalise(name)
        except BadName:
            name = name[:-8].rstrip(SEPARATOR) or "folder"


def fitting_keywords(words: Iterable[str], notes: list[str]) -> tuple[str, ...]:
    """As many as a mailbox may have."""
    found = tuple(words)
    if len(found) > MAX_KEYWORDS:
        notes.append(
            f"{len(found) - MAX_KEYWORDS} keywords beyond the {MAX_KEYWORDS}th: {' '.join(found[MAX_KEYWORDS:])}"
        )
    return found[:MAX_KEYWORDS]


# -- numbers ------------------------------------------------------------------------------------------------------------------


def number(box: Mailbox, placed: Mapping[int, str], again: bool) -> None:
    """Give each message its UID and sort them by it; ``box.nextuid`` is then above all of them.

    ``placed``: UID -> stem of what lies at its new place already (an earlier run was cut short); ``again``: the source may still
    have a file of it.
    """
    listed = box.listed
    first = max([box.nextuid, *(uid + 1 for uid in listed.values())])
    plain = _plain_bases(listed)
    taken: set[int] = set() if again else set(placed)
    waiting = []
    for message in box.messages:
        uid = listed.get(message.base) or plain.get(without_our_field(message.base), 0)
        if uid and uid not in taken:
            message.uid, message.listed = uid, True
            taken.add(uid)
        else:
            waiting.append(message)
    waiting.sort(key=lambda message: (seconds_of(message.base), message.base, message.place, message.name))
    known: dict[str, list[int]] = {}
    for uid in sorted(placed, reverse=True):
        if uid >= first and again:
            known.setdefault(placed[uid], []).append(uid)
    taken |= placed.keys()
    uid = first
    for message in waiting:
        if same := known.get(stem(message.base)):
            message.uid = same.pop()
            continue
        while uid in taken:
            uid += 1
        message.uid = uid
        taken.add(uid)
    box.messages.sort(key=lambda message: message.uid)
    box.nextuid = max([first, *(uid + 1 for uid in taken)])
    if box.nextuid > MAX_UID:
        raise AdoptError(f"{box.shown}: its UIDs are used up")


def _plain_bases(listed: Mapping[str, int]) -> dict[str, int]:
    """By the base without our field, where only one message has it (copies of one share it)."""
    counts: dict[str, int] = {}
    for base in listed:
        short = without_our_field(base)
        counts[short] = counts.get(short, 0) + 1
    return {
        without_our_field(base): uid for base, uid in listed.items() if counts[without_our_field(base)] == 1
    }
