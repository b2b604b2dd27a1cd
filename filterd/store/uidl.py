"""POP3 unique ids that an adopted mailbox brought along, and what else is kept for the way back.

Format (documented nowhere else): ``filterd-adopted`` in the folder's directory, UTF-8 text lines::

    filterd-adopted 1
    guid 0123456789abcdef0123456789abcdef
    P 17 UID17-1100000000

``guid`` is Dovecot's of the mailbox. ``P``, ``G``, ``O`` (Dovecot's letters: POP3 UIDL, GUID, POP3 order) are of one UID each. The
file is written when a mailbox is adopted and never changed: a UID is never given out twice, so what it says of a removed
message disturbs nobody. It lies beside the mail, not in the index, so that an index made anew has lost none of it.

A message without a line has the UIDL that our POP3 server makes of UID and UIDVALIDITY (``default_uidl``), Dovecot's default.
RFC 1939 section 7: 1 to 70 characters of 0x21 to 0x7E.

``Format`` reads Dovecot's ``pop3_uidl_format``: 2.3's ``%08Xu%08Xv`` and 2.4's ``%{uid | hex(8)}%{uidvalidity | hex(8)}``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filterd.store.durable import Dir

if TYPE_CHECKING:
    from filterd.store.core import Core

ADOPTED_FILE = "filterd-adopted"
HEADING = "filterd-adopted 1"
UIDL, GUID, ORDER = "P", "G", "O"
KEPT = (UIDL, GUID, ORDER)
MAX_UIDL = 70
_GOOD = re.compile(r"[\x21-\x7e]{1,70}")


def default_uidl(uid: int, uidvalidity: int) -> str:
    return f"{uid:08x}{uidvalidity:08x}"


def is_uidl(text: str) -> bool:
    return _GOOD.fullmatch(text) is not None


@dataclass(slots=True)
class Adopted:
    """What ``filterd-adopted`` says: key -> UID -> value."""

    guid: str = ""
    kept: dict[str, dict[int, str]] = field(default_factory=dict)

    def set(self, key: str, uid: int, value: str) -> None:
        self.kept.setdefault(key, {})[uid] = value

    def of(self, key: str) -> Mapping[int, str]:
        return self.kept.get(key, {})

    def render(self) -> bytes:
        lines = [HEADING]
        if self.guid:
            lines.append(f"guid {self.guid}")
        for key in KEPT:
            lines += [f"{key} {uid} {value}" for uid, value in sorted(self.of(key).items())]
        return ("\n".join(lines) + "\n").encode()

    @staticmethod
    def parse(data: bytes) -> Adopted:
        """Lenient: what cannot be read is as if it were not there."""
        found = Adopted()
        lines = data.decode("utf-8", "replace").split("\n")
        if lines[0] != HEADING:
            return found
        for line in lines[1:]:
            words = line.split(" ", 2)
            if len(words) == 2 and words[0] == "guid":
                found.guid = words[1]
            elif len(words) == 3 and words[0] in KEPT and words[1].isdigit() and words[1].isascii():
                found.set(words[0], int(words[1]), words[2])
        return found


Stamp = tuple[int, int, int]


def stamp_of(at: Dir) -> Stamp | None:
    """By what an unchanged file is known again; None: there is none."""
    try:
        facts = os.stat(ADOPTED_FILE, dir_fd=at.fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def read_adopted(at: Dir) -> Adopted:
    try:
        fd = os.open(ADOPTED_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at.fd)
    except FileNotFoundError:
        return Adopted()
    with open(fd, "rb") as file:
        return Adopted.parse(file.read())


def uidls(core: Core, mailbox: str) -> Mapping[int, str]:
    """UID -> UIDL, for those that have one of their own; read again when the file is another one."""
    folder, _ = core.box(mailbox)
    stamp = stamp_of(folder.top)
    if stamp is None:
        return {}
    shelf, key = core.settings.shelf, (core.account, folder.mid, "uidls")
    kept = shelf.get(key)
    if isinstance(kept, _Kept) and kept.stamp == stamp:
        return kept.found
    found = read_adopted(folder.top).of(UIDL)
    shelf.put(key, _Kept(stamp, found), 200 * len(found))
    return found


@dataclass(frozen=True, slots=True)
class _Kept:
    stamp: Stamp
    found: Mapping[int, str]


# -- Dovecot's format of UIDLs ----------------------------------------------------------------------------------------------


class BadFormat(ValueError):
    """The text says what is not understood."""


@dataclass(frozen=True, slots=True)
class Names:
    """What a format may use of a message."""

    uid: int
    uidvalidity: int
    filename: str
    guid: str


_VARIABLES: Mapping[str, Callable[[Names], int | str]] = {
    "u": lambda names: names.uid,
    "v": lambda names: names.uidvalidity,
    "f": lambda names: names.filename,
    "g": lambda names: names.guid,
}
_LONG = {"uid": "u", "uidvalidity": "v", "filename": "f", "guid": "g"}
_OLD = re.compile(r"%(-?)(0?)(\d*)((?:\.\d+)?)([LUMXH]*)([A-Za-z%])")
_NEW = re.compile(r"%\{([^}]*)\}")
_CALL = re.compile(r"(\w+)(?:\((\d*)\))?")


class Format:
    """A format, checked once. Raises BadFormat."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._pieces = list(_pieces(text))
        if not any(not isinstance(piece, str) for piece in self._pieces):
            raise BadFormat(f"{text!r} gives each message the same UIDL; Dovecot's default is %08Xu%08Xv")

    def __call__(self, names: Names) -> str:
        return "".join(piece if isinstance(piece, str) else piece(names) for piece in self._pieces)


