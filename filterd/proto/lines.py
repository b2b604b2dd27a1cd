"""The one line reader of all line protocols (SMTP, LMTP, POP3, ManageSieve).

Specification: RFC 5321 2.3.8 (only CR LF ends a line, errata too), RFC 1939 3, RFC 5804 1.2.

Invariants others rely on:

* Only CR LF ends a line. A bare LF is reported as soon as it is seen; what stood before it is never handed out as a
  line, so no two readers of the same octets can disagree about where a command begins (SMTP smuggling).
* What comes out does not depend on how the octets were cut into chunks.
* At most ``cap`` octets of an unfinished line are kept; the rest of a longer one is dropped, not stored.
* ``take`` hands out counted octets (literals, BDAT) and ``drain`` all there is (DATA), without looking at line ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ROW = 32  # lines or commands that a core answers by itself until it asks for a pause


class LineFault(Enum):
    """What was wrong with a line; the line itself is gone."""

    TOO_LONG = "line too long"
    BARE_LF = "bare LF"
    BARE_CR = "bare CR"
    NUL = "NUL"


@dataclass(slots=True)
class Pause:
    """An event of every core: write what is ready, it is others' turn. Thousands of short commands fit into one read."""


class LineReader:
    """Buffers what arrived and cuts it into lines or counted octets."""

    __slots__ = ("_at", "_buffer", "_dropped", "_scan", "cap")

    def __init__(self, cap: int) -> None:
        """``cap``: octets of a line, CR LF included; may be changed between lines."""
        self.cap = cap
        self._buffer = b""
        self._at = 0  # where the next line begins
        self._scan = 0  # no LF before this offset
        self._dropped = 0  # octets already dropped of a line that is too long

    def feed(self, data: bytes) -> None:
        if self._at == len(self._buffer):
            self._buffer = data
            self._at = self._scan = 0
        else:
            self._scan -= self._at
            self._buffer = self._buffer[self._at :] + data
            self._at = 0

    def __len__(self) -> int:
        """Octets waiting."""
        return len(self._buffer) - self._at

    @property
    def dropped(self) -> int:
        """Octets dropped so far of the line that is being skipped; 0 when none is."""
        return self._dropped

    def next_line(self) -> bytes | LineFault | None:
        """The next line without its CR LF, a fault (its line is consumed), or None when more is needed."""
        buffer = self._buffer
        start = self._at
        end = buffer.find(b"\n", self._scan)
        if end < 0:
            waiting = len(buffer) - start
            if waiting > self.cap or self._dropped:
                self._drop(waiting)
            else:
                self._scan = len(buffer)
            return None
        self._at = self._scan = end + 1
        if self._dropped:
            # The CR may have been dropped one chunk ago: _drop always keeps the last octet.
            self._dropped = 0
            return LineFault.TOO_LONG if end > start and buffer[end - 1] == 13 else LineFault.BARE_LF
        if end == start or buffer[end - 1] != 13:
            return LineFault.BARE_LF
        if end + 1 - start > self.cap:
            return LineFault.TOO_LONG
        line = buffer[start : end - 1]
        if b"\r" in line:
            return LineFault.BARE_CR
        if b"\0" in line:
            return LineFault.NUL
        return line

    def _drop(self, waiting: int) -> None:
        """Forget an over-long unfinished line but for its last octet, which may be the CR of its end."""
        if waiting > 1:
            self._dropped += waiting - 1
            self._buffer = self._buffer[-1:]
            self._at = 0
        self._scan = len(self._buffer)

    def take(self, count: int) -> bytes:
        """Up to ``count`` octets, whatever they are; b"" when none wait."""
        buffer = self._buffer
        start = self._at
        end = min(start + count, len(buffer))
        self._at = self._scan = end
        return buffer[start:end]

    def drain(self) -> bytes:
        """All waiting octets."""
        data = self._buffer[self._at :] if self._at else self._buffer
        self.clear()
        return data

    def push_back(self, data: bytes) -> None:
        """Give back octets taken too many: they come first again. Only after ``drain``."""
        self._buffer = data
        self._at = self._scan = 0

    def clear(self) -> None:
        """Forget everything received (STARTTLS: nothing from before may count as sent under TLS)."""
        self._buffer = b""
        self._at = self._scan = self._dropped = 0
