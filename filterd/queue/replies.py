"""Replies of other servers as values, and the reader that splits a stream into them.

Specification: RFC 5321 4.2 (replies, several lines), RFC 3463 (enhanced codes), RFC 5321 4.1.1.1 (EHLO's answer). Invariant:
a reply has at most REPLY_LINES lines and REPLY_OCTETS octets; text that is no reply is a ValueError and ends the
conversation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REPLY_OCTETS = 65_536
REPLY_LINES = 256
LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.S)
ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?![\d.])", re.A)


@dataclass(frozen=True, slots=True)
class RemoteReply:
    """One reply of the other side; ``lines`` are its texts without the codes."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.code} " + " ".join(self.lines)

    @property
    def good(self) -> bool:
        return 200 <= self.code < 300

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    @property
    def enhanced(self) -> str:
        """The enhanced status code its text begins with, or ""."""
        found = ENHANCED.match(self.lines[0].lstrip()) if self.lines else None
        return found[0] if found else ""


def features_of(reply: RemoteReply) -> dict[str, str]:
    """What EHLO announced: upper-case keyword -> its argument; the old spelling ``AUTH=PLAIN`` counts too."""
    features: dict[str, str] = {}
    for line in reply.lines[1:]:
        name, _, argument = line.strip().partition(" ")
        if name.upper().startswith("AUTH="):
            name, argument = "AUTH", f"{name[5:]} {argument}"
            argument = f"{features.get('AUTH', '')} {argument}"
        if name:
            features[name.upper()] = argument.strip()
    return features


class ReplyReader:
    """Splits what the other side sends into replies. Raises ValueError for what is no reply."""

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[str] = []
        self._code = 0
        self._octets = 0

    def feed(self, data: bytes) -> list[RemoteReply]:
        self._buffer += data
        out: list[RemoteReply] = []
        start = 0
        while (at := self._buffer.find(b"\n", start)) >= 0:
            line, start = self._buffer[start:at].rstrip(b"\r"), at + 1
            found = LINE.match(line)
            if found is None or (self._code and int(found[1]) != self._code):
                raise ValueError(f"not a reply: {line[:80].decode('ascii', 'backslashreplace')}")
            self._code = int(found[1])
            self._octets += len(line)
            self._lines.append(_clean(found[3] or b""))
            if len(self._lines) > REPLY_LINES or self._octets > REPLY_OCTETS:
                raise ValueError("an endless reply")
            if found[2] != b"-":
                out.append(RemoteReply(self._code, tuple(self._lines)))
                self._lines, self._code, self._octets = [], 0, 0
        self._buffer = self._buffer[start:]
        if len(self._buffer) > REPLY_OCTETS:
            raise ValueError("an endless reply line")
        return out

    @property
    def pending(self) -> bool:
        """Octets of an unfinished reply are here."""
        return bool(self._buffer or self._lines)


def _clean(text: bytes) -> str:
    """For logs, notifications and people: no control characters (RFC 5321 4.2 allows none but TAB)."""
    return "".join(c if c >= " " and c != "\x7f" else " " for c in text.decode("utf-8", "replace"))
