"""What a message may be read as: its decoded parts, and where two readers could disagree about them.

A scanner and a mail program parse the same octets (RFC 2045, 2046) and what one of them does not see reaches the other. So
every part whose decoded octets differ from the message's own is given out to be scanned, in each of its readings: the
first and the last of two fields or parameters, base64 up to its padding and beyond and line by line, uuencoded and yEnc
files in a text, messages inside an encoded part, a body that begins at the first line that is no header field. What has more
than one reading is ambiguous; the words for it are evidence, and a verdict of the clamav stage.

Invariants: never raises for any octets; at most ``VIEWS`` views, ``BEGINS`` lines that may begin a uuencoded file and ``octets``
decoded octets, else LIMIT is among the words.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from rules.mail import encoding
from rules.mail.findings import Finding
from rules.mail.header import make_field
from rules.mail.message import Message
from rules.mail.mime import Part, parse, walk

VIEWS: Final = 200  # decoded parts of one message, all readings together
DEPTH: Final = 4  # messages in encoded parts in messages in encoded parts ...
BEGINS: Final = 20_000  # lines that may begin a uuencoded file, in all parts together
UU_LINE: Final = 4_000  # octets of a line that may begin or end a uuencoded file
LINES: Final = 50_000  # lines of bad base64 that are read each by itself, and escapes of a yEnc file
LIMIT: Final = "too many parts to look at each"

CONTENT_TYPES: Final = "two different Content-Type fields"
ENCODINGS: Final = "two different transfer encodings"
BOUNDARIES: Final = "two different boundaries of one part"
PREFIX: Final = "a boundary that begins with the boundary around it"
JUNK: Final = "base64 with other characters in it"
PADDING: Final = "base64 that goes on behind its end"
TORN: Final = "base64 whose lines are not whole"
UUENCODE: Final = "a uuencoded file in a text"
YENC: Final = "a yEnc file in a text"
PARTIAL: Final = "a piece of a message"
NO_END: Final = "a header of a part with lines that are no fields"
COMPOSITE: Final = "a transfer encoding around other parts"
UNKNOWN: Final = "an unknown transfer encoding"
MISSING: Final = "a multipart without a usable boundary"
BARE_CR: Final = "a CR without LF in a header of a part"

# With a mode, or as Outlook takes it: two blanks.
_BEGIN: Final = re.compile(
    rb"^begin(?:-base64)?(?:[ \t]+[0-7]{3,6}(?:[ \t][^\r\n]{0,300})?|[ \t]{2}[^\r\n]{0,300})\r?$",
    re.MULTILINE,
)
_YBEGIN: Final = re.compile(rb"^=ybegin [^\r\n]{1,300}\r?\n(?:=ypart [^\r\n]{1,300}\r?\n)?", re.MULTILINE)
_YEND: Final = re.compile(rb"^=yend", re.MULTILINE)
_YENC: Final = bytes((octet - 42) & 255 for octet in range(256))
_YENC_ESCAPED: Final = tuple(bytes(((octet - 106) & 255,)) for octet in range(256))
_JUNK: Final = re.compile(rb"[^A-Za-z0-9+/=\r\n\t ]")
_BEHIND: Final = re.compile(rb"(?<!=)=++[A-Za-z0-9+/]")
_FOREIGN: Final = bytes(
    sorted(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
)
_ALONE: Final = {
    Finding.ENCODED_COMPOSITE: COMPOSITE,
    Finding.MISSING_BOUNDARY: MISSING,
    Finding.LONG_BOUNDARY: MISSING,
    Finding.UNKNOWN_ENCODING: UNKNOWN,
    Finding.DEPTH: LIMIT,
    Finding.PARTS: LIMIT,
    Finding.PARAMETERS: LIMIT,
}


@dataclass(slots=True)
class Reading:
    """``views``: octets to scan besides the message itself; ``words``: why it is ambiguous, none when it is not."""

    octets: int
    views: list[bytes] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)
    _begins: int = BEGINS
    _entered: set[tuple[bytes, int]] = field(default_factory=set)
    _again: int = 0
    _room: int = 0

    def __post_init__(self) -> None:
        self._room = self.octets

    def enters(self, message: bytes, depth: int) -> bool:
        """Is this one to be looked into? Once for all readings around it. ``depth``: how many more may lie inside each other."""
        if not depth:
            self.note(LIMIT)
            return False
        mark = blake2b(message, digest_size=16).digest(), depth
        if mark in self._entered:
            return False
        self._entered.add(mark)
        return True

    def again(self, encoded: int) -> bool:
        """May so many encoded octets be read once more, from an earlier beginning? Parts inside each other have the same ones."""
        self._again += encoded
        if self._again > 2 * self._room:
            self.note(LIMIT)
        return self._again <= 2 * self._room

    def begins(self) -> bool:
        """May one more uuencoded file be looked for?"""
        self._begins -= 1
        if self._begins < 0:
            self.note(LIMIT)
        return LIMIT not in self.words

    def note(self, word: str) -> None:
        if word not in self.words:
            self.words.append(word)

    def show(self, octets: bytes) -> bool:
        """False when it was shown before, is nothing, or there is no more room."""
        if not octets:
            return False
        mark = blake2b(octets, digest_size=16).digest()
        if mark in self._seen:
            return False
        if len(self.views) >= VIEWS or len(octets) > self.octets:
            self.note(LIMIT)
            return False
        self._seen.add(mark)
        self.octets -= len(octets)
        self.views.append(octets)
        return True


def read(message: Message, octets: int) -> Reading:
    """All readings of a message. ``octets``: how much may be decoded.

    Not for the loop: 4 ms per MB, 50 to 120 when it is hostile, and 100 in all for 2,000 hostile parts.
    """
    out = Reading(octets)
    _message(message.data, message.root, out, DEPTH)
    return out


def _message(data: bytes, root: Part, out: Reading, depth: int) -> None:
    _parts(data, root, out, depth)
    other = _last_wins(data, root)
    if other is not None and other != data:
        again = parse(other)
        for part in walk(again):  # what the other reading alone has
            if part.encoding in encoding.IDENTITY and not part.is_multipart and part.message is None:
                out.show(other[part.body_start : part.end])
        _parts(other, again, out, depth)


def _parts(data: bytes, root: Part, out: Reading, depth: int) -> None:
    torn = data.count(b"\r") != data.count(b"\r\n")
    for part in walk(root):
        if part.findings:
            for finding, word in _ALONE.items():
                if finding in part.findings:
                    out.note(word)
            _duplicates(part, out)
        if torn and part is not root and Finding.BARE_CR in part.header.findings:
            out.note(BARE_CR)
        if part.is_multipart:
            _nested(part, out)
        _early_body(data, part, part is root, out)
        if part.ctype == "message" and part.subtype == "partial":
            out.note(PARTIAL)
        if part.encoding in encoding.IDENTITY:
            if not part.is_multipart and part.message is None:
                body = data[part.body_start : part.end]
                # one that we do not look into, and others may
                if part.ctype == "message" and out.enters(body, depth):
                    _message(body, parse(body), out, depth - 1)
                _in_text(body, out)
        elif not part.children:
            _decoded(part, part.encoding, out, depth)


def _decoded(part: Part, name: str, out: Reading, depth: int) -> None:
    """One reading of an encoded body, and what is inside it."""
    body = part.body()
    octets, noted = encoding.decode(body, name)
    if Finding.UNKNOWN_ENCODING in noted:
        out.note(UNKNOWN)
        _guessed(body, out)
        return
    if name == "base64" and Finding.BAD_BASE64 in noted:
        _bad_base64(body, out)
    if not octets:
        return
    out.show(octets)
    if part.ctype == "message" and out.enters(octets, depth):
        _message(octets, parse(octets), out, depth - 1)
    elif part.ctype == "multipart":  # the boundary is that of the outer header
        head = part.header.data[part.start : part.body_start]
        kept = re.sub(rb"(?im)^content-transfer-encoding:[^\n]*(?:\n[ \t][^\n]*)*\n?", b"", head)
        inner = kept + octets
        if out.enters(inner, depth):
            _message(inner, parse(inner), out, depth - 1)
    elif part.ctype == "text":
        _in_text(octets, out)


def _guessed(body: bytes, out: Reading) -> None:
    """A reader may take an encoding it does not know for one that it looks like."""
    _in_text(body, out)
    compact = body.translate(None, b"\r\n \t")
    if compact and not _JUNK.search(compact):
        out.show(encoding.base64(body)[0])
    if b"=" in body:
        out.show(encoding.quoted_printable(body)[0])


def _bad_base64(body: bytes, out: Reading) -> None:
    """Some stop at the first padding or the first foreign character, some go on."""
    if junk := _JUNK.search(body):
        out.note(JUNK)
        out.show(encoding.base64(body[: junk.start()])[0])
    packed = body.translate(None, _FOREIGN)
    if behind := _BEHIND.search(packed):
        out.note(PADDING)
        out.show(encoding.base64(packed[: behind.end() - 1])[0])
        out.show(encoding.base64(packed.replace(b"=", b""))[0])
    lines = [line.translate(None, _FOREIGN) for line in body.split(b"\n", LINES)]
    if len(lines) > LINES:
        out.note(LIMIT)
    elif any(len(line) % 4 for line in lines[:-1]):  # some begin anew with each line
        out.note(TORN)
        out.show(b"".join([encoding.base64(line)[0] for line in lines if len(line) > 1]))


def _early_body(data: bytes, part: Part, outermost: bool, out: Reading) -> None:
    """A header without its blank line: some take the first line that is no field for the body's first."""
    first = next((one for one in part.header.fields if not one.name), None)
    if first is None or (outermost and first.start == part.start):  # the From line of an mbox
        return
    if not outermost:
        out.note(NO_END)
    if part.encoding not in encoding.IDENTITY and out.again(part.end - first.start):
        out.show(encoding.decode(data[first.start : part.end], part.encoding)[0])


