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
_PADDED: Final = (b" \n", b"\t\n", b" \r\n", b"\t\r\n")
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
    data = _without_padding(data)
    if _STRAY.search(data) is None:
        return binascii.a2b_qp(data), NONE
    # What a2b_qp would get wrong: it eats the rest of a line after "=" and a bare CR, and one of two "=".
    if b"=\r" in data:
        data = data.replace(b"=\r\n", b"=\n").replace(b"=\r", b"=3D\r")
    return binascii.a2b_qp(double_equals(data)), frozenset((Finding.BAD_QUOTED_PRINTABLE,))


def double_equals(data: bytes) -> bytes:
    """Every "=" before another one written as =3D (twice, for the overlap in "===")."""
    if b"==" in data:
        data = data.replace(b"==", b"=3D=").replace(b"==", b"=3D=")
    return data


def _without_padding(data: bytes) -> bytes:
    """Lines without blanks at their ends. A few passes at memory speed do it for all but hostile text."""
    for _ in range(3):
        dirty = [padded for padded in _PADDED if padded in data]
        if not dirty:
            return data
        for padded in dirty:
            data = data.replace(padded, padded[1:])
    for padded in _PADDED:
        *lines, rest = data.split(padded)
        if lines:
            data = padded[1:].join([line.rstrip(b" \t") for line in lines] + [rest])
    return data
