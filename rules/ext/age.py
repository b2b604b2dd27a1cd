"""vnd.filterd.age: how old a message is.

    age [:field <name: string>] [:minutes / :hours / :days / :weeks] (:over / :under) <number>

The age is the time of the run less the date in the field ("Date" when none is named; behind the last semicolon
in fields like Received, whose first one counts), in seconds or the named unit. Without a readable date the test
is false either way. Complete: yes.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from rules.ext.date import moment_of
from rules.registry import Extension, Kind, TagSpec, TestFn, TestSpec
from rules.sources import field_name

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_UNITS = {"minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800}


def _check(checker: Checker, bound: Bound) -> None:
    if not bound.has("over") and not bound.has("under"):
        checker.error(bound.node.pos, "arguments", '"age" needs :over or :under', "write age :days :over 30")


def _age(bound: Bound) -> TestFn:
    over = bound.tag_number("over")
    limit = (bound.tag_number("under") or 0) if over is None else over
    unit = next((seconds for name, seconds in _UNITS.items() if bound.has(name)), 1)
    field = bound.tag_text("field") or "date"

    def test(run: Run) -> bool:
        fields = run.view.fields([field_name(run.expand(field))])
        moment = moment_of(fields[0]) if fields else None
        run.key = f":{'under' if over is None else 'over'} {limit * unit} s"
        if moment is None:
            run.seen = ""
            return False
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        age = (run.now() - moment).total_seconds()
        run.seen = f"{age:.0f} s"
        return age < limit * unit if over is None else age > limit * unit

    return test


_NEEDS = ("vnd.filterd.age",)
_ON = ("age",)

EXTENSION = Extension(
    "age",
    _NEEDS,
    dialect="filterd",
    tests=(TestSpec("age", _NEEDS, check=_check, link=_age, reads=("header",)),),
    tags=(
        TagSpec("field", _ON, _NEEDS, Kind.STRING),
        TagSpec("over", _ON, _NEEDS, Kind.NUMBER, group="limit"),
        TagSpec("under", _ON, _NEEDS, Kind.NUMBER, group="limit"),
        *(TagSpec(name, _ON, _NEEDS, group="unit") for name in _UNITS),
    ),
)