Piece = str | Callable[[Names], str]


def _pieces(text: str) -> Iterable[Piece]:
    at = 0
    while (start := text.find("%", at)) >= 0:
        if start > at:
            yield text[at:start]
        match = _NEW.match(text, start) or _OLD.match(text, start)
        if match is None:
            raise BadFormat(f"pop3_uidl_format: {text[start:]!r} is not understood")
        yield _new_piece(match[1]) if match.re is _NEW else _old_piece(match)
        at = match.end()
    if at < len(text):
        yield text[at:]


def _old_piece(match: re.Match[str]) -> Piece:
    minus, zero, width, dot, modifiers, letter = match.groups()
    if letter == "%":
        return "%"
    if letter not in _VARIABLES or minus or dot or "H" in modifiers:
        raise BadFormat(
            f"pop3_uidl_format: {match[0]!r} is not supported (%u %v %f %g with 0 width X L U M are)"
        )
    value_of = _VARIABLES[letter]

    def piece(names: Names) -> str:
        value = value_of(names)
        out = f"{int(value):x}" if "X" in modifiers and isinstance(value, int) else str(value)
        if "M" in modifiers:
            out = hashlib.md5(out.encode(), usedforsecurity=False).hexdigest()
        if "L" in modifiers:
            out = out.lower()
        if "U" in modifiers:
            out = out.upper()
        if width:
            out = out.rjust(int(width), "0")[-int(width) :] if zero or "X" in modifiers else out[: int(width)]
        return out

    return piece


def _new_piece(inner: str) -> Piece:
    name, *filters = [word.strip() for word in inner.split("|")]
    if name not in _LONG:
        raise BadFormat(
            f"pop3_uidl_format: %{{{inner}}} is not supported (uid, uidvalidity, filename, guid are)"
        )
    value_of = _VARIABLES[_LONG[name]]
    steps = []
    for text in filters:
        match = _CALL.fullmatch(text)
        if match is None or match[1] not in ("hex", "md5", "lower", "upper"):
            raise BadFormat(
                f"pop3_uidl_format: the filter {text!r} is not supported (hex, md5, lower, upper are)"
            )
        steps.append((match[1], int(match[2] or 0)))

    def piece(names: Names) -> str:
        value = value_of(names)
        for what, width in steps:
            if what == "hex":
                value = f"{int(value):x}".rjust(width, "0")
            elif what == "md5":
                value = hashlib.md5(str(value).encode(), usedforsecurity=False).hexdigest()
            else:
                value = str(value).lower() if what == "lower" else str(value).upper()
        return str(value)

    return piece
