"""Structured values with parameters: Content-Type, Content-Disposition and their like.

Specification: RFC 2045 5.1, 2183, 2231 (charsets, continuations). Complete: yes.

Lenient where clients are: missing semicolons, unquoted file names with blanks, encoded words in file names, comments.
The first of two parameters with one name counts. `raw` is what was written, `wire` what IMAP's BODYSTRUCTURE shows
(continuations joined as Dovecot joins them).
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from rules.mail import charset, limits, words
from rules.mail.findings import NONE, Finding
from rules.mail.header import unescape, unfold

_MAIN: Final = re.compile(rb"([^\s;/]++)(?:[ \t\r\n]*+/[ \t\r\n]*+([^\s;]++))?")
_NAME: Final = re.compile(rb'([^\s=;"()]++)[ \t\r\n]*+=[ \t\r\n]*+')
_SEPARATOR: Final = re.compile(rb"[\s;]*+")
_QUOTED: Final = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)("?)', re.DOTALL)
_BARE: Final = re.compile(rb"[^; \t\r\n(]*+")
_BLANKS: Final = re.compile(rb"[ \t\r\n]*+")
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_COMMENT_MARK: Final = re.compile(rb"[()]|\\.", re.DOTALL)
_SEGMENT: Final = re.compile(rb"([^*]++)(?:\*([0-9]{1,6}))?(\*?)")
_FREE_TEXT: Final = frozenset((b"name", b"filename"))


@dataclass(slots=True)
class Parameterised:
    """A main value in lower case (`text/plain`, `attachment`) and its parameters by lower-case name."""

    value: str
    params: dict[str, str]
    raw: list[tuple[bytes, bytes]]
    findings: frozenset[Finding] = NONE
    wire: list[tuple[bytes, bytes]] = field(default_factory=list)
    main: bytes = b""
    """The main value as written (its letters' case), without blanks and comments."""


@dataclass(slots=True)
class Budget:
    """How many parameters may still be read, in all fields of a message together."""

    left: int = limits.MESSAGE_PARAMETERS


def parse(value: bytes, budget: Budget | None = None) -> Parameterised:
    """Read a field's value; linear, never raises. Only the first few parameters when the ``budget`` is used up."""
    if budget is not None and budget.left <= 0:
        return _parse(value, limits.FEW_PARAMETERS)
    found = _parse_short(value) if len(value) <= 200 else _parse(value, limits.PARAMETERS)
    if budget is not None:
        budget.left -= len(found.raw)
    return found


@lru_cache(maxsize=256)
def _parse_short(value: bytes) -> Parameterised:
    """Most parts of most mail say one of a few dozen things. Callers treat the result as read-only."""
    return _parse(value, limits.PARAMETERS)


def _parse(value: bytes, most: int) -> Parameterised:
    noted: set[Finding] = set()
    if len(value) > limits.PARAMETER_VALUE_OCTETS:
        noted.add(Finding.PARAMETERS)
        value = value[: limits.PARAMETER_VALUE_OCTETS]
    value = unfold(value)
    position = _skip_blank(value, 0)
    main = b""
    found = _MAIN.match(value, position)
    if found is not None:
        main = found[1] if found[2] is None else found[1] + b"/" + found[2]
        position = found.end()
        if b"(" in main:  # a comment right behind the value
            main = main[: main.find(b"(")]
            position = value.find(b"(", found.start())
    raw = _pairs(value, position, noted, most) if position < len(value) else []
    result = Parameterised(charset.lenient(main).lower(), {}, raw, NONE, [], main)
    _combine(result, noted)
    if noted:
        result.findings = frozenset(noted)
    return result


def _pairs(value: bytes, position: int, noted: set[Finding], most: int) -> list[tuple[bytes, bytes]]:
    """The parameters as written; quoted strings unquoted."""
    pairs: list[tuple[bytes, bytes]] = []
    end = len(value)
    comments = limits.PARAMETER_COMMENTS
    while True:
        separator = _SEPARATOR.match(value, position)
        position = separator.end() if separator else position
        if position >= end or not comments:
            break
        found = _NAME.match(value, position)
        if found is None:
            comments -= 1
            position = _next_parameter(value, position, noted)
            continue
        if len(pairs) >= most:
            noted.add(Finding.PARAMETERS)
            break
        name = found[1]
        position = found.end()
        quoted = _QUOTED.match(value, position)
        if quoted is not None:
            text = quoted[1]
            if not quoted[2]:
                noted.add(Finding.UNTERMINATED)
            if b"\\" in text:
                text = unescape(text)
            position = quoted.end()
        else:
            text, position = _bare(value, position, name)
        pairs.append((name, text))
    return pairs


def _bare(value: bytes, position: int, name: bytes) -> tuple[bytes, int]:
    """An unquoted value and where it ends; only file names may hold blanks."""
    if name.lower().partition(b"*")[0] not in _FREE_TEXT:
        token = _BARE.match(value, position)
        return (token[0], token.end()) if token else (b"", position)
    end = value.find(b";", position)
    if end < 0:
        end = len(value)
    text = value[position:end].strip(b" \t\r\n")
    if text.endswith(b")") and b" (" in text:  # "name=a (a comment)"
        text = text[: text.find(b" (")]
    return text, end


def _next_parameter(value: bytes, position: int, noted: set[Finding]) -> int:
    """Past whatever is no parameter: blanks, a comment, or junk up to the next semicolon."""
    after = _skip_blank(value, position)
    if after > position:
        return after
    semicolon = value.find(b";", position)
    if semicolon == position:
        return position + 1
    noted.add(Finding.BAD_PARAMETER)
    return len(value) if semicolon < 0 else semicolon + 1


def _skip_blank(value: bytes, position: int) -> int:
    """Past blanks and comments."""
    for _ in range(limits.PARAMETER_COMMENTS):
        found = _BLANKS.match(value, position)
        position = found.end() if found else position
        if not value.startswith(b"(", position):
            return position
        position = _comment_end(value, position)
    return len(value)


def _comment_end(value: bytes, position: int) -> int:
    depth = 0
    for mark in _COMMENT_MARK.finditer(value, position):
        if mark[0] == b"(":
            depth += 1
        elif mark[0] == b")":
            depth -= 1
            if depth == 0:
                return mark.end()
    return len(value)


def _combine(result: Parameterised, noted: set[Finding]) -> None:
    """Fill params and wire from raw (RFC 2231 3, 4)."""
    continued: dict[bytes, dict[int, tuple[bytes, bool]]] = {}
    for name, text in result.raw:
        lname = name.lower()
        segment = _SEGMENT.fullmatch(lname) if b"*" in lname else None
        if segment is None:
            result.wire.append((name, text))
            key = charset.lenient(lname)
            if key in result.params:
                noted.add(Finding.DUPLICATE_PARAMETER)
            else:
                result.params[key] = words.decode(text) if lname in _FREE_TEXT else charset.lenient(text)
            continue
        pieces = continued.setdefault(segment[1], {})
        index = int(segment[2] or 0)
        if index in pieces:
            noted.add(Finding.DUPLICATE_PARAMETER)
        else:
            pieces[index] = (text, bool(segment[3]))
    for lname, pieces in continued.items():
        # An extended value beats the plain one that was sent for older readers (RFC 6266 4.3).
        result.params[charset.lenient(lname)] = _join(lname, pieces, result.wire, noted)


def _join(
    lname: bytes, pieces: dict[int, tuple[bytes, bool]], wire: list[tuple[bytes, bytes]], noted: set[Finding]
) -> str:
    """Decoded text of one continued or extended parameter; what follows a gap is left out."""
    chain: list[tuple[bytes, bool]] = []
    while len(chain) in pieces:
        chain.append(pieces[len(chain)])
    if len(chain) < len(pieces):
        noted.add(Finding.BAD_PARAMETER)
    if not any(extended for _, extended in chain):
        joined = b"".join(text for text, _ in chain)
        wire.append((lname, joined))
        return charset.lenient(joined)
    name, octets = "", []
    for index, (text, extended) in enumerate(chain):
        if index == 0 and extended and text.count(b"'") >= 2:
            label, _, text = text.split(b"'", 2)
            name = charset.lenient(label)
        octets.append(_PERCENT.sub(_unpercent, text) if extended else text)
    wire.append((lname + b"*", b"".join(text if extended else percent(text) for text, extended in chain)))
    decoded = b"".join(octets)
    return charset.decode(decoded, name) if name else charset.lenient(decoded)


def _unpercent(pair: re.Match[bytes]) -> bytes:
    return bytes((int(pair[1], 16),))


_ATTRIBUTE_CHAR: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`{|}~"
)
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")


def percent(octets: bytes) -> bytes:
    """RFC 2231 percent encoding of octets."""
    return b"".join(bytes((o,)) if o in _ATTRIBUTE_CHAR else b"%%%02X" % o for o in octets)


def render(name: str, text: str) -> bytes:
    """One new parameter `name=value`, quoted or RFC 2231 extended as the text needs."""
    if _TOKEN.fullmatch(text):
        return f"{name}={text}".encode("ascii")
    if text.isascii() and text.isprintable() and len(text) < 900:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'{name}="{quoted}"'.encode("ascii")
    return name.encode("ascii") + b"*=utf-8''" + percent(text.encode("utf-8", "replace"))
