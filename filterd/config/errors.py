"""What is wrong in a configuration, as values.

    ConfigErrors (an exception)
    └── .errors: tuple[Problem, ...]      all mistakes of all files, in the order a reader meets them

A Problem prints as ``filterd.toml:31:1   unknown key   stage.clamav.fuond   did you mean "found"?``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. ``file`` as the operator named it (or ``env NAME``); line and column are 1-based, 0 = none.

    ``kind``: syntax, unknown key, bad value, wrong type, missing key, conflict, no such file.
    ``about`` is the key, with its value where that helps; ``text`` says what to do.
    """

    file: str
    line: int
    column: int
    kind: str
    about: str
    text: str = ""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.place}  {self.kind}  {self.about}" + (f"   {self.text}" if self.text else "")


class ConfigErrors(Exception):
    """The configuration is refused. ``errors`` has every problem found, not only the first."""

    def __init__(self, errors: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)


def render(problems: Sequence[Problem]) -> str:
    """The problems as aligned lines for people, one a line."""
    places = max((len(problem.place) for problem in problems), default=0)
    kinds = max((len(problem.kind) for problem in problems), default=0)
    lines = []
    for problem in problems:
        head = f"{problem.place:<{places}}  {problem.kind:<{kinds}}  {problem.about}"
        lines.append(f"{head}   {problem.text}" if problem.text else head)
    return "\n".join(lines)
