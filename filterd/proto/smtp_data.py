"""The message text as it arrives: dots unstuffed, line ends judged, size kept in bounds, all in bulk.

Specification: RFC 5321 4.5.2 (transparency), 4.1.1.4 and 2.3.8 (only CR LF . CR LF ends the text), RFC 3030 (BDAT).

``Text`` collects; ``DotReader`` finds the end of DATA in chunks cut anywhere. Invariants: where the chunks were
cut does not matter; a text with a bare CR or LF is marked and its octets are dropped, so it can never be passed on;
above the limit nothing is kept either. No octet is looked at by a loop of ours.
"""

from __future__ import annotations

from rules.mail.lineends import dot_line, only_crlf

END = b"\r\n.\r\n"


class Text:
    """The octets of one message so far."""

    __slots__ = ("_carry", "_pieces", "bare", "limit", "received", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0  # octets of the text (RFC 1870 3: without stuffing and end)
        self.received = 0  # octets that came, kept or not
        self.bare = False  # a CR or LF that is not part of CR LF
        self._pieces: list[bytes] = []
        self._carry = b""  # a CR at the end of a BDAT piece: its LF may follow

    @property
    def too_big(self) -> bool:
        return self.size > self.limit

    def add(self, piece: bytes) -> None:
        """Add text that never parts a CR from its LF."""
        if not only_crlf(piece):
            self.bare = True
        self.size += len(piece)
        if self.bare or self.size > self.limit:
            self._pieces.clear()
        else:
            self._pieces.append(piece)

    def add_raw(self, piece: bytes) -> None:
        """Add octets cut anywhere (BDAT)."""
        self.received += len(piece)
        if self._carry:
            piece = self._carry + piece
            self._carry = b""
        if piece.endswith(b"\r"):
            self._carry = b"\r"
            piece = piece[:-1]
        if piece:
            self.add(piece)

    def finish(self) -> bytes:
        """The whole text. Without a last line end (BDAT) it gets one: a stored message ends with CR LF."""
        if self._carry:
            self.bare = True
            self._carry = b""
        if self.bare or self.too_big:
            return b""
        if not self._pieces:
            return b""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return data if data.endswith(b"\r\n") else data + b"\r\n"


class DotReader:
    """Reads the text of DATA up to CR LF . CR LF."""

    __slots__ = ("_first", "_held", "text")

    def __init__(self, limit: int) -> None:
        self.text = Text(limit)
        # The CR LF of the DATA command counts: a text of no lines is ". CR LF" at once. It is cut off again.
        self._held = b"\r\n"
        self._first = True

    def feed(self, data: bytes) -> bytes | None:
        """None: more is needed. Otherwise the text is whole and these octets came behind its end."""
        self.text.received += len(data)
        if self._held:
            data = self._held + data
        dot = dot_line(data)
        if dot >= 0:  # seldom: neither an end nor a stuffed dot in most chunks
            end = data.find(END, dot)
            if end >= 0:
                self._add(data[: end + 2], dots=dot < end)
                self._held = b""
                return data[end + 5 :]
        keep = _begun(data)
        if keep:
            self._held = data[-keep:]
            data = data[:-keep]
        else:
            self._held = b""
        if data:
            self._add(data, dots=dot >= 0)
        return None

    def _add(self, piece: bytes, *, dots: bool) -> None:
        if dots:
            # No piece ends within CR LF "." (that is held back), so each stuffed dot stands whole in one piece.
            piece = piece.replace(b"\r\n.", b"\r\n")
        if self._first:
            self._first = False
            piece = piece[2:]
        if piece:
            self.text.add(piece)


def _begun(data: bytes) -> int:
    """How many last octets may be the beginning of ``END``."""
    last = data[-1:]
    if last == b"\r":
        return 4 if data.endswith(b"\r\n.\r") else 1
    if last == b"\n":
        return 2 if data.endswith(b"\r\n") else 0
    if last == b".":
        return 3 if data.endswith(b"\r\n.") else 0
    return 0
