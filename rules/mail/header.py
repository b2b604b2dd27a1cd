"""The header of a message or of a MIME part: where its fields are.

Specification: RFC 5322 2.2, 3.6.8, 4.5.8 (blanks before the colon), 6532. Complete: yes.

Line ends may be CRLF, LF or a mixture (stored files may have any). A bare CR ends no line. A line that neither
continues a field nor has a name and a colon, such as an mbox "From " line, is a field with the empty name: nothing is
dropped, nothing ends the header but the blank line.

Invariant: fields are contiguous, so b"".join(raw(f)) + data[last field's end : body_start] is the header as it came
(the second term is the blank line, or also what lies beyond a limit).
"""

import re
from dataclasses import dataclass
from itertools import islice
from typing import Final

from rules.mail import limits
from rules.mail.findings import NONE, Finding

# A field starts after an LF that is not followed by a blank. RFC 5322 3.6.8: ftext is %d33-57 / %d59-126.
_START: Final = re.compile(rb"\n(?![ \t])(?:([!-9;-~]++)[ \t]*+:)?")
_FIRST: Final = re.compile(rb"([!-9;-~]++)[ \t]*+:")
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n")
_FOLDS: Final = ((b"\r\n ", b" "), (b"\r\n\t", b"\t"), (b"\n ", b" "), (b"\n\t", b"\t"))
_NO_BODY: Final = frozenset((Finding.NO_BODY,))
_NO_LINE: Final = re.compile(rb"[\r\n\0]+[ \t]*")


@dataclass(slots=True)
class HeaderField:
    """One field; offsets are into the block's data. The name is empty for a line that is no field."""

    name: bytes
    lname: bytes
    start: int
    value_start: int
    end: int


class HeaderBlock:
    """A scanned header: data[start:end] are the fields, body_start is after the blank line."""

    __slots__ = ("_findings", "_index", "body_start", "data", "end", "fields", "start")

    def __init__(
        self,
        data: bytes,
        fields: list[HeaderField],
        start: int,
        end: int,
        body_start: int,
        noted: frozenset[Finding],
    ) -> None:
        self.data = data
        self.fields = fields
        self.start = start
        self.end = end
        self.body_start = body_start
        self._findings = (noted, False)
        self._index: dict[bytes, list[HeaderField]] | None = None

    @property
    def findings(self) -> frozenset[Finding]:
        """What is odd about this header, including single octets; worked out once, when asked."""
        noted, done = self._findings
        if not done:
            noted |= octet_findings(self.data, self.start, self.body_start)
            if any(not field.name for field in self.fields):
                noted |= {Finding.GARBAGE_LINE}
            self._findings = (noted, True)
        return noted

    def raw(self, field: HeaderField) -> bytes:
        """The whole field as it came, with its line end."""
        return self.data[field.start : field.end]

    def value(self, field: HeaderField) -> bytes:
        """What follows the colon, folded as it came, without the final line end."""
        value = self.data[field.value_start : field.end]
        if value.endswith(b"\r\n"):
            return value[:-2]
        if value.endswith(b"\n"):
            return value[:-1]
        return value

    def fields_named(self, lname: bytes) -> list[HeaderField]:
        """All fields of a lower-case name, in order. Treat the list as read-only."""
        index = self._index
        if index is None:
            index = {}
            for field in self.fields:
                known = index.get(field.lname)
                if known is None:
                    index[field.lname] = [field]
                else:
                    known.append(field)
            self._index = index
        return index.get(lname, [])

    def get_all(self, lname: bytes) -> list[bytes]:
        """The values of all fields of a lower-case name, unfolded, without blanks around them."""
        index = self._index
        found = self.fields_named(lname) if index is None else index.get(lname)
        if not found:
            return []
        data = self.data
        if len(found) == 1:
            value = data[found[0].value_start : found[0].end].strip(b" \t\r\n")
            return [unfold(value) if b"\n" in value else value]
        values = [data[field.value_start : field.end].strip(b" \t\r\n") for field in found]
        return [unfold(value) if b"\n" in value else value for value in values]

    def first(self, lname: bytes) -> bytes | None:
        """The value of the first field of a lower-case name, unfolded, without blanks around it."""
        found = self.fields_named(lname)
        return unfold(self.value(found[0])).strip(b" \t\r\n") if found else None

    def __contains__(self, lname: bytes) -> bool:
        return bool(self.fields_named(lname))


