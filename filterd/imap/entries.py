"""Names and values of annotations on the wire, for GETMETADATA and for LIST.

Specification: RFC 5464 5, RFC 9590, RFC 6154 4 (the use of a mailbox is an entry of it, which is given when the mailbox is made).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from filterd.imap import names
from filterd.imap.errors import Bad
from filterd.imap.parse import Parser

if TYPE_CHECKING:
    from filterd.imap.session import Session
    from filterd.store.base import AccountStore

_ENTRY = re.compile(rb"/(?:private|shared)(?:/[!#$&'+,.0-9:;<=>?@A-Z\[\]^_`a-z|}~-]+)+\Z", re.I)
MAX_ASKED = 100  # entries in one command
SPECIAL_USE = "/private/specialuse"


def read(store: AccountStore, where: str | None, entry: str) -> str | None:
    """The value; ``where`` None: of the server."""
    if entry == SPECIAL_USE and where is not None:
        return store.info(where).special_use or None
    return store.get_metadata(where, entry)


def parse_entries(p: Parser) -> list[str]:
    if p.peek() != b"(":
        return [parse_entry(p, True)]
    found: list[str] = []
    p.open()
    while not p.close():
        if found:
            p.sp()
        found.append(parse_entry(p, True))
        if len(found) > MAX_ASKED:
            raise Bad("Too many entries")
    if not found:
        raise Bad("Expected an entry")
    return found


def parse_entry(p: Parser, root: bool = False) -> str:
    """``root``: /private and /shared themselves may be asked for, with a depth."""
    raw = p.astring()
    if root and raw.lower() in (b"/private", b"/shared"):
        return raw.decode("ascii").lower()
    if not _ENTRY.match(raw) or len(raw) > p.limits.mailbox_octets:
        raise Bad("Entries begin with /private/ or /shared/")
    return raw.decode("ascii").lower()


def line(session: Session, mailbox: str, values: Sequence[tuple[str, str | None]]) -> bytes:
    """The METADATA response."""
    shown = b" ".join(b"%b %b" % (name.encode(), _value(value)) for name, value in values)
    return b"* METADATA %b (%b)\r\n" % (names.encode(mailbox, session.utf8 or session.rev2), shown)


def _value(value: str | None) -> bytes:
    if value is not None and "\0" in value:
        return b"~" + names.literal(value.encode())
    return names.nstring(None if value is None else value.encode())
