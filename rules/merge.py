"""Runs of rules in one dispatch: thousands of rules cost what a handful costs.

A region is a stretch of successive commands that provably leave header, body and envelope alone: ``if`` with
its elsif and else, and plain commands between them. Before it runs, a dispatch looks up, for each header (or
other source) that its rules look at, which tests are true (``rules/lookup.py``), and evaluates the rules'
tests as formulas over these look-ups, bit-parallel for all rules of one shape (``rules/formula.py``). Every rule
starts with a hop that goes on to the next candidate. A candidate is then evaluated by its ordinary steps, so
the dispatch never decides that a rule is true; it only leaves out rules that are false. That needs proof of three
things, all made here and in the formulas:

1. the left-out test is false (or nothing in its block would be done);
2. evaluating it would have changed nothing: no test with state is reached in it, and no capture that succeeds inside a false
   whole (a matching ``:matches`` sets the match variables even if the rest of an allof is false; it counts only when
   the script uses match variables at all);
3. the values are the same at the rule as at the dispatch: no command in between touches the message (``keeps_message``), and
   what depends on flags or variables is looked up only when nothing in the region writes them (``CommandSpec.writes``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rules.bound import Bound, constants
from rules.collector import collector_held
from rules.formula import Builder, Formula, Group, Node, weaker, writes
from rules.lookup import Hits, Table, Tables
from rules.registry import CommandSpec, TestSpec

if TYPE_CHECKING:
    from rules.context import Run

_WORTH = 4  # rules with a look-up from which a region pays
_MANY = 500  # rules whose tables are built with the garbage collector held
_SHAPES = 64  # shapes from which rare ones are simplified
_RARE = 3


@dataclass(slots=True, eq=False)
class _Dispatch:
    """The tables of a region, made when it runs for the first time."""

    always: int
    mask: str  # of always
    groups: list[Group]
    slots: int
    tables: list[Table]
    slow: list[Table]

    def decide(self, run: Run) -> str:
        """One character for each rule: "1" for a candidate."""
        if not self.groups:
            return self.mask
        hits = Hits([0] * self.slots, [0] * self.slots)
        for table in self.tables:
            table.look_up(run, hits)
        if self.slow:
            guess = Hits(list(hits.may), list(hits.unsure))
            for table in self.slow:
                table.give_up(guess)
            if not any(group.decide(guess) for group in self.groups):
                return self.mask
            for table in self.slow:
                table.look_up(run, hits)
        candidates = self.always
        for group in self.groups:
            candidates |= group.decide(hits)
        return self.mask if candidates == self.always else bin(candidates)[:1:-1]


@dataclass(slots=True, eq=False)
class Rule:
    """One rule of a region: an if, elsif or else, or plain commands (``test`` None)."""

    test: Bound | None
    block: Sequence[Bound]
    alone: bool = False


@dataclass(slots=True, eq=False)
class Region:
    """A merged stretch; ``places[n]`` is the first step of rule n, behind its hop."""

    start: int
    stop: int
    rules: list[Rule]
    captures: bool
    places: list[int] = field(default_factory=list)
    end: int = -1
    _dispatch: _Dispatch | None = None

    def candidates(self, run: Run) -> str:
        """A "1" for each rule that may be true, or has an effect."""
        dispatch = self._dispatch
        if dispatch is None:
            with run.cpu.not_counted(), collector_held(len(self.rules) > _MANY):
                dispatch = self._dispatch = self._build()
        return dispatch.decide(run)

    def _build(self) -> _Dispatch:
        unstable = writes([bound for rule in self.rules for bound in rule.block])
        if self.captures:
            unstable.add("variables")
        builder = Builder(self.captures, frozenset(unstable))
        formulas = [builder.rule(rule.test, rule.block, rule.alone) for rule in self.rules]
        formulas = _simplified(formulas)
        groups: dict[Node, Group] = {}
        tables = Tables()
        slots = always = 0
        rest: list[int] = []
        bits: dict[Node, list[int]] = {}
        for number, formula in enumerate(formulas):
            if formula is None:
                rest.append(number)
                continue
            group = groups.get(formula.shape)
            if group is None:
                group = groups[formula.shape] = Group(formula.shape, slots)
                slots += group.width
                bits[formula.shape] = []
            bits[formula.shape].append(number)
            for slot, atoms in enumerate(formula.slots, group.base):
                for atom in atoms:
                    atom(tables, (slot, number))
        for shape, group in groups.items():
            group.rules = _bit_set(bits[shape])
        always = _bit_set(rest)
        cheap, slow = tables.finish()
        return _Dispatch(always, bin(always)[:1:-1], list(groups.values()), slots, cheap, slow)


def _bit_set(numbers: Sequence[int]) -> int:
    """The numbers (ascending) as bits."""
    if not numbers:
        return 0
    digits = bytearray(b"0") * (numbers[-1] + 1)
    for number in numbers:
        digits[-1 - number] = 49
    return int(digits, 2)


def _simplified(formulas: Sequence[Formula | None]) -> list[Formula | None]:
    """Where there are many shapes, rules of rare ones get a simpler formula."""
    count: dict[Node, int] = {}
    for formula in formulas:
        if formula is not None:
            count[formula.shape] = count.get(formula.shape, 0) + 1
    if len(count) <= _SHAPES:
        return list(formulas)
    return [
        formula if formula is None or count[formula.shape] >= _RARE else weaker(formula)
        for formula in formulas
    ]


def plan(bounds: Sequence[Bound], start: int, captures: bool) -> tuple[int, Region | None]:
    """The region that begins at ``start``, if one is worth it, and the index behind the stretch that was looked at."""
    index = start
    rules: list[Rule] = []
    promising = 0
    count = len(bounds)
    while index < count:
        bound = bounds[index]
        if bound.name != "if":
            if not _harmless((bound,)):
                break
            first = index
            while index < count and bounds[index].name != "if" and _harmless((bounds[index],)):
                index += 1
            rules.append(Rule(None, bounds[first:index]))
            continue
        stop = index + 1
        while stop < count and bounds[stop].name in ("elsif", "else"):
            stop += 1
        if not all(_harmless(bound.block or ()) for bound in bounds[index:stop]):
            break
        single = stop == index + 1
        for bound in bounds[index:stop]:
            test = bound.tests[0] if bound.tests else None
            rules.append(Rule(test, bound.block or (), single))
            promising += test is not None and promising < _WORTH and _promising(test)
        index = stop
    if promising < _WORTH:
        return max(index, start + 1), None
    return index, Region(start, index, rules, captures)


def _harmless(block: Sequence[Bound]) -> bool:
    """Do all commands leave the message alone?"""
    for bound in block:
        if bound.name in ("if", "elsif", "else"):
            if not _harmless(bound.block or ()):
                return False
        elif not (isinstance(bound.spec, CommandSpec) and bound.spec.keeps_message):
            return False
    return True


def _promising(test: Bound) -> bool:
    """Is there something to be looked up in it?"""
    spec = test.spec
    if test.tests:
        return any(map(_promising, test.tests))
    if not isinstance(spec, TestSpec) or test.constant is not None:
        return False
    if spec.atoms is not None:
        return True
    match = test.match
    return (
        spec.sources is not None
        and match is not None
        and match.enter is not None
        and constants(test.keys) is not None
        and (match.indexable is None or match.indexable(test))
    )
