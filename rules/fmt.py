"""The formatter: one way to lay out a script, comments and strings kept as they are.

``format_script`` changes blanks, line breaks and the case of names only: the syntax tree stays the same, and
formatting twice gives the same text. Blocks are indented by four blanks, lists that do not fit the width stand
one item a line, at most one empty line separates commands. Line ends are LF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rules.errors import ScriptErrors
from rules.limits import DEFAULT, Limits
from rules.parser import parse

WIDTH = 100
INDENT = 4
_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*+|/\*.*?\*/)
      | (?P<text>[tT][eE][xX][tT]:[ \t]*+(?:\#[^\r\n]*+)?\r?\n(?:(?!\.(?:\r?\n|\Z))[^\n]*+\n)*+\.(?:\r?\n|\Z))
      | (?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")
      | (?P<word>:?[A-Za-z_][A-Za-z0-9_]*+)
      | (?P<number>[0-9]++[KMGkmg]?)
      | (?P<punctuation>[\[\](){},;])
      | (?P<blank>[ \t\r\n]++)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]"}


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    lines: int  # line ends between it and the token before


def format_script(text: str, limits: Limits = DEFAULT) -> str:
    """The script in its one layout. Raises ScriptErrors when it cannot be parsed."""
    _, errors = parse(text, limits)
    if errors:
        raise ScriptErrors(errors, parse_failed=True)
    writer = _Writer(list(_tokens(text.removeprefix("\ufeff"))))
    return writer.run()


def _tokens(text: str) -> Iterator[_Token]:
    lines = 0
    for found in _TOKEN.finditer(text):
        kind, piece = found.lastgroup or "", found[0]
        if kind == "blank":
            lines += piece.count("\n")
            continue
        if kind in ("word", "number"):
            piece = piece.lower() if kind == "word" else piece.upper()
        elif kind == "comment":
            piece = piece.rstrip("\r").rstrip() if piece.startswith("#") else piece.replace("\r\n", "\n")
        elif kind in ("text", "string"):
            piece = piece.replace("\r\n", "\n")
        yield _Token(kind, piece, lines)
        lines = 1 if kind == "text" else 0  # the line end behind the dot is the token's


class _Writer:
    """Writes commands from tokens."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = tokens
        self.index = 0
        self.level = 0
        self.out: list[str] = []

    def run(self) -> str:
        """The whole text."""
        while self.index < len(self.tokens):
            token = self.tokens[self.index]
            if token.kind == "comment":
                self._comment(token)
                self.index += 1
            elif token.text == "}" and token.kind == "punctuation":
                self._close()
            else:
                self._statement("")
        return "\n".join(self.out).rstrip("\n") + "\n" if self.out else ""

    def _line(self, text: str, lines: int) -> None:
        """A new line; an empty one stays in front of it, but not at the start of a block."""
        if lines > 1 and self.out and self.out[-1] and not self.out[-1].endswith("{"):
            self.out.append("")
        self.out.append(" " * (INDENT * self.level) + text if text else "")

    def _comment(self, token: _Token) -> None:
        if token.lines == 0 and self.out and self.index:
            self.out[-1] += "  " + token.text
        else:
            self._line(token.text, token.lines)

    def _close(self) -> None:
        self.level = max(0, self.level - 1)
        token = self.tokens[self.index]
        self.index += 1
        follows = self.tokens[self.index] if self.index < len(self.tokens) else None
        while self.out and not self.out[-1]:
            self.out.pop()
        if follows is not None and follows.kind == "word" and follows.text in ("elsif", "else"):
            self._statement("} ")
        else:
            self._line("}", min(token.lines, 1))

    def _statement(self, prefix: str) -> None:
        """A command up to its semicolon or the brace of its block."""
        start = self.index
        while self.index < len(self.tokens):
            token = self.tokens[self.index]
            if token.kind == "punctuation" and token.text in ";{}":
                break
            self.index += 1
        tokens = self.tokens[start : self.index]
        end = ""
        if self.index < len(self.tokens) and self.tokens[self.index].text != "}":
            end = self.tokens[self.index].text
            self.index += 1
        lines = self.tokens[start].lines if not prefix else 1
        body = _layout(tokens, INDENT * self.level, len(prefix), {";": ";", "{": " {"}.get(end, ""))
        self._line(prefix + body, lines)
        if end == "{":
            self.level += 1


