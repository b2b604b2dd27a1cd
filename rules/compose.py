"""Generated mail: vacation replies and mailto notifications, as bytes with CRLF.

Specification: RFC 5322, RFC 2045 to 2047, RFC 3834 (automatic responses), RFC 5230 section 5, RFC 5436
section 2.7. Field values can never add a field (``rules.mail.header.make_field``); text bodies are UTF-8,
quoted-printable where lines are long or not ASCII.
"""

from __future__ import annotations

import quopri
import re
from collections.abc import Sequence
from datetime import datetime

from rules.mail import address, date, words
from rules.mail.header import make_field
from rules.view import crlf

_MESSAGE_ID = re.compile(rb"<[^<>\s]{1,900}>")
_MIME_FIELD = re.compile(rb"(?:content-[!-9;-~]+|mime-version)[ \t]*:", re.IGNORECASE)
_REFERENCES = 20  # ids kept in References: the first and the latest
PRODUCT = b"filterd"


def address_field(text: str) -> bytes:
    """An address list for a new field, display names encoded."""
    items = address.parse_list(text.encode("utf-8", "replace")).items
    return b", ".join(address.render(item) for item in items)


def body_fields(text: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """MIME fields and the body for a text."""
    data = crlf(text.encode("utf-8", "replace"))
    if data and not data.endswith(b"\r\n"):
        data += b"\r\n"
    ascii_only = data.isascii() and b"\0" not in data
    long = any(len(line) > 900 for line in data.split(b"\r\n"))
    charset = b"us-ascii" if ascii_only else b"utf-8"
    encoding = b"7bit"
    if not ascii_only or long:
        encoding = b"quoted-printable"
        data = crlf(quopri.encodestring(data.replace(b"\r\n", b"\n")))
    return [
        (b"MIME-Version", b"1.0"),
        (b"Content-Type", b"text/plain; charset=" + charset),
        (b"Content-Transfer-Encoding", encoding),
    ], data


def entity(text: str) -> tuple[bytes, bytes] | None:
    """A MIME entity (RFC 5230 4.4) as header and body; None when it has no MIME field or an 8-bit header.

    Where the empty line was forgotten, the body begins with the first line that is no MIME field.
    """
    data = crlf(text.encode("utf-8", "replace")).lstrip(b"\r\n")
    head: list[bytes] = []
    place = 0
    while place < len(data):
        end = data.find(b"\r\n", place)
        end = len(data) if end < 0 else end
        line = data[place:end]
        if not line:
            place = end + 2
            break
        if not (head and line[:1] in (b" ", b"\t")) and not _MIME_FIELD.match(line):
            break
        head.append(line)
        place = end + 2
    if not head or not all(line.isascii() for line in head):
        return None
    if not any(line.lower().startswith(b"mime-version:") for line in head):
        head.insert(0, b"MIME-Version: 1.0")
    return b"\r\n".join(head) + b"\r\n", data[place:]


def thread_fields(
    message_ids: Sequence[bytes], references: bytes, in_reply_to: bytes = b""
) -> list[tuple[bytes, bytes]]:
    """In-Reply-To and References of an answer (RFC 5322 3.6.4): without References one single In-Reply-To stands in."""
    found = _MESSAGE_ID.findall(message_ids[0]) if message_ids else []
    if not found:
        return []
    parents = _MESSAGE_ID.findall(references)
    if not parents and len(answered := _MESSAGE_ID.findall(in_reply_to)) == 1:
        parents = answered
    parents = [one for one in parents if one != found[0]]
    if len(parents) >= _REFERENCES:
        parents = [parents[0], *parents[-(_REFERENCES - 2) :]]
    return [(b"In-Reply-To", found[0]), (b"References", b" ".join([*parents, found[0]]))]


def build(
    fields: Sequence[tuple[bytes, bytes]],
    moment: datetime,
    message_id: str,
    body: bytes,
    *,
    entity_header: bytes = b"",
) -> bytes:
    """A whole message: Date and Message-ID first, then the given fields; ``entity_header`` is taken as it is."""
    head = [
        (b"Date", date.render(moment).encode("ascii", "replace")),
        (b"Message-ID", b"<" + message_id.encode("ascii", "replace") + b">"),
        (b"X-Sieve", PRODUCT),
        *fields,
    ]
    return b"".join(make_field(name, value) for name, value in head) + entity_header + b"\r\n" + body


def subject_text(text: str, longest: int) -> str:
    """A subject in one line, of at most ``longest`` characters; encoded words in it are decoded."""
    if "=?" in text:
        text = words.decode(text.encode("utf-8", "replace"))
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def mailbox_field(name: str, plain: str) -> bytes:
    """One mailbox as people write it: the name quoted or encoded, the address in angle brackets."""
    if not name:
        return f"<{plain}>".encode("ascii", "replace")
    if name.isascii() and name.isprintable() and "=?" not in name and len(name) < 500:
        shown = b'"' + name.replace("\\", "\\\\").replace('"', '\\"').encode("ascii") + b'"'
    else:
        shown = words.encode_phrase(name[:500])
    return shown + f" <{plain}>".encode("ascii", "replace")
