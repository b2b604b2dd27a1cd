"""A command or test whose arguments have found their parameters: what the checker hands to checks, compiler and
links.

Plain data. Strings are ``Text``: a ``str``, or a ``Template`` when they hold variables. Accessors raise
KeyError or TypeError only when an extension asks for what its own specification does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.variables import Template

if TYPE_CHECKING:
    from rules.ast import Command, Test
    from rules.planner import Plan
    from rules.registry import CommandSpec, ComparatorSpec, MatchSpec, PartSpec, TagSpec, TestSpec

Text = str | Template
Texts = tuple[Text, ...]
Value = Texts | int
NO_TAGS: Mapping[str, Value | None] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class Bound:
    """One use of a word. ``line`` and ``column`` are 1-based."""

    name: str
    spec: CommandSpec | TestSpec
    node: Command | Test
    plan: Plan
    line: int
    column: int
    tags: Mapping[str, Value | None]
    args: Sequence[Value | None] = ()
    tests: Sequence[Bound] = ()
    block: list[Bound] | None = None
    comparator: ComparatorSpec | None = None
    match: MatchSpec | None = None
    part: PartSpec | None = None
    constant: bool | None = None  # the value of a test that is known at compile time

    @property
    def tag_specs(self) -> tuple[TagSpec, ...]:
        """The specifications of the tags that were given."""
        return self.plan.specs

    def has(self, tag: str) -> bool:
        """Was the tag given?"""
        return tag in self.tags

    def texts(self, index: int) -> Texts:
        """The strings of a string or string list parameter; empty when it was left out."""
        value = self.args[index]
        if value is None:
            return ()
        assert isinstance(value, tuple)
        return value

    def text(self, index: int) -> Text:
        """The one string of a parameter; the empty string when it was left out."""
        texts = self.texts(index)
        return texts[0] if texts else ""

    def number(self, index: int) -> int:
        """The number of a parameter; 0 when it was left out."""
        value = self.args[index]
        assert not isinstance(value, tuple)
        return value or 0

    def given(self, index: int) -> bool:
        """Was the optional parameter given?"""
        return self.args[index] is not None

    def tag_texts(self, tag: str) -> Texts | None:
        """The strings of a tag's argument, None when the tag was not given."""
        value = self.tags.get(tag)
        return value if isinstance(value, tuple) else None

    def tag_text(self, tag: str) -> Text | None:
        """The string of a tag's argument, None when the tag was not given."""
        texts = self.tag_texts(tag)
        return texts[0] if texts else None

    def tag_number(self, tag: str) -> int | None:
        """The number of a tag's argument, None when the tag was not given."""
        value = self.tags.get(tag)
        return value if isinstance(value, int) else None

    @property
    def keys(self) -> Texts:
        """The key list of a matching test: its last parameter."""
        return self.texts(len(self.args) - 1)


def constants(texts: Texts) -> tuple[str, ...] | None:
    """The strings when none of them holds a variable, else None."""
    for text in texts:
        if type(text) is not str:
            return None
    return texts  # type: ignore[return-value]  # just shown
