"""ENVELOPE, BODY and BODYSTRUCTURE as IMAP text, rendered once per message from the MIME tree.

Specification: RFC 3501 7.4.2, RFC 9051 7.5.2. Complete: yes. Values come without the item's name. Strings are quoted where
they can be, else literals ``{n}``; NUL, which IMAP has no way to say, becomes ``?``. Header text is unfolded, not decoded.

Also the index's header cache: ``cached_headers`` packs the fields that clients ask for by name, ``Projection`` answers a
BODY[HEADER.FIELDS (...)] from them. A lone NUL instead of them means that they could not be kept: read the message.

Bounded: the tree's depth and parts, the header's fields and the addresses are limited where they are parsed
(``rules.mail.limits``); this module adds no recursion.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from itertools import accumulate
from types import MappingProxyType

from rules.mail import address
from rules.mail.header import HeaderBlock
from rules.mail.message import Message
from rules.mail.mime import Part

# What Thunderbird, Apple Mail, mutt, Roundcube, K-9, Evolution and Outlook ask for by name, and what people search for.
# Their order is part of the index's format: a change of this list is a new version of ``store.index``.
FIELDS: tuple[bytes, ...] = tuple(
    b"""archived-at authentication-results bcc bimi-indicator bimi-location cc content-class content-description
    content-disposition content-id content-language content-location content-transfer-encoding content-type date
    delivered-to disposition-notification-to dkim-signature from importance in-reply-to lines list-archive list-help list-id
    list-owner list-post list-subscribe list-unsubscribe list-unsubscribe-post mail-followup-to mail-reply-to message-id
    mime-version newsgroups organization precedence priority received received-spf references reply-to resent-date
    resent-from resent-message-id resent-sender resent-to return-path sender status subject thread-index thread-topic to
    user-agent x-account-key x-bimi-indicator-hash x-draft-info x-forwarded-message-id x-identity-key x-k9mail-identity
    x-label x-mailer x-mozilla-draft-info x-mozilla-keys x-mozilla-status x-mozilla-status2 x-msmail-priority x-original-to
    x-priority x-sent-folder-path x-spam x-spam-flag x-spam-score x-spam-status x-status x-uniform-type-identifier
    x-universally-unique-identifier""".split()
)
CACHED_FIELDS: frozenset[bytes] = frozenset(FIELDS)
MAX_CACHED_OCTETS = 16 * 1024
MAX_CACHED_LINES = 250
_NUMBERS: Mapping[bytes, int] = MappingProxyType({name: number for number, name in enumerate(FIELDS)})
_OFFSETS = tuple([struct.Struct(f"<{count + 1}H") for count in range(MAX_CACHED_LINES + 1)])
_bounds = struct.Struct("<2H").unpack_from  # of one field
_MAX_ORDERS = 2000
MAX_QUOTED_OCTETS = 1000
NOT_CACHED = b"\0"
EMPTY_PART = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0)'
EMPTY_PART_EXTENDED = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)'

_quotable = re.compile(rb"[\t\x20-\x7e]*").fullmatch
_special = re.compile(rb'["\\]')


def nstring(value: bytes | None) -> bytes:
    """NIL, a quoted string or a literal (RFC 9051 4.3)."""
    return b"NIL" if value is None else string(value)


def string(value: bytes) -> bytes:
    if len(value) <= MAX_QUOTED_OCTETS and _quotable(value):
        if b'"' in value or b"\\" in value:
            value = _special.sub(rb"\\\g<0>", value)
        return b'"%b"' % value
    value = value.replace(b"\0", b"?")
    return b"{%d}\r\n%b" % (len(value), value)


# -- ENVELOPE -------------------------------------------------------------------------------------------------------------


def render_envelope(message: Message) -> bytes:
    return envelope_of(message.header)


def envelope_of(header: HeaderBlock) -> bytes:
    """RFC 9051 7.5.2: Sender and Reply-To default to From; absent fields are NIL."""
    sender = _addresses(header, b"from")
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        nstring(header.first(b"date")),
        nstring(header.first(b"subject")),
        sender,
        _addresses(header, b"sender", sender),
        _addresses(header, b"reply-to", sender),
        _addresses(header, b"to"),
        _addresses(header, b"cc"),
        _addresses(header, b"bcc"),
        nstring(header.first(b"in-reply-to")),
        nstring(header.first(b"message-id")),
    )


def _addresses(header: HeaderBlock, name: bytes, default: bytes = b"NIL") -> bytes:
    """Several fields of one name count as one list."""
    values = header.get_all(name)
    if not values:
        return default
    out: list[bytes] = []
    for value in values:
        for item in address.parse_list(value).items:
            if isinstance(item, address.Group):
                out.append(b"(NIL NIL %b NIL)" % string(item.raw_name))
                out += map(_mailbox, item.members)
                out.append(b"(NIL NIL NIL NIL)")
            else:
                out.append(_mailbox(item))
    return b"(%b)" % b"".join(out) if out else default


def _mailbox(item: address.Mailbox) -> bytes:
    return b"(%b %b %b %b)" % (
        string(item.raw_name) if item.raw_name else b"NIL",
        string(_octets(item.route)) if item.route else b"NIL",
        string(_octets(item.local)),
        string(_octets(item.domain)),
    )


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# -- BODY and BODYSTRUCTURE -------------------------------------------------------------------------------------------------
GLOBAL = b"lobal"  # Global, global: one search finds every message/global


def render_body(message: Message, international: bool = True) -> tuple[bytes, bytes]:
    """(BODY, BODYSTRUCTURE). ``international``: message/global is a message, as RFC 9051 7.5.2 has it; to RFC 3501 it is a file."""
    root = message.root
    done: dict[int, tuple[bytes, bytes]] = {}
    stack: list[tuple[Part, bool]] = [(root, False)]
    while stack:  # children before parents, without recursion
        part, ready = stack.pop()
        if ready or not part.children:
            done[id(part)] = _part(part, [done.pop(id(child)) for child in part.children], international)
        else:
            stack.append((part, True))
            stack += [(child, False) for child in part.children]
    return done[id(root)]


def _types(part: Part) -> tuple[bytes, bytes]:
    """Type and subtype, in the letters of the message, but that ``GLOBAL`` is always one that ends in the same letters."""
    kind, _, subtype = part.content_type.main.partition(b"/")
    if subtype.lower() == b"global" and not subtype.endswith(GLOBAL):
        subtype = b"global"
    return string(kind), string(subtype)


def _part(part: Part, children: list[tuple[bytes, bytes]], international: bool) -> tuple[bytes, bytes]:
    header = part.header
    kind, subtype = _types(part)
    extension = b"%b %b %b" % (
        _disposition(part),
        _language(header),
        nstring(header.first(b"content-location")),
    )
    if part.is_multipart:
        plain = b"".join(child[0] for child in children) or EMPTY_PART
        extended = b"".join(child[1] for child in children) or EMPTY_PART_EXTENDED
        return b"(%b %b)" % (plain, subtype), b"(%b %b %b %b)" % (
            extended,
            subtype,
            _parameters(part),
            extension,
        )
    basic = b"%b %b %b %b %b %b %d" % (
        kind,
        subtype,
        _parameters(part),
        nstring(header.first(b"content-id")),
        nstring(header.first(b"content-description")),
        string(_octets(part.encoding or "7bit")),
        part.size,
    )
    tail = b"%b %b" % (nstring(header.first(b"content-md5")), extension)
    if part.message is not None and children and (international or part.subtype != "global"):
        inner = envelope_of(part.message.header)
        plain = b"(%b %b %b %d)" % (basic, inner, children[0][0], part.lines)
        return plain, b"(%b %b %b %d %b)" % (basic, inner, children[0][1], part.lines, tail)
    if part.ctype == "text":
        basic = b"%b %d" % (basic, part.lines)
    return b"(%b)" % basic, b"(%b %b)" % (basic, tail)


def _pairs(raw: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b" ".join(b"%b %b" % (string(name), string(value)) for name, value in raw)


def _parameters(part: Part) -> bytes:
    """RFC 2046 4.1.2: text without a charset is us-ascii."""
    pairs = part.content_type.wire
    if part.ctype == "text" and "charset" not in part.params:
        pairs = [*pairs, (b"charset", b"us-ascii")]
    return b"(%b)" % _pairs(pairs) if pairs else b"NIL"


def _disposition(part: Part) -> bytes:
    parsed = part.disposition()
    if parsed is None or not parsed.main:
        return b"NIL"
    return b"(%b %b)" % (string(parsed.main), b"(%b)" % _pairs(parsed.wire) if parsed.wire else b"NIL")


def _language(header: HeaderBlock) -> bytes:
    value = header.first(b"content-language")
    tags = [tag.strip() for tag in value.split(b",") if tag.strip()][:32] if value else []
    return b"(%b)" % b" ".join(map(string, tags)) if tags else b"NIL"


# -- the header cache -------------------------------------------------------------------------------------------------------


def cached_headers(message: Message) -> bytes:
    """The fields of CACHED_FIELDS, packed; NOT_CACHED when they are too large, too many, or have a NUL.

    Raw lines in the message's order, CRLF, then for ``Projection``: a number for each field's name (its place in FIELDS),
    u16le offsets of the fields and of their end, the number of fields.
    """
    header = message.header
    found = [field for field in header.fields if field.lname in _NUMBERS]
    lines = [header.raw(field) for field in found]
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\r\n"  # a header that ends with the message
    text = b"".join(lines)
    if len(text) > MAX_CACHED_OCTETS or len(lines) > MAX_CACHED_LINES or b"\0" in text:
        return NOT_CACHED
    numbers = bytes([_NUMBERS[field.lname] for field in found])
    offsets = _OFFSETS[len(lines)].pack(*accumulate(map(len, lines), initial=0))
    return b"%b\r\n%b%b%c" % (text, numbers, offsets, len(lines))


def header_lines(packed: bytes) -> bytes:
    """The raw lines out of what ``cached_headers`` made; not for NOT_CACHED."""
    return packed[: -3 * packed[-1] - 5]


class Projection:
    """BODY[HEADER.FIELDS (...)] out of packed headers, with the blank line that ends a header.

    Messages of one origin have the same fields in the same order: which pieces to take is worked out once for each order.
    """

    __slots__ = ("_runs", "_wanted")

    def __init__(self, wanted: Iterable[bytes]) -> None:
        """``wanted``: lower-case names, all of CACHED_FIELDS."""
        self._wanted = frozenset([_NUMBERS[name] for name in wanted])
        self._runs: dict[bytes, list[tuple[int, int]]] = {}

    def of(self, packed: bytes) -> bytes:
        """Not for NOT_CACHED."""
        count = packed[-1]
        at = len(packed) - 3 * count - 3
        numbers = packed[at : at + count]
        runs = self._runs.get(numbers)
        if runs is None:
            runs = self._work_out(numbers)
        offsets = _OFFSETS[count].unpack_from(packed, at + count)
        pieces = [packed[offsets[first] : offsets[last]] for first, last in runs]
        pieces.append(b"\r\n")
        return b"".join(pieces)

    def _work_out(self, numbers: bytes) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        for at, number in enumerate(numbers):
            if number not in self._wanted:
                continue
            if runs and runs[-1][1] == at:
                runs[-1] = (runs[-1][0], at + 1)
            else:
                runs.append((at, at + 1))
        if len(self._runs) < _MAX_ORDERS:
            self._runs[numbers] = runs
        return runs


def packed_values(packed: bytes, name: bytes) -> list[bytes]:
    """The values, folded as they came, of the fields ``name`` (of CACHED_FIELDS) out of packed headers; not for NOT_CACHED."""
    number, count = _NUMBERS[name], packed[-1]
    offsets = len(packed) - 2 * count - 3
    numbers = offsets - count
    found: list[bytes] = []
    at = packed.find(number, numbers, offsets)
    while at >= 0:
        start, end = _bounds(packed, offsets + 2 * (at - numbers))
        found.append(packed[packed.index(b":", start) + 1 : end].rstrip(b"\r\n"))
        at = packed.find(number, at + 1, offsets)
    return found
