"""Look-up tables: which of thousands of tests are true for the values at hand.

A table belongs to one thing that tests look at (a source of values under one comparator, the size, the names
of the header's fields) and holds what they look for. An owner is (slot, rule): a place in the formulas of
``rules/formula.py`` and the number of a rule; a look-up sets the rule's bit in ``Hits.may[slot]``, and in
``Hits.unsure[slot]`` when it only may be true. Invariant: a test that is true has its bit set; one whose bit
is set and not unsure is true.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rules.glob import Glob
from rules.manystrings import ManyStrings
from rules.sources import Source

if TYPE_CHECKING:
    from rules.context import Run
    from rules.registry import ComparatorSpec

Owner = tuple[int, int]
_ENOUGH = 50_000  # matches of one text after which every rule of the automaton counts as a candidate
_CROWD = 16  # owners of one key from which their bits are put together beforehand
_LONG = 10_000  # characters of a value: beyond, patterns are not tried but left unsure
_VERIFY = 2_000  # patterns that one look-up tries, before the rest counts as unsure
_STRIDE = 64  # keys between two sums of an ordered table


@dataclass(slots=True, eq=False)
class Hits:
    """Bits of rules for each slot."""

    may: list[int]
    unsure: list[int]

    def add(self, owners: Iterable[Owner]) -> None:
        """These are true."""
        may = self.may
        for slot, rule in owners:
            may[slot] |= 1 << rule

    def add_unsure(self, owners: Iterable[Owner]) -> None:
        """These may be true."""
        for slot, rule in owners:
            self.may[slot] |= 1 << rule
            self.unsure[slot] |= 1 << rule

    def add_sum(self, bits: dict[int, int]) -> None:
        """These are true, by slot."""
        for slot, rules in bits.items():
            self.may[slot] |= rules


class Table(Protocol):
    """What the tests of a region look for in one place."""

    slow: bool  # are the values dear to make? Then it is looked at only when the other tables leave a need

    def finish(self) -> None:
        """Called once, when everything is in."""
        ...

    def look_up(self, run: Run, hits: Hits) -> None:
        """Marks what is true now."""
        ...

    def give_up(self, hits: Hits) -> None:
        """Marks everything as unsure."""
        ...


def summed(owners: Iterable[Owner]) -> dict[int, int]:
    """Owners as bits by slot."""
    out: dict[int, int] = {}
    for slot, rule in owners:
        out[slot] = out.get(slot, 0) | 1 << rule
    return out


@dataclass(slots=True, eq=False)
class _Piece:
    """A literal in the automaton: tests that are true with it, and patterns to be tried when it is there."""

    owners: list[Owner] = field(default_factory=list)
    globs: list[tuple[Glob, Owner]] = field(default_factory=list)
    perhaps: list[Owner] = field(default_factory=list)
    sums: dict[int, int] | None = None

    def mark(self, hits: Hits) -> None:
        """The literal is there."""
        if self.sums is not None:
            hits.add_sum(self.sums)
        elif self.owners:
            hits.add(self.owners)
        if self.perhaps:
            hits.add_unsure(self.perhaps)


class TextTable:
    """``:is``, ``:contains`` and ``:matches`` under one folding."""

    def __init__(self, source: Source, normal: Callable[[str], str]) -> None:
        self.source = source
        self.slow = bool(getattr(source, "slow", False))
        self._normal = normal
        self._exact: dict[str, _Piece] = {}
        self._pieces: dict[str, _Piece] = {}
        self._present: list[Owner] = []
        self._automaton: ManyStrings | None = None
        self._found: list[_Piece] = []

    def add_is(self, text: str, owner: Owner) -> None:
        """True when a value is this (already folded)."""
        self._exact.setdefault(text, _Piece()).owners.append(owner)

    def add_contains(self, text: str, owner: Owner) -> None:
        """True when a value contains this."""
        if text:
            piece = self._pieces.get(text)
            if piece is None:
                piece = self._pieces[text] = _Piece()
            piece.owners.append(owner)
        else:
            self._present.append(owner)

    def add_glob(self, glob: Glob, owner: Owner) -> None:
        """True when the pattern matches a value. It has a literal, or consists of stars."""
        if not glob.wild:
            self.add_is(glob.segments[0].text, owner)
        elif not glob.literal:
            self._present.append(owner)
        elif glob.is_infix:
            self.add_contains(glob.literal, owner)
        else:
            self._pieces.setdefault(glob.literal, _Piece()).globs.append((glob, owner))

    def add_perhaps(self, text: str, owner: Owner) -> None:
        """May be true only when a value contains this."""
        self._pieces.setdefault(text, _Piece()).perhaps.append(owner)

    def finish(self) -> None:
        """Builds the automaton."""
        if self._pieces:
            self._automaton = ManyStrings(list(self._pieces))
            self._found = list(self._pieces.values())
        for piece in (*self._exact.values(), *self._found):
            if len(piece.owners) >= _CROWD:
                piece.sums = summed(piece.owners)

    def look_up(self, run: Run, hits: Hits) -> None:
        """Folds each value once, looks once."""
        values = self.source.values(run)
        if not values:
            return
        if self._present:
            hits.add(self._present)
        exact, automaton, tries = self._exact, self._automaton, _VERIFY
        unsure: set[int] | None = None  # pieces whose patterns are given up for good
        normal = self._normal
        for value in values:
            text = normal(value)
            if exact and (piece := exact.get(text)) is not None:
                piece.mark(hits)
            if automaton is None:
                continue
            found = automaton.all(text, _ENOUGH)
            if found is None:
                self._give_up_pieces(hits)
                automaton = None
                continue
            for index in found:
                piece = self._found[index]
                piece.mark(hits)
                if not piece.globs or (unsure is not None and index in unsure):
                    continue
                if tries < len(piece.globs) or len(text) > _LONG:
                    hits.add_unsure(owner for _, owner in piece.globs)
                    unsure = unsure or set()
                    unsure.add(index)
                else:
                    hits.add(owner for glob, owner in piece.globs if glob.spans(text) is not None)
                    tries -= len(piece.globs)

    def _give_up_pieces(self, hits: Hits) -> None:
        for piece in self._found:
            hits.add_unsure(piece.owners)
            hits.add_unsure(piece.perhaps)
            hits.add_unsure(owner for _, owner in piece.globs)

    def give_up(self, hits: Hits) -> None:
        """Every test here may be true."""
        hits.add_unsure(self._present)
        for piece in self._exact.values():
            hits.add_unsure(piece.owners)
        self._give_up_pieces(hits)


Order = str | tuple[int, int]


class OrderedOwners:
    """Owners sorted by key: all below or above a place at once."""

    def __init__(self) -> None:
        self._items: list[tuple[Order, Owner]] = []
        self.keys: list[Order] = []
        self._below: list[dict[int, int]] = []
        self._above: list[dict[int, int]] = []

    def add(self, key: Order, owner: Owner) -> None:
        """Puts one in."""
        self._items.append((key, owner))

    def finish(self) -> None:
        """Sorts, and sums up at every so many keys."""
        self._items.sort(key=lambda item: item[0])
        self.keys = [key for key, _ in self._items]
        owners = self.owners()
        self._below = _sums([owners[at : at + _STRIDE] for at in range(0, len(owners), _STRIDE)])
        self._above = _sums([owners[at : at + _STRIDE] for at in range(0, len(owners), _STRIDE)][::-1])[::-1]

    def owners(self) -> list[Owner]:
        """All, in order."""
        return [owner for _, owner in self._items]

    def below(self, place: int, hits: Hits) -> None:
        """Marks the first ``place`` owners."""
        whole = place // _STRIDE
        hits.add_sum(self._below[whole])
        hits.add(owner for _, owner in self._items[whole * _STRIDE : place])

    def above(self, place: int, hits: Hits) -> None:
        """Marks all but the first ``place`` owners."""
        whole = -(-place // _STRIDE)
        if whole < len(self._above):
            hits.add_sum(self._above[whole])
        hits.add(owner for _, owner in self._items[place : whole * _STRIDE])

    def between(self, first: int, last: int, hits: Hits) -> None:
        """Marks a stretch."""
        hits.add(owner for _, owner in self._items[first:last])


def _sums(stretches: Sequence[Sequence[Owner]]) -> list[dict[int, int]]:
    """The sum of the first n stretches, for each n."""
    out: list[dict[int, int]] = [{}]
    for stretch in stretches:
        bits = dict(out[-1])
        for slot, rules in summed(stretch).items():
            bits[slot] = bits.get(slot, 0) | rules
        out.append(bits)
    return out


class RelationTable:
    """``:value`` and ``:count`` with one relation under one comparator."""

    def __init__(self, source: Source, comparator: ComparatorSpec, relation: str, counts: bool) -> None:
        self.source = source
        self.slow = bool(getattr(source, "slow", False))
        self._order = comparator.order
        self._relation = relation
        self._counts = counts
        self._owners = OrderedOwners()

    def add(self, key: str, owner: Owner) -> None:
        """True when the relation holds between a value and the key."""
        self._owners.add(self._order(key), owner)

    def finish(self) -> None:
        """Sorts the keys."""
        self._owners.finish()

    def look_up(self, run: Run, hits: Hits) -> None:
        """One search for each value."""
        values = self.source.values(run)
        for value in [str(len(values))] if self._counts else values:
            self._mark(self._order(value), hits)

    def _mark(self, mine: Order, hits: Hits) -> None:
        keys = self._owners.keys
        relation = self._relation
        left, right = bisect_left(keys, mine), bisect_right(keys, mine)
        if relation in ("gt", "ne"):
            self._owners.below(left, hits)
        elif relation == "ge":
            self._owners.below(right, hits)
        if relation in ("lt", "ne"):
            self._owners.above(right, hits)
        elif relation == "le":
            self._owners.above(left, hits)
        elif relation == "eq":
            self._owners.between(left, right, hits)

    def give_up(self, hits: Hits) -> None:
        """Every test here may be true."""
        hits.add_unsure(self._owners.owners())


class SizeTable:
    """``size``: the limits in order."""

    slow = False

    def __init__(self) -> None:
        self._over, self._under = OrderedOwners(), OrderedOwners()

    def add(self, limit: int, over: bool, owner: Owner) -> None:
        """One limit."""
        (self._over if over else self._under).add((0, limit), owner)

    def finish(self) -> None:
        """Sorts the limits."""
        self._over.finish()
        self._under.finish()

    def look_up(self, run: Run, hits: Hits) -> None:
        """RFC 5228 5.9: over and under are both without the limit itself."""
        over, under = self._over.keys, self._under.keys
        least, most = run.view.size_bounds
        left, right = bisect_left(over, (0, least)), bisect_right(under, (0, least))
        if least != most and (left, right) != (bisect_left(over, (0, most)), bisect_right(under, (0, most))):
            size = (0, run.view.size)  # a limit lies between the two: the line ends decide
            left, right = bisect_left(over, size), bisect_right(under, size)
        if left:
            self._over.below(left, hits)
        if right < len(under):
            self._under.above(right, hits)

    def give_up(self, hits: Hits) -> None:
        """Every test here may be true."""
        hits.add_unsure(self._over.owners() + self._under.owners())


class ExistsTable:
    """``exists``: the fields that are there."""

    slow = False

    def __init__(self) -> None:
        self._names: dict[bytes, _Piece] = {}

    def add(self, name: bytes, owner: Owner) -> None:
        """One field's name."""
        self._names.setdefault(name, _Piece()).owners.append(owner)

    def finish(self) -> None:
        """Sums up names that many ask for."""
        for piece in self._names.values():
            if len(piece.owners) >= _CROWD:
                piece.sums = summed(piece.owners)

    def look_up(self, run: Run, hits: Hits) -> None:
        """Looks for the fewer of: names asked for, fields of the message."""
        fields = run.view.header.fields
        if len(fields) < len(self._names):
            for name in {field.lname for field in fields}:
                if (piece := self._names.get(name)) is not None:
                    piece.mark(hits)
            return
        for name, piece in self._names.items():
            if run.view.exists(name):
                piece.mark(hits)

    def give_up(self, hits: Hits) -> None:
        """Every test here may be true."""
        for piece in self._names.values():
            hits.add_unsure(piece.owners)


