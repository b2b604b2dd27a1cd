"""What may go wrong in a script, and how it is told.

    Exception
      ScriptErrors        the author erred; carries every error of the script (raised by the compiler)
      RunError            the run failed: a limit, a bad address out of a variable, an ``error`` command
        HostError         the surroundings refused (kept apart for the trace)

``ScriptError`` is the value (line, column, code, message, cure) for one error or one warning; lines and
columns are 1-based, columns in characters. Codes are stable words that tools may rely on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ScriptError:
    """One thing that is wrong (or, as a warning, doubtful) in a script."""

    line: int
    column: int
    code: str
    message: str
    cure: str = ""

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


class ScriptErrors(Exception):
    """The script does not compile; ``errors`` holds all of its errors in the order of the text."""

    def __init__(
        self, errors: Sequence[ScriptError], *, name: str = "main", parse_failed: bool = False
    ) -> None:
        self.errors = list(errors)
        self.name = name
        self.parse_failed = parse_failed
        super().__init__("; ".join(str(error) for error in self.errors) or "script error")


class RunError(Exception):
    """The run of a script failed; the text is for the script's owner."""


class BudgetError(RunError):
    """The run as a whole took too much; where it stood just then says nothing."""


class HostError(RunError):
    """A question to the host had no answer where the script needs one."""


def line_column(text: str, offset: int) -> tuple[int, int]:
    """The 1-based line and column of a character offset."""
    line = text.count("\n", 0, offset) + 1
    return line, offset - (text.rfind("\n", 0, offset) + 1) + 1


def render(errors: Iterable[ScriptError], text: str, path: str, *, kind: str = "error") -> str:
    """A compiler-like report: ``path:line:col``, message, source line, caret, cure; one block an error."""
    lines = text.split("\n")
    out: list[str] = []
    for error in errors:
        out.append(f"{path}:{error.line}:{error.column}: {kind}: {error.message} [{error.code}]")
        if 1 <= error.line <= len(lines):
            out.extend(_excerpt(lines[error.line - 1].rstrip("\r"), error))
        if error.cure:
            out.append(f"      cure: {error.cure}")
    return "\n".join(out) + "\n" if out else ""


def _excerpt(source: str, error: ScriptError) -> list[str]:
    """The source line and a caret below its column; long lines are cut around the column, tabs become blanks."""
    column = max(error.column, 1)
    start = max(0, column - 61)
    shown = "".join(" " if char < " " or char == "\x7f" else char for char in source[start : start + 120])
    mark = " " * (min(column - 1 - start, len(shown)))
    number = f"{error.line:5d} | "
    return [number + shown, " " * 5 + " | " + mark + "^"]
