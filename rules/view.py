"""The message as a script sees it: header values decoded once, addresses parsed once, edits as an overlay.

Specification: RFC 5228 2.7.2 and 5.7 (values unfolded, decoded, blanks at the ends trimmed), RFC 5293
(edits). The received bytes never change; after an edit the view has new header bytes (and, for replace and
enclose of RFC 5703, a whole new message), and tests see those. ``rendered()`` is what an action stores or
sends, CRLF, None when nothing was edited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rules.mail import address, header, words
from rules.mail.address import Mailbox
from rules.mail.header import HeaderBlock
from rules.mail.message import Message

_LINE_ENDS = re.compile(rb"\r\n|\r|\n")
# Words or a quoted name, then <local@domain>; or local@domain; then a comma or the end.
_PLAIN = re.compile(
    rb"[ \t]*+(?:(?:\"[^\"\\]*+\"[ \t]*+|[A-Za-z0-9 _.'\-]*+)<([A-Za-z0-9_.+=\-]++)@([A-Za-z0-9.\-]++)>"
    rb"|([A-Za-z0-9_.+=\-]++)@([A-Za-z0-9.\-]++))[ \t]*+(?:,|\Z)"
)
_PLAIN_MOST = 200
_KEYWORD_END = re.compile(r"[;(]")
Field = bytes  # a field's value: unfolded, trimmed, not decoded


def crlf(data: bytes) -> bytes:
    """Line ends as CRLF."""
    return _LINE_ENDS.sub(b"\r\n", data)


def decode(value: bytes) -> str:
    """A field's value as text."""
    if b"=?" not in value and value.isascii():
        return value.decode("ascii").strip(" \t\r\n")
    return words.decode(value).strip(" \t\r\n")


def address_pairs(value: bytes) -> list[tuple[str, str]]:
    """(local part, domain) of each address in a list; the plain ones of nearly all mail without the whole parser."""
    out: list[tuple[str, str]] = []
    position, end = 0, len(value)
    while position < end and len(out) < _PLAIN_MOST:
        found = _PLAIN.match(value, position)
        if found is None:
            break
        local, domain, bare_local, bare_domain = found.groups()
        if local is None:
            out.append((bare_local.decode("ascii"), bare_domain.decode("ascii")))
        else:
            out.append((local.decode("ascii"), domain.decode("ascii")))
        position = found.end()
    if position < end:
        return [(box.local, box.domain) for box in address.parse_list(value).mailboxes]
    return out


class View:
    """A message, and the edits made to it so far. ``version`` counts the edits."""

    __slots__ = (
        "_block",
        "_body",
        "_current",
        "_pairs",
        "_rendered",
        "_size",
        "_values",
        "line_end",
        "original",
        "version",
        "wraps",
    )

    def __init__(self, message: Message) -> None:
        self.original = message
        self.version = 0
        self.wraps: list[Callable[[bytes], bytes]] = []  # enclosures of RFC 5703, made when it is stored
        end = message.data.find(b"\n")
        self.line_end = b"\n" if end >= 0 and message.data[end - 1 : end] != b"\r" else b"\r\n"
        self._current: Message | None = message
        self._block: HeaderBlock = message.header
        self._body: bytes | None = None
        self._rendered: bytes | None = None
        self._size: int | None = None
        self._values: dict[bytes, tuple[str, ...]] = {}
        self._pairs: dict[bytes, list[tuple[str, str]]] = {}

    @property
    def header(self) -> HeaderBlock:
        """The header as it is now."""
        return self._block

    @property
    def message(self) -> Message:
        """The message as it is now (after a header edit it is put together first)."""
        if self._current is None:
            self._current = Message(self._form() or self.original.data)
        return self._current

    @property
    def size(self) -> int:
        """RFC 5228 5.9: octets of the message as it is now, with CRLF line ends whatever it is stored with."""
        if self._size is None:
            data = self._form()
            if not data and self.original.crlf:
                self._size = len(self.original.data)
            else:
                data = data or self.original.data
                self._size = len(data) + data.count(b"\n") - data.count(b"\r\n")
        return self._size

    @property
    def size_bounds(self) -> tuple[int, int]:
        """The least and the most that ``size`` can be, without counting line ends: each LF adds one octet at most."""
        if self._size is None and self.version == 0 and not self.original.crlf:
            octets = len(self.original.data)
            return octets, 2 * octets
        return self.size, self.size

    def fields(self, names: Sequence[bytes]) -> list[Field]:
        """The values of all fields with these lower-case names, in the order of the names."""
        if len(names) == 1:
            return list(self._block.get_all(names[0]))
        return [value for name in names for value in self._block.get_all(name)]

    def values(self, name: bytes) -> tuple[str, ...]:
        """The decoded values of a field by lower-case name."""
        values = self._values.get(name)
        if values is None:
            raw = self._block.get_all(name)
            values = tuple(map(decode, raw)) if raw else ()
            self._values[name] = values
        return values

    def addresses(self, name: bytes) -> list[Mailbox]:
        """The mailboxes in the fields of this lower-case name, groups taken apart."""
        return [box for value in self._block.get_all(name) for box in address.parse_list(value).mailboxes]

    def pairs(self, name: bytes) -> list[tuple[str, str]]:
        """The same as (local part, domain), which is all that tests look at."""
        found = self._pairs.get(name)
        if found is None:
            found = self._pairs[name] = []
            for value in self._block.get_all(name):
                found += address_pairs(value)
        return found

    def automatic(self) -> bool:
        """Does Auto-Submitted say that no person sent it? RFC 3834 5: a keyword, comments and parameters behind it."""
        values = self.values(b"auto-submitted")
        return any(_KEYWORD_END.split(value, maxsplit=1)[0].strip().lower() != "no" for value in values)

    def exists(self, name: bytes) -> bool:
        """Is there a field of this lower-case name?"""
        return name in self._block

    def rendered(self) -> bytes | None:
        """The whole message after edits, with CRLF; None when there were none."""
        data = self._form()
        return data if data is None or self.line_end == b"\r\n" else crlf(data)

    def stored(self) -> bytes | None:
        """What keep and fileinto store: the whole message after edits, enclosed; None when neither was done."""
        data = self.rendered()
        if self.wraps:
            data = crlf(self.original.data) if data is None else data
            for wrap in self.wraps:
                data = wrap(data)
        return data

    def _form(self) -> bytes | None:
        """The whole message after edits, in the original's line ends; None when there were none."""
        if self.version == 0:
            return None
        if self._rendered is None:
            block = self._block
            head = bytes(block.data[block.start : block.body_start])
            self._rendered = head + (self._body if self._body is not None else b"")
        return self._rendered

    def set_header(self, raw_fields: Sequence[bytes]) -> None:
        """Replaces the header by these whole fields (each with its line end)."""
        if self._body is None:
            block = self._block
            self._body = bytes(block.data[block.body_start :])
        head = b"".join(raw_fields) + self.line_end
        self._changed()
        self._block = header.scan(head)
        self._current = None

    def set_message(self, data: bytes) -> None:
        """Replaces the whole message."""
        self._changed()
        self._current = Message(data)
        self._block = self._current.header
        self._body = bytes(data[self._block.body_start :])
        self._rendered = data

    def _changed(self) -> None:
        self.version += 1
        self._rendered = None
        self._size = None
        self._values = {}
        self._pairs = {}
