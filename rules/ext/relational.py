"""relational: the match types :count and :value.

Specification: RFC 5231. Complete: yes. :count compares the number of values with the keys; "ne" under either
is true when the value differs from some key (4.1: "OR"ed over keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import eq, ge, gt, le, lt, ne
from typing import TYPE_CHECKING

from rules.bound import constants
from rules.match import Matcher, expand, indexable_keys, missed, show
from rules.registry import Extension, Kind, MatchSpec

if TYPE_CHECKING:
    from rules.bound import Bound, Texts
    from rules.checker import Checker
    from rules.context import Run
    from rules.lookup import Owner, Tables
    from rules.registry import ComparatorSpec
    from rules.sources import Source

_RELATIONS = {"gt": gt, "ge": ge, "lt": lt, "le": le, "eq": eq, "ne": ne}


def _check(checker: Checker, bound: Bound) -> None:
    for tag in ("count", "value"):
        relation = bound.tag_text(tag)
        if isinstance(relation, str) and relation.lower() not in _RELATIONS:
            message = f'":{tag}" takes one of "gt" "ge" "lt" "le" "eq" "ne", not "{relation[:20]}"'
            checker.error(checker.where_tag(bound, tag), "relation", message, f':{tag} "ge"')


def _link(bound: Bound, comparator: ComparatorSpec, keys: Texts, counts: bool) -> Matcher:
    relation = bound.tag_text("count" if counts else "value")
    holds = _RELATIONS.get(relation.lower() if isinstance(relation, str) else "", eq)
    order = comparator.order

    def match(run: Run, values: Sequence[str]) -> bool:
        wanted = expand(run, keys)
        if counts:
            values = [str(len(values))]
        ordered = [(key, order(key)) for key in wanted]
        for value in values:
            mine = order(value)
            for key, theirs in ordered:
                if holds(mine, theirs):
                    run.seen, run.key = value, key
                    return True
        return missed(run, values, show(wanted))

    return match


def _count(bound: Bound, comparator: ComparatorSpec, keys: Texts) -> Matcher:
    return _link(bound, comparator, keys, True)


def _value(bound: Bound, comparator: ComparatorSpec, keys: Texts) -> Matcher:
    return _link(bound, comparator, keys, False)


def _enter(tables: Tables, bound: Bound, source: Source, owner: Owner) -> None:
    assert bound.comparator is not None
    counts = bound.has("count")
    relation = bound.tag_text("count" if counts else "value")
    name = relation.lower() if isinstance(relation, str) else "eq"
    table = tables.relations(source, bound.comparator, name, counts)
    for key in constants(bound.keys) or ():
        table.add(key, owner)


EXTENSION = Extension(
    "relational",
    ("relational",),
    dialect="RFC 5231",
    matches=(
        MatchSpec(
            "count",
            _count,
            ("relational",),
            kind=Kind.STRING,
            check=_check,
            enter=_enter,
            indexable=indexable_keys,
            whole=True,
        ),
        MatchSpec(
            "value",
            _value,
            ("relational",),
            kind=Kind.STRING,
            check=_check,
            enter=_enter,
            indexable=indexable_keys,
        ),
    ),
)
