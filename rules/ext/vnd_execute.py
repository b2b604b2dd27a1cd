"""vnd.dovecot.execute: run a program, give it a text or the message, take its output.

Specification: spec-bosch-sieve-extprograms sections 7 and 8. Complete: yes. Off by default: a host that has a service for
programs asks for it by name. A failure leaves the variable as it is; an unknown program is an error of the action, and
false as a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules import programs
from rules.ext.variables import assign
from rules.registry import Extension, Kind, TagSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_NEEDS = ("vnd.dovecot.execute",)
_WORDS = ("execute",)


def _check(checker: Checker, bound: Bound) -> None:
    programs.check(checker, bound)
    target = bound.tag_text("output")
    if target is not None:
        checker.check_variable(target, checker.where_tag(bound, "output"))


def _executed(run: Run, bound: Bound, test: bool) -> bool:
    given = bound.tag_text("input")
    data = b""
    if bound.has("pipe"):
        data = programs.current(run)
    elif given is not None:
        data = run.expand(given).encode("utf-8", "surrogateescape")
    answer = programs.start(run, bound, data, test=test)
    if answer is None or answer[0] != 0:
        return False
    target = bound.tag_text("output")
    if target is not None:
        assign(run, run.expand(target), answer[1].decode("utf-8", "replace"))
    return True


_COMMAND, _TEST = programs.specs("execute", _NEEDS, _executed, "failed", _check)
EXTENSION = Extension(
    "vnd_execute",
    _NEEDS,
    dialect="spec-bosch-sieve-extprograms",
    default=False,
    commands=(_COMMAND,),
    tests=(_TEST,),
    tags=(
        TagSpec("input", _WORDS, kind=Kind.STRING, group="input"),
        TagSpec("pipe", _WORDS, group="input"),
        TagSpec("output", _WORDS, ("variables",), kind=Kind.STRING, constant=True),
    ),
)
