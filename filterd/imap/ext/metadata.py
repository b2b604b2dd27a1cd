"""METADATA: annotations of mailboxes and of the server (mailbox "").

Specification: RFC 5464, RFC 6154 4. Complete but for unsolicited METADATA responses, which servers may leave out (4.4).

The store keeps values by name and lists nothing, so the names in use are kept beside them under a name that is no entry name.
A name is written there before its value and removed after it: a listing never misses a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap import entries
from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad, No
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER

if TYPE_CHECKING:
    from filterd.imap.session import Session

_INDEX = "/.names"
_MAX_ENTRIES = 200  # of one mailbox
_MAX_VALUE = 65_536
_DEPTHS = {b"0": 0, b"1": 1, b"INFINITY": 1_000}


def parse_get(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    depth, limit = _options(p) if p.peek() == b"(" else (0, -1)
    mailbox = p.mailbox()
    p.sp()
    if p.peek() == b"(" and depth == 0 and limit < 0 and _is_options(p):
        depth, limit = _options(p)  # RFC 5464's examples and grammar differ on where the options stand
    asked = entries.parse_entries(p)
    p.end()

    def run(call: Call) -> str:
        where = _where(call, mailbox)
        found: list[tuple[str, str | None]] = []
        known = _known(call, where)
        if where is not None and entries.read(call.store, where, entries.SPECIAL_USE):
            known.add(entries.SPECIAL_USE)
        for entry in asked:
            value = entries.read(call.store, where, entry)
            if value is not None or not depth:
                found.append((entry, value))
            below = [name for name in known if depth and name.startswith(entry + "/")]
            for name in below:
                if name[len(entry) + 1 :].count("/") < depth:
                    found.append((name, entries.read(call.store, where, name)))
        longest = max((len(value.encode()) for _, value in found if value is not None), default=0)
        if limit >= 0:
            found = [(name, value) for name, value in found if value is None or len(value.encode()) <= limit]
        if found:
            call.write(entries.line(session, mailbox, list(dict(found).items())))
        if 0 <= limit < longest:
            return f"[METADATA LONGENTRIES {longest}] GETMETADATA completed"
        return "GETMETADATA completed"

    return run


def parse_set(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    mailbox = p.mailbox()
    p.sp()
    changes: list[tuple[str, str | None]] = []
    p.open()
    while not changes or not p.close():
        if changes:
            p.sp()
        entry = entries.parse_entry(p)
        p.sp()
        changes.append((entry, _new_value(p)))
        if len(changes) > entries.MAX_ASKED:
            raise No("Too many entries", "METADATA TOOMANY")
    p.end()

    def run(call: Call) -> str:
        where = _where(call, mailbox)
        _require_use(call, where, changes)
        known = _known(call, where)
        wanted = known | {name for name, value in changes if value is not None}
        if len(wanted) > _MAX_ENTRIES:
            raise No("Too many entries", "METADATA TOOMANY")
        if wanted != known:
            call.store.set_metadata(where, _INDEX, "\n".join(sorted(wanted)))
        for name, value in changes:
            call.store.set_metadata(where, name, value)
        left = wanted - {name for name, value in dict(changes).items() if value is None}
        if left != wanted:
            call.store.set_metadata(where, _INDEX, "\n".join(sorted(left)) or None)
        return "SETMETADATA completed"

    return run


def _where(call: Call, mailbox: str) -> str | None:
    """None is the server's own; a mailbox must exist."""
    return call.store.info(mailbox).name if mailbox else None


def _require_use(call: Call, where: str | None, changes: list[tuple[str, str | None]]) -> None:
    """RFC 6154 4: not just any use; here none but the one it has."""
    for name, value in changes:
        if name == entries.SPECIAL_USE and where is not None:
            if (value or "").lower() != (entries.read(call.store, where, name) or "").lower():
                raise No("The use of a mailbox is given when it is made", "USEATTR")


def _known(call: Call, where: str | None) -> set[str]:
    return set(filter(None, (call.store.get_metadata(where, _INDEX) or "").split("\n")))


def _is_options(p: Parser) -> bool:
    return p.text[p.at + 1 : p.at + 8].upper().startswith((b"DEPTH", b"MAXSIZE"))


def _options(p: Parser) -> tuple[int, int]:
    depth, limit = 0, -1
    p.open()
    while not p.close():
        word = p.word()
        p.sp()
        if word == b"MAXSIZE":
            limit = p.number()
        elif word == b"DEPTH":
            word = p.word()
            if word not in _DEPTHS:
                raise Bad("DEPTH is 0, 1 or infinity")
            depth = _DEPTHS[word]
        else:
            raise Bad("Unknown option")
        p.more()
    p.sp()
    return depth, limit


def _new_value(p: Parser) -> str | None:
    if p.at_literal:
        raw: bytes | None
        raw, wide = p.literal()
        if b"\0" in raw and not wide:
            raise Bad("A value with NUL is a literal8")  # RFC 5464 5
    else:
        raw = p.nstring()
    if raw is None:
        return None
    if len(raw) > _MAX_VALUE:
        raise No("Value too large", f"METADATA MAXSIZE {_MAX_VALUE}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise No("Values are UTF-8 here") from None


METADATA = Extension(
    5464,
    (b"METADATA",),
    (Spec(b"GETMETADATA", AFTER, parse_get, still=True), Spec(b"SETMETADATA", AFTER, parse_set)),
)
