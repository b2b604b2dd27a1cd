"""The words of the language: how an extension describes them, and the index the checker looks them up in.

An ``Extension`` is a plain value (``rules/ext/NAME.py``; listed in ``rules/ext/__init__.py``). It names its
capability strings and brings commands, tests, tags for commands and tests of others, match types, comparators
and variable namespaces. Each word has a ``check`` (compile time: look at the bound arguments, report errors
and warnings) and a ``link`` (once per use: turn the bound arguments into a function that runs). Nothing else
in the engine knows a single extension by name, except ``if``, ``elsif``, ``else``, ``require``, ``allof``,
``anyof``, ``not`` (the compiler's own).

Invariant: what is not in the registry does not exist, what is in it is announced by ``capabilities()`` in the
registry's order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rules.bound import Bound, Texts
    from rules.checker import Checker
    from rules.compiler import Emitter
    from rules.context import Run
    from rules.formula import Atom
    from rules.lookup import Owner, Tables
    from rules.match import Matcher
    from rules.options import ActionOptions
    from rules.sources import Source
    from rules.view import Field


class Kind(Enum):
    """What an argument is."""

    STRING = "string"
    STRINGS = "string list"
    NUMBER = "number"


class Tests(Enum):
    """How many tests a command or test takes."""

    __test__ = False

    NONE = "no test"
    ONE = "one test"
    LIST = "a list of tests"


@dataclass(frozen=True, slots=True)
class Param:
    """A positional argument. At most one of a word's parameters is optional; ``constant`` forbids variables."""

    name: str
    kind: Kind
    optional: bool = False
    constant: bool = False


CommandFn = Callable[
    ["Run"], "int | None"
]  # None: go on; a number: the step to go on with (context.STOP, ...)
TestFn = Callable[["Run"], bool]
CheckFn = Callable[["Checker", "Bound"], None]
FieldsFn = Callable[["Bound"], "Callable[[Run, Sequence[bytes]], list[Field]]"]
PickFn = Callable[["Bound"], "Callable[[Run, list[Field]], list[Field]]"]
TurnFn = Callable[["Bound"], "Callable[[Run, Field], list[str]]"]
AmendFn = Callable[["Run", "Bound", "ActionOptions"], None]


