"""What the commands and the server share about local delivery, without importing the server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from filterd.proto.smtp_limits import SmtpLimits
from filterd.proto.smtp_parse import SyntaxFault, path
from pipeline.reply import Reply
from rules.mail import address, header, limits, words
from rules.mail.lineends import only_crlf

DELIVER_SOCKET = "deliver"  # in data_dir/run: LMTP for the commands of this machine
MAILBOX = "XMAILBOX"  # of RCPT, between our commands and the server: where keep stores, as xtext of UTF-8
NO_ADDRESS = Reply(553, "5.1.3", "Not an address")
NO_PARAMS: Mapping[str, str] = MappingProxyType({})
DROPPED_FIELDS = frozenset({b"bcc", b"resent-bcc", b"return-path"})
RESENT_FIELDS = (b"resent-to", b"resent-cc", b"resent-bcc", b"resent-from", b"resent-sender")
ADDRESS_FIELDS = frozenset(
    {
        b"from",
        b"sender",
        b"reply-to",
        b"to",
        b"cc",
        b"resent-from",
        b"resent-sender",
        b"resent-to",
        b"resent-cc",
    }
)
_PIECE = re.compile(  # of an address list: quoted string, comment, what is in angle brackets, sign, word
    # what is not closed is passed over as far as it was read: never read twice
    rb'(?P<quoted>"(?:[^"\\]|\\.)*+")|"(?:[^"\\]|\\.)*+|\((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*+\))*+\)?+'
    rb'|(?P<angle><[^<>]*+>)|(?P<end>[,;:])|(?P<word>(?:\[[^\[\]\r\n]*+\]|[^\s()<>,;:"])++)|\s++|.',
    re.S,
)
_BARE = re.compile(rb'(?:\s*+[^\s()<>@,;:"\[\]]++,)++')  # names without a domain, one after the other
_WHOLE = re.compile(  # and mailboxes with one, as nearly all are
    rb'(?:\s*+(?:(?:"(?:[^"\\]|\\.)*+"\s*+|[^()<>,;:"\[\]]*+)<[^<>@]*+@[^<>]*+>'
    rb'|[^\s()<>,;:"\[\]@]*+@[^\s()<>,;:"\[\]]*+|)\s*+,)++',
    re.S,
)


def is_path(text: str) -> bool:
    """Could MAIL or RCPT name this address? "" is the null path."""
    try:
        return not path(f"<{text}>".encode(), SmtpLimits(), reverse=True)[1]
    except (SyntaxFault, UnicodeEncodeError):
        return False


def is_text(text: str) -> bool:
    """Was an argument UTF-8?"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def xtext(text: str) -> str:
    """RFC 3461 4, of UTF-8."""
    octets = text.encode("utf-8", "surrogateescape")
    return "".join(chr(one) if 33 <= one <= 126 and one not in b"+=" else f"+{one:02X}" for one in octets)


def crlf(data: bytes) -> bytes:
    """Text of a command's standard input as it goes over SMTP: CRLF line ends, a final one too."""
    if not only_crlf(data):
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return data if data.endswith(b"\r\n") or not data else data + b"\r\n"


def headed(data: bytes) -> bytes:
    """A command's message whose header is nothing but fields: mbox lines ("From ") before it go, and the first line that is no
    field begins the body, as Postfix and Exim read it; a blank line then stands before it."""
    while data.startswith((b"From ", b">From ")):
        data = data.partition(b"\n")[2]
    odd = next((one for one in header.scan(data).fields if not one.name), None)
    if odd is None:
        return data
    newline = b"\r\n" if b"\r\n" in data[: odd.end] else b"\n"
    return data[: odd.start] + newline + data[odd.start :]


