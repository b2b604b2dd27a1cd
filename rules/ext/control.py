"""Control commands and the tests that join tests.

Specification: RFC 5228 section 3 (if, elsif, else, require, stop) and 5.2, 5.3, 5.8, 5.5, 5.10 (allof, anyof,
not, false, true). Complete: yes. The compiler itself knows if, elsif, else, allof, anyof, not; require is the
checker's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.context import STOP
from rules.registry import CommandFn, CommandSpec, Extension, Tests, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run


def _stop(bound: Bound) -> CommandFn:
    def act(run: Run) -> int:
        return STOP

    return act


def _not(bound: Bound) -> bool | None:
    value = bound.tests[0].constant if bound.tests else None
    return None if value is None else not value


def _all(bound: Bound) -> bool | None:
    values = [test.constant for test in bound.tests]
    if values and values[0] is False:
        return False
    return True if values and all(value is True for value in values) else None


def _any(bound: Bound) -> bool | None:
    values = [test.constant for test in bound.tests]
    if values and values[0] is True:
        return True
    return False if values and all(value is False for value in values) else None


EXTENSION = Extension(
    "control",
    dialect="RFC 5228",
    commands=(
        CommandSpec("if", tests=Tests.ONE, block=True, keeps_message=True, writes=()),
        CommandSpec("elsif", tests=Tests.ONE, block=True, keeps_message=True, writes=()),
        CommandSpec("else", block=True, keeps_message=True, writes=()),
        CommandSpec("stop", link=_stop, keeps_message=True, ends=True, writes=()),
    ),
    tests=(
        TestSpec("allof", tests=Tests.LIST, constant=_all),
        TestSpec("anyof", tests=Tests.LIST, constant=_any),
        TestSpec("not", tests=Tests.ONE, constant=_not),
        TestSpec("true", constant=lambda bound: True),
        TestSpec("false", constant=lambda bound: False),
    ),
)
