"""Tokens of a script.

Specification: RFC 5228 sections 2.1 to 2.5 and 8.1. One regular expression does the work, linear in the text
(no branch can match the same text twice); tokens are three parallel lists (kind, value, offset) because
scripts of ten thousand rules are compiled while somebody waits. A text without faults is cut into all its
tokens at once (``_whole``); at the first oddity the slower way (``_run``), which can tell faults, starts anew.
Bracket comments do not nest (2.3). Line ends inside strings become CRLF, as the grammar has them; scripts
edited on Unix have bare LF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, compress

from rules.limits import IDENTIFIER_LENGTH, MAX_NUMBER, Limits

# Kinds are the numbers of the groups below.
TEXT, IDENTIFIER, TAG, STRING, NUMBER, PUNCTUATION, END = 2, 3, 4, 5, 6, 8, 9
BAD = 0  # reported already: the parser drops the statement
_WORD_TEXT, _QUANTIFIER = 1, 7

_TOKEN = re.compile(
    r"""(?:[ \t\r\n]+|\#[^\n]*|/\*.*?\*/)*+
    (?: ([tT][eE][xX][tT]:)[ \t]*+(?:\#[^\r\n]*+)?\r?\n((?:(?!\.(?:\r?\n|\Z))[^\n]*+\n)*+)\.(?:\r?\n|\Z)
      | ([A-Za-z_][A-Za-z0-9_]*+)
      | :([A-Za-z_][A-Za-z0-9_]*+)
      | "([^"\\]*+(?:\\.[^"\\]*+)*+)"
      | ([0-9]++)([KMGkmg]?)(?![A-Za-z0-9_])
      | ([\[\](){},;])
    )""",
    re.VERBOSE | re.DOTALL,
)
# The same tokens, comments, and for anything else the whole rest: so that nothing is ever looked at twice.
_PIECE = re.compile(
    r"""( "[^"\\]*+(?:\\.[^"\\]*+)*+"
      | [tT][eE][xX][tT]:[ \t]*+(?:\#[^\r\n]*+)?\r?\n(?:(?!\.(?:\r?\n|\Z))[^\n]*+\n)*+\.(?:\r?\n|\Z)
      | :?[A-Za-z_][A-Za-z0-9_]*+
      | [\[\](){},;]
      | [0-9]++[KMGkmg]?(?![A-Za-z0-9_])
      | \#[^\n]*+
      | /\*.*?\*/
      | [^ \t\r\n].*+
    )""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT = 10
_FIRST = {
    '"': STRING,
    ":": TAG,
    "#": _COMMENT,
    "/": _COMMENT,
    **dict.fromkeys("[](){},;", PUNCTUATION),
    **dict.fromkeys("0123456789", NUMBER),
    **dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_", IDENTIFIER),
}
_BLANK = re.compile(r"(?:[ \t\r\n]+|\#[^\n]*|/\*.*?\*/)*+", re.DOTALL)
_SCALE = {"": 0, "K": 10, "M": 20, "G": 30}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_BARE_LF = re.compile(r"\r?\n")
_WORD = re.compile(r"[A-Za-z0-9_]*")
_CURLY = re.compile(
    "[\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb']([^\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb'\"\n]*)[\u201c\u201d\u2018\u2019\u00ab\u00bb']"
)


@dataclass(slots=True)
class Fault:
    """A lexical error at an offset."""

    pos: int
    code: str
    message: str
    cure: str


@dataclass(slots=True)
class Tokens:
    """Parallel lists, closed by an END token; numbers are in ``numbers`` by token index."""

    kinds: list[int] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    cut: bool = False  # an unterminated string or comment swallowed the rest


def tokenize(text: str, limits: Limits) -> Tokens:
    """All tokens of the text. Never raises: what is wrong is in ``faults``, and lexing goes on behind it."""
    tokens = Tokens()
    if text.startswith("\ufeff"):  # editors on Windows
        text = " " + text[1:]
    if (nul := text.find("\0")) >= 0:
        tokens.faults.append(Fault(nul, "nul", "a NUL character is not allowed in a script", "remove it"))
    pos, end = 0, len(text)
    if not tokens.faults and _whole(text, tokens, limits):
        pos = end
    while pos < end:
        pos = _run(text, pos, tokens, limits)
        blank = _BLANK.match(text, pos)
        pos = blank.end() if blank else pos
        if pos >= end or len(tokens.faults) > limits.errors:
            break
        pos = _garbage(text, pos, tokens)
    tokens.kinds.append(END)
    tokens.values.append("")
    tokens.positions.append(end)
    return tokens


def _whole(text: str, tokens: Tokens, limits: Limits) -> bool:
    """All tokens of a text without faults; False, and nothing done, when there is anything to be said about it."""
    pieces = _PIECE.split(text)
    written = pieces[1::2]
    if written and not _is_piece(written[-1]):
        return False
    first = _FIRST
    kinds = [first[piece[0]] for piece in written]
    positions = list(accumulate(map(len, pieces), initial=0))[1::2]
    positions.pop()
    if _COMMENT in kinds:
        real = [kind != _COMMENT for kind in kinds]
        kinds, written = list(compress(kinds, real)), list(compress(written, real))
        positions = list(compress(positions, real))
    meant = _Meant(limits)
    tokens.values = [meant[piece] for piece in written]
    for index in _places(kinds, NUMBER):
        tokens.numbers[index] = meant.number(written[index])
        tokens.values[index] = written[index].rstrip("KMGkmg")
    if meant.texts:
        for index, piece in enumerate(written):
            if piece in meant.texts:
                kinds[index] = STRING
    if meant.odd:
        tokens.values, tokens.numbers = [], {}
        return False
    tokens.kinds, tokens.positions = kinds, positions
    return True


def _places(kinds: list[int], kind: int) -> Iterator[int]:
    """Where a kind stands."""
    place = -1
    for _ in range(kinds.count(kind)):
        place = kinds.index(kind, place + 1)
        yield place


def _is_piece(text: str) -> bool:
    """Is it one token or comment, and not the rest behind a fault?"""
    return (_TOKEN.fullmatch(text) or _BLANK.fullmatch(text)) is not None


class _Meant(dict[str, str]):
    """What a token says, by how it is written; most are written many times."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.odd = False
        self.texts: set[str] = set()
        self._longest = limits.string_size

    def __missing__(self, piece: str) -> str:
        head = piece[0]
        if head == '"':
            value = piece[1:-1]
            if "\\" in value:
                value = _ESCAPE.sub(r"\1", value)
            if "\n" in value:
                value = _BARE_LF.sub("\r\n", value)
            self.odd |= len(value) > self._longest
        elif "\n" in piece:  # nothing but text: has one
            self.texts.add(piece)
            value = _multiline(piece[piece.index("\n") + 1 : piece.rindex(".")])
            self.odd |= len(value) > self._longest
        else:
            value = piece[1:].lower() if head == ":" else piece.lower()
            self.odd |= len(value) > IDENTIFIER_LENGTH and not head.isdigit()
        self[piece] = value
        return value

    def number(self, piece: str) -> int:
        """The value of a number."""
        digits = piece.rstrip("KMGkmg")
        value = int(digits) << _SCALE[piece[len(digits) :].upper()] if len(digits) <= 20 else MAX_NUMBER + 1
        self.odd |= value > MAX_NUMBER
        return value


def _run(text: str, pos: int, tokens: Tokens, limits: Limits) -> int:
    """Appends well-formed tokens from ``pos`` on; returns the offset where that ended."""
    kinds, values, positions = tokens.kinds, tokens.values, tokens.positions
    add_kind, add_value, add_position = kinds.append, values.append, positions.append
    longest = limits.string_size
    last = None
    for match in iter(_TOKEN.scanner(text, pos).match, None):  # type: ignore[attr-defined]  # not in typeshed
        kind = match.lastindex
        value = match[kind]
        where = match.start(kind)
        if kind == PUNCTUATION:
            pass
        elif kind == STRING:
            where -= 1
            if "\\" in value:
                value = _ESCAPE.sub(r"\1", value)
            if "\n" in value:
                value = _BARE_LF.sub("\r\n", value)
            if len(value) > longest:
                tokens.faults.append(_too_long(where))
        elif kind in (IDENTIFIER, TAG):
            if kind == TAG:
                where -= 1
            value = value.lower()
            if len(value) > IDENTIFIER_LENGTH:
                message = f"an identifier has at most {IDENTIFIER_LENGTH} characters"
                tokens.faults.append(Fault(where, "identifier-length", message, "use a known name"))
                kind = BAD
        elif kind == _QUANTIFIER:
            kind, where = NUMBER, match.start(NUMBER)
            value = match[NUMBER]
            tokens.numbers[len(kinds)] = _number(value, match[_QUANTIFIER], where, tokens)
        elif kind == TEXT:
            where = match.start(_WORD_TEXT)
            value = _multiline(value)
            if len(value) > longest:
                tokens.faults.append(_too_long(where))
            kind = STRING
        add_kind(kind)
        add_value(value)
        add_position(where)
        last = match
    return pos if last is None else last.end()


def _too_long(pos: int) -> Fault:
    return Fault(pos, "string-length", "the string is too long", "shorten it or split it up")


def _number(digits: str, quantifier: str, pos: int, tokens: Tokens) -> int:
    # RFC 5228 2.4.1: K, M, G are powers of 2^10. Digits are counted first: int() of a megabyte of digits is slow.
    digits = digits.lstrip("0") or "0"
    value = int(digits) << _SCALE[quantifier.upper()] if len(digits) <= 20 else MAX_NUMBER + 1
    if value > MAX_NUMBER:
        message = f"the number is larger than {MAX_NUMBER}"
        tokens.faults.append(Fault(pos, "number-size", message, "use a smaller number"))
        return MAX_NUMBER
    return value


def _multiline(value: str) -> str:
    """RFC 5228 2.4.2.2 and 8.1: CRLF line ends; of two dots that begin a line the first goes."""
    value = _BARE_LF.sub("\r\n", value)
    if value.startswith(".."):
        value = value[1:]
    return value.replace("\n..", "\n.")


def _garbage(text: str, pos: int, tokens: Tokens) -> int:
    """Reports what no token can start with and returns the offset to go on from."""
    char = text[pos]
    if char == '"':
        message, cure = "the string has no closing quote", 'add " at its end; write \\" for a quote inside it'
        tokens.faults.append(Fault(pos, "unterminated-string", message, cure))
        tokens.cut = True
        return len(text)
    if text.startswith("/*", pos):
        tokens.faults.append(
            Fault(
                pos,
                "unterminated-comment",
                "the comment has no end",
                "close it with */ (comments do not nest)",
            )
        )
        tokens.cut = True
        return len(text)
    if char == ":" and text[pos - 4 : pos].lower() == "text":
        message = "text: needs a line end behind it, and a line with a single dot at the end"
        tokens.faults.append(Fault(pos - 4, "unterminated-text", message, "add a line that holds only ."))
        if tokens.kinds and tokens.positions[-1] == pos - 4:
            tokens.kinds[-1] = BAD
        tokens.cut = True
        return len(text)
    if char.isdigit() and char.isascii():
        word = _WORD.match(text, pos)
        end = word.end() if word else pos + 1
        message = f"{text[pos : min(end, pos + 40)]} is neither a number nor a name"
        tokens.faults.append(Fault(pos, "number", message, "a number may end in K, M or G"))
        tokens.numbers[len(tokens.kinds)] = 0
        tokens.kinds.append(NUMBER)
        tokens.values.append("0")
        tokens.positions.append(pos)
        return end
    if (curly := _CURLY.match(text, pos)) is not None:
        message, cure = f"{char} is no quote of Sieve", 'strings stand in straight double quotes: "..."'
        tokens.faults.append(Fault(pos, "curly-quotes", message, cure))
        tokens.kinds.append(STRING)  # it was meant as one: what follows needs no further report
        tokens.values.append(curly[1])
        tokens.positions.append(pos)
        return curly.end()
    message = f"unexpected character {char!r}"
    tokens.faults.append(
        Fault(pos, "character", message, 'strings stand in double quotes, comments begin with "#"')
    )
    while pos < len(text) and text[pos] == char:
        pos += 1
    return pos
