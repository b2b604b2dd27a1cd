"""extlists: lists that are kept outside of the script.

Specification: RFC 6134. Complete: yes. The match type :list asks the host for each value; ``redirect :list``
names a list as the recipient, which the host takes apart. A list that is not there holds nothing. With
"variables" ${0} is the matching value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

from rules.context import StateKey
from rules.errors import RunError
from rules.match import Matcher, expand, missed, show
from rules.registry import Extension, Kind, MatchSpec, Param, TagSpec, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound, Texts
    from rules.checker import Checker
    from rules.context import Run
    from rules.options import ActionOptions
    from rules.registry import ComparatorSpec

_URN = "urn:ietf:params:sieve:"
_BOOK = _URN + "addrbook:"
DEFAULT_BOOK = _BOOK + "default"


CHANGED: StateKey[dict[tuple[str, str], bool]] = StateKey("lists", dict)  # (list, value) -> is it in it now?


def list_name(text: str) -> str:
    """RFC 6134 2.5: a leading colon is short for the Sieve URN; names of address books are decoded, "default" has no case."""
    if text.startswith(":"):
        text = _URN + text[1:]
    if text.lower().startswith(_BOOK):
        book = unquote(text[len(_BOOK) :], errors="replace")
        return DEFAULT_BOOK if book.lower() == "default" else _BOOK + book
    return text


def contains(run: Run, name: str, value: str) -> bool | None:
    """Is the value in the list? None: there is no such list (the default address book always is: RFC 6134 2.5).

    What the run itself added and took away (vnd.filterd.list) counts.
    """
    changed = run.get(CHANGED)
    if changed and (known := changed.get((name, value.strip().lower()))) is not None:
        return known
    found = run.host.list_contains(name, value)
    return False if found is None and name == DEFAULT_BOOK else found


def _check(checker: Checker, bound: Bound) -> None:
    if bound.has("comparator"):
        message = '":list" cannot be used with a comparator (RFC 6134 2.2)'
        checker.error(checker.where_tag(bound, "comparator"), "comparator", message, "remove :comparator")


def _link(bound: Bound, comparator: ComparatorSpec, keys: Texts) -> Matcher:
    def match(run: Run, values: Sequence[str]) -> bool:
        names = expand(run, keys)
        for value in values:
            for name in names:
                if contains(run, list_name(name), value):
                    run.seen, run.key = value, name
                    if run.captures:
                        run.variables.matched = (value,)
                    return True
        return missed(run, values, show(names))

    return match


def _valid(bound: Bound) -> TestFn:
    def test(run: Run) -> bool:
        for name in expand(run, bound.texts(0)):
            run.seen = run.key = name
            if contains(run, list_name(name), "") is None:
                return False
        return True

    return test


def _amend(run: Run, bound: Bound, options: ActionOptions) -> None:
    name = list_name(run.expand(bound.text(0)))
    if run.host.list_contains(name, "") is None:
        raise RunError(f'redirect: there is no list "{name[:60]}"')
    options.list_name = name


_NEEDS = ("extlists",)

EXTENSION = Extension(
    "extlists",
    _NEEDS,
    dialect="RFC 6134",
    matches=(MatchSpec("list", _link, _NEEDS, captures=True, check=_check),),
    tests=(TestSpec("valid_ext_list", _NEEDS, (Param("list names", Kind.STRINGS),), link=_valid),),
    tags=(TagSpec("list", ("redirect",), _NEEDS, amend=_amend),),
)
