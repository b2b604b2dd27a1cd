"""What the commands and the server share about local delivery, without importing the server."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from filterd.proto.smtp_limits import SmtpLimits
from filterd.proto.smtp_parse import SyntaxFault, path
from pipeline.reply import Reply
from rules.mail import header, words
from rules.mail.lineends import only_crlf

DELIVER_SOCKET = "deliver"  # in data_dir/run: LMTP for the commands of this machine
MAILBOX = "XMAILBOX"  # of RCPT, between our commands and the server: where keep stores, as xtext of UTF-8
NO_ADDRESS = Reply(553, "5.1.3", "Not an address")
NO_PARAMS: Mapping[str, str] = MappingProxyType({})
DROPPED_FIELDS = frozenset({b"bcc", b"resent-bcc", b"return-path"})


def is_path(address: str) -> bool:
    """Could MAIL or RCPT name this address? "" is the null path."""
    try:
        return not path(f"<{address}>".encode(), SmtpLimits(), reverse=True)[1]
    except (SyntaxFault, UnicodeEncodeError):
        return False


def xtext(text: str) -> str:
    """RFC 3461 4, of UTF-8."""
    octets = text.encode("utf-8", "surrogateescape")
    return "".join(chr(one) if 33 <= one <= 126 and one not in b"+=" else f"+{one:02X}" for one in octets)


def crlf(data: bytes) -> bytes:
    """Text of a command's standard input as it goes over SMTP: CRLF line ends, a final one too."""
    if not only_crlf(data):
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return data if data.endswith(b"\r\n") or not data else data + b"\r\n"


def completed(
    data: bytes, block: header.HeaderBlock, sender: str, full_name: str, date: str, message_id: str
) -> bytes:
    """Bcc and Return-Path out, From, Date and Message-ID in when they are missing; everything else stays octet for octet."""
    newline = b"\r\n" if b"\r\n" in data[: block.body_start] else b"\n"
    added: list[bytes] = []
    if not block.get_all(b"from"):
        name = words.encode_phrase(full_name) + b" " if full_name else b""
        added.append(b"From: " + name + b"<" + sender.encode() + b">")
    if not block.get_all(b"date"):
        added.append(b"Date: " + date.encode())
    if not block.get_all(b"message-id"):
        added.append(b"Message-ID: " + message_id.encode())
    kept: list[bytes] = []
    position = 0
    for one in block.fields:
        if one.lname in DROPPED_FIELDS:
            kept.append(data[position : one.start])
            position = one.end
    kept.append(data[position:])
    return b"".join(line + newline for line in added) + b"".join(kept)
