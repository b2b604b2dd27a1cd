"""The items of FETCH: one table of the simple ones, and those with a section.

Specification: RFC 9051 6.4.5 (and RFC 3501's RFC822*), RFC 3516, RFC 7162, RFC 8474, RFC 8514, RFC 8970. Complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from filterd.imap import columns as col
from filterd.imap import section
from filterd.imap.columns import Column
from filterd.imap.errors import Bad
from filterd.imap.fetch import Plan, TextItem
from filterd.imap.parse import Parser
from filterd.imap.section import Body, Section

_WORD = re.compile(rb"[A-Za-z0-9.]+")
_MACROS: Mapping[bytes, tuple[bytes, ...]] = MappingProxyType(
    {
        b"ALL": (b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"ENVELOPE"),
        b"FAST": (b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE"),
        b"FULL": (b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"ENVELOPE", b"BODY"),
    }
)
_SIMPLE: Mapping[bytes, Callable[[], Column]] = MappingProxyType(
    {
        b"UID": lambda: col.UID,
        b"FLAGS": lambda: col.FLAGS,
        b"RFC822.SIZE": lambda: col.SIZE,
        b"INTERNALDATE": lambda: col.INTERNALDATE,
        b"ENVELOPE": lambda: col.ENVELOPE,
        b"BODYSTRUCTURE": lambda: col.BODYSTRUCTURE,
        b"BODY": lambda: col.BODY,
        b"MODSEQ": lambda: col.MODSEQ,
        b"EMAILID": lambda: col.EMAILID,
        b"THREADID": lambda: col.THREADID,
        b"SAVEDATE": col.savedate,
    }
)
_PLAIN: Mapping[bytes, Column] = MappingProxyType(
    {b"BODY": col.PLAIN_BODY, b"BODYSTRUCTURE": col.PLAIN_BODYSTRUCTURE}
)


def parse(p: Parser) -> Plan:
    """One item, a macro, or items in parentheses."""
    plan = Plan()
    if p.peek() != b"(":
        word = _word(p)
        if word in _MACROS and p.peek() != b"[":
            for name in _MACROS[word]:
                plan.add(_column(p, name))
        else:
            _item(p, word, plan)
        return plan
    p.open()
    count = 0
    while not p.close():
        if count:
            p.sp()
        _item(p, _word(p), plan)
        count += 1
        if count > p.limits.fetch_items:
            raise Bad("Too many items")
    if not count:
        raise Bad("Expected an item")
    return plan


def _column(p: Parser, word: bytes) -> Column:
    """``p.utf8``: the client enabled what knows international mail."""
    return _PLAIN[word] if word in _PLAIN and not p.utf8 else _SIMPLE[word]()


def _word(p: Parser) -> bytes:
    found = _WORD.match(p.text, p.at)
    if found is None:
        raise Bad("Expected an item")
    p.at = found.end()
    return found[0].upper()


def _item(p: Parser, word: bytes, plan: Plan) -> None:
    if p.peek() == b"[":
        _with_section(p, word, plan)
    elif word in _SIMPLE:
        plan.add(_column(p, word))
    elif word == b"PREVIEW":
        _preview(p, plan)
    elif word == b"RFC822":
        _text(plan, Section(b"RFC822"), peek=False)
    elif word == b"RFC822.HEADER":
        _text(plan, Section(b"RFC822.HEADER", (), b"HEADER"), peek=True)
    elif word == b"RFC822.TEXT":
        _text(plan, Section(b"RFC822.TEXT", (), b"TEXT"), peek=False)
    else:
        raise Bad("Unknown item")


def _with_section(p: Parser, word: bytes, plan: Plan) -> None:
    if word in (b"BODY", b"BODY.PEEK"):
        wanted = section.parse_body(p, b"BODY")
        column = col.cached_header(wanted)
        if column is not None and word == b"BODY.PEEK":
            plan.add(column)
        else:
            _text(plan, wanted, peek=word == b"BODY.PEEK")
    elif word in (b"BINARY", b"BINARY.PEEK"):
        wanted = section.parse_binary(p, b"BINARY", False)
        plan.seen |= word == b"BINARY"
        plan.partial |= wanted.first is not None
        plan.add_text(TextItem(wanted.label, lambda body: _binary(body, wanted)))
    elif word == b"BINARY.SIZE":
        wanted = section.parse_binary(p, b"BINARY.SIZE", True)
        plan.add_text(TextItem(wanted.label, lambda body: (b"%d" % len(body.decoded(wanted) or b""),)))
    else:
        raise Bad("Unknown item")


def _text(plan: Plan, wanted: Section, *, peek: bool) -> None:
    plan.seen |= not peek
    plan.partial |= wanted.first is not None
    whole = not wanted.path and not wanted.text and wanted.first is None
    plan.add_text(TextItem(wanted.label, lambda body: _body(body, wanted), whole))


def _body(body: Body, wanted: Section) -> Sequence[bytes]:
    data = body.section(wanted)
    if data is None:
        return (b"NIL",)
    data = wanted.cut(data)
    if b"\0" in data:
        data = data.replace(b"\0", b"\x80")  # RFC 9051 9: CHAR8 has no NUL; the size stays
    return (b"{%d}\r\n" % len(data), data)


def _binary(body: Body, wanted: Section) -> Sequence[bytes]:
    data = body.decoded(wanted)
    if data is None:
        return (b"NIL",)
    data = wanted.cut(data)
    return (b"%b{%d}\r\n" % (b"~" if b"\0" in data else b"", len(data)), data)


def _preview(p: Parser, plan: Plan) -> None:
    """RFC 8970 3.1: PREVIEW, PREVIEW (LAZY)."""
    if p.text[p.at : p.at + 2] == b" (":
        p.sp()
        p.open()
        p.expect(b"LAZY")
        if not p.close():
            raise Bad("Unknown modifier of PREVIEW")
        plan.add(col.LAZY_PREVIEW)
        return
    plan.add(col.PREVIEW)