@dataclass(frozen=True, slots=True)
class TagSpec:
    """A tagged argument.

    ``on`` names the commands and tests it belongs to. ``needs``: any one of these capabilities allows it (empty: always).
    ``kind`` is its argument's kind or None. Of the tags of one ``group`` only one may be used. ``conflicts`` lists tags it
    excludes. ``check`` is called once per use, after binding. For tests on header fields, ``fields`` replaces where the
    fields come from (``:mime``), ``pick`` selects among them (``:index``) and ``turn`` makes the values to be matched out of
    a field (``:type``, ``:param``); a test with such a tag is not merged. For actions, ``amend`` puts the tag's meaning
    into the action's options (``:copy``, ``:flags``). A ``repeated`` tag may be used more than once (its arguments are joined).
    """

    name: str
    on: tuple[str, ...]
    needs: tuple[str, ...] = ()
    kind: Kind | None = None
    group: str = ""
    requires: tuple[str, ...] = ()  # other tags that must be there too
    conflicts: tuple[str, ...] = ()
    constant: bool = False
    optional: bool = False  # the argument may be absent
    check: CheckFn | None = None
    fields: FieldsFn | None = None
    pick: PickFn | None = None
    turn: TurnFn | None = None
    amend: AmendFn | None = None


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command. Either ``link`` (it acts) or ``emit`` (it is a control structure) is given.

    ``keeps_message`` promises that it changes nothing a test of header, envelope or body may look at: only such commands may
    stand in a run of rules that is merged. ``effects`` is what the compiled script says of itself: "reject", "include",
    "body". ``ends`` says that nothing behind it in the block is reached. ``writes``: what it changes for tests behind it, of
    "flags" and "variables".
    """

    name: str
    needs: tuple[str, ...] = ()
    params: tuple[Param, ...] = ()
    tests: Tests = Tests.NONE
    block: bool = False
    check: CheckFn | None = None
    link: Callable[[Bound], CommandFn] | None = None
    emit: Callable[[Emitter, Bound], None] | None = None
    enter: Callable[[Checker, Bound], Callable[[], None]] | None = (
        None  # before the block; returns what to do behind it
    )
    keeps_message: bool = False
    effects: tuple[str, ...] = ()
    ends: bool = False
    matches: bool = False
    writes: tuple[str, ...] = ("flags", "variables")


@dataclass(frozen=True, slots=True)
class TestSpec:
    """A test. ``constant`` returns its value when it is known at compile time. ``matches`` says that it takes match types and
    comparators; its key list is its last parameter. ``part`` says that it takes address parts. ``reads`` is what it looks at:
    "header", "envelope", "body", "size", "other"; a test that changes something (duplicate) says "state". ``sources`` names where
    its values come from (``rules/sources.py``), None when they are not fixed: then the test takes no part in merging.
    ``depends``: which of "flags" and "variables" its sources read. ``alters``: it changes the message or variables (no rule of
    a script that may use such a test is merged). ``atoms`` is for tests that do not match: the look-ups that
    are all true exactly when the test is (``rules/lookup.py``), None when this use cannot be looked up."""

    __test__ = False

    name: str
    needs: tuple[str, ...] = ()
    params: tuple[Param, ...] = ()
    tests: Tests = Tests.NONE
    check: CheckFn | None = None
    link: Callable[[Bound], TestFn] | None = None
    constant: Callable[[Bound], bool | None] | None = None
    matches: bool = False
    part: bool = False
    reads: tuple[str, ...] = ("other",)
    sources: Callable[[Bound], tuple[Source, ...] | None] | None = None
    depends: tuple[str, ...] = ()
    atoms: Callable[[Bound], tuple[Atom, ...] | None] | None = None
    emit: Callable[[Emitter, Bound], None] | None = None
    alters: bool = False


@dataclass(frozen=True, slots=True)
class ComparatorSpec:
    """A comparator (RFC 4790): ``normal`` maps equal strings to the same string (None: not this way), ``order`` gives a sort
    key, ``substring`` says whether :contains and :matches are defined, ``same_length`` that ``normal`` keeps lengths."""

    name: str
    needs: tuple[str, ...] = ()
    normal: Callable[[str], str] = str
    order: Callable[[str], str | tuple[int, int]] = str
    substring: bool = True
    same_length: bool = True


@dataclass(frozen=True, slots=True)
class MatchSpec:
    """A match type. ``link`` gets (bound, comparator, keys) and returns the matcher; ``substring`` demands a comparator with
    substrings; ``captures`` says that it may set the match variables; ``kind`` is the tag's own argument (":value"). ``enter``
    puts the keys of a use into the look-up tables, if ``indexable`` says that it can; ``whole``: it looks at all values
    together."""

    name: str
    link: Callable[[Bound, ComparatorSpec, Texts], Matcher]
    needs: tuple[str, ...] = ()
    substring: bool = False
    captures: bool = False
    kind: Kind | None = None
    check: CheckFn | None = None
    enter: Callable[[Tables, Bound, Source, Owner], None] | None = None
    indexable: Callable[[Bound], bool] | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class PartSpec:
    """An address part: from (local, domain) to its text, None when the address has no such part. ``raw`` is the address as it
    stands, ``separator`` the account's subaddress delimiters."""

    name: str
    get: Callable[[str, str, str], str | None]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace of variables (RFC 5229 section 3): ``${name.x}``. ``check`` returns an error text for a wrong name."""

    name: str
    read: Callable[[Run, str], str]
    needs: tuple[str, ...] = ()
    write: Callable[[Run, str, str], None] | None = None
    check: Callable[[str], str | None] | None = None


@dataclass(frozen=True, slots=True)
class Extension:
    """Everything one file of ``rules/ext`` brings. ``default`` False: only when asked for by name in ``capabilities=``."""

    name: str
    capabilities: tuple[str, ...] = ()
    commands: tuple[CommandSpec, ...] = ()
    tests: tuple[TestSpec, ...] = ()
    tags: tuple[TagSpec, ...] = ()
    comparators: tuple[ComparatorSpec, ...] = ()
    matches: tuple[MatchSpec, ...] = ()
    parts: tuple[PartSpec, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    implies: tuple[tuple[str, str], ...] = ()  # requiring the first gives the second too
    default: bool = True
    dialect: str = ""  # RFC or draft, for the manual


def _index_tags(extensions: Sequence[Extension]) -> dict[str, dict[str, TagSpec]]:
    tags: dict[str, dict[str, TagSpec]] = {}
    for extension in extensions:
        for tag in extension.tags:
            for name in tag.on:
                tags.setdefault(name, {})[tag.name] = tag
    return tags


MATCHING = "*match"  # TagSpec.on: every test that takes match types


class Registry:
    """The index of a tuple of extensions; immutable after its making."""

    def __init__(self, extensions: Sequence[Extension]) -> None:
        self.extensions = tuple(extensions)
        self.commands = {spec.name: spec for extension in extensions for spec in extension.commands}
        self.tests = {spec.name: spec for extension in extensions for spec in extension.tests}
        self.comparators = {spec.name: spec for extension in extensions for spec in extension.comparators}
        self.matches = {spec.name: spec for extension in extensions for spec in extension.matches}
        self.parts = {spec.name: spec for extension in extensions for spec in extension.parts}
        self.namespaces = {spec.name: spec for extension in extensions for spec in extension.namespaces}
        self.implies: dict[str, tuple[str, ...]] = {}
        for extension in extensions:
            for one, other in extension.implies:
                self.implies[one] = (*self.implies.get(one, ()), other)
        self.known = tuple(capability for extension in extensions for capability in extension.capabilities)
        self.default = tuple(
            capability
            for extension in extensions
            if extension.default
            for capability in extension.capabilities
        )
        self._tags = _index_tags(extensions)
        self._generic = self._generic_tags()

    def _generic_tags(self) -> dict[str, TagSpec]:
        """The tags of match types and of comparators, for every test that matches."""
        tags = {
            spec.name: TagSpec(
                spec.name, (), spec.needs, spec.kind, group="match type", constant=True, check=spec.check
            )
            for spec in self.matches.values()
        }
        tags["comparator"] = TagSpec("comparator", (), (), Kind.STRING, group="comparator", constant=True)
        tags.update(self._tags.get(MATCHING, {}))
        return tags

    def tags_of(self, spec: CommandSpec | TestSpec) -> dict[str, TagSpec]:
        """Every tag that a word may have."""
        tags: dict[str, TagSpec] = {}
        if spec.matches:
            tags.update(self._generic)
        if isinstance(spec, TestSpec) and spec.part:
            for part in self.parts.values():
                tags[part.name] = TagSpec(part.name, (), part.needs, group="address part")
        tags.update(self._tags.get(spec.name, {}))
        return tags

    def announced(self, capabilities: Collection[str] | None = None) -> tuple[str, ...]:
        """The capability strings in use, in the registry's order."""
        if capabilities is None:
            return self.default
        allowed = frozenset(capabilities)
        return tuple(name for name in self.known if name in allowed)


@cache
def default_registry() -> Registry:
    """The registry of everything the engine has (made once; it never changes)."""
    from rules.ext import EXTENSIONS  # here: the extensions import this module

    return Registry(EXTENSIONS)


def capabilities() -> tuple[str, ...]:
    """The capability strings that are announced by default, in a stable order."""
    return default_registry().default


def find_capability(registry: Registry, needs: Iterable[str], allowed: Collection[str]) -> str:
    """The capability to propose for a word that needs any of ``needs``; empty when none can be had."""
    for name in needs:
        if name in allowed and name in registry.known:
            return name
    return ""


__all__ = [
    "AmendFn",
    "CheckFn",
    "CommandFn",
    "CommandSpec",
    "ComparatorSpec",
    "Extension",
    "Kind",
    "MatchSpec",
    "Namespace",
    "Param",
    "PartSpec",
    "Registry",
    "TagSpec",
    "TestFn",
    "TestSpec",
    "Tests",
    "capabilities",
    "default_registry",
    "find_capability",
]
