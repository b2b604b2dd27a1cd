"""FETCH items that come from the index, a whole column at a time.

A column has a format (``UID %d``) and makes a list of values for a block of messages; one ``%`` for each message then
renders the line. That is what makes FETCH 1:* FLAGS cost a fraction of a microsecond a message (HOUSE item 20).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from filterd.imap.flags import FlagTable
from filterd.imap.render import CACHED_FIELDS, NOT_CACHED
from filterd.imap.section import Body, Section, as_literal
from filterd.store.base import Row


class Need(IntEnum):
    """What a column must have at hand."""

    NOTHING = 0
    HOT = 1
    COLD = 2
    TEXT = 3


@dataclass(slots=True)
class Block:
    """Messages: numbers, UIDs and flag masks side by side; ``rows`` too when some column needs them. ``read`` gives the text
    for the rare row whose cache could not hold what is asked for."""

    numbers: Sequence[int]
    uids: Sequence[int]
    masks: Sequence[int]
    rows: Sequence[Row]
    table: FlagTable
    read: Callable[[int], bytes | None]


Values = Sequence[int] | Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Column:
    """``format`` with one ``%d`` or ``%b``; ``values`` for a block."""

    format: bytes
    need: Need
    values: Callable[[Block], Values]


UID = Column(b"UID %d", Need.NOTHING, lambda block: block.uids)
FLAGS = Column(b"FLAGS (%b)", Need.NOTHING, lambda block: [block.table[mask] for mask in block.masks])
SIZE = Column(b"RFC822.SIZE %d", Need.HOT, lambda block: [row.size for row in block.rows])
MODSEQ = Column(b"MODSEQ (%d)", Need.HOT, lambda block: [row.modseq for row in block.rows])
EMAILID = Column(b"EMAILID %b", Need.HOT, lambda block: [_object_id(row.email_id) for row in block.rows])
# RFC 8474 5.2: NIL says that the server does not group messages by thread.
THREADID = Column(b"THREADID %b", Need.NOTHING, lambda block: [b"NIL"] * len(block.uids))
ENVELOPE = Column(b"ENVELOPE %b", Need.COLD, lambda block: [row.envelope for row in block.rows])
BODY = Column(b"BODY %b", Need.COLD, lambda block: [row.body for row in block.rows])
BODYSTRUCTURE = Column(
    b"BODYSTRUCTURE %b", Need.COLD, lambda block: [row.bodystructure for row in block.rows]
)
# RFC 8970 3.1: LAZY may be answered NIL; nothing is kept ready.
LAZY_PREVIEW = Column(b"PREVIEW %b", Need.NOTHING, lambda block: [b"NIL"] * len(block.uids))


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


def internaldate() -> Column:
    days = Days()
    return Column(b'INTERNALDATE "%b"', Need.HOT, lambda block: [_date(days, row.date) for row in block.rows])


def savedate() -> Column:
    days = Days()

    def values(block: Block) -> list[bytes]:
        return [b'"%b"' % _date(days, row.savedate) if row.savedate else b"NIL" for row in block.rows]

    return Column(b"SAVEDATE %b", Need.HOT, values)


def cached_header(section: Section) -> Column | None:
    """BODY[HEADER.FIELDS (...)] out of the cached fields; None when it asks for others."""
    if section.path or section.text != b"HEADER.FIELDS" or not section.fields <= CACHED_FIELDS:
        return None
    chosen = Chosen(section.fields)

    def project(row: Row, block: Block) -> bytes:
        if row.headers == NOT_CACHED:
            text = block.read(row.uid)
            found = Body(text).section(section) if text is not None else None
            return as_literal(section.cut(found or b"\r\n"))
        return as_literal(section.cut(chosen.of(row.headers)))

    label = section.label.replace(b"%", b"%%")
    return Column(label + b" %b", Need.COLD, lambda block: [project(row, block) for row in block.rows])


class Chosen(dict[bytes, bool]):
    """Field names as they are written -> wanted or not, each worked out once."""

    __slots__ = ("_names",)

    def __init__(self, names: frozenset[bytes]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, written: bytes) -> bool:
        # Blanks before the colon are obsolete syntax and allowed (RFC 5322 4.5).
        wanted = written.rstrip(b" \t").lower() in self._names
        if len(self) < 1_000:
            self[written] = wanted
        return wanted

    def of(self, headers: bytes) -> bytes:
        """The wanted fields of cached header lines, with the blank line that ends a header."""
        if headers and not headers.endswith(b"\n"):
            headers += b"\r\n"  # a header that ends with the message
        lines: list[bytes] = []
        keep = False
        for line in headers.split(b"\n"):
            if line[:1] not in (b" ", b"\t"):
                keep = self[line.partition(b":")[0]]
            if keep:
                lines.append(line)
        lines.append(b"\r\n")
        return b"\n".join(lines)
