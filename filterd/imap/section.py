"""BODY[section]<partial>, BINARY[part] and what they select of a message.

Specification: RFC 9051 6.4.5, RFC 3501 6.4.5, RFC 3516. Complete. Part numbers walk the one MIME tree of ``rules.mail``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from filterd.imap import names
from filterd.imap.errors import Bad, No
from filterd.imap.parse import Parser
from rules.mail import header, mime

_PART = re.compile(rb"[1-9][0-9]{0,9}(?:\.[1-9][0-9]{0,9})*")
_FIELD = re.compile(rb"[!-9;-~]+\Z")
_PLAIN_FIELD = re.compile(rb"[!#$&\'+,./0-9;<=>?@A-Z\[^_`a-z|}~-]+\Z")
_PARTIAL = re.compile(rb"<([0-9]{1,10})\.([1-9][0-9]{0,9})>")
_MAX_DEPTH = 100  # part numbers in one section


@dataclass(frozen=True, slots=True)
class Section:
    """``path`` part numbers; ``text`` one of b"", HEADER, HEADER.FIELDS, HEADER.FIELDS.NOT, TEXT, MIME; ``fields`` in lower
    case; ``first``/``count`` the partial range, ``first`` None for the whole. ``label`` is what the answer calls it."""

    label: bytes
    path: tuple[int, ...] = ()
    text: bytes = b""
    fields: frozenset[bytes] = frozenset()
    first: int | None = None
    count: int = 0

    def cut(self, data: bytes) -> bytes:
        return data if self.first is None else data[self.first : self.first + self.count]


def parse_body(p: Parser, word: bytes) -> Section:
    """After ``BODY`` or ``BODY.PEEK``, at the bracket."""
    p.expect(b"[")
    path, shown = _path(p)
    text = b""
    fields: list[bytes] = []
    if p.peek() != b"]":
        if path:
            shown += b"."
        text = p.word()
        shown += text
        if text in (b"HEADER.FIELDS", b"HEADER.FIELDS.NOT"):
            p.sp()
            fields = _fields(p)
            shown += (
                b" (" + b" ".join(f if _PLAIN_FIELD.match(f) else names.astring(f) for f in fields) + b")"
            )
        elif text not in (b"HEADER", b"TEXT") and not (text == b"MIME" and path):
            raise Bad("Unknown section")
    p.expect(b"]")
    first, count, suffix = _partial(p)
    label = b"%b[%b]%b" % (word, shown, suffix)
    return Section(label, path, text, frozenset(f.lower() for f in fields), first, count)


def parse_binary(p: Parser, word: bytes, sizes: bool) -> Section:
    """After ``BINARY``, ``BINARY.PEEK`` or ``BINARY.SIZE``."""
    p.expect(b"[")
    path, shown = _path(p)
    p.expect(b"]")
    first, count, suffix = (None, 0, b"") if sizes else _partial(p)
    return Section(b"%b[%b]%b" % (word, shown, suffix), path, b"", frozenset(), first, count)


def _path(p: Parser) -> tuple[tuple[int, ...], bytes]:
    found = _PART.match(p.text, p.at)
    if found is None:
        return (), b""
    p.at = found.end()
    if p.peek() == b".":
        p.at += 1
        if p.peek() == b"]":
            raise Bad("Unknown section")
    path = tuple(int(number) for number in found[0].split(b"."))
    if len(path) > _MAX_DEPTH:
        raise Bad("Part number too deep")
    return path, found[0]


def _fields(p: Parser) -> list[bytes]:
    fields: list[bytes] = []
    p.open()
    while not p.close():
        if fields:
            p.sp()
        field = p.astring()
        if not _FIELD.match(field):
            raise Bad("No such header field name")
        fields.append(field)
        if len(fields) > p.limits.header_fields:
            raise Bad("Too many header fields")
    if not fields:
        raise Bad("Expected a header field name")
    return fields


def _partial(p: Parser) -> tuple[int | None, int, bytes]:
    if p.peek() != b"<":
        return None, 0, b""
    found = _PARTIAL.match(p.text, p.at)
    if found is None:
        raise Bad("Invalid partial range")
    p.at = found.end()
    return int(found[1]), int(found[2]), b"<%b>" % found[1]


class Body:
    """One message while it is fetched: parsed at most once, as far as asked for."""

    __slots__ = ("_head", "_root", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._head: header.HeaderBlock | None = None
        self._root: mime.Part | None = None

    @property
    def head(self) -> header.HeaderBlock:
        if self._head is None:
            self._head = header.scan(self.data)
        return self._head

    @property
    def root(self) -> mime.Part:
        if self._root is None:
            self._root = mime.parse(self.data)
        return self._root

    def section(self, wanted: Section) -> bytes | None:
        """The octets of a section before the partial range is cut; None: there is no such part."""
        if not wanted.path:
            return self.data if not wanted.text else self._of_message(self.head, len(self.data), wanted)
        part = mime.section(self.root, list(wanted.path))
        if part is None:
            return None
        if not wanted.text:
            return self.data[part.body_start : part.end]
        if wanted.text == b"MIME":
            return self.data[part.start : part.body_start]
        inner = part.message
        if inner is None:
            return None
        return self._of_message(inner.header, inner.end, wanted)

    def _of_message(self, head: header.HeaderBlock, end: int, wanted: Section) -> bytes:
        if wanted.text == b"HEADER":
            return self.data[head.start : head.body_start]
        if wanted.text == b"TEXT":
            return self.data[head.body_start : end]
        keep = wanted.text == b"HEADER.FIELDS"
        found = b"".join(head.raw(f) for f in head.fields if (f.lname in wanted.fields) is keep)
        if found and not found.endswith(b"\n"):
            found += b"\r\n"  # a header that ends with the message
        return found + b"\r\n"

    def decoded(self, wanted: Section) -> bytes | None:
        """BINARY: the part without its transfer encoding."""
        if not wanted.path:
            return self.data
        part = mime.section(self.root, list(wanted.path))
        if part is None:
            return None
        if part.encoding.lower() not in ("", "7bit", "8bit", "binary", "base64", "quoted-printable"):
            raise No("Unknown transfer encoding", "UNKNOWN-CTE")
        return part.decoded()


def as_literal(data: bytes) -> bytes:
    """``{n}`` for text without NUL. A NUL may not stand in a literal: it becomes 0x80, the size is kept."""
    if b"\0" in data:
        data = data.replace(b"\0", b"\x80")
    return b"{%d}\r\n%b" % (len(data), data)


def as_binary(data: bytes) -> bytes:
    """RFC 3516 4.3: literal8 when there is a NUL."""
    return b"%b{%d}\r\n%b" % (b"~" if b"\0" in data else b"", len(data), data)
