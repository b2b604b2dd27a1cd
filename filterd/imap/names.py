"""Mailbox names on the wire and LIST patterns.

Specification: RFC 3501 5.1.3 (modified UTF-7), RFC 9051 5.1, RFC 6855. Complete.
In the store a name is Unicode with ``/``. A session that enabled IMAP4rev2 or UTF8=ACCEPT speaks UTF-8, others modified
UTF-7. Raw UTF-8 from an old-style session is understood too: some clients send it.
"""

from __future__ import annotations

import binascii
import re
import unicodedata

from filterd.store.base import MAX_NAME_OCTETS, SEPARATOR

_SHIFT = re.compile(r"&([A-Za-z0-9+,]*)-")
_QUOTABLE = re.compile(rb"[\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]*\Z")


def decode_utf7(text: str) -> str | None:
    """Modified UTF-7 to Unicode; None when it is not valid."""
    if "&" not in text:
        return text
    out: list[str] = []
    at = 0
    while (amp := text.find("&", at)) >= 0:
        out.append(text[at:amp])
        match = _SHIFT.match(text, amp)
        if match is None:
            return None
        at = match.end()
        if not match[1]:
            out.append("&")
            continue
        packed = match[1].replace(",", "/")
        try:
            raw = binascii.a2b_base64(packed + "=" * (-len(packed) % 4))
            piece = raw.decode("utf-16-be")
        except (binascii.Error, UnicodeDecodeError):
            return None
        if not piece or any(" " <= letter <= "~" for letter in piece):
            return None  # RFC 3501 5.1.3: printable US-ASCII stands for itself
        out.append(piece)
    out.append(text[at:])
    return "".join(out)


def encode_utf7(name: str) -> str:
    """Unicode to modified UTF-7."""
    if name.isascii() and "&" not in name:
        return name
    out: list[str] = []
    wide: list[str] = []

    def flush() -> None:
        if wide:
            packed = binascii.b2a_base64("".join(wide).encode("utf-16-be", "surrogatepass"), newline=False)
            out.append("&" + packed.decode("ascii").rstrip("=").replace("/", ",") + "-")
            wide.clear()

    for letter in name:
        if " " <= letter <= "~":
            flush()
            out.append("&-" if letter == "&" else letter)
        else:
            wide.append(letter)
    flush()
    return "".join(out)


def decode(raw: bytes, utf8: bool) -> str | None:
    """A name from the wire; INBOX in any case becomes ``INBOX``. None when it cannot be a name at all."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not utf8 and text.isascii():
        decoded = decode_utf7(text)
        if decoded is None:
            return None
        text = decoded
    text = unicodedata.normalize("NFC", text)
    head, slash, rest = text.partition(SEPARATOR)
    if head.upper() == "INBOX":
        text = "INBOX" + slash + rest
    return text


def acceptable(name: str) -> bool:
    """May the name be asked for at all (RELIABILITY 3.10)? The store decides the rest."""
    if not name or len(name.encode("utf-8", "replace")) > MAX_NAME_OCTETS:
        return False
    return not any(
        unicodedata.category(letter) in ("Cc", "Cs") or letter in "\u2028\u2029" for letter in name
    )


def encode(name: str, utf8: bool) -> bytes:
    """The name as an astring for an answer."""
    return astring(name.encode("utf-8", "replace") if utf8 else encode_utf7(name).encode("ascii", "replace"))


def astring(raw: bytes) -> bytes:
    """A quoted string when it can be one, else a literal. (Clients of note break on bare atoms in LIST.)"""
    if _QUOTABLE.match(raw):
        return b'"%b"' % raw
    if b"\r" in raw or b"\n" in raw or b"\0" in raw:
        return b"{%d}\r\n%b" % (len(raw), raw)
    return b'"%b"' % raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def nstring(raw: bytes | None) -> bytes:
    return b"NIL" if raw is None else astring(raw) if len(raw) < 1000 and raw.isascii() else literal(raw)


def literal(raw: bytes) -> bytes:
    return b"{%d}\r\n%b" % (len(raw), raw)


class Pattern:
    """A LIST pattern: ``*`` matches anything, ``%`` anything but the separator.

    A set of positions in the pattern moves over the name (a bit for each), so that no pattern is costly.
    """

    __slots__ = ("_accept", "_star", "_steps", "_text", "_wild")

    def __init__(self, text: str) -> None:
        text = re.sub(r"[*%]*\*[*%]*", "*", text)
        text = re.sub(r"%+", "%", text)
        head, slash, rest = text.partition(SEPARATOR)
        if head.upper() == "INBOX":
            text = "INBOX" + slash + rest
        self._text = text
        self._accept = 1 << len(text)
        self._star = sum(1 << at for at, letter in enumerate(text) if letter == "*")
        self._wild = self._star | sum(1 << at for at, letter in enumerate(text) if letter == "%")
        self._steps: dict[str, int] = {}
        for at, letter in enumerate(text):
            if letter not in "*%":
                self._steps[letter] = self._steps.get(letter, 0) | 1 << at

    def _close(self, now: int) -> int:
        # Wildcards may match nothing; after the two substitutions above they are never neighbours.
        return now | (now & self._wild) << 1

    def matches(self, name: str) -> bool:
        now = self._close(1)
        for letter in name:
            stay = now & (self._star if letter == SEPARATOR else self._wild)
            now = self._close(stay | (now & self._steps.get(letter, 0)) << 1)
            if not now:
                return False
        return bool(now & self._accept)