def _hard(token: _Token) -> bool:
    """Must a line end follow?"""
    return token.kind == "text" or (token.kind == "comment" and token.text.startswith("#"))


def _flat(tokens: Sequence[_Token]) -> str:
    """Everything in one line."""
    out = ""
    before = ""
    for token in tokens:
        if out and token.text not in (",", ")", "]") and before not in ("(", "["):
            out += " "
        out += token.text
        before = token.text if token.kind == "punctuation" else ""
    return out


def _fits(text: str, column: int) -> bool:
    return "\n" not in text and column + len(text) <= WIDTH


def _layout(tokens: Sequence[_Token], indent: int, used: int, end: str) -> str:
    """Tokens of a statement, or of one element of a list, beginning at column ``indent + used``."""
    if not any(map(_hard, tokens)):
        flat = _flat(tokens) + end
        if _fits(flat, indent + used) or not any(token.text in _CLOSING for token in tokens):
            return flat
    deeper = " " * (indent + INDENT)
    line = ""
    index = 0
    fresh = True
    while index < len(tokens):
        token = tokens[index]
        if not fresh and token.text not in (",", ")", "]"):
            line += " "
        fresh = False
        if token.kind == "punctuation" and token.text in _CLOSING:
            close = _matching(tokens, index)
            column = indent + used + len(line.rpartition("\n")[2])
            line += _group(tokens[index : close + 1], indent, column)
            index = close + 1
            continue
        line += token.text
        index += 1
        if token.kind == "text":
            line = line.rstrip("\n") + "\n"
            fresh = True
            if index < len(tokens):
                line += deeper
        elif _hard(token):
            line += "\n" + (deeper if index < len(tokens) else " " * indent)
            fresh = True
    if line.endswith("\n"):
        return line + (" " * indent + end.strip() if end else "")
    at_start = "\n" in line and not line.rpartition("\n")[2].strip()
    return line + (end.strip() if at_start else end)


def _matching(tokens: Sequence[_Token], index: int) -> int:
    depth = 0
    for place in range(index, len(tokens)):
        if tokens[place].kind == "punctuation":
            depth += tokens[place].text in _CLOSING
            depth -= tokens[place].text in (")", "]")
            if depth == 0:
                return place
    return len(tokens) - 1


def _group(tokens: Sequence[_Token], indent: int, column: int) -> str:
    """A list in brackets: in one line when it fits, else one element a line."""
    if not any(map(_hard, tokens)):
        flat = _flat(tokens)
        if _fits(flat, column + 2):
            return flat
    inner = indent + INDENT
    pad = "\n" + " " * inner
    out = tokens[0].text
    for element, comma in _elements(tokens[1:-1]):
        out += pad + _layout(element, inner, 0, "," if comma else "")
    return out.rstrip(" ") + ("" if out.endswith("\n") else "\n") + " " * indent + tokens[-1].text


def _elements(tokens: Sequence[_Token]) -> Iterator[tuple[list[_Token], bool]]:
    """The elements of a list, each with whether a comma follows; comments are elements of their own."""
    current: list[_Token] = []
    depth = 0
    for token in tokens:
        if token.kind == "punctuation":
            depth += token.text in _CLOSING
            depth -= token.text in (")", "]")
            if token.text == "," and depth == 0:
                yield current, True
                current = []
                continue
        if token.kind == "comment" and depth == 0 and not current:
            yield [_Token("comment-line", token.text, token.lines)], False
            continue
        current.append(token)
    if current:
        yield current, False
