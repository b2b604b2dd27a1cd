"""Where the messages of an mbox file begin and end.

A message begins with a good From_ line at the begin of a line and ends where the next one does. Our own length (``b=``) and
Content-Length are believed only when they lead to another From_ line or to the end of the file (behind nothing but line
ends): so neither a body with unquoted From_ lines nor a length that lies can hide the messages behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from filterd.store import mbox_format as fmt

CHUNK = 256 * 1024
FIRST_LOOK = 4096
MAX_HEAD = 1024 * 1024
MAX_SEPARATOR = 8  # line ends between two messages

Read = Callable[[int, int], bytes]  # (offset, octets): less only at the end of the file


@dataclass(frozen=True, slots=True)
class Area:
    """``mail`` False: octets before the first From_ line, which are no message."""

    offset: int
    size: int
    mail: bool = True


class Scanner:
    """Looks at a file of ``size`` octets."""

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self._size = size

    def areas(self, start: int) -> Iterator[Area]:
        """From ``start``, the begin of a line, to the end of the file."""
        at = start
        if at < self._size and not self.is_from(at):
            first = self._search(at)
            yield Area(at, first - at, mail=False)
            at = first
        while at < self._size:
            end = self.end_of(at)
            yield Area(at, end - at)
            at = end

    def is_from(self, at: int) -> bool:
        """A good From_ line begins here."""
        line, end, _ = self._read(at, fmt.MAX_FROM_OCTETS).partition(b"\n")
        return bool(end) and fmt.from_date(line) is not None

    def end_of(self, at: int) -> int:
        """Where the message that begins at ``at`` ends."""
        head = self.head(at)
        own = fmt.own_of(head)
        if own is not None and (end := self._lands(at + own.text_at + own.octets)):
            return end
        length = fmt.state_of(head).content_length
        if length >= 0 and (end := self._lands(at + len(head) + length)):
            return end
        return self._search(at + head.find(b"\n"))

    def head(self, at: int) -> bytes:
        """From_ line, header and empty line; at most MAX_HEAD octets."""
        size = FIRST_LOOK
        while True:
            data = self._read(at, size)
            end = fmt.head_end(data)
            stop = _next_from(data)
            if stop and stop < end:
                return data[:stop]
            if end < len(data) or len(data) < size or size >= MAX_HEAD:
                return data[:end]
            size *= 4

    def _lands(self, at: int) -> int:
        """Where the next message begins if ``at`` is the end of one, else 0."""
        if at > self._size or at <= 0:
            return 0
        near = self._read(at, MAX_SEPARATOR)
        skipped = len(near) - len(near.lstrip(b"\r\n"))
        if at + skipped >= self._size:
            return self._size
        if skipped == MAX_SEPARATOR or not self.is_from(at + skipped):
            return 0
        before = self._read(at + skipped - 1, 1)
        return at + skipped if before == b"\n" else 0

    def _search(self, at: int) -> int:
        """The next From_ line behind a line end at or after ``at``; the end of the file when there is none."""
        while at < self._size:
            data = self._read(at, CHUNK + fmt.MAX_FROM_OCTETS)
            found = data.find(b"\nFrom ")
            if found < 0 or found >= CHUNK:
                at += CHUNK
                continue
            line = data[found + 1 : found + 1 + fmt.MAX_FROM_OCTETS].partition(b"\n")
            if line[1] and fmt.from_date(line[0]) is not None:
                return at + found + 1
            at += found + 1
        return self._size


def _next_from(data: bytes) -> int:
    """Where in ``data``, behind its first line, a good From_ line begins; 0 for nowhere."""
    at = data.find(b"\nFrom ")
    while at >= 0:
        line = data[at + 1 : at + 1 + fmt.MAX_FROM_OCTETS].partition(b"\n")
        if line[1] and fmt.from_date(line[0]) is not None:
            return at + 1
        at = data.find(b"\nFrom ", at + 1)
    return 0
