"""Who may do what in a mailbox: the rights, and the list of them that is kept with the mailbox.

Specification: RFC 4314 2 (rights, identifiers), 2.1.1 (the obsolete ``c`` and ``d``). Complete: yes.

Format (documented nowhere else): the annotation ``ENTRY`` of the mailbox, which no client can name (``imap.entries``), so that
the list goes where the mailbox goes: renamed, converted and removed with it. A line an identifier: ``identifier<TAB>rights``.
An identifier is an account's id or ``anyone``; with ``-`` before it the rights are taken away.

The owner always has all rights and stands in no list. Whoever is named in none has none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

RIGHTS = "lrswipkxtea"
ENTRY = "/.acl"
ANYONE = "anyone"
NEGATIVE = "-"
MAX_IDENTIFIERS = 200  # in one list
MAX_IDENTIFIER_OCTETS = 320
NOTHING: frozenset[str] = frozenset()
_TO_CHANGE = frozenset("swtie")
ALL = frozenset(RIGHTS)
# RFC 4314 2.1.1: what the rights of RFC 2086 stand for.
VIRTUAL: Mapping[str, frozenset[str]] = MappingProxyType({"c": frozenset("kx"), "d": frozenset("te")})


class BadRights(ValueError):
    """A letter that is no right, or a word that is no identifier."""


def parse_rights(text: str) -> frozenset[str]:
    """Raises BadRights. RFC 4314 3.1: what is not known must not be ignored."""
    found: set[str] = set()
    for letter in text:
        if letter in ALL:
            found.add(letter)
        elif letter in VIRTUAL:
            found |= VIRTUAL[letter]
        else:
            raise BadRights(f"“{letter}” is no right")
    return frozenset(found)


def show_rights(rights: Iterable[str]) -> str:
    """In the usual order; ``c`` and ``d`` whenever one of those they stand for is there."""
    held = frozenset(rights)
    virtual = [name for name, parts in VIRTUAL.items() if held & parts]
    return "".join([letter for letter in RIGHTS if letter in held] + virtual)


def right_for(flag: str) -> str:
    """The right to change this flag."""
    match flag.lower():
        case "\\seen":
            return "s"
        case "\\deleted":
            return "t"
    return "w"


def permitted(flags: Iterable[str], rights: frozenset[str]) -> list[str]:
    return [flag for flag in flags if right_for(flag) in rights]


def read_only(held: frozenset[str]) -> bool:
    """RFC 4314 5.2: none of the rights to change something inside."""
    return not held & _TO_CHANGE


def domain_of(account: str) -> str:
    return account.rpartition("@")[2] if "@" in account else ""


def identifier(text: str, owner: str) -> str:
    """As it is kept: an address in lower case, in the owner's domain when it has none. Raises BadRights."""
    name = text.removeprefix(NEGATIVE)
    sign = text[: len(text) - len(name)]
    name = unicodedata.normalize("NFC", name).lower()
    if not name or len(name.encode("utf-8", "replace")) > MAX_IDENTIFIER_OCTETS or name.startswith(NEGATIVE):
        raise BadRights("no such identifier")
    if any(letter.isspace() or unicodedata.category(letter).startswith("C") for letter in name):
        raise BadRights("no such identifier")
    if name != ANYONE and "@" not in name and (domain := domain_of(owner)):
        name = f"{name}@{domain}"
    return sign + name


@dataclass(frozen=True, slots=True)
class Acl:
    """One mailbox's list. No entry is without rights."""

    entries: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Acl:
        entries: dict[str, frozenset[str]] = {}
        for line in (text or "").split("\n"):
            name, _, letters = line.partition("\t")
            rights = ALL & frozenset(letters)
            if name and rights:
                entries[name] = rights
        return cls(entries)

    def render(self) -> str | None:
        """None: nothing to keep."""
        lines = [f"{name}\t{''.join(r for r in RIGHTS if r in held)}" for name, held in self.entries.items()]
        return "\n".join(lines) or None

    def of(self, account: str) -> frozenset[str]:
        """What somebody else than the owner may do."""
        found = self.entries
        given = found.get(account, NOTHING) | found.get(ANYONE, NOTHING)
        taken = found.get(NEGATIVE + account, NOTHING) | found.get(NEGATIVE + ANYONE, NOTHING)
        return given - taken

    def changed(self, name: str, mode: str, rights: frozenset[str]) -> Acl:
        """``mode``: "" replaces, "+" adds, "-" takes away. RFC 4314 3.1: an entry without rights is as if it were deleted."""
        old = self.entries.get(name, NOTHING)
        new = {"": rights, "+": old | rights, "-": old - rights}[mode]
        entries = {key: held for key, held in self.entries.items() if key != name or new}
        if new:
            entries[name] = new
        return Acl(entries)

    @property
    def readers(self) -> frozenset[str]:
        """Who is given something."""
        return frozenset(name for name in self.entries if not name.startswith(NEGATIVE))
