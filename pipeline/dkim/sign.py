"""What a signature of ours covers.

Specification: RFC 6376 5.4 (fields to sign), 8.15 (fields that must not be added later), RFC 8058 4 (List-Unsubscribe).
"""

from __future__ import annotations

from typing import Final

from pipeline.dkim.signature import NAMES_LIMIT
from rules.mail.header import HeaderBlock

SIGN: Final = (
    b"from",
    b"sender",
    b"reply-to",
    b"to",
    b"cc",
    b"subject",
    b"date",
    b"message-id",
    b"in-reply-to",
    b"references",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
    b"content-disposition",
    b"content-id",
    b"content-description",
    b"resent-date",
    b"resent-from",
    b"resent-sender",
    b"resent-to",
    b"resent-cc",
    b"resent-message-id",
    b"list-id",
    b"list-help",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
    b"list-subscribe",
    b"list-post",
    b"list-owner",
    b"list-archive",
    b"autocrypt",
    b"feedback-id",
)
OVERSIGN: Final = (b"from", b"to", b"subject", b"date")  # named once more than they occur


def names_to_sign(block: HeaderBlock) -> list[bytes]:
    """The h= list: every field of SIGN that is there, as often as it is there, and OVERSIGN once more."""
    names = [name for name in SIGN for _ in block.fields_named(name)]
    names += OVERSIGN
    if len(names) > NAMES_LIMIT:  # someone repeats a field hundreds of times: the others still get their turn
        names = [name for name in SIGN if name in block] + list(OVERSIGN)
    return names
