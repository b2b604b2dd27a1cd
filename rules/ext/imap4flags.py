"""imap4flags: setflag, addflag, removeflag, hasflag and the :flags tag.

Specification: RFC 5232. Complete: yes (variable names need "variables"). Choices: names that cannot be IMAP
flags are left out, with a warning where they are constant; \\Recent is left out (2: a script cannot set it);
flags are compared without case and keep the writing of their first use, system flags the standard's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rules.bound import Text, Texts, constants
from rules.context import StateKey
from rules.ext.variables import assign, read_variable
from rules.limits import Limits
from rules.match import expand, link_match
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TagSpec, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.options import ActionOptions
    from rules.sources import Source

_SYSTEM = {
    name.lower(): name for name in ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft")
}  # RFC 3501 2.3.2
# RFC 3501 9: flag-keyword = atom. RFC 5788 keywords begin with $.
_KEYWORD = re.compile(r"[!#$&'+,\-./0-9:;<=>?@A-Z^_`a-z|~}]+")


def flag_of(word: str) -> str | None:
    """The flag in its proper writing, None when a script cannot set it."""
    if word.startswith("\\"):
        return _SYSTEM.get(word.lower())
    return word if _KEYWORD.fullmatch(word) else None


def flags_of(texts: Iterable[str], most: int = 128, longest: int = 255) -> tuple[str, ...]:
    """RFC 5232 section 2: strings of blank-separated flags as a list without duplicates."""
    found: dict[str, str] = {}
    for text in texts:
        for word in text.split():
            flag = flag_of(word) if len(word) <= longest else None
            if flag is not None and len(found) < most:
                found.setdefault(flag.lower(), flag)
    return tuple(found.values())


def _limited(run: Run, texts: Iterable[str]) -> tuple[str, ...]:
    return flags_of(texts, run.limits.flags, run.limits.flag_size)


def _check_flags(checker: Checker, texts: Texts, places: Sequence[int]) -> None:
    for text, pos in zip(texts, places, strict=True):
        if not isinstance(text, str):
            continue
        for word in text.split():
            if flag_of(word) is None:
                known = ", ".join(_SYSTEM.values()).replace("\\", "\\\\")
                message = f'"{word[:40]}" is not a flag that a script can set; it is left out'
                checker.warn(
                    pos,
                    "flag",
                    message,
                    f"system flags are {known}; keywords have no blanks or ( ) {{ % * \\",
                )


def _check_command(checker: Checker, bound: Bound) -> None:
    _check_variable(checker, bound, 0)
    places = [checker.where(bound, 1, item) for item in range(len(bound.texts(1)))]
    _check_flags(checker, bound.texts(1), places)


def _check_variable(checker: Checker, bound: Bound, index: int) -> None:
    if not bound.given(index):
        return
    if not checker.has("variables"):
        message = f'a variable\'s name in "{bound.name}" needs the capability "variables"'
        checker.error(checker.where(bound, index), "missing-require", message, 'add "variables" to require')
        return
    for item, text in enumerate(bound.texts(index)):
        checker.check_variable(text, checker.where(bound, index, item))


def _change(bound: Bound) -> CommandFn:
    variable = bound.text(0) if bound.given(0) else None
    words = bound.texts(1)
    name = bound.name

    known = constants(words)
    if variable is None and known is not None and name == "addflag":
        return _add_constant(known)

    def act(run: Run) -> None:
        target = None if variable is None else run.expand(variable)
        before = run.flags if target is None else _limited(run, [read_variable(run, target)])
        given = _limited(run, expand(run, words))
        if name == "setflag":
            after = given
        elif name == "addflag":
            after = _limited(run, [*before, *given])
        else:
            gone = {flag.lower() for flag in given}
            after = tuple(flag for flag in before if flag.lower() not in gone)
        run.seen, run.key = " ".join(after), target or ""
        if target is None:
            run.flags = after
        else:
            assign(run, target, " ".join(after))

    return act


@dataclass(slots=True)
class _Seen:
    """The flags as a set, for as long as they are the same."""

    flags: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()


_SEEN: StateKey[_Seen] = StateKey("imap4flags", _Seen)


def _add_constant(words: tuple[str, ...]) -> CommandFn:
    """addflag as rules mostly have it; what is there already costs nothing."""
    ready: tuple[Limits | None, tuple[str, ...]] = (None, ())

    def act(run: Run) -> None:
        nonlocal ready
        limits, given = ready
        if limits is not run.limits:
            limits, given = ready = run.limits, _limited(run, words)
        flags = run.flags
        seen = run.state.get(_SEEN.name)
        if not isinstance(seen, _Seen):
            seen = run.get(_SEEN)
        if seen.flags is not flags:
            seen.flags, seen.known = flags, frozenset(flags)
        if not seen.known.issuperset(given):
            run.flags = flags = _limited(run, [*flags, *given])
        if run.trace is not None and len(run.trace) < limits.trace_steps:
            run.seen = " ".join(flags)

    return act


def _check_hasflag(checker: Checker, bound: Bound) -> None:
    _check_variable(checker, bound, 0)
    if bound.match is not None and bound.match.name in ("is", "contains", "matches"):
        # RFC 5232 4: a key may hold several flags; each is a key of its own.
        keys: list[Text] = []
        for key in bound.keys:
            keys.extend((key.split() or [key]) if isinstance(key, str) else [key])
        bound.args = (*bound.args[:-1], tuple(keys))


@dataclass(frozen=True, slots=True)
class FlagsSource:
    """The script's current flags."""

    def values(self, run: Run) -> Sequence[str]:
        """RFC 5232 4"""
        return run.flags


def _sources(bound: Bound) -> tuple[Source, ...] | None:
    return None if bound.given(0) else (FlagsSource(),)


def _hasflag(bound: Bound) -> TestFn:
    variables = bound.texts(0) if bound.given(0) else None
    match = link_match(bound)

    def test(run: Run) -> bool:
        if variables is None:
            return match(run, run.flags)
        texts = [read_variable(run, name) for name in expand(run, variables)]
        return match(run, _limited(run, texts))

    return test


def _check_tag(checker: Checker, bound: Bound) -> None:
    texts = bound.tag_texts("flags") or ()
    _check_flags(checker, texts, [checker.where_tag(bound, "flags", item) for item in range(len(texts))])


def _amend(run: Run, bound: Bound, options: ActionOptions) -> None:
    options.flags = _limited(run, expand(run, bound.tag_texts("flags") or ()))


_PARAMS = (Param("variable name", Kind.STRING, optional=True), Param("flags", Kind.STRINGS))
_NEEDS = ("imap4flags",)

EXTENSION = Extension(
    "imap4flags",
    _NEEDS,
    dialect="RFC 5232",
    commands=tuple(
        CommandSpec(name, _NEEDS, _PARAMS, check=_check_command, link=_change, keeps_message=True)
        for name in ("setflag", "addflag", "removeflag")
    ),
    tests=(
        TestSpec(
            "hasflag",
            _NEEDS,
            (Param("variable names", Kind.STRINGS, optional=True), Param("flags", Kind.STRINGS)),
            check=_check_hasflag,
            link=_hasflag,
            matches=True,
            sources=_sources,
            depends=("flags",),
        ),
    ),
    tags=(TagSpec("flags", ("keep", "fileinto"), _NEEDS, Kind.STRINGS, check=_check_tag, amend=_amend),),
)