def scan(data: bytes, start: int = 0, end: int | None = None) -> HeaderBlock:
    """Find the fields of the header that begins at start; it ends with a blank line or at end. Linear."""
    stop = len(data) if end is None else end
    blank = _LINE_END.match(data, start, stop)
    if blank is not None:
        return HeaderBlock(data, [], start, start, blank.end(), NONE)
    if start >= stop:
        return HeaderBlock(data, [], start, start, start, _NO_BODY)
    noted = NONE
    blank = _BLANK_LINE.search(data, start, stop)
    if blank is None:
        header_end = body_start = stop
        noted = _NO_BODY
    else:
        header_end, body_start = blank.start() + 1, blank.end()
    fields, over = _fields(data, start, header_end)
    if over:
        noted |= over
    return HeaderBlock(data, fields, start, header_end, body_start, noted)


def _fields(data: bytes, start: int, end: int) -> tuple[list[HeaderField], frozenset[Finding]]:
    """The fields in data[start:end], which is not empty, and the limits that were reached."""
    over = NONE
    last = end
    if end - start > limits.HEADER_OCTETS:
        following = _START.search(data, start + limits.HEADER_OCTETS - 1, end)
        if following is not None and following.start() + 1 < end:
            over |= {Finding.HEADER_SIZE}
            last = following.start() + 1
    starts = list(islice(_START.finditer(data, start, last), limits.HEADER_FIELDS))
    if starts and starts[-1].start() + 1 == last:
        starts.pop()  # the LF that ends the header
    elif len(starts) == limits.HEADER_FIELDS:
        over |= {Finding.HEADER_COUNT}
        last = starts.pop().start() + 1
    fields: list[HeaderField] = []
    first = _FIRST.match(data, start, end)
    name, begin, value_start = (first[1], start, first.end()) if first else (b"", start, start)
    add = fields.append
    for found in starts:
        at, value_at = found.span()
        at += 1
        add(HeaderField(name, name.lower(), begin, value_start, at))
        name, begin, value_start = found[1] or b"", at, value_at
    add(HeaderField(name, name.lower(), begin, value_start, last))
    return fields, over


def octet_findings(data: bytes, start: int, end: int) -> frozenset[Finding]:
    """NUL, bare CR and bare LF in data[start:end] (all line ends LF counts as bare LF: the caller knows its form)."""
    found = set()
    if data.find(b"\0", start, end) >= 0:
        found.add(Finding.NUL)
    pairs = data.count(b"\r\n", start, end)
    if data.count(b"\r", start, end) != pairs:
        found.add(Finding.BARE_CR)
    if data.count(b"\n", start, end) != pairs:
        found.add(Finding.BARE_LF)
    return frozenset(found)


def unfold(value: bytes) -> bytes:
    """A field's value, or a whole header, with the line ends before blanks removed (RFC 5322 2.2.3)."""
    if b"\n" not in value:
        return value
    for fold, blank in _FOLDS:
        value = value.replace(fold, blank)
    return value


def unescape(text: bytes) -> bytes:
    """The inside of a quoted string or comment with its quoted pairs undone (RFC 5322 3.2.1)."""
    return b"\\".join(piece.replace(b"\\", b"") for piece in text.split(b"\\\\"))


def make_field(name: bytes, value: bytes, width: int = 78) -> bytes:
    """One new field with CRLF, folded at blanks where a line would pass `width` octets.

    Line ends and NUL inside the value become one blank each, so that a value can never add a field.
    """
    words = _NO_LINE.sub(b" ", value).split(b" ")
    lines: list[bytes] = []
    line = name + b":"
    for word in words:
        if len(line) + 1 + len(word) > width and line.strip() and word and not line.endswith(b":"):
            lines.append(line)
            line = b""
        line += b" " + word
    lines.append(line)
    return b"\r\n".join(lines) + b"\r\n"
