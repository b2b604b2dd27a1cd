"""Encoded words: text in header fields.

Specification: RFC 2047, 2231 5 (language), 6532 (raw UTF-8). Complete: yes.

Reading is lenient: words inside quoted strings or beside other text are decoded too, bad base64 gives what it can,
blanks inside a word are kept, characters split across neighbouring words of one charset are put together.
Writing is strict: words of at most 75 octets, whole characters.
"""

import binascii
import re
from typing import Final

from rules.mail import charset, limits
from rules.mail.encoding import double_equals

_WORD: Final = re.compile(rb"=\?([!->@-~]{1,100}+)\?([bBqQ])\?([^?\r\n]*+)\?=")
_BLANK: Final = b" \t\r\n"
_NOT_BASE64: Final = bytes(
    sorted(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
)

_PLAIN_TEXT: Final = re.compile(r"[ -~\t]*")
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# RFC 2047 5 (3): what may stand unencoded in a phrase; used for all words.
_Q_SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_PAYLOAD: Final = 75 - len("=?utf-8?b??=")


def decode(value: bytes) -> str:
    """Text of a field's value. Linear; never raises. Line ends are kept: unfold first."""
    if b"=?" not in value:
        return charset.lenient(value)
    pieces: list[str] = []
    pending: list[bytes] = []  # decoded octets of neighbouring words that share a charset
    pending_charset = ""
    position = 0
    for count, word in enumerate(_WORD.finditer(value), 1):
        between = value[position : word.start()]
        name = word[1].partition(b"*")[0].decode("ascii").lower()
        glued = bool(pending) and not between.strip(_BLANK)
        if pending and not (glued and name == pending_charset):
            pieces.append(charset.decode(b"".join(pending), pending_charset))
            pending = []
        if between and not glued:
            pieces.append(charset.lenient(between))
        pending_charset = name
        pending.append(_payload(word[2], word[3]))
        position = word.end()
        if count == limits.ENCODED_WORDS:
            break
    if pending:
        pieces.append(charset.decode(b"".join(pending), pending_charset))
    pieces.append(charset.lenient(value[position:]))
    return "".join(pieces)


def _payload(encoding: bytes, text: bytes) -> bytes:
    if encoding in b"bB":
        return _base64(text)
    if text.endswith(b"="):  # a2b_qp would take it for a soft line break
        text += b"3D"
    return binascii.a2b_qp(double_equals(text), header=True)


def _base64(text: bytes) -> bytes:
    """Octets of a word's base64; junk is skipped, a torn end is dropped."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        digits = text.translate(None, _NOT_BASE64)
        digits = digits[: len(digits) - (len(digits) % 4 == 1)]
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def encode_text(text: str, fold: bytes = b" ") -> bytes:
    """Unstructured text for a new field (Subject): as it is when it is printable ASCII, else encoded words."""
    text = _one_line(text)
    if _PLAIN_TEXT.fullmatch(text) and "=?" not in text and max(map(len, text.split(" "))) < 900:
        return text.encode("ascii")
    return fold.join(_encoded_words(text))


def encode_phrase(text: str, fold: bytes = b" ") -> bytes:
    """A display name for a new field: atoms, a quoted string, or encoded words."""
    text = _one_line(text)
    if "=?" in text or not _PLAIN_TEXT.fullmatch(text) or len(text) > 900:
        return fold.join(_encoded_words(text))
    if _ATOMS.fullmatch(text):
        return text.encode("ascii")
    return b'"' + text.replace("\\", "\\\\").replace('"', '\\"').encode("ascii") + b'"'


def _one_line(text: str) -> str:
    """Without line ends and NUL, which may never get into a field, and without lone surrogates."""
    if "\r" in text or "\n" in text or "\0" in text:
        text = text.replace("\r\n", " ").replace("\r", " ").replace("\n", " ").replace("\0", " ")
    return text.encode("utf-8", "replace").decode("utf-8")


def _encoded_words(text: str) -> list[bytes]:
    """UTF-8 words of at most 75 octets, each of whole characters, legible when that is not much longer."""
    raw = text.encode("utf-8")
    plain = sum(octet in _Q_SAFE or octet == 0x20 for octet in raw)
    quoted = plain + 3 * (len(raw) - plain) <= 2 * len(raw)
    words: list[bytes] = []
    chunk: list[bytes] = []
    used = 0
    for character in text:
        octets = character.encode("utf-8")
        shown = _q(octets) if quoted else octets
        if used + len(shown) > (_PAYLOAD if quoted else _PAYLOAD // 4 * 3):
            words.append(_word(b"".join(chunk), quoted))
            chunk, used = [], 0
        chunk.append(shown)
        used += len(shown)
    words.append(_word(b"".join(chunk), quoted))
    return words


def _q(octets: bytes) -> bytes:
    return b"".join(
        b"_" if octet == 0x20 else bytes((octet,)) if octet in _Q_SAFE else b"=%02X" % octet
        for octet in octets
    )


def _word(payload: bytes, quoted: bool) -> bytes:
    if quoted:
        return b"=?utf-8?q?" + payload + b"?="
    return b"=?utf-8?b?" + binascii.b2a_base64(payload, newline=False) + b"?="
