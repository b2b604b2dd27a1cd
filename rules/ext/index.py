"""index: :index and :last choose one of several equal fields.

Specification: RFC 5260 section 6. Complete: yes. Fields of several names are counted together, in the order
of the names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rules.registry import Extension, Kind, TagSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.view import Field


def check_index(checker: Checker, bound: Bound) -> None:
    """:index counts from 1."""
    if bound.tag_number("index") == 0:
        checker.error(checker.where_tag(bound, "index"), "index", ":index counts from 1", "write :index 1")


def choose(bound: Bound) -> Callable[[list[Field]], list[Field]]:
    """The one field that :index and :last name, of a list."""
    number = bound.tag_number("index") or 0
    backwards = bound.has("last")

    def pick(fields: list[Field]) -> list[Field]:
        if not 1 <= number <= len(fields):
            return []
        return [fields[-number] if backwards else fields[number - 1]]

    return pick


def _pick(bound: Bound) -> Callable[[Run, list[Field]], list[Field]]:
    pick = choose(bound)
    return lambda run, fields: pick(fields)


_ON = ("header", "address", "date")
_NEEDS = ("index",)

EXTENSION = Extension(
    "index",
    _NEEDS,
    dialect="RFC 5260",
    tags=(
        TagSpec("index", _ON, _NEEDS, Kind.NUMBER, check=check_index, pick=_pick),
        TagSpec("last", _ON, _NEEDS, requires=("index",)),
    ),
)
