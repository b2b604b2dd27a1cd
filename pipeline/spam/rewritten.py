"""What spamd made of a message (HEADERS, PROCESS), as edits of it: its X-Spam-* fields, a rewritten Subject, a report as new body.

Specification: spamd/PROTOCOL; Mail::SpamAssassin::Conf (``add_header``, ``rewrite_header``, ``report_safe``). What spamd says of
other fields is not believed: it saw ours in front of the message's. X-Spam-Flag stays ours, as ``junk_at`` decides.
Invariant: never raises; a field that is not one whole field is left out.
"""

from __future__ import annotations

import re
from typing import Final

from pipeline import edits
from pipeline.verdict import HeaderEdit
from rules.mail.header import HeaderBlock, scan
from rules.mail.lineends import with_crlf
from rules.mail.message import Message

OURS: Final = b"x-spam-flag"
REWRITTEN: Final = (b"subject", b"from", b"to")  # rewrite_header
WRAPPED: Final = (b"mime-version", b"content-type", b"content-transfer-encoding", b"content-disposition")
_TESTS: Final = re.compile(rb"(?:^|[\s,])tests=([A-Z0-9_,\s]*)")


def told(text: bytes) -> HeaderBlock:
    """The header of what spamd gave back, CRLF."""
    return scan(with_crlf(text))


def rules(block: HeaderBlock) -> list[str]:
    """The names in X-Spam-Status; SpamAssassin's own is the only one there, it takes those of others away."""
    found = _TESTS.search(block.first(b"x-spam-status") or b"")
    words = found[1].decode("ascii").replace(",", " ").split() if found else []
    return [word for word in words if word.isupper() and word != "NONE"]


def header_edits(message: Message, text: bytes, whole: bool) -> list[HeaderEdit]:
    """Behind the removal of the message's own X-Spam-* fields. ``whole``: spamd gave back a body as well."""
    block = told(text)
    out = []
    for field in block.fields:
        if field.lname.startswith(b"x-spam-") and field.lname != OURS:
            out += _add(block.raw(field))
    for name in REWRITTEN + (WRAPPED if whole else ()):
        before = [message.header.raw(one) for one in message.header.fields_named(name)]
        after = [block.raw(one) for one in block.fields_named(name)]
        if before != after and (after or whole):
            shown = name.decode("ascii")
            out += [HeaderEdit("remove", shown)] if before else []
            out += [edit for raw in after for edit in _add(raw)]
    return out


def new_body(message: Message, text: bytes) -> bytes | None:
    """The body that spamd gave back; None when it left it alone."""
    text = with_crlf(text)
    body = text[scan(text).body_start :]
    return None if body == with_crlf(message.data[message.header.body_start :]) else body


def _add(raw: bytes) -> list[HeaderEdit]:
    try:
        whole = edits.whole_field(raw)
    except ValueError:
        return []
    name = raw.partition(b":")[0].decode("ascii", "replace").strip()
    return [HeaderEdit("add", name, raw=whole)]
