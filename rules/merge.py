"""Runs of rules in one dispatch: thousands of rules cost what a handful costs.

A region is a stretch of successive ``if`` commands (with their elsif and else) whose blocks provably leave
header, body and envelope alone. Before it runs, a dispatch looks up, for each header (or other source) that
its rules look at, which rules may be true: ``:is`` keys in a dict, ``:contains`` keys and the literal pieces
of ``:matches`` patterns in one automaton. Every rule starts with a hop that goes on to the next candidate. A
candidate is then evaluated by its ordinary steps, so the dispatch never decides that a rule is true; it only
leaves out rules that are false. That needs proof of three things, all made here:

1. the left-out test is false: one of its necessary conditions is (for anyof all of them);
2. evaluating it would have changed nothing: it has no test with state, and no capture that could succeed inside a false whole
   (a matching ``:matches`` sets the match variables even if the rest of an allof is false);
3. the values are the same at the rule as at the dispatch: no command in between touches the message (``keeps_message``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rules.bound import Bound, constants
from rules.collector import collector_held
from rules.glob import Glob
from rules.manystrings import ManyStrings
from rules.registry import CommandSpec, TestSpec
from rules.sources import Source

if TYPE_CHECKING:
    from rules.context import Run

_WORTH = 4  # rules with a look-up from which a region pays
_ENOUGH = 50_000  # matches of one text after which all rules of the automaton count as candidates
_MANY = 500  # rules whose tables are built with the garbage collector held
_MATCHES = ("is", "contains", "matches")


@dataclass(slots=True, eq=False)
class _Table:
    """Everything the rules of a region look for in one source under one comparator."""

    source: Source
    normal: Callable[[str], str]
    exact: dict[str, list[int]] = field(default_factory=dict)
    pieces: dict[str, list[int]] = field(default_factory=dict)
    automaton: ManyStrings | None = None
    owners: list[list[int]] = field(default_factory=list)

    def finish(self) -> None:
        """Builds the automaton."""
        if self.pieces:
            self.automaton = ManyStrings(list(self.pieces))
            self.owners = list(self.pieces.values())

    def look_up(self, values: Sequence[str], hits: set[int]) -> None:
        """Adds the rules that may be true for these values."""
        normal, exact, automaton = self.normal, self.exact, self.automaton
        for value in values:
            text = normal(value)
            if exact and (rules := exact.get(text)) is not None:
                hits.update(rules)
            if automaton is not None:
                found = automaton.all(text, _ENOUGH)
                if found is None:
                    for rules in self.owners:
                        hits.update(rules)
                    return
                for index in found:
                    hits.update(self.owners[index])


@dataclass(slots=True, eq=False)
class Region:
    """A merged run: ``rules[n]`` are the necessary conditions of rule n (None: always a candidate), ``places[n]`` its step."""

    start: int
    stop: int
    rules: list[list[Bound] | None]
    places: list[int] = field(default_factory=list)
    end: int = -1
    _always: list[int] = field(default_factory=list)
    _tables: list[_Table] | None = None

    def candidates(self, run: Run) -> list[int]:
        """The numbers of all rules that may be true, ascending."""
        tables = self._tables
        if tables is None:
            with collector_held(len(self.rules) > _MANY):
                tables = self._build()
        hits: set[int] = set()
        for table in tables:
            values = table.source.values(run)
            if values:
                table.look_up(values, hits)
        if not hits:
            return self._always
        return sorted([*self._always, *hits])

    def next(self, candidates: list[int], number: int) -> int:
        """The step of the first candidate from ``number`` on, behind its hop."""
        index = bisect_left(candidates, number)
        return self.places[candidates[index]] + 1 if index < len(candidates) else self.end

    def _build(self) -> list[_Table]:
        tables: dict[tuple[Source, str], _Table] = {}
        known: _Known = {}
        for number, leaves in enumerate(self.rules):
            if leaves is None:
                self._always.append(number)
                continue
            for leaf in leaves:
                _register(tables, known, leaf, number)
        for table in tables.values():
            table.finish()
        self._tables = list(tables.values())
        return self._tables


_Known = dict[tuple[object, ...], list[_Table]]


def _tables_of(tables: dict[tuple[Source, str], _Table], known: _Known, leaf: Bound) -> list[_Table]:
    """The tables of the sources that a test looks at; tests with equal arguments but for the keys have the same."""
    assert isinstance(leaf.spec, TestSpec) and leaf.spec.sources is not None and leaf.comparator is not None
    part = leaf.part.name if leaf.part is not None else ""
    frame = (leaf.name, *leaf.args[:-1], part, leaf.comparator.name, *leaf.tags.items())
    found = known.get(frame)
    if found is None:
        found = known[frame] = []
        for source in leaf.spec.sources(leaf) or ():
            key = (source, leaf.comparator.name)
            if key not in tables:
                tables[key] = _Table(source, leaf.comparator.normal)
            found.append(tables[key])
    return found


def _register(tables: dict[tuple[Source, str], _Table], known: _Known, leaf: Bound, number: int) -> None:
    assert leaf.comparator is not None and leaf.match is not None
    normal = leaf.comparator.normal
    for table in _tables_of(tables, known, leaf):
        for text in constants(leaf.keys) or ():
            if leaf.match.name == "is":
                table.exact.setdefault(normal(text), []).append(number)
            elif leaf.match.name == "contains":
                table.pieces.setdefault(normal(text), []).append(number)
            else:
                pattern = Glob(text, normal)
                if pattern.wild:
                    table.pieces.setdefault(pattern.literal, []).append(number)
                else:
                    table.exact.setdefault(pattern.segments[0].text, []).append(number)


def plan(bounds: Sequence[Bound], start: int, captures: bool) -> tuple[int, Region | None]:
    """The region that begins at ``start``, if one is worth it, and the index behind the stretch that was looked at."""
    index = start
    rules: list[list[Bound] | None] = []
    indexed = 0
    while index < len(bounds) and bounds[index].name in ("if", "elsif", "else"):
        stop = index + 1
        while stop < len(bounds) and bounds[stop].name in ("elsif", "else"):
            stop += 1
        if not all(_harmless(bound.block or ()) for bound in bounds[index:stop]):
            break
        for bound in bounds[index:stop]:
            leaves = _necessary(bound.tests[0], captures) if bound.tests else None
            indexed += leaves is not None
            rules.append(leaves)
        index = stop
    if indexed < _WORTH:
        return max(index, start + 1), None
    return index, Region(start, index, rules)


def _harmless(block: Sequence[Bound]) -> bool:
    """Do all commands leave the message alone?"""
    for bound in block:
        if bound.name in ("if", "elsif", "else"):
            if not _harmless(bound.block or ()):
                return False
        elif not (isinstance(bound.spec, CommandSpec) and bound.spec.keeps_message):
            return False
    return True


def _necessary(test: Bound, captures: bool) -> list[Bound] | None:
    """Tests of which at least one is true whenever the whole is; None when the whole cannot be left out."""
    if test.constant is not None:
        return None if test.constant else []
    if not test.tests:
        return [test] if _indexable(test) else None
    if any(_disturbing(inner, captures) for inner in test.tests):
        return None
    if test.name == "anyof":
        together: list[Bound] = []
        for inner in test.tests:
            leaves = _necessary(inner, captures)
            if leaves is None:
                return None
            together.extend(leaves)
        return together
    if test.name == "allof":
        best: list[Bound] | None = None
        for inner in test.tests:
            leaves = _necessary(inner, captures)
            if leaves is not None and (best is None or _weight(leaves) < _weight(best)):
                best = leaves
        return best
    return None


def _weight(leaves: Sequence[Bound]) -> int:
    """Roughly how often one of these is true by chance."""
    return sum(1 if leaf.match is not None and leaf.match.name == "is" else 3 for leaf in leaves)


def _indexable(test: Bound) -> bool:
    spec = test.spec
    if (
        not isinstance(spec, TestSpec)
        or spec.sources is None
        or test.match is None
        or test.comparator is None
    ):
        return False
    name = test.match.name
    if name not in _MATCHES or not test.comparator.same_length:
        return False
    keys = constants(test.keys)
    if keys is None or (name == "contains" and "" in keys):
        return False
    if name == "matches" and any("\\" in key or not key.strip("*?") for key in keys):
        return False
    return spec.sources(test) is not None


def _disturbing(test: Bound, captures: bool) -> bool:
    """Could evaluating it leave a trace in the run, though the whole it is part of is false?"""
    if isinstance(test.spec, TestSpec) and "state" in test.spec.reads:
        return True
    if captures and test.match is not None and test.match.captures:
        return True
    return any(_disturbing(inner, captures) for inner in test.tests)
