"""ihave: is an extension there? and error: end with an error.

Specification: RFC 5463. Complete: yes. The answer is known at compile time: a test that holds activates its
extensions from there on; what stands behind one that fails is not checked, and words that are not known after
a failed ihave fail only when they are reached. Extensions that change how a script is read
(encoded-character, variables) cannot be tested for (section 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.errors import RunError
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_READING = ("encoded-character", "variables")


def _check(checker: Checker, bound: Bound) -> None:
    names = [name for name in bound.texts(0) if isinstance(name, str)]
    there = all(
        checker.available(name) and (name not in _READING or name in checker.required) for name in names
    )
    if there:
        for name in names:
            checker.require(name)
    else:
        checker.defer()
    bound.constant = there


def _error(bound: Bound) -> CommandFn:
    text = bound.text(0)

    def act(run: Run) -> None:
        raise RunError(run.expand(text)[: run.limits.reason])

    return act


EXTENSION = Extension(
    "ihave",
    ("ihave",),
    dialect="RFC 5463",
    commands=(
        CommandSpec(
            "error", ("ihave",), (Param("message", Kind.STRING),), link=_error, keeps_message=True, ends=True
        ),
    ),
    tests=(
        TestSpec(
            "ihave",
            ("ihave",),
            (Param("capabilities", Kind.STRINGS, constant=True),),
            check=_check,
            constant=lambda bound: bound.constant,
        ),
    ),
)
