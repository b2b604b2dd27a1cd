"""vnd.filterd.score: sums, as procmail's weights make them.

    score [:set] <points: string>;          adds (or sets) whole points: "10", "-3"; variables are allowed
    score :over / :under <number>           test: is the total greater, or less, than this?
    score :atleast / :atmost <number>       test: the same with the number itself

The total begins at 0 and goes through the whole chain of scripts; with "variables" ``${score.total}`` is its
value. It is left behind as evidence (SetScore), and does nothing else. Complete: yes. Points that are no whole
number fail the run; totals stay within 2^53.
"""

from __future__ import annotations

import re
from operator import ge, gt, le, lt
from typing import TYPE_CHECKING

from rules.actions import SetScore
from rules.context import StateKey
from rules.errors import RunError
from rules.registry import (
    CommandFn,
    CommandSpec,
    Extension,
    Kind,
    Namespace,
    Param,
    TagSpec,
    TestFn,
    TestSpec,
)

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_TOTAL: StateKey[list[int]] = StateKey("score", lambda: [0])
_POINTS = re.compile(r"\s*([+-]?[0-9]{1,15})\s*")
_MOST = 2**53
_RELATIONS = {"over": gt, "under": lt, "atleast": ge, "atmost": le}


def _check(checker: Checker, bound: Bound) -> None:
    points = bound.text(0)
    if isinstance(points, str) and not _POINTS.fullmatch(points):
        message = f'"{points[:40]}" is not a whole number'
        checker.error(checker.where(bound, 0), "score", message, 'write score "5"; or score "-5";')


def _score(bound: Bound) -> CommandFn:
    points, sets = bound.text(0), bound.has("set")

    def act(run: Run) -> None:
        text = run.expand(points)
        found = _POINTS.fullmatch(text)
        if found is None:
            raise RunError(f'score: "{text[:40]}" is not a whole number')
        total = run.get(_TOTAL)
        value = int(found[1]) if sets else total[0] + int(found[1])
        total[0] = max(-_MOST, min(_MOST, value))
        run.seen, run.key = str(total[0]), text.strip()
        actions = run.result.actions
        actions[:] = [action for action in actions if not isinstance(action, SetScore)]
        run.result.add(SetScore(total[0], run.place(bound)))

    return act


def _check_test(checker: Checker, bound: Bound) -> None:
    if not any(bound.has(name) for name in _RELATIONS):
        message = '"score" needs one of :over, :under, :atleast, :atmost'
        checker.error(bound.node.pos, "arguments", message, "write score :over 10")


def _test(bound: Bound) -> TestFn:
    name = next(name for name in _RELATIONS if bound.has(name))
    holds, limit = _RELATIONS[name], bound.tag_number(name) or 0

    def test(run: Run) -> bool:
        total = run.get(_TOTAL)[0]
        run.seen, run.key = str(total), f":{name} {limit}"
        return bool(holds(total, limit))

    return test


def _read(run: Run, name: str) -> str:
    return str(run.get(_TOTAL)[0])


def _check_name(name: str) -> str | None:
    return None if name == "total" else f"${{score.{name[:40]}}}: there is only ${{score.total}}"


_NEEDS = ("vnd.filterd.score",)

EXTENSION = Extension(
    "score",
    _NEEDS,
    dialect="filterd",
    commands=(
        CommandSpec(
            "score",
            _NEEDS,
            (Param("points", Kind.STRING),),
            check=_check,
            link=_score,
            keeps_message=True,
            writes=("variables",),
        ),
    ),
    tests=(TestSpec("score", _NEEDS, check=_check_test, link=_test),),
    tags=(
        TagSpec("set", ("score",), _NEEDS),
        *(TagSpec(name, ("score",), _NEEDS, Kind.NUMBER, group="relation") for name in _RELATIONS),
    ),
    namespaces=(Namespace("score", _read, _NEEDS, check=_check_name),),
)
