"""FETCH items that come from the index, a whole column at a time.

A column has a format (``UID %d``) and makes a list of values for a block of messages; one ``%`` for each message then
renders the line. That is what makes FETCH 1:* FLAGS cost a fraction of a microsecond a message (HOUSE item 20).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from filterd.imap import preview
from filterd.imap.flags import FlagTable
from filterd.imap.render import CACHED_FIELDS, GLOBAL, NOT_CACHED, Projection, render_body
from filterd.imap.section import Body, Section, as_literal
from rules.mail.message import Message

Values = Sequence[int] | Sequence[bytes]


@dataclass(slots=True)
class Block:
    """Messages: numbers, UIDs and flag masks side by side, and of ``fields`` (attributes of ``store.base.Row``) what the columns
    need. ``shown``: the dates, when they were rendered before. ``read`` gives the text for the rare message whose cache could
    not hold what is asked for."""

    numbers: Sequence[int]
    uids: Sequence[int]
    masks: Sequence[int]
    fields: Mapping[str, Sequence[int] | Sequence[bytes] | Sequence[str]]
    table: FlagTable
    read: Callable[[int], bytes | None]
    shown: list[bytes] | None = None

    def numbers_of(self, name: str) -> Sequence[int]:
        return self.fields[name]  # type: ignore[return-value]  # asked for integer fields only

    def octets_of(self, name: str) -> Sequence[bytes]:
        return self.fields[name]  # type: ignore[return-value]  # asked for blobs only


@dataclass(frozen=True, slots=True)
class Column:
    """``format`` with one ``%d`` or ``%b``; ``needs`` names the fields of the index; ``values`` for a block."""

    format: bytes
    needs: tuple[str, ...]
    values: Callable[[Block], Values]


UID = Column(b"UID %d", (), lambda block: block.uids)
FLAGS = Column(b"FLAGS (%b)", (), lambda block: list(map(block.table.__getitem__, block.masks)))
SIZE = Column(b"RFC822.SIZE %d", ("size",), lambda block: block.numbers_of("size"))
MODSEQ = Column(b"MODSEQ (%d)", ("modseq",), lambda block: block.numbers_of("modseq"))
# Beside MODSEQ the flags are those of that modseq, not those the client was told of last.
FLAGS_NOW = Column(
    b"FLAGS (%b)", ("flags",), lambda block: list(map(block.table.__getitem__, block.numbers_of("flags")))
)
EMAILID = Column(
    b"EMAILID %b", ("email_id",), lambda block: [_object_id(str(value)) for value in block.fields["email_id"]]
)
# RFC 8474 5.2: NIL says that the server does not group messages by thread.
THREADID = Column(b"THREADID %b", (), lambda block: [b"NIL"] * len(block.uids))
ENVELOPE = Column(b"ENVELOPE %b", ("envelope",), lambda block: block.octets_of("envelope"))
BODY = Column(b"BODY %b", ("body",), lambda block: block.octets_of("body"))
BODYSTRUCTURE = Column(
    b"BODYSTRUCTURE %b", ("bodystructure",), lambda block: block.octets_of("bodystructure")
)


def _plain(column: Column, which: int) -> Column:
    """For who did not enable IMAP4rev2 or UTF8=ACCEPT: message/global is not rendered as a message (RFC 3501 7.4.2)."""

    mark = GLOBAL + b'"'

    def values(block: Block) -> Sequence[bytes]:
        kept = block.octets_of(column.needs[0])
        if mark not in b"".join(kept):  # nearly always: a tenth of a microsecond each
            return kept
        odd = [at for at, value in enumerate(kept) if mark in value]
        shown = list(kept)
        for at in odd:
            text = block.read(block.uids[at])
            if text is not None:
                shown[at] = render_body(Message(text), False)[which]
        return shown

    return Column(column.format, column.needs, values)


PLAIN_BODY = _plain(BODY, 0)
PLAIN_BODYSTRUCTURE = _plain(BODYSTRUCTURE, 1)


def _previews(block: Block) -> Sequence[bytes]:
    """Rows of an index that came from version 2 have none: those messages are read."""
    kept = block.octets_of("preview")
    if all(kept):
        return kept
    return [value or _first_words(block.read(uid)) for uid, value in zip(block.uids, kept, strict=True)]


def _first_words(text: bytes | None) -> bytes:
    return b"NIL" if text is None else preview.rendered(Message(text).root)


PREVIEW = Column(b"PREVIEW %b", ("preview",), _previews)
# RFC 8970 3.1: LAZY may be answered NIL where it would mean to read the message.
LAZY_PREVIEW = Column(
    b"PREVIEW %b", ("preview",), lambda block: [value or b"NIL" for value in block.octets_of("preview")]
)


def _object_id(value: str) -> bytes:
    return b"(%b)" % value.encode("ascii", "replace") if value else b"NIL"


_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
# The rest of a day, in pieces to be put together: half the cost of formatting three numbers.
_MINUTES = tuple(b" %02d:%02d" % divmod(minute, 60) for minute in range(1440))
_SECONDS = tuple(b":%02d +0000" % second for second in range(60))


class Days(dict[int, bytes]):
    """Day since the epoch -> b"23-Nov-2026", each made once."""

    __slots__ = ()

    def __missing__(self, day: int) -> bytes:
        moment = time.gmtime(min(max(day, 0), 2_900_000) * 86_400)
        text = b"%02d-%b-%04d" % (moment.tm_mday, _MONTHS[moment.tm_mon - 1], moment.tm_year)
        if len(self) < 10_000:
            self[day] = text
        return text


def _date(days: Days, seconds: int) -> bytes:
    day, rest = divmod(max(seconds, 0), 86_400)
    return days[day] + _MINUTES[rest // 60] + _SECONDS[rest % 60]


def dates(seconds: Sequence[int]) -> list[bytes]:
    """INTERNALDATEs without their quotes."""
    days = Days()
    return [_date(days, each) for each in seconds]


def _shown(block: Block) -> list[bytes]:
    return block.shown if block.shown is not None else dates(block.numbers_of("date"))


INTERNALDATE = Column(b'INTERNALDATE "%b"', ("date",), _shown)


def savedate() -> Column:
    days = Days()

    def values(block: Block) -> list[bytes]:
        return [b'"%b"' % _date(days, at) if at else b"NIL" for at in block.numbers_of("savedate")]

    return Column(b"SAVEDATE %b", ("savedate",), values)


def cached_header(section: Section) -> Column | None:
    """BODY[HEADER.FIELDS (...)] out of the cached fields; None when it asks for others."""
    if section.path or section.text != b"HEADER.FIELDS" or not section.fields <= CACHED_FIELDS:
        return None
    of = Projection(section.fields).of
    whole = section.first is None

    def from_text(uid: int, block: Block) -> bytes:
        text = block.read(uid)
        found = Body(text).section(section) if text is not None else None
        return as_literal(section.cut(found or b"\r\n"))

    def values(block: Block) -> list[bytes]:
        headers = block.octets_of("headers")
        found = [of(packed) if len(packed) > 1 else packed for packed in headers]
        if whole:
            out = [b"{%d}\r\n%b" % (len(data), data) for data in found]
        else:
            out = [as_literal(section.cut(data)) for data in found]
        if NOT_CACHED in headers:
            for at, packed in enumerate(headers):
                if packed == NOT_CACHED:
                    out[at] = from_text(block.uids[at], block)
        return out

    label = section.label.replace(b"%", b"%%")
    return Column(label + b" %b", ("headers",), values)
