"""Match types :is, :contains, :matches, and the way from a test's arguments to a function.

Specification: RFC 5228 section 2.7.1; match variables RFC 5229 3.2. A ``Matcher`` gets the run and the values
of a test, says whether a key matches a value, and leaves in ``run.seen`` and ``run.key`` what decided (or the
first value and the keys). Match types of extensions (:count, :value, :regex, :list) come from ``rules/ext``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rules.bound import Bound, Texts, constants
from rules.glob import Glob
from rules.manystrings import ManyStrings

if TYPE_CHECKING:
    from rules.context import Run
    from rules.lookup import Owner, Tables
    from rules.registry import ComparatorSpec
    from rules.sources import Source

Matcher = Callable[["Run", Sequence[str]], bool]
_MANY = 6  # keys from which an automaton is quicker than a loop
_SLICE = 256  # values between looks at the CPU budget
_SHOWN = 8  # keys that a trace names


def link_match(bound: Bound) -> Matcher:
    """The matcher of a bound test: its match type, comparator and keys (its last parameter)."""
    assert bound.match is not None and bound.comparator is not None
    match = bound.match.link(bound, bound.comparator, bound.keys)
    if bound.match.name == "count":  # the one that looks at all values together
        return match

    def in_slices(run: Run, values: Sequence[str]) -> bool:
        if len(values) <= _SLICE:
            return match(run, values)
        for start in range(0, len(values), _SLICE):
            run.check_time()
            if match(run, values[start : start + _SLICE]):
                return True
        run.seen = values[0]
        return False

    return in_slices


def show(keys: Sequence[str]) -> str:
    """Keys for the trace."""
    text = ", ".join(keys[:_SHOWN])
    return text if len(keys) <= _SHOWN else f"{text}, ... ({len(keys)} keys)"


def expand(run: Run, texts: Texts) -> tuple[str, ...]:
    """Strings with their variables put in."""
    return tuple(text if type(text) is str else text.expand(run) for text in texts)  # type: ignore[union-attr]  # narrowed by type()


def missed(run: Run, values: Sequence[str], shown: str) -> bool:
    """Leaves the trace of a test in which nothing matched."""
    run.seen = values[0] if values else ""
    run.key = shown
    return False


_Maker = Callable[[tuple[str, ...], "ComparatorSpec"], Matcher]


def _with_variables(make: _Maker) -> Callable[[Bound, ComparatorSpec, Texts], Matcher]:
    """A match type whose matcher is made once for constant keys, and at each use for keys with variables."""

    def link(bound: Bound, comparator: ComparatorSpec, keys: Texts) -> Matcher:
        known = constants(keys)
        if known is not None:
            return make(known, comparator)
        return lambda run, values: make(expand(run, keys), comparator)(run, values)

    return link


def _is(keys: tuple[str, ...], comparator: ComparatorSpec) -> Matcher:
    normal = comparator.normal
    wanted = {normal(key): key for key in reversed(keys)}
    shown = show(keys)

    def match(run: Run, values: Sequence[str]) -> bool:
        for value in values:
            key = wanted.get(normal(value))
            if key is not None:
                run.seen, run.key = value, key
                return True
        run.seen = values[0] if values else ""
        run.key = shown
        return False

    return match


def _contains(keys: tuple[str, ...], comparator: ComparatorSpec) -> Matcher:
    normal = comparator.normal
    folded = [normal(key) for key in keys]
    shown = show(keys)
    if len(keys) >= _MANY and all(folded):
        return _contains_many(keys, folded, comparator)

    def match(run: Run, values: Sequence[str]) -> bool:
        for value in values:
            text = normal(value)
            for index, key in enumerate(folded):
                if key in text:
                    run.seen, run.key = value, keys[index]
                    return True
        run.seen = values[0] if values else ""
        run.key = shown
        return False

    return match


def _contains_many(keys: tuple[str, ...], folded: list[str], comparator: ComparatorSpec) -> Matcher:
    normal = comparator.normal
    shown = show(keys)
    automaton = ManyStrings(folded)

    def match(run: Run, values: Sequence[str]) -> bool:
        for value in values:
            index = automaton.any(normal(value))
            if index is not None:
                run.seen, run.key = value, keys[index]
                return True
        return missed(run, values, shown)

    return match


def _composed(comparator: ComparatorSpec) -> Callable[[str], str]:
    """The folding for patterns: ``?`` is to stand for a whole character, so decomposed ones are put together again."""
    normal = comparator.normal
    if comparator.same_length:
        return normal
    return lambda text: unicodedata.normalize("NFC", normal(text))


def _matches(keys: tuple[str, ...], comparator: ComparatorSpec) -> Matcher:
    normal = _composed(comparator)
    globs = [Glob(key, normal) for key in keys]
    shown = show(keys)

    def match(run: Run, values: Sequence[str]) -> bool:
        for value in values:
            text = normal(value)
            for pattern in globs:
                places = pattern.spans(text)
                if places is not None:
                    run.seen, run.key = value, pattern.source
                    if run.captures:
                        # The wildcards' text is the value's own, where folding kept the places.
                        source = value if len(value) == len(text) else text
                        run.variables.matched = pattern.groups(places, source)
                    return True
        return missed(run, values, shown)

    return match


def enter_is(tables: Tables, bound: Bound, source: Source, owner: Owner) -> None:
    """The keys of ``:is`` into the tables."""
    assert bound.comparator is not None
    normal = bound.comparator.normal
    table = tables.texts(source, bound.comparator.name, normal)
    for key in constants(bound.keys) or ():
        table.add_is(normal(key), owner)


def enter_contains(tables: Tables, bound: Bound, source: Source, owner: Owner) -> None:
    """The keys of ``:contains`` into the tables."""
    assert bound.comparator is not None
    normal = bound.comparator.normal
    table = tables.texts(source, bound.comparator.name, normal)
    for key in constants(bound.keys) or ():
        table.add_contains(normal(key), owner)


def enter_matches(tables: Tables, bound: Bound, source: Source, owner: Owner) -> None:
    """The patterns of ``:matches`` into the tables."""
    assert bound.comparator is not None
    normal = _composed(bound.comparator)
    name = bound.comparator.name if bound.comparator.same_length else f"{bound.comparator.name} composed"
    table = tables.texts(source, name, normal)
    for key in constants(bound.keys) or ():
        table.add_glob(Glob(key, normal), owner)


def indexable_keys(bound: Bound) -> bool:
    """Are the keys known when the script is compiled?"""
    return constants(bound.keys) is not None


def indexable_patterns(bound: Bound) -> bool:
    """Has each pattern a literal, or nothing but stars?"""
    keys = constants(bound.keys)
    return keys is not None and all(
        "\\" not in key and (bool(key.strip("*?")) or not key.strip("*")) for key in keys
    )


link_is = _with_variables(_is)
link_contains = _with_variables(_contains)
link_matches = _with_variables(_matches)
