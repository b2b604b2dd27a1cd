"""What the index keeps of one message: everything IMAP answers without opening the file.

Rendered from the final bytes, at delivery or when a message of another program is found (HOUSE item 12). All sizes are
virtual: of the text with CRLF line ends. The memory store and the Maildir store share this, so they cannot disagree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from filterd.imap import preview
from filterd.imap.render import cached_headers, render_body, render_envelope
from rules.mail.lineends import as_lf, only_crlf, with_crlf
from rules.mail.message import Message

CRLF_FORM, LF_FORM, MIXED_FORM = 0, 1, 2
EMAIL_ID_OCTETS = 12
KEY_OCTETS = 8  # of a delivery key


@dataclass(slots=True)
class Record:
    """``email_id``: EMAIL_ID_OCTETS of the text's digest, so copies and moves keep it (RFC 8474 5.1)."""

    size: int
    header_size: int
    email_id: bytes
    envelope: bytes
    body: bytes
    bodystructure: bytes
    headers: bytes
    preview: bytes


def fingerprint(key: bytes) -> bytes:
    """What is kept of a delivery key, in the index and in the file name."""
    return hashlib.blake2b(key, digest_size=KEY_OCTETS).digest()


def form_of(data: bytes) -> int:
    """Which line ends the octets have; no line end at all counts as CRLF."""
    if b"\r" not in data:
        return LF_FORM if b"\n" in data else CRLF_FORM
    if only_crlf(data):
        return CRLF_FORM
    lines = data.count(b"\n")
    pairs = data.count(b"\r\n")
    if lines == pairs:
        return CRLF_FORM
    return LF_FORM if pairs == 0 else MIXED_FORM


def to_crlf(data: bytes, form: int | None = None) -> bytes:
    """The text with CRLF line ends; a bare CR is no line end and stays."""
    if form is None:
        form = form_of(data)
    if form == CRLF_FORM:
        return data
    return data.replace(b"\n", b"\r\n") if form == LF_FORM else with_crlf(data)


def to_disk(data: bytes, newline: str) -> tuple[bytes, int]:
    """The octets to write for a text with CRLF line ends, and their form.

    A text with a bare CR stays CRLF whatever ``newline`` says: as LF it could not be told from a line end when read back.
    """
    if newline == "lf" and (short := as_lf(data)) is not None:
        return short, LF_FORM if b"\n" in short else CRLF_FORM
    return data, CRLF_FORM


def render(data: bytes) -> Record:
    """``data`` has CRLF line ends. Never fails, whatever the message (limits: ``rules.mail.limits``)."""
    message = Message(data)
    envelope = render_envelope(message)
    body, bodystructure = render_body(message)
    return Record(
        size=len(data),
        header_size=message.header.body_start,
        email_id=hashlib.sha256(data).digest()[:EMAIL_ID_OCTETS],
        envelope=envelope,
        body=body,
        bodystructure=bodystructure,
        headers=cached_headers(message),
        preview=preview.rendered(message.root),
    )


def email_id_text(octets: bytes) -> str:
    """RFC 8474 objectid."""
    return "E" + octets.hex()