def _duplicates(part: Part, out: Reading) -> None:
    if Finding.DUPLICATE_CONTENT_TYPE in part.findings and _differ(part, b"content-type"):
        out.note(CONTENT_TYPES)
    if Finding.DUPLICATE_ENCODING in part.findings and _differ(part, b"content-transfer-encoding"):
        out.note(ENCODINGS)
    if len(set(_given(part, b"boundary"))) > 1:
        out.note(BOUNDARIES)


def _differ(part: Part, name: bytes) -> bool:
    return len({b" ".join(value.split()).lower() for value in part.header.get_all(name)}) > 1


def _given(part: Part, name: bytes) -> list[bytes]:
    return [value for key, value in part.content_type.raw if key.lower() == name]


def _nested(part: Part, out: Reading) -> None:
    """A reader that looks at the beginning of a delimiter line only takes one of them for the other."""
    outer = part.params.get("boundary", "")
    for inner in walk(part):
        if inner is not part and inner.is_multipart:
            name = inner.params.get("boundary", "")
            if outer and name and (name.startswith(outer) or outer.startswith(name)):
                out.note(PREFIX)
                return


def _last_wins(data: bytes, root: Part) -> bytes | None:
    """The message as those read it who believe the last of several fields or parameters; None when there is no such place."""
    edits: list[tuple[int, int, bytes]] = []
    for part in walk(root):
        if not part.findings:  # two of anything are a finding
            continue
        for name in (b"content-type", b"content-transfer-encoding"):
            if len(part.header.fields_named(name)) > 1 and _differ(part, name):
                edits += [(one.start, one.end, b"") for one in part.header.fields_named(name)[:-1]]
        boundaries = _given(part, b"boundary")
        if len(set(boundaries)) > 1 and len(part.header.fields_named(b"content-type")) == 1:
            one = part.header.fields_named(b"content-type")[0]
            value = part.content_type.main + b'; boundary="' + boundaries[-1].replace(b'"', b"") + b'"'
            edits.append((one.start, one.end, make_field(b"Content-Type", value)))
    if not edits:
        return None
    pieces, at = [], 0
    for start, end, text in sorted(edits):
        if start >= at:
            pieces += [data[at:start], text]
            at = end
    return b"".join((*pieces, data[at:]))


