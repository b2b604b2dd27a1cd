"""Which argument goes to which parameter: decided once for all uses of a word with arguments of the same shape.

Specification: RFC 5228 2.6 (positional and tagged arguments, optional ones). A ``Plan`` holds what was
decided, and every problem of the shape; the checker applies it. Also the words that stand for what an
extension did not bring (RFC 5463).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.ast import Command, Test
from rules.bound import Bound, Value
from rules.errors import RunError
from rules.registry import (
    CommandFn,
    CommandSpec,
    Kind,
    MatchSpec,
    Param,
    PartSpec,
    TagSpec,
    TestFn,
    TestSpec,
    find_capability,
)

if TYPE_CHECKING:
    from rules.checker import Checker
    from rules.context import Run

_KIND_SHAPE = {Kind.STRING: ("S",), Kind.STRINGS: ("S", "L"), Kind.NUMBER: ("N",)}
_SHAPE_NAME = {"S": "a string", "L": "a list of strings", "N": "a number"}


def _absent(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        raise RunError(f'"{bound.name}" needs an extension that is not there (ihave said so)')

    return act


def _absent_test(bound: Bound) -> TestFn:
    def test(run: Run) -> bool:
        raise RunError(f'"{bound.name}" needs an extension that is not there (ihave said so)')

    return test


UNAVAILABLE_COMMAND = CommandSpec("unavailable", link=_absent)
_DEFAULT_MATCH, _DEFAULT_PART = "is", "all"  # RFC 5228 2.7.1, 2.7.4
UNAVAILABLE_TEST = TestSpec("unavailable", link=_absent_test, reads=("state",))


@dataclass(slots=True)
class Problem:
    arg: int  # index of the argument, -1: the word itself
    code: str
    message: str
    cure: str


@dataclass(slots=True, eq=False)
class Plan:
    """How arguments of one shape go to the parameters of one word."""

    positional: tuple[int, ...]  # argument index for each parameter, -1: left out
    tags: tuple[tuple[str, int], ...]  # tag, index of its argument or -1
    specs: tuple[TagSpec, ...]
    problems: tuple[Problem, ...]
    match: MatchSpec | None = None
    part: PartSpec | None = None
    compares: bool = False  # a comparator is named
    checks: tuple[TagSpec, ...] = ()
    constants: tuple[int, ...] = ()
    plain_tags: Mapping[str, Value | None] | None = None  # the tags, when none of them has an argument
    simple: bool = False  # strings only, none left out, tags without arguments and checks, no problems


def unavailable_plan() -> Plan:
    """The plan of a word that an extension did not bring."""
    return Plan((), (), (), (Problem(-1, "unavailable", "", ""),))


class Planner:
    """Matches one shape of arguments to the parameters of one word."""

    def __init__(self, checker: Checker, spec: CommandSpec | TestSpec, node: Command | Test) -> None:
        self.checker = checker
        self.spec = spec
        self.node = node
        self.known = checker.registry.tags_of(spec)
        self.problems: list[Problem] = []
        self.tags: dict[str, int] = {}
        self.used: dict[str, TagSpec] = {}
        self.constants: list[int] = []

    def plan(self) -> Plan:
        """The plan, with every problem of this shape."""
        free = self._take_tags()
        positional = self._place(free)
        self._combinations()
        plan = Plan(positional, tuple(self.tags.items()), tuple(self.used.values()), tuple(self.problems))
        registry = self.checker.registry
        if self.spec.matches:
            plan.match = registry.matches[_DEFAULT_MATCH]
        if isinstance(self.spec, TestSpec) and self.spec.part:
            plan.part = registry.parts[_DEFAULT_PART]
        for name, tag in self.used.items():
            if tag.group == "match type":
                plan.match = registry.matches[name]
            elif tag.group == "address part":
                plan.part = registry.parts[name]
            elif tag.group == "comparator":
                plan.compares = True
        plan.checks = tuple(tag for tag in self.used.values() if tag.check is not None)
        plan.constants = tuple(self.constants)
        if all(place < 0 for place in self.tags.values()):
            plan.plain_tags = MappingProxyType(dict.fromkeys(self.tags))
        plan.simple = (
            plan.plain_tags is not None
            and not plan.checks
            and not plan.problems
            and all(place >= 0 and self.node.shape[place] in ("S", "L") for place in positional)
        )
        return plan

    def _problem(self, arg: int, code: str, message: str, cure: str) -> None:
        self.problems.append(Problem(arg, code, message, cure))

    def _take_tags(self) -> list[int]:
        shape, index = self.node.shape, 0
        free: list[int] = []
        while index < len(shape):
            item = shape[index]
            if not item.startswith(":"):
                free.append(index)
                index += 1
                continue
            index = self._take_tag(item[1:], index)
        return free

    def _take_tag(self, name: str, index: int) -> int:
        """Takes the tag at ``index`` and its argument; returns the next index."""
        shape = self.node.shape
        tag = self.known.get(name)
        if tag is None:
            near = self.checker.near_tag(name, self.known)
            cure = f'did you mean ":{near}"?' if near else "remove it"
            self._problem(index, "unknown-tag", f'"{self.node.name}" has no tag ":{name}"', cure)
            return index + 1
        if tag.needs and self.checker.active.isdisjoint(tag.needs) and not self.checker.lost_require:
            need = find_capability(self.checker.registry, tag.needs, self.checker.allowed) or tag.needs[0]
            self._problem(
                index,
                "missing-require",
                f'the tag ":{name}" needs the capability "{need}"',
                f'add "{need}" to require',
            )
        if name in self.used:
            self._problem(index, "tag-twice", f'the tag ":{name}" is given twice', "remove one")
        self._one_of_group(tag, index)
        self.used[name] = tag
        self.tags[name] = -1
        if tag.kind is None:
            return index + 1
        if index + 1 < len(shape) and shape[index + 1] in _KIND_SHAPE[tag.kind]:
            self.tags[name] = index + 1
            if tag.constant:
                self.constants.append(index + 1)
            return index + 2
        if not tag.optional:
            self._problem(
                index, "tag-argument", f'the tag ":{name}" needs a {tag.kind.value} behind it', "add it"
            )
        return index + 1

    def _one_of_group(self, tag: TagSpec, index: int) -> None:
        if tag.group:
            for other in self.used.values():
                if other.group == tag.group and other.name != tag.name:
                    message = f'":{other.name}" and ":{tag.name}" exclude each other (one {tag.group} only)'
                    self._problem(index, "tag-conflict", message, "remove one")
                    return

    def _combinations(self) -> None:
        for tag in self.used.values():
            for other in tag.requires:
                if other not in self.used:
                    self._problem(-1, "tag-requires", f'":{tag.name}" needs ":{other}"', f"add :{other}")
            for other in tag.conflicts:
                if other in self.used:
                    self._problem(
                        -1, "tag-conflict", f'":{tag.name}" cannot be used with ":{other}"', "remove one"
                    )

    def _place(self, free: list[int]) -> tuple[int, ...]:
        params = self.spec.params
        missing = len(params) - len(free)
        optional = [index for index, param in enumerate(params) if param.optional]
        if missing > 0 and len(optional) >= missing:
            left_out = self._left_out(free, optional, missing)
        else:
            left_out = set()
            if missing > 0:
                self._problem(-1, "arguments", _too_few(self.node.name, params, len(free)), _usage(self.spec))
            elif missing < 0:
                message = f'"{self.node.name}" has {-missing} argument{"s" if missing < -1 else ""} too many'
                self._problem(free[missing], "arguments", message, self._tag_for(free) or _usage(self.spec))
        places: list[int] = []
        rest = iter(free)
        for index, param in enumerate(params):
            place = -1 if index in left_out else next(rest, -1)
            places.append(place)
            if place >= 0:
                self._fits(param, place)
        return tuple(places)

    def _tag_for(self, free: list[int]) -> str:
        """When an argument too many would fit a tag that was not written: that it may be missing."""
        shapes = {self.node.shape[place] for place in free}
        names = [
            f":{name}"
            for name, tag in self.known.items()
            if tag.kind is not None
            and name not in self.used
            and tag.group not in ("comparator", "match type")
            and not shapes.isdisjoint(_KIND_SHAPE[tag.kind])
            and (not tag.needs or not self.checker.active.isdisjoint(tag.needs))
            and not any(tag.group and tag.group == other.group for other in self.used.values())
        ]
        return f"is {' or '.join(names)} missing before it?" if 0 < len(names) <= 3 else ""

    def _left_out(self, free: list[int], optional: list[int], missing: int) -> set[int]:
        """Which optional parameters are absent: the first choice that fits the kinds, else the first ones."""
        params = self.spec.params
        if missing < len(optional):
            for skip in optional:
                shapes = [param.kind for index, param in enumerate(params) if index != skip]
                if all(
                    self.node.shape[place] in _KIND_SHAPE[kind]
                    for place, kind in zip(free, shapes, strict=False)
                ):
                    return {skip}
        return set(optional[:missing])

    def _fits(self, param: Param, place: int) -> None:
        shape = self.node.shape[place]
        if shape not in _KIND_SHAPE[param.kind]:
            message = (
                f'"{self.node.name}": {param.name} must be a {param.kind.value}, not {_SHAPE_NAME[shape]}'
            )
            self._problem(place, "arguments", message, _usage(self.spec))
        elif param.constant:
            self.constants.append(place)


def _too_few(name: str, params: Sequence[Param], given: int) -> str:
    absent = [param.name for param in params if not param.optional][given:]
    return f'"{name}" lacks {" and ".join(absent) or "an argument"}'


def _usage(spec: CommandSpec | TestSpec) -> str:
    words = [spec.name] + [
        f"[{param.name}]" if param.optional else f"<{param.name}: {param.kind.value}>"
        for param in spec.params
    ]
    return "usage: " + " ".join(words)
