"""The canonical forms of header fields and bodies, linear in their input whatever it is.

Specification: RFC 6376 3.4 (simple, relaxed). Complete: yes. Only CRLF ends a line (a bare CR or LF is an octet like
any other, 3.4 and 5.3); blanks are SP and HTAB.

A run of blanks is made one by doubling (replace two by one until none is left: at most log2 of the longest run passes
at the speed of ``bytes.replace``), never by a regular expression, which would try every start of a run. The body
canonicaliser takes pieces of any size and holds back only what the next piece may change: a blank, a CR, and the
*number* of empty lines that may turn out to be the last ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

RUN: Final = 1 << 16  # empty lines in one piece


def compress(data: bytes) -> bytes:
    """Each run of blanks becomes one SP."""
    if b"\t" in data:
        data = data.replace(b"\t", b" ")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data


def relaxed_header(lname: bytes, value: bytes) -> bytes:
    """``name:value`` CRLF; ``lname`` lower case, ``value`` all that follows the colon (RFC 6376 3.4.2)."""
    if value.endswith(b"\r\n"):
        value = value[:-2]
    return lname + b":" + compress(value.replace(b"\r\n", b"")).strip(b" ") + b"\r\n"


class BodyCanon:
    """One body on its way to canonical form; ``feed`` returns what is certain, ``finish`` the rest.

    ``pieces`` and ``last_pieces`` are the same in pieces: empty lines that were held back (perhaps millions) come in runs of
    RUN at most.
    """

    __slots__ = ("_empty_lines", "_held", "_relaxed", "_some")

    def __init__(self, relaxed: bool) -> None:
        self._relaxed = relaxed
        self._held = b""
        self._empty_lines = 0  # CRLFs that are dropped when nothing follows them
        self._some = False  # anything but CRLFs was seen

    def feed(self, data: bytes) -> bytes:
        return b"".join(self.pieces(data))

    def finish(self) -> bytes:
        return b"".join(self.last_pieces())

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if self._held:
            data = self._held + data
        if self._relaxed:
            data = compress(data).replace(b" \r\n", b"\r\n")
            keep = 2 if data.endswith(b" \r") else 1 if data[-1:] in (b" ", b"\r") else 0
        else:
            keep = 1 if data[-1:] == b"\r" else 0
        self._held = data[-keep:] if keep else b""
        if keep:
            data = data[:-keep]
        lines = _final_line_ends(data)
        if 2 * lines == len(data):
            self._empty_lines += lines
            return
        yield from _runs(self._empty_lines)
        self._empty_lines = lines
        self._some = True
        yield data[: len(data) - 2 * lines]

    def last_pieces(self) -> Iterator[bytes]:
        """The held octets, and the one CRLF that ends a body."""
        held = self._held.rstrip(b" ") if self._relaxed else self._held
        if held:  # a bare CR at the very end
            yield from _runs(self._empty_lines)
            yield self._held + b"\r\n"
        elif self._some or not self._relaxed:  # RFC 6376 3.4.3: an empty body is one CRLF; 3.4.4: is nothing
            yield b"\r\n"


def _runs(lines: int) -> Iterator[bytes]:
    """So many empty lines."""
    while lines > RUN:
        yield b"\r\n" * RUN
        lines -= RUN
    yield b"\r\n" * lines


def _final_line_ends(data: bytes) -> int:
    """How many CRLFs the octets end with."""
    if not data.endswith(b"\r\n"):
        return 0
    tail = data[len(data.rstrip(b"\r\n")) :]
    broken = max(tail.rfind(b"\n\n"), tail.rfind(b"\r\r"))
    pairs = tail[broken + 1 :]
    return len(pairs) // 2  # a lone LF in front of the pairs is rounded away


def body(data: bytes, relaxed: bool) -> bytes:
    """The canonical form of a whole body."""
    canon = BodyCanon(relaxed)
    return canon.feed(data) + canon.finish()
