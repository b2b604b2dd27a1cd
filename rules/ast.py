"""The syntax tree of a script, as the parser leaves it and the printer writes it.

Specification: RFC 5228 section 8.2 (grammar). ``pos`` is a character offset into the script's text. Nodes are
plain slots classes (made by the hundred thousand). ``shape`` describes the arguments in short (``S`` string,
``L`` list, ``N`` number, ``:tag``) so that the checker decides once for all uses of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Strings:
    """A string or a list of strings; ``positions`` of a single string is empty (it is ``pos``)."""

    values: tuple[str, ...]
    pos: int
    listed: bool = False
    positions: tuple[int, ...] = ()

    def where(self, index: int) -> int:
        """The offset of one of the strings."""
        return self.positions[index] if self.positions else self.pos


@dataclass(slots=True, eq=False)
class Number:
    """A number, its quantifier applied."""

    value: int
    pos: int


@dataclass(slots=True, eq=False)
class Tag:
    """``:name``, in lower case, without the colon."""

    name: str
    pos: int


Argument = Strings | Number | Tag


@dataclass(slots=True, eq=False)
class Test:
    """A test with its arguments and inner tests."""

    __test__ = False  # not a case for pytest

    name: str
    pos: int
    args: Sequence[Argument] = ()
    shape: tuple[str, ...] = ()
    tests: Sequence[Test] = ()
    listed: bool = False  # tests stood in parentheses


@dataclass(slots=True, eq=False)
class Command:
    """A command with its arguments, tests and block (None: it ended in a semicolon)."""

    name: str
    pos: int
    args: Sequence[Argument] = ()
    shape: tuple[str, ...] = ()
    tests: Sequence[Test] = ()
    listed: bool = False
    block: list[Command] | None = None


@dataclass(slots=True, eq=False)
class Script:
    """A whole script."""

    text: str
    commands: list[Command]


def quote(value: str) -> str:
    """A string as a Sieve quoted string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _print_args(args: Sequence[Argument]) -> str:
    out: list[str] = []
    for arg in args:
        match arg:
            case Tag():
                out.append(":" + arg.name)
            case Number():
                out.append(str(arg.value))
            case Strings():
                if arg.listed:
                    out.append("[" + ", ".join(map(quote, arg.values)) + "]")
                else:
                    out.append(quote(arg.values[0]))
    return "".join(" " + text for text in out)


def print_test(test: Test) -> str:
    """A test as Sieve text."""
    return test.name + _print_args(test.args) + _print_tests(test)


def _print_tests(node: Test | Command) -> str:
    if not node.tests:
        return ""
    inner = ", ".join(map(print_test, node.tests))
    return f" ({inner})" if node.listed else " " + inner


def print_commands(commands: list[Command], indent: str = "") -> str:
    """Commands as Sieve text, one a line, blocks indented by two blanks; comments are not kept."""
    out: list[str] = []
    for command in commands:
        head = indent + command.name + _print_args(command.args) + _print_tests(command)
        if command.block is None:
            out.append(head + ";\n")
        else:
            out.append(head + " {\n" + print_commands(command.block, indent + "  ") + indent + "}\n")
    return "".join(out)
