"""Strings, literals and answers of ManageSieve on the wire.

Specification: RFC 5804 1.2, 1.3, 4 (ABNF). Complete: yes; a literal from the client must be the non-synchronising
``{n+}``, the only form the ABNF has for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# RFC 5804 4: quoted strings are at most 1024 octets.
QUOTED_MAX = 1024
ARGUMENTS_MAX = 4
NAME_MAX = 128  # characters, RFC 5804 1.6

_ATOM = re.compile(rb"[A-Za-z][A-Za-z0-9\-]{0,31}")
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\0]|\\["\\])*)"')
_NUMBER = re.compile(rb"[0-9]{1,10}(?![^ ])")
_LITERAL = re.compile(rb"\{([0-9]{1,20})(\+?)\}")
_ESCAPED = re.compile(rb"\\(.)")
# RFC 5804 1.6 and RFC 5198: no controls, no line or paragraph separators.
_BAD_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class BadSyntax(Exception):
    """The command is refused with this text. ``lost``: where the next command begins is unknown."""

    def __init__(self, text: str, *, lost: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.lost = lost


@dataclass(slots=True)
class Partial:
    """A command that is still arriving. ``literal``: octets that must come before its next line, None between lines."""

    verb: str = ""
    arguments: list[bytes | int] = field(default_factory=list)
    literal: int | None = None


def read_line(partial: Partial, line: bytes) -> bool:
    """Add one line (without CR LF) to the command; True when it is whole. Raises BadSyntax."""
    at = 0
    if not partial.verb:
        found = _ATOM.match(line)
        if found is None:
            raise BadSyntax("Bad command", lost=line.endswith(b"+}"))
        partial.verb = found[0].decode("ascii").upper()
        at = found.end()
    return read_arguments(partial, line, at)


def read_arguments(partial: Partial, line: bytes, at: int = 0) -> bool:
    """The arguments in ``line`` from ``at``; True when the command ends with the line."""
    while at < len(line):
        if line[at] != 32:
            raise BadSyntax("Blank expected", lost=line.endswith(b"+}"))
        at += 1
        if at == len(line):
            raise BadSyntax("Blank at the end of the line")
        if len(partial.arguments) >= ARGUMENTS_MAX:
            raise BadSyntax("Too many arguments", lost=line.endswith(b"+}"))
        at = _argument(partial, line, at)
        if partial.literal is not None:
            return False
    return True


def _argument(partial: Partial, line: bytes, at: int) -> int:
    if quoted := _QUOTED.match(line, at):
        if len(quoted[1]) > QUOTED_MAX and partial.verb not in ("AUTHENTICATE", ""):
            raise BadSyntax("Quoted string too long", lost=line.endswith(b"+}"))
        partial.arguments.append(_ESCAPED.sub(rb"\1", quoted[1]))
        return quoted.end()
    if number := _NUMBER.match(line, at):
        partial.arguments.append(int(number[0]))
        return number.end()
    literal = _LITERAL.match(line, at)
    if literal is not None and literal.end() == len(line):
        if not literal[2]:
            raise BadSyntax("Literals must be written {n+}", lost=True)
        partial.literal = int(literal[1])
        return literal.end()
    raise BadSyntax("Bad argument", lost=line.endswith(b"+}"))


def script_name(value: bytes | int, *, empty: bool = False) -> str:
    """A script's name; "" only where ``empty``. Raises BadSyntax."""
    if isinstance(value, int):
        raise BadSyntax("A string is expected")
    try:
        name = value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadSyntax("The name is not UTF-8") from None
    if not name and not empty:
        raise BadSyntax("The name is empty")
    if len(name) > NAME_MAX:
        raise BadSyntax("The name is too long")
    if _BAD_NAME.search(name):
        raise BadSyntax("The name has control characters in it")
    return name


def string(text: str) -> bytes:
    """A string from the server: quoted when it may be, else a literal."""
    data = text.encode("utf-8", "replace")
    if len(data) <= QUOTED_MAX and not any(char in data for char in b"\r\n\0"):
        return b'"' + data.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return literal(data)


def literal(data: bytes) -> bytes:
    return b"{%d}\r\n%b" % (len(data), data)


def answer(status: str, text: str = "", code: str = "") -> bytes:
    """``OK``, ``NO`` or ``BYE`` with its response code (without parentheses) and text."""
    parts = [status.encode()]
    if code:
        parts.append(f"({code})".encode())
    if text:
        parts.append(string(text))
    return b" ".join(parts) + b"\r\n"
