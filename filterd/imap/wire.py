"""Framing: octets in, whole commands out, with their literals.

Specification: RFC 9051 2.2 and 4.3, RFC 7888 (LITERAL+), RFC 3516 (literal8). Complete.

A command is a list of parts: text, literal, text, ... Its size is checked before anything is kept: a synchronising literal
that is too large is refused before ``+``, a non-synchronising one is read and thrown away. Until somebody has logged in
the limits are small. Only CRLF ends a line; a bare LF is answered BAD and nothing of the line is executed.

Events of ``next()``: ``Command``, ``Line`` (while ``expect_line`` holds), ``Continue`` (send ``+``), ``Refused``
(a tagged or untagged error, or the end of the connection), ``Pause`` (after a row of them: thousands of short commands fit into
one read, and other connections wait meanwhile), or None: more octets are needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO

from filterd.imap.config import ImapLimits
from filterd.proto.lines import ROW, Pause

_LITERAL = re.compile(rb"(~?)\{([0-9]{1,20})(\+?)\}\Z")
_START = re.compile(
    rb"([!#$&',\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]{1,128}) (?:(UID) )?([A-Za-z][A-Za-z0-9.-]*)", re.I
)
_TAG = re.compile(rb"[!#$&',\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]{1,128}(?= |\Z)")
_LARGE = frozenset((b"APPEND", b"REPLACE"))
_KEEP = 65_536  # an input buffer larger than this is given back after use


@dataclass(slots=True)
class Command:
    """``parts`` alternate: text, literal, text, ...; ``literal8[i]`` tells whether the i-th literal was ``~{}``."""

    tag: bytes
    parts: list[bytes]
    literal8: list[bool]


@dataclass(slots=True)
class Line:
    data: bytes


@dataclass(slots=True)
class Continue:
    pass


@dataclass(slots=True)
class Refused:
    """``kind`` BAD or NO; ``fatal``: say BYE and close."""

    tag: bytes
    kind: bytes
    text: bytes
    fatal: bool = False


WireEvent = Command | Line | Continue | Refused | Pause


class Reader:
    """Incremental: any split of the input gives the same events."""

    __slots__ = (
        "_buffer",
        "_left",
        "_limits",
        "_literal",
        "_literal8",
        "_literals",
        "_message_size",
        "_parts",
        "_refusal",
        "_row",
        "_scan",
        "_text",
        "authenticated",
        "expect_line",
    )

    def __init__(self, limits: ImapLimits, message_size: int) -> None:
        self._limits = limits
        self._message_size = message_size
        self._buffer = bytearray()
        self._scan = 0
        self._row = 0  # events since the last pause
        self._parts: list[bytes] = []
        self._literal8: list[bool] = []
        self._literal: BytesIO | None = None
        self._left = 0
        self._text = 0  # octets of text in this command so far
        self._literals = 0  # octets of its literals so far
        self._refusal: Refused | None = None
        self.authenticated = False
        self.expect_line = False

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def pending(self) -> int:
        """Octets not yet looked at."""
        return len(self._buffer)

    @property
    def in_literal(self) -> bool:
        return self._left > 0

    def clear(self) -> None:
        """Drop everything read so far (STARTTLS: RFC 9051 6.2.1, RELIABILITY 3.5)."""
        self._buffer = bytearray()
        self._scan = 0
        self._reset()

    def rest(self) -> bytes:
        """Give up what was read and not looked at (COMPRESS: it is compressed)."""
        rest = bytes(self._buffer)
        self.clear()
        return rest

    def _reset(self) -> None:
        self._parts = []
        self._literal8 = []
        self._literal = None
        self._left = self._text = self._literals = 0
        self._refusal = None

    def next(self) -> WireEvent | None:
        while True:
            if self._left or self._literal is not None:
                if not self._take_literal():
                    return None
            if not self._buffer:
                return None
            if self._row >= ROW:
                self._row = 0
                return Pause()
            event = self._take_line()
            if event is None:
                return None
            self._row += 1
            if not isinstance(event, _More):
                return event

    def _take_literal(self) -> bool:
        """Move octets of the current literal; True when it is whole."""
        taken = min(self._left, len(self._buffer))
        if taken:
            if self._literal is not None:
                with memoryview(self._buffer) as buffer, buffer[:taken] as part:
                    self._literal.write(part)
            self._drop(taken)
            self._left -= taken
        if self._left:
            return False
        if self._literal is not None:
            self._parts.append(self._literal.getvalue())  # gives its own buffer away: nothing is copied
            self._literal = None
        return True

    def _drop(self, count: int) -> None:
        if count == len(self._buffer):
            self._buffer = bytearray() if count > _KEEP else self._buffer
            self._buffer.clear()
        else:
            del self._buffer[:count]
        self._scan = 0

    def _line_limit(self) -> int:
        return self._limits.line if self.authenticated else self._limits.line_before_login

    def _take_line(self) -> WireEvent | _More | None:
        end = self._buffer.find(b"\n", self._scan)
        limit = self._line_limit()
        if end < 0:
            self._scan = len(self._buffer)
            if self._text + len(self._buffer) > limit:
                return self._too_long()
            return None
        if self._text + end > limit and self._refusal is None:
            return self._too_long()
        line = bytes(memoryview(self._buffer)[:end])
        self._drop(end + 1)
        crlf = line.endswith(b"\r")
        if crlf:
            line = line[:-1]
        if self.expect_line and not self._parts:
            return Line(line if crlf else line + b"\n")
        self._text += len(line)
        if not crlf or b"\r" in line or b"\0" in line:
            return self._finish(
                Refused(self._tag(line), b"BAD", b"Lines end in CR LF and hold neither CR, LF nor NUL")
            )
        marker = _LITERAL.search(line, max(0, len(line) - 24)) if line.endswith(b"}") else None
        if marker is not None:
            return self._begin_literal(line, marker)
        if self._refusal is not None:
            return self._finish(self._refusal)
        self._parts.append(line)
        tag = self._tag(b"")
        if not tag:
            return self._finish(Refused(b"*", b"BAD", b"A command begins with a tag"))
        return self._finish(Command(tag, self._parts, self._literal8))

    def _finish(self, event: WireEvent) -> WireEvent:
        self._reset()
        return event

    def _too_long(self) -> Refused:
        # There is no way to find the next command behind an endless line: the connection ends.
        tag = self._tag(bytes(self._buffer[:256])) or b"*"
        self.clear()
        return Refused(tag, b"BAD", b"Command line too long", fatal=True)

    def _tag(self, line: bytes) -> bytes:
        match = _TAG.match(self._parts[0] if self._parts else line)
        return match[0] if match else b""

    def _begin_literal(self, line: bytes, marker: re.Match[bytes]) -> WireEvent | _More:
        count = int(marker[2])
        refusal = self._refusal or self._judge(line, count)
        waits = not marker[3]
        if refusal is not None:
            if waits or not self.authenticated:
                # The client waits for "+": the answer is the refusal, and the command ends here.
                refusal.fatal = not waits and not self.authenticated
                return self._finish(refusal)
            self._refusal = refusal
            self._parts = self._parts or [line[:256]]
            self._left = count
            return _More()
        self._parts.append(line[: marker.start()])
        self._literal8.append(bool(marker[1]))
        self._literal = BytesIO()
        self._left = count
        self._literals += count
        return Continue() if waits else _More()

    def _judge(self, line: bytes, count: int) -> Refused | None:
        first = self._parts[0] if self._parts else line
        start = _START.match(first)
        if start is None:
            return Refused(self._tag(line) or b"*", b"BAD", b"No command to have a literal")
        if not self.authenticated:
            if self._literals + count > self._limits.literal_before_login:
                return Refused(start[1], b"BAD", b"[TOOBIG] Literal too large before login")
            return None
        if start[3].upper() in _LARGE:
            if count > self._message_size or self._literals + count > 2 * self._message_size:
                return Refused(start[1], b"NO", b"[TOOBIG] Message larger than APPENDLIMIT")
            return None
        if self._literals + count > self._limits.literal:
            return Refused(start[1], b"BAD", b"[TOOBIG] Literal too large")
        return None


class _More:
    """The line ended in a literal that needs no answer: go on reading."""

    __slots__ = ()
