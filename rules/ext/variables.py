"""variables: set with its modifiers, and the test string. References in strings are ``rules/variables.py``.

Specification: RFC 5229 sections 4 and 5; :encodeurl from RFC 5435 6, :quoteregex from the regex draft (those
tags are listed by their own files). Complete: yes. ``string`` compares with i;ascii-casemap by default, as
the base language says of all tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from rules.errors import RunError
from rules.limits import DEFAULT
from rules.match import expand, link_match
from rules.registry import (
    CommandFn,
    CommandSpec,
    Extension,
    Kind,
    Namespace,
    Param,
    TagSpec,
    TestFn,
    TestSpec,
)
from rules.variables import Local, Outer, Template, cut, octets, parse_name

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.sources import Source

# RFC 5229 4.1: modifiers are applied from the highest precedence to the lowest.
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_ASCII_UPPER = {lower: lower - 32 for lower in range(ord("a"), ord("z") + 1)}


def _lengthen(value: str, most: int, change: Callable[[str], str]) -> str:
    """Changes each character; what would not fit any more is left out whole (RFC 5229 4.1, 6)."""
    out: list[str] = []
    for char in value:
        piece = change(char)
        most -= octets(piece)
        if most < 0:
            break
        out.append(piece)
    return "".join(out)


def _quote_wildcards(value: str, most: int) -> str:
    return _lengthen(value, most, lambda char: "\\" + char if char in "\\*?" else char)


def _quote_regex(value: str, most: int) -> str:
    return _lengthen(value, most, lambda char: "\\" + char if char in "\\^$.[]|()?*+{}" else char)


def _encode_url(value: str, most: int) -> str:
    return _lengthen(value, most, lambda char: quote(char, safe="-._~", errors="replace"))


MODIFIERS: tuple[tuple[str, int, Callable[[str, int], str]], ...] = (
    ("lower", 40, lambda value, most: value.translate(_ASCII_LOWER)),
    ("upper", 40, lambda value, most: value.translate(_ASCII_UPPER)),
    ("lowerfirst", 30, lambda value, most: value[:1].translate(_ASCII_LOWER) + value[1:]),
    ("upperfirst", 30, lambda value, most: value[:1].translate(_ASCII_UPPER) + value[1:]),
    ("quotewildcard", 20, _quote_wildcards),
    ("quoteregex", 20, _quote_regex),
    ("encodeurl", 15, _encode_url),
    ("length", 10, lambda value, most: str(len(value))),
)


def modifier_tag(name: str, needs: tuple[str, ...]) -> TagSpec:
    """The tag of a modifier of ``set``; only one of each precedence may be used."""
    precedence = next(number for modifier, number, _ in MODIFIERS if modifier == name)
    return TagSpec(name, ("set",), needs, group=f"modifier of precedence {precedence}")


def _namespaces(run: Run) -> dict[str, Namespace]:
    assert run.script is not None
    return {
        name: space
        for name, space in run.script.registry.namespaces.items()
        if not space.needs or any(need in run.script.uses for need in space.needs)
    }


def assign(run: Run, name: str, value: str) -> None:
    """Assigns to a variable by its written name; raises RunError when that is none."""
    target = parse_name(name, _namespaces(run), run.limits)
    match target:
        case Local(local):
            run.variables.set(local, value)
        case Outer(namespace, rest):
            assert namespace.write is not None
            namespace.write(run, rest, cut(value, run.limits.variable_size))
        case str():
            raise RunError(target)


def read_variable(run: Run, name: str) -> str:
    """The value of a variable by its written name; empty when that is none."""
    target = parse_name(name, _namespaces(run), run.limits)
    match target:
        case Local(local):
            return run.variables.get(local)
        case Outer(namespace, rest):
            return namespace.read(run, rest)
        case _:
            return ""


def _check_set(checker: Checker, bound: Bound) -> None:
    name = bound.text(0)
    checker.check_variable(name, checker.where(bound, 0))
    names = checker.scope.marks.setdefault("set", set())  # RFC 6609 3.4.1: "global" must come first
    if isinstance(names, set) and isinstance(name, str):
        names.add(name.lower())
        if len(names) == checker.limits.variables + 1:
            message = f"a script has at most {checker.limits.variables} variables"
            checker.error(checker.where(bound, 0), "variables", message, "use fewer")


def _set(bound: Bound) -> CommandFn:
    changes = [change for name, _, change in MODIFIERS if bound.has(name)]
    name, value = bound.text(0), bound.text(1)

    def simple(run: Run) -> None:
        text = value if type(value) is str else run.expand(value)
        for change in changes:
            text = change(text, run.limits.variable_size)
        run.seen, run.key = text, local
        run.variables.set(local, text)

    local = name.lower() if isinstance(name, str) and "." not in name else ""
    if local and name.isidentifier() and len(local) <= DEFAULT.variable_name:  # type: ignore[union-attr]  # a str, as local says
        return simple

    def act(run: Run) -> None:
        text = run.expand(value)
        for change in changes:
            text = change(text, run.limits.variable_size)
        target = run.expand(name)
        run.seen, run.key = text, target
        assign(run, target, text)

    return act


@dataclass(frozen=True, slots=True)
class StringSource:
    """A string with variables in it."""

    written: str
    text: str | Template = field(compare=False)

    def values(self, run: Run) -> Sequence[str]:
        """With the variables put in."""
        return (run.expand(self.text),)


def _sources(bound: Bound) -> tuple[Source, ...] | None:
    if bound.match is None or bound.match.whole:
        return None  # :count looks at all strings together
    return tuple(
        StringSource(text if isinstance(text, str) else text.source, text) for text in bound.texts(0)
    )


def _string(bound: Bound) -> TestFn:
    match = link_match(bound)
    sources = bound.texts(0)
    counts = bound.match is not None and bound.match.name == "count"

    def test(run: Run) -> bool:
        values = expand(run, sources)
        if counts:  # RFC 5229 5: :count counts the strings that are not empty
            values = tuple(value for value in values if value)
        return match(run, values)

    return test


_NEEDS = ("variables",)
_SOURCE = Param("source", Kind.STRINGS)

EXTENSION = Extension(
    "variables",
    _NEEDS,
    dialect="RFC 5229",
    commands=(
        CommandSpec(
            "set",
            _NEEDS,
            (Param("name", Kind.STRING, constant=True), Param("value", Kind.STRING)),
            check=_check_set,
            link=_set,
            keeps_message=True,
            writes=("variables",),
        ),
    ),
    tests=(
        TestSpec(
            "string",
            _NEEDS,
            (_SOURCE, Param("keys", Kind.STRINGS)),
            link=_string,
            matches=True,
            sources=_sources,
            depends=("variables",),
        ),
    ),
    tags=tuple(
        modifier_tag(name, _NEEDS)
        for name in ("lower", "upper", "lowerfirst", "upperfirst", "quotewildcard", "length")
    ),
)
