"""The test of a rule as a formula over look-ups, evaluated for all rules of one shape at once.

A shape is a test without its particular keys: ``allof (look-up, not look-up)`` is one shape, be there ten
thousand rules of it. A node is a tuple (kind, effect, inner nodes): SLOT is a look-up, UNKNOWN a test that
only its own evaluation can decide, then NOT, ALL, ANY and the constants. ``effect`` marks a node whose
evaluation leaves something behind in the run (a capture, when it is true; a state, in any case). Values are
pairs of bit sets over rules: those for which the node may be true, those for which it is true; what is in
neither is false. Invariant: ``decide`` returns a superset of the rules whose whole is true or whose
evaluation would have an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rules.bound import Bound
from rules.lookup import Hits, Owner, Tables
from rules.registry import CommandSpec, TestSpec

if TYPE_CHECKING:
    from rules.sources import Source

Node = tuple[str, bool, tuple["Node", ...]]
Atom = Callable[[Tables, Owner], None]
SLOT, UNKNOWN, TRUE, FALSE, NOT, ALL, ANY = "slot", "unknown", "true", "false", "not", "all", "any"
_ANYTHING: Node = (UNKNOWN, False, ())
_DISTURBING: Node = (UNKNOWN, True, ())
_TRUE: Node = (TRUE, False, ())
_FALSE: Node = (FALSE, False, ())
_MOST_NODES = 32
_MOST_INNER = 8  # tests inside a rule's block that are looked at


@dataclass(slots=True, eq=False)
class Formula:
    """The shape of one rule, and the look-ups that fill its slots (a slot of several is true when any of them is)."""

    shape: Node
    slots: list[list[Atom]]


@dataclass(slots=True)
class Builder:
    """Makes formulas. ``captures``: does the script use match variables? ``unstable``: what changes within the region."""

    captures: bool
    unstable: frozenset[str] = frozenset()
    _nodes: int = 0
    _frames: dict[tuple[object, ...], Sequence[Source] | None] = field(default_factory=dict)

    def rule(self, test: Bound | None, block: Sequence[Bound], alone: bool) -> Formula | None:
        """The formula of ``if test block``; None when the rule cannot be left out. ``alone``: nothing depends on whether the
        test was true but the block."""
        if test is None:
            return None
        slots: list[list[Atom]] = []
        self._nodes = 0
        shape = self._test(test, slots)
        if alone and (inner := self._inside(block, slots)) is not None:
            shape = (ALL, False, (shape, inner))
        if shape == _FALSE or (slots and self._nodes <= _MOST_NODES):
            return Formula(shape, slots)
        return None

    def _inside(self, block: Sequence[Bound], slots: list[list[Atom]]) -> Node | None:
        """When a block of nothing but ifs does something; None: always."""
        if len(block) > _MOST_INNER or any(bound.name not in ("if", "elsif", "else") for bound in block):
            return None
        if not block or any(bound.name != "else" and not bound.tests for bound in block):
            return None
        inner: list[Node] = []
        mark = len(slots)
        for index, bound in enumerate(block):
            if bound.name == "else":
                del slots[mark:]
                return None
            follows = index + 1 < len(block) and block[index + 1].name in ("elsif", "else")
            shape = self._test(bound.tests[0], slots)
            deeper = None if follows else self._inside(bound.block or (), slots)
            inner.append(shape if deeper is None else (ALL, False, (shape, deeper)))
        return inner[0] if len(inner) == 1 else (ANY, False, tuple(inner))

    def _test(self, test: Bound, slots: list[list[Atom]]) -> Node:
        self._nodes += 1
        if test.constant is not None:
            return _TRUE if test.constant else _FALSE
        if test.tests:
            if test.name == "not":
                inner = self._test(test.tests[0], slots)
                return inner[2][0] if inner[0] == NOT else (NOT, False, (inner,))
            if test.name == "anyof":
                return self._any(test.tests, slots)
            if test.name == "allof":
                nodes = [self._test(one, slots) for one in test.tests]
                return nodes[0] if len(nodes) == 1 else (ALL, False, tuple(nodes))
            return _DISTURBING
        return self._leaf(test, slots)

    def _any(self, tests: Sequence[Bound], slots: list[list[Atom]]) -> Node:
        """Neighbouring look-ups share one slot: anyof of many is one look-up."""
        nodes: list[Node] = []
        for inner in tests:
            before = len(slots)
            node = self._test(inner, slots)
            if node[0] == SLOT and nodes and nodes[-1][0] == SLOT and len(slots) == before + 1:
                slots[-2].extend(slots.pop())
                nodes[-1] = (SLOT, node[1] or nodes[-1][1], ())
                self._nodes -= 1
            else:
                nodes.append(node)
        return nodes[0] if len(nodes) == 1 else (ANY, False, tuple(nodes))

    def _leaf(self, test: Bound, slots: list[list[Atom]]) -> Node:
        spec = test.spec
        assert isinstance(spec, TestSpec)
        if "state" in spec.reads:
            return _DISTURBING
        captures = self.captures and test.match is not None and test.match.captures
        atoms = None if test.plan.problems else self._atoms(test, spec)
        if atoms is None:
            return _DISTURBING if captures else _ANYTHING
        nodes: list[Node] = []
        for atom in atoms:
            slots.append([atom])
            nodes.append((SLOT, captures, ()))
        self._nodes += len(nodes) - 1
        return nodes[0] if len(nodes) == 1 else (ALL, False, tuple(nodes))

    def _sources_of(self, test: Bound, spec: TestSpec) -> Sequence[Source] | None:
        """Where the values come from; asked once for all tests that differ in their keys only."""
        assert spec.sources is not None
        if test.tags and test.plan.plain_tags is None:
            return spec.sources(test)
        frame = (id(test.plan), *test.args[:-1])
        if frame not in self._frames:
            self._frames[frame] = spec.sources(test)
        return self._frames[frame]

    def _atoms(self, test: Bound, spec: TestSpec) -> Sequence[Atom] | None:
        """The look-ups that must all be true for the test to be; None when it is not to be looked up."""
        if spec.atoms is not None:
            return spec.atoms(test)
        match = test.match
        if match is None or match.enter is None or spec.sources is None or test.comparator is None:
            return None
        if not self.unstable.isdisjoint(spec.depends):
            return None
        if match.indexable is not None and not match.indexable(test):
            return None
        sources = self._sources_of(test, spec)
        if not sources or (match.whole and len(sources) > 1):
            return None
        return (_entry(test, sources),)


def _entry(test: Bound, sources: Sequence[Source]) -> Atom:
    assert test.match is not None and test.match.enter is not None
    enter = test.match.enter

    def atom(tables: Tables, owner: Owner) -> None:
        for source in sources:
            enter(tables, test, source, owner)

    return atom


def weaker(formula: Formula) -> Formula | None:
    """A simpler formula that is true whenever this one is, for shapes that are rare; None: none of use."""
    kind, _, inner = formula.shape
    if kind != ALL or _effects(formula.shape):
        return None
    place = 0
    for node in inner:
        if node[0] == SLOT:
            return Formula(node, [formula.slots[place]])
        place += _slots(node)
    return None


def _effects(node: Node) -> bool:
    return node[1] or any(map(_effects, node[2]))


def _slots(node: Node) -> int:
    return 1 if node[0] == SLOT else sum(map(_slots, node[2]))


def _gate(shape: Node, slot: int) -> int:
    if _effects(shape):
        return -1
    if shape[0] == SLOT:
        return slot
    if shape[0] == ALL:
        for node in shape[2]:
            if node[0] == SLOT:
                return slot
            slot += _slots(node)
    return -1


@dataclass(slots=True, eq=False)
class Group:
    """All rules of one shape: ``rules`` are their bits, ``base`` is the number of their first slot."""

    shape: Node
    base: int
    rules: int = 0
    width: int = field(init=False)
    gate: int = field(init=False)  # a slot without which nothing here is true, -1: there is none

    def __post_init__(self) -> None:
        self.width = _slots(self.shape)
        self.gate = _gate(self.shape, self.base)

    def decide(self, hits: Hits) -> int:
        """The rules that may be true, or whose evaluation has an effect."""
        if self.gate >= 0 and not hits.may[self.gate]:
            return 0
        evaluation = _Evaluation(hits, self.rules, self.base)
        may, _ = evaluation.value(self.shape, self.rules)
        return may | evaluation.effects


class _Evaluation:
    """One evaluation of one shape."""

    __slots__ = ("effects", "hits", "rules", "slot")

    def __init__(self, hits: Hits, rules: int, base: int) -> None:
        self.hits = hits
        self.rules = rules
        self.slot = base
        self.effects = 0

    def value(self, node: Node, reached: int) -> tuple[int, int]:
        """(may be true, is true) of a node that is evaluated for the rules in ``reached``."""
        kind, effect, inner = node
        if kind == SLOT:
            may = self.hits.may[self.slot]
            must = may & ~self.hits.unsure[self.slot]
            self.slot += 1
            if effect:
                self.effects |= may & reached
            return may, must
        if kind == ALL:
            may = must = self.rules
            for one in inner:
                its_may, its_must = self.value(one, reached)
                may &= its_may
                must &= its_must
                reached &= its_may
            return may, must
        if kind == ANY:
            may = must = 0
            for one in inner:
                its_may, its_must = self.value(one, reached)
                may |= its_may
                must |= its_must
                reached &= ~its_must
            return may, must
        if kind == NOT:
            may, must = self.value(inner[0], reached)
            return self.rules & ~must, self.rules & ~may
        if kind == UNKNOWN:
            if effect:
                self.effects |= reached
            return self.rules, 0
        return (self.rules, self.rules) if kind == TRUE else (0, 0)


def writes(block: Sequence[Bound]) -> set[str]:
    """What the commands of a block change for tests behind them."""
    out: set[str] = set()
    for bound in block:
        if isinstance(bound.spec, CommandSpec):
            out.update(bound.spec.writes)
        out |= writes(bound.block or ())
    return out
