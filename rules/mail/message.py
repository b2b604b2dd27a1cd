"""One message: immutable octets, and what is read from them when asked.

Invariants: data is never changed; header, root and each list of addresses are read at most once; nothing raises on any octets.
"""

import re
from datetime import datetime
from typing import Final

from rules.mail import address, charset, date, limits, mime, words
from rules.mail.findings import Finding
from rules.mail.header import HeaderBlock, octet_findings, scan, unfold

# Blanks and angles only within a quoted word, which stands between "<", dots and "@" (RFC 5322 3.6.4, obs-id-left); line ends
# and other controls nowhere in one. Each scan for the end of a word ends at the next quote, so all are linear together.
_MESSAGE_ID: Final = re.compile(
    rb'<(?:[^<>\s"]++|(?<=[<.])"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]++|\\[\t -~])*+"(?=[.@])|")++>'
)
_BROKEN_ID: Final = re.compile(rb"[^\s<>]++")


class Message:
    """A received message. Header names are given in lower case. ``crlf``: who made it knows that all line ends are CRLF."""

    __slots__ = ("_addresses", "_header", "_root", "crlf", "data")

    def __init__(self, data: bytes, crlf: bool = False) -> None:
        self.data = data
        self.crlf = crlf
        self._header: HeaderBlock | None = None
        self._root: mime.Part | None = None
        self._addresses: dict[bytes, tuple[address.Mailbox, ...]] | None = None

    @property
    def size(self) -> int:
        """Octets as stored."""
        return len(self.data)

    @property
    def header(self) -> HeaderBlock:
        """The message's own header."""
        if self._header is None:
            self._header = scan(self.data)
        return self._header

    @property
    def root(self) -> mime.Part:
        """The MIME tree."""
        if self._root is None:
            self._root = mime.parse(self.data, self.header)
        return self._root

    @property
    def findings(self) -> frozenset[Finding]:
        """Everything odd about structure and octets (reads the whole message)."""
        return mime.all_findings(self.root) | octet_findings(self.data, 0, len(self.data))

    def first(self, name: bytes) -> bytes | None:
        """The first field of a name, unfolded, not decoded."""
        return self.header.first(name)

    def text(self, name: bytes) -> str:
        """The first field of a name as text; empty when there is none."""
        value = self.header.first(name)
        return words.decode(value) if value else ""

    def subject(self) -> str:
        """The decoded Subject."""
        return self.text(b"subject")

    def message_id(self) -> str:
        """The Message-ID with its angle brackets; a broken one gets them, none is empty."""
        ids = self.message_ids(b"message-id")
        return ids[0] if ids else ""

    def message_ids(self, name: bytes) -> list[str]:
        """All message ids of Message-ID, In-Reply-To or References, with angle brackets."""
        found: list[str] = []
        for value in self.header.get_all(name):
            ids = _MESSAGE_ID.findall(value)
            if not ids and name == b"message-id":
                ids = [b"<" + word + b">" for word in _BROKEN_ID.findall(value)[:1]]
            found.extend(charset.lenient(word) for word in ids)
        return found

    def addresses(self, name: bytes) -> tuple[address.Mailbox, ...]:
        """The mailboxes of all fields of a name, in order; read once."""
        known = self._addresses
        if known is None:
            known = self._addresses = {}
        if name not in known:
            known[name] = self._read_addresses(name)
        return known[name]

    def _read_addresses(self, name: bytes) -> tuple[address.Mailbox, ...]:
        values = self.header.get_all(name)
        if len(values) == 1:
            return address.parse_list(values[0]).mailboxes
        found: list[address.Mailbox] = []
        for value in values:
            found.extend(address.parse_list(value).mailboxes)
            if len(found) > limits.ADDRESSES:
                break
        return tuple(found)

    def from_addresses(self) -> tuple[address.Mailbox, ...]:
        """The mailboxes of From."""
        return self.addresses(b"from")

    def sender_addresses(self) -> tuple[address.Mailbox, ...]:
        """The mailboxes of Sender, or of From when there is no Sender (RFC 5322 3.6.2)."""
        return self.addresses(b"sender") or self.from_addresses()

    def reply_addresses(self) -> tuple[address.Mailbox, ...]:
        """The mailboxes of Reply-To, or of From (RFC 5322 3.6.2)."""
        return self.addresses(b"reply-to") or self.from_addresses()

    def date(self) -> datetime | None:
        """The moment of the Date field."""
        value = self.header.first(b"date")
        return date.parse(value) if value else None

    def header_text(self) -> str:
        """The message's own header, unfolded and decoded."""
        return _header_text(self.header)

    def body_text(self) -> str:
        """Decoded text of all text parts and of the headers of parts and inner messages, joined by newlines."""
        pieces: list[str] = []
        left = limits.SEARCH_TEXT_OCTETS
        root = self.root
        for part in mime.walk(root):
            if part is not root and part.header.fields:
                pieces.append(_header_text(part.header))
                left -= part.body_start - part.start
            if part.ctype == "text" or (not part.children and part.ctype in ("message", "multipart")):
                text = part.text(left)
                if text is None:  # an unread message or multipart: as it stands
                    text = charset.lenient(part.body()[:left])
                pieces.append(text)
                left -= part.size
            if left <= 0:
                break
        return "\n".join(pieces)

    def text_for_search(self) -> str:
        """header_text and body_text: what IMAP's SEARCH TEXT looks at. HTML keeps its tags."""
        return self.header_text() + "\n" + self.body_text()


def _header_text(header: HeaderBlock) -> str:
    """A header as text, one field a line."""
    block = header.data[header.start : min(header.end, header.start + limits.HEADER_OCTETS)]
    return words.decode(unfold(block))