def _in_text(body: bytes, out: Reading) -> None:
    """Files that a text holds as Unix and Usenet wrote them."""
    if b"begin" in body:
        _uuencoded(body, out)
        _yenc(body, out)


def _yenc(body: bytes, out: Reading) -> None:
    """Without looking at the sizes and checksums that stand beside."""
    for found in _YBEGIN.finditer(body):
        if not out.begins():
            return
        end = _YEND.search(body, found.end())
        lines = body[found.end() : end.start() if end else len(body)].translate(None, b"\r\n")
        plain, *escaped = lines.split(b"=", LINES)
        if len(escaped) == LINES:  # the last piece may hold more
            out.note(LIMIT)
        pieces = [_YENC_ESCAPED[piece[0]] + piece[1:].translate(_YENC) for piece in escaped if piece]
        out.note(YENC)
        out.show(plain.translate(_YENC) + b"".join(pieces))


def _uuencoded(body: bytes, out: Reading) -> None:
    at = 0
    while (found := _BEGIN.search(body, at)) and out.begins():
        octets, at = _uu_lines(body, found.end(), found[0].startswith(b"begin-"))
        if octets:
            out.note(UUENCODE)
            out.show(octets)


def _uu_lines(body: bytes, at: int, base64: bool) -> tuple[bytes, int]:
    """The decoded lines behind a ``begin``, up to the first that is none; and where they end."""
    pieces: list[bytes] = []
    while True:
        start = body.find(b"\n", at) + 1
        end = body.find(b"\n", start, start + UU_LINE) if start else -1
        if end < 0:
            break
        line = body[start:end].rstrip(b"\r")
        try:
            octets = binascii.a2b_base64(line) if base64 else _uu_line(line)
        except binascii.Error:
            break
        if not octets:
            break
        pieces.append(octets)
        at = end
    return b"".join(pieces), at


def _uu_line(line: bytes) -> bytes:
    """Without what stands behind: some write a checksum there. Raises binascii.Error."""
    length = (line[0] - 32) & 63 if line else 0
    return binascii.a2b_uu(line[: 1 + (length + 2) // 3 * 4])
