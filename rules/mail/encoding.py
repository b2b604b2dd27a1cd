"""Content-Transfer-Encoding: base64 and quoted-printable, read tolerantly in linear time.

Specification: RFC 2045 6.7, 6.8. Complete: yes (reading); uuencode is not decoded.

Junk in base64 is skipped and reported; base64 that goes on behind its padding is decoded on, because some clients do
so, and reported, because others stop there (RELIABILITY 1, "scanner and client parse the same octets differently").
"""

import binascii
import re
from typing import Final

from rules.mail import limits
from rules.mail.findings import NONE, Finding

IDENTITY: Final = frozenset(("7bit", "8bit", "binary", ""))
_BAD_BASE64: Final = frozenset((Finding.BAD_BASE64,))
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64: Final = bytes(sorted(set(range(256)) - set(_BASE64) - {0x3D}))
_PADDING: Final = re.compile(rb"=+")
# RFC 2045 6.7 (3): blanks at the end of an encoded line are transport padding.
_TRAILING: Final = re.compile(rb"(?<![ \t])[ \t]++(?=\r?\n|\Z)")
_STRAY: Final = re.compile(rb"=(?![0-9A-Fa-f]{2}|\r?\n|\Z)")


def decode(data: bytes, encoding: str) -> tuple[bytes, frozenset[Finding]]:
    """Undo a transfer encoding (lower case); one we do not know leaves the octets as they are."""
    if encoding == "base64":
        return base64(data)
    if encoding == "quoted-printable":
        return quoted_printable(data)
    if encoding in IDENTITY:
        return data, NONE
    return data, frozenset((Finding.UNKNOWN_ENCODING,))


def base64(data: bytes) -> tuple[bytes, frozenset[Finding]]:
    """Octets of base64 text."""
    packed = data.translate(None, b"\r\n \t")
    try:
        return binascii.a2b_base64(packed, strict_mode=True), NONE
    except binascii.Error:
        pass
    packed = packed.translate(None, _NOT_BASE64)
    pieces: list[bytes] = []
    position = 0
    for count, padding in enumerate(_PADDING.finditer(packed), 1):
        pieces.append(_quanta(packed[position : padding.start()]))
        position = padding.end()
        if count == limits.BASE64_SEGMENTS:
            return b"".join(pieces), _BAD_BASE64
    pieces.append(_quanta(packed[position:]))
    return b"".join(pieces), _BAD_BASE64


def _quanta(digits: bytes) -> bytes:
    """Octets of base64 digits without padding; a single digit left over is dropped."""
    torn = len(digits) % 4
    if torn == 1:
        digits = digits[:-1]
    elif torn:
        digits += b"=" * (4 - torn)
    return binascii.a2b_base64(digits)


def quoted_printable(data: bytes) -> tuple[bytes, frozenset[Finding]]:
    """Octets of quoted-printable text; an equals sign that starts nothing stays."""
    if b" \r\n" in data or b" \n" in data or b"\t\r\n" in data or b"\t\n" in data:
        data = _TRAILING.sub(b"", data)
    noted = NONE
    if _STRAY.search(data) is not None:
        noted = frozenset((Finding.BAD_QUOTED_PRINTABLE,))
        data = _STRAY.sub(b"=3D", data)  # a2b_qp would eat a line after "=" and a bare CR
    return binascii.a2b_qp(data), noted