def listed(value: bytes) -> list[str]:
    """The addresses of a list as people and scripts write it: blanks between them are as good as commas."""
    mailboxes = address.parse_list(value).mailboxes
    if any("@" in one.name for one in mailboxes) and not any(sign in value for sign in (b"<", b'"', b"(")):
        return value.decode("utf-8", "surrogateescape").replace(",", " ").replace(";", " ").split()
    return [one.address for one in mailboxes if one.local]


class Qualifier:
    """Gives the names of one message's address fields that have no domain ("root (Cron Daemon)") one.

    What is usual is read in C, the rest one piece after the other, ``limits.ADDRESS_TOKENS`` of them in all; what comes then
    stays as it is.
    """

    __slots__ = ("_domain", "_left")

    def __init__(self, domain: bytes) -> None:
        self._domain = b"@" + domain
        self._left = limits.ADDRESS_TOKENS

    def whole(self, value: bytes) -> bytes:
        """The value of an address field with the domain where it is missing."""
        out: list[bytes] = []
        at, end = 0, len(value)
        while at < end and self._left > 0:
            self._left -= 1
            if (run := _WHOLE.match(value, at)) is not None:
                out.append(run[0])
            elif (run := _BARE.match(value, at)) is not None:
                out.append(run[0].replace(b",", self._domain + b","))
            else:
                at = self._item(value, at, out)
                continue
            at = run.end()
        out.append(value[at:])
        return b"".join(out)

    def _item(self, value: bytes, start: int, out: list[bytes]) -> int:
        """One item of another form, up to its sign; where the next one begins."""
        pieces: list[tuple[int, bytes]] = []  # where an angle, a word or a quoted string ends, and its text
        angle, at, sign = 0, start, b""
        for found in _PIECE.finditer(value, start):
            self._left -= 1
            if self._left <= 0:  # not read to its end: left alone
                return start
            at = found.end()
            if found.lastgroup in ("quoted", "word", "angle"):
                pieces.append((at, found[0]))
                angle = len(pieces) if found.lastgroup == "angle" else angle
            elif found.lastgroup == "end":
                sign = found[0]
                break
        end, text = pieces[angle - 1] if angle else pieces[0] if len(pieces) == 1 else (0, b"@")
        if b"@" in text or not text.strip(b"<> ") or sign == b":":
            out.append(value[start:at])
        else:
            end -= angle > 0
            out += (value[start:end], self._domain, value[end:at])
        return at


def completed(
    data: bytes,
    block: header.HeaderBlock,
    sender: str,
    full_name: str,
    date: str,
    message_id: str,
    domain: str = "",
) -> bytes:
    """Bcc and Return-Path out, From, Date and Message-ID in when they are missing (of what is resent their Resent- kin too),
    ``domain`` to names that have none; everything else stays octet for octet."""
    newline = b"\r\n" if b"\r\n" in data[: block.body_start] else b"\n"
    name = words.encode_phrase(full_name) + b" " if full_name else b""
    whole = {
        b"From": name + b"<" + sender.encode() + b">",
        b"Date": date.encode(),
        b"Message-ID": message_id.encode(),
    }
    added = [b"%s: %s" % item for item in whole.items() if not block.get_all(item[0].lower())]
    if any(one in block for one in RESENT_FIELDS):
        whole[b"Message-ID"] = b"<resent." + whole[b"Message-ID"].removeprefix(b"<")
        resent = {b"Resent-" + key: value for key, value in whole.items()}
        added += [b"%s: %s" % item for item in resent.items() if not block.get_all(item[0].lower())]
    kept: list[bytes] = []
    position = 0
    qualifier = Qualifier(domain.encode())
    for one in block.fields:
        if one.lname in DROPPED_FIELDS:
            kept.append(data[position : one.start])
            position = one.end
        elif domain and one.lname in ADDRESS_FIELDS:
            value = block.value(one)
            kept += [data[position : one.value_start], qualifier.whole(value)]
            position = one.value_start + len(value)
    kept.append(data[position:])
    return b"".join(line + newline for line in added) + b"".join(kept)
