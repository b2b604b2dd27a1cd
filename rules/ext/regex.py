"""regex: the match type :regex and the modifier :quoteregex.

Specification: draft-ietf-sieve-regex (draft-murchison-sieve-regex-07). Complete: yes, in the syntax of
google-re2, which has POSIX extended expressions without backreferences; linear in the text, with limits on a
pattern's size and memory. With "variables" ${0} is the matching text, ${1} and on are the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rules.bound import constants
from rules.context import StateKey
from rules.errors import RunError
from rules.ext.variables import modifier_tag
from rules.limits import MATCH_VALUES
from rules.match import Matcher, expand, missed, show
from rules.regexes import Pattern, compile_pattern, required_literal
from rules.registry import Extension, MatchSpec

if TYPE_CHECKING:
    from rules.bound import Bound, Texts
    from rules.checker import Checker
    from rules.context import Run
    from rules.lookup import Owner, Tables
    from rules.registry import ComparatorSpec
    from rules.sources import Source

_COUNT: StateKey[list[int]] = StateKey("regex", lambda: [0])
_FOLDING = ("i;ascii-casemap", "i;unicode-casemap")
_COMPARATORS = (*_FOLDING, "i;octet")


def _check(checker: Checker, bound: Bound) -> None:
    name = bound.tag_text("comparator") or _FOLDING[0]
    if isinstance(name, str) and name not in _COMPARATORS:
        message = f'":regex" cannot be used with the comparator "{name[:40]}"'
        checker.error(checker.where_tag(bound, "comparator"), "comparator", message, 'use "i;octet"')
    index = len(bound.args) - 1
    for item, key in enumerate(bound.keys):
        if isinstance(key, str):
            found = compile_pattern(key, checker.limits, fold=False)
            if isinstance(found, str):
                message = f"wrong regular expression: {found}"
                checker.error(
                    checker.where(bound, index, item),
                    "regex",
                    message,
                    "in a string every \\ is written \\\\",
                )


def _patterns(run: Run, keys: Sequence[str], fold: bool) -> list[tuple[str, Pattern]]:
    out: list[tuple[str, Pattern]] = []
    for key in keys:
        pattern = compile_pattern(key, run.limits, fold=fold)
        if isinstance(pattern, str) and len(key) > run.limits.regex_size:
            raise RunError(pattern)
        if isinstance(pattern, str):
            # Only variables can bring one here: it matches nothing, and the owner can see why.
            if len(run.debug) < run.limits.debug_lines:
                run.debug.append(f"wrong regular expression {key[:60]!r}: {pattern}")
            continue
        out.append((key, pattern))
    return out


def _link(bound: Bound, comparator: ComparatorSpec, keys: Texts) -> Matcher:
    fold = comparator.name in _FOLDING
    known = constants(keys)

    def match(run: Run, values: Sequence[str]) -> bool:
        sources = known if known is not None else expand(run, keys)
        if known is None:
            count = run.get(_COUNT)
            count[0] += len(sources)
            if count[0] > run.limits.regexes:
                raise RunError(f"more than {run.limits.regexes} regular expressions made of variables")
        patterns = _patterns(run, sources, fold)
        for value in values:
            for source, pattern in patterns:
                found = pattern.search(value)
                if found is not None:
                    run.seen, run.key = value, source
                    if run.captures:
                        groups = [group or "" for group in found.groups("")]
                        run.variables.matched = (found.group(0), *groups)[:MATCH_VALUES]
                    return True
        return missed(run, values, show(sources))

    return match


def _indexable(bound: Bound) -> bool:
    keys = constants(bound.keys)
    return keys is not None and all(len(required_literal(key)) > 2 for key in keys)


def _enter(tables: Tables, bound: Bound, source: Source, owner: Owner) -> None:
    """Looks for a text that every match has in it."""
    assert bound.comparator is not None
    fold = bound.comparator.name in _FOLDING
    # Without case re2 takes two characters beyond ASCII for k and s (Kelvin and long s): they are folded here too.
    table = tables.texts(source, "regex fold" if fold else "regex", _fold if fold else str)
    for key in constants(bound.keys) or ():
        literal = required_literal(key)
        table.add_perhaps(_fold(literal) if fold else literal, owner)


def _fold(text: str) -> str:
    return text.upper() if text.isascii() else text.replace("\u212a", "K").replace("\u017f", "S").upper()


EXTENSION = Extension(
    "regex",
    ("regex",),
    dialect="draft-ietf-sieve-regex",
    matches=(
        MatchSpec(
            "regex", _link, ("regex",), captures=True, check=_check, enter=_enter, indexable=_indexable
        ),
    ),
    tags=(modifier_tag("quoteregex", ("regex",)),),
)