class Tables:
    """All tables of a region, made as they are needed."""

    def __init__(self) -> None:
        self._tables: dict[Hashable, TextTable | RelationTable | SizeTable | ExistsTable] = {}

    def texts(self, source: Source, name: str, normal: Callable[[str], str]) -> TextTable:
        """The table of a source under a comparator."""
        key = ("text", source, name)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = TextTable(source, normal)
        assert isinstance(table, TextTable)
        return table

    def relations(
        self, source: Source, comparator: ComparatorSpec, relation: str, counts: bool
    ) -> RelationTable:
        """The table of a source, a comparator and a relation."""
        key = ("relation", source, comparator.name, relation, counts)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = RelationTable(source, comparator, relation, counts)
        assert isinstance(table, RelationTable)
        return table

    def sizes(self) -> SizeTable:
        """The table of size limits."""
        table = self._tables.setdefault("size", SizeTable())
        assert isinstance(table, SizeTable)
        return table

    def names(self) -> ExistsTable:
        """The table of field names."""
        table = self._tables.setdefault("exists", ExistsTable())
        assert isinstance(table, ExistsTable)
        return table

    def finish(self) -> tuple[list[Table], list[Table]]:
        """The finished tables: cheap ones, slow ones."""
        every: list[Table] = list(self._tables.values())
        for table in every:
            table.finish()
        return [one for one in every if not one.slow], [one for one in every if one.slow]
