"""From the syntax tree to bound commands: every word known, allowed, with the right arguments.

Specification: RFC 5228 2.6 (arguments), 2.9 and 3.2 (require first), 2.10.5; RFC 5463 (ihave: what stands
behind an ihave that fails is not checked). Invariants: all errors of the script are found in one pass; one
fault is reported once; arguments of the same shape are matched to parameters once (``rules/planner.py``), as
scripts have ten thousand alike.
"""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rules import encoded
from rules.ast import Command, Number, Script, Strings, Tag, Test
from rules.bound import NO_TAGS, Bound, Text, Texts, Value
from rules.errors import ScriptError
from rules.limits import Limits
from rules.planner import UNAVAILABLE_COMMAND, UNAVAILABLE_TEST, Plan, Planner, unavailable_plan
from rules.registry import (
    CommandSpec,
    Namespace,
    Registry,
    Tests,
    TestSpec,
    find_capability,
)
from rules.variables import Match, Outer, Template, parse_name, parse_template

if TYPE_CHECKING:
    pass

_DEFAULT_COMPARATOR = "i;ascii-casemap"
_ABSENT = ("missing-require", "unknown-tag")
_PRECEDENCE = {"unknown-tag": 0, "tag-argument": 1, "tag-twice": 2, "tag-conflict": 3, "missing-require": 4}
_GUESSES = 200  # unknown words for which a near one is looked for


@dataclass(slots=True)
class Scope:
    """What extensions keep while a script is checked, by their own key."""

    marks: dict[str, object] = field(default_factory=dict)


class Checker:
    """One check of one script; ``check`` hooks of extensions get it."""

    def __init__(
        self,
        script: Script,
        registry: Registry,
        allowed: Collection[str],
        limits: Limits,
        own_addresses: Collection[str] = (),
    ) -> None:
        self.script = script
        self.registry = registry
        self.allowed = frozenset(allowed)
        self.limits = limits
        self.own_addresses = frozenset(address.lower() for address in own_addresses if address)
        self.active: set[str] = set()
        self.required: set[str] = set()
        self.errors: list[ScriptError] = []
        self.warnings: list[ScriptError] = []
        self.scope = Scope()
        self.depth = 0  # of blocks
        self._lines = _line_starts(script.text)
        self._plans: dict[tuple[int, tuple[str, ...]], Plan] = {}
        self.uses_match = False  # does any string refer to a match variable?
        self._told: set[tuple[str, str]] = set()
        self._guesses = 0
        self._variables = self._encoded = False
        self._refers = "${" in script.text or "$\\{" in script.text
        self._unchecked = 0
        self._deferring = False
        self.lost_require = False  # a require could not be parsed: what it would have allowed is not known

    # -- what check hooks use ---------------------------------------------------------------------------

    def place(self, pos: int) -> tuple[int, int]:
        """1-based line and column of an offset."""
        line = bisect_right(self._lines, pos)
        return line, pos - self._lines[line - 1] + 1

    def error(self, pos: int, code: str, message: str, cure: str = "") -> None:
        """Reports an error at an offset of the text."""
        if not self._unchecked and len(self.errors) < self.limits.errors:
            self.errors.append(ScriptError(*self.place(pos), code, message, cure))

    def warn(self, pos: int, code: str, message: str, cure: str = "") -> None:
        """Reports a warning at an offset of the text."""
        if not self._unchecked and len(self.warnings) < self.limits.warnings:
            self.warnings.append(ScriptError(*self.place(pos), code, message, cure))

    def where(self, bound: Bound, index: int, item: int = 0) -> int:
        """The offset of a parameter (of one of its strings), or of the word when it was left out."""
        plan = bound.plan
        place = plan.positional[index]
        if place < 0:
            return bound.node.pos
        arg = bound.node.args[place]
        return arg.where(item) if isinstance(arg, Strings) else arg.pos

    def where_tag(self, bound: Bound, tag: str, item: int = 0) -> int:
        """The offset of a tag's argument (of one of its strings), or of the tag."""
        plan = bound.plan
        for name, place in plan.tags:
            if name == tag and place >= 0:
                arg = bound.node.args[place]
                return arg.where(item) if isinstance(arg, Strings) else arg.pos
        for arg in bound.node.args:
            if isinstance(arg, Tag) and arg.name == tag:
                return arg.pos
        return bound.node.pos

    def has(self, capability: str) -> bool:
        """Is the capability required (or active by ihave)?"""
        return capability in self.active

    def require(self, capability: str) -> bool:
        """Makes a capability active; False when it is not to be had."""
        if not self.available(capability):
            return False
        self.active.add(capability)
        self.active.update(self.registry.implies.get(capability, ()))
        self._plans = {key: plan for key, plan in self._plans.items() if not plan.problems}
        self._variables = self._refers and "variables" in self.active
        self._encoded = self._refers and "encoded-character" in self.active
        return True

    def available(self, capability: str) -> bool:
        """Could the capability be required?"""
        return capability in self.allowed and capability in self.registry.known

    def defer(self) -> None:
        """From here on, words that are not to be had fail when they are reached, not now (RFC 5463)."""
        self._deferring = True

    def check_variable(self, text: Text, pos: int) -> None:
        """An error unless the text is a name that can be assigned to; a template is judged at run time."""
        if isinstance(text, Template):
            return
        name = parse_name(text, self.active_namespaces(), self.limits)
        if isinstance(name, str):
            self.error(
                pos, "variable-name", name, "a name has letters, digits and _, and begins with a letter"
            )
        elif isinstance(name, Outer) and name.namespace.check and (fault := name.namespace.check(name.name)):
            self.error(pos, "variable-name", fault)

    def active_namespaces(self) -> dict[str, Namespace]:
        """The variable namespaces of the required extensions."""
        return {
            name: space
            for name, space in self.registry.namespaces.items()
            if not space.needs or any(need in self.active for need in space.needs)
        }

    # -- the walk ---------------------------------------------------------------------------------------

    def check(self) -> list[Bound]:
        """Binds the whole script; errors and warnings are in the lists."""
        commands = self.script.commands
        count = 0
        while count < len(commands) and commands[count].name in ("require", ""):
            if commands[count].name:
                self._require(commands[count])
            elif commands[count].shape == ("require",):
                self.lost_require = True
            count += 1
        return self._block(commands[count:])

    def _require(self, command: Command) -> None:
        if command.shape in (("S",), ("L",)) and command.tests and self._no_semicolon(command):
            pass  # what it requires counts all the same
        elif command.shape not in (("S",), ("L",)) or command.tests or command.block is not None:
            self.error(
                command.pos,
                "arguments",
                "require takes a string or a list of strings",
                'require ["fileinto"];',
            )
            return
        strings = command.args[0]
        assert isinstance(strings, Strings)
        for index, name in enumerate(strings.values):
            if self.require(name):
                self.required.add(name)
                continue
            if name in self.registry.known:
                message = f'the capability "{name}" is switched off on this server'
                cure = "ask the administrator, or write the script without it"
            else:
                message = f'the capability "{name[:60]}" is not known'
                near = self._near(name, self.allowed)
                cure = f'did you mean "{near}"?' if near else "remove it from require"
            self.error(strings.where(index), "unknown-capability", message, cure)

    def _block(self, commands: Sequence[Command]) -> list[Bound]:
        bounds: list[Bound] = []
        previous = ""
        ended: Command | None = None
        for command in commands:
            if not command.name:
                previous = "if"
                continue
            if command.name == "require":
                message = "require must stand before all other commands"
                self.error(command.pos, "require-place", message, "move it to the top of the script")
                continue
            if command.name in ("elsif", "else") and previous not in ("if", "elsif"):
                message = f'"{command.name}" must follow an if or elsif'
                self.error(command.pos, "elsif-place", message, "write if, or remove what stands between")
            bound = self._command(command)
            previous = "elsif" if command.name == "else" and command.tests else command.name
            if ended is not None:
                line = self.place(ended.pos)[0]
                message = f'this is never reached: "{ended.name}" in line {line} ends the script'
                self.warn(command.pos, "dead-code", message, "remove it, or move it up")
                ended = None
            if bound is not None:
                bounds.append(bound)
                if isinstance(bound.spec, CommandSpec) and bound.spec.ends and command is not commands[-1]:
                    ended = command
        return bounds

    def _command(self, command: Command) -> Bound | None:
        spec = self.registry.commands.get(command.name)
        if self._deferring and (spec is None or not self._active(spec.needs)):
            return self._unavailable(command)
        if spec is None:
            self._unknown(command, "command", self.registry.commands)
            self._inner(command)
            return None
        if not self._needs(spec.needs, command, "command"):
            self._inner(command)
            return None
        bound = self._bind(command, spec)
        off = self._unchecked
        broken = bool(bound.plan.problems)
        if (
            broken
            or command.tests
            or spec.tests is not Tests.NONE
            or spec.block != (command.block is not None)
        ):
            self._shape_of_body(bound, command, spec, broken)
        if bound.tests and bound.tests[0].constant is False and _asks(bound.tests[0]):
            self._unchecked += 1  # RFC 5463 4: errors in what an absent extension guards are none
        if spec.check is not None and not broken:
            spec.check(self, bound)
        if command.block is not None:
            leave = spec.enter(self, bound) if spec.enter is not None else None
            self.depth += 1
            bound.block = self._block(command.block)
            self.depth -= 1
            if leave is not None:
                leave()
        self._unchecked = off
        return bound

    def _inner(self, command: Command) -> None:
        """Looks into what an unusable command holds, so that its errors are reported too."""
        for test in command.tests:
            self._test(test)
        if command.block is not None:
            self.depth += 1
            self._block(command.block)
            self.depth -= 1

    def _strange(self, test: Bound) -> bool:
        """Was an unknown tag reported of the test? Then what follows it may belong elsewhere."""
        return any(problem.code == "unknown-tag" for problem in test.plan.problems)

    def _shape_of_body(self, bound: Bound, command: Command, spec: CommandSpec, told: bool) -> None:
        if command.tests and spec.tests is Tests.NONE and self._no_semicolon(command):
            return
        if not self._count_tests(command, spec.tests, told):
            return
        if spec.tests is not Tests.NONE and not told:
            self._bind_tests(bound)
            if any(self._strange(test) for test in bound.tests):
                return
        if spec.block and command.block is None and not told:
            if any(self._command_inside(test) for test in command.tests):
                return
            self.error(command.pos, "block", f'"{command.name}" needs a block', "write { ... } behind it")
        elif not spec.block and command.block is not None:
            self.error(command.pos, "block", f'"{command.name}" takes no block', "end it with ;")

    def _no_semicolon(self, command: Command) -> bool:
        """What looks like a test behind a command that takes none may be the next command: then ; is missing."""
        name = command.tests[0].name
        if command.listed or (name in self.registry.tests and name not in self.registry.commands):
            return False
        if command.name == "else" and name == "if":
            self.error(command.pos, "elsif", 'there is no "else if"', "write elsif")
            return True
        message = f'"{command.name}" has no semicolon at its end'
        self.error(command.pos, "semicolon", message, f'add ; before "{name}"')
        return True

    def _command_inside(self, test: Test) -> bool:
        """Does a command stand where the arguments of a test end? Then { is missing before it."""
        return any(
            (inner.name in self.registry.commands and inner.name not in self.registry.tests)
            or self._command_inside(inner)
            for inner in test.tests
        )

    def _count_tests(self, node: Command | Test, wanted: Tests, told: bool) -> bool:
        """Is the number of tests right? When something else is told of the word already, this is not."""
        count = len(node.tests)
        if wanted is Tests.NONE and count:
            first = node.tests[0].name
            tags = (
                self.registry.tags_of(self.registry.tests[node.name])
                if node.name in self.registry.tests
                else {}
            )
            if isinstance(node, Test) and first in tags and first not in self.registry.tests:
                self.error(node.tests[0].pos, "colon", f'the tag "{first}" has no colon', f"write :{first}")
                return False
            if (
                isinstance(node, Test)
                and first in self.registry.commands
                and first not in self.registry.tests
            ):
                message = f'"{first}" is a command: a block is missing here'
                self.error(node.tests[0].pos, "block", message, "write { ... } around what the test decides")
                return False
            if not told:
                cure = "end the arguments before it, or write a comma between two tests"
                self.error(node.pos, "tests", f'"{node.name}" takes no test', cure)
            for inner in node.tests:
                self._test(inner)
            return told and isinstance(node, Command)  # a block would be a further fault
        elif wanted is Tests.ONE and (count != 1 or node.listed):
            message = f'"{node.name}" takes exactly one test'
            cure = "join several with anyof (...) or allof (...)" if count else "write a test behind it"
            self.error(node.pos, "tests", message, cure)
        elif wanted is Tests.LIST and not node.listed:
            self.error(
                node.pos, "tests", f'"{node.name}" takes a list of tests', f"write {node.name} (test, test)"
            )
        else:
            return True
        return False

    def _bind_tests(self, bound: Bound) -> None:
        """Binds the inner tests; behind an ihave that fails in an allof nothing is checked."""
        if not bound.node.tests:
            return
        off = self._unchecked
        tests: list[Bound] = []
        for node in bound.node.tests:
            test = self._test(node)
            if test is None:
                continue
            tests.append(test)
            if (bound.name == "allof" and test.constant is False and _asks(test)) or (
                bound.name == "anyof" and test.constant is True and _asks(test) and test.name == "not"
            ):
                self._unchecked += 1
        self._unchecked = off
        bound.tests = tests

    def _test(self, node: Test) -> Bound | None:
        spec = self.registry.tests.get(node.name)
        if self._deferring and (spec is None or not self._active(spec.needs)):
            return self._unavailable(node)
        if spec is None:
            self._unknown(node, "test", self.registry.tests)
            return None
        if not self._needs(spec.needs, node, "test"):
            return None
        bound = self._bind(node, spec)
        if node.tests or spec.tests is not Tests.NONE:
            if self._count_tests(node, spec.tests, bool(bound.plan.problems)):
                self._bind_tests(bound)
        if not bound.plan.problems:
            if spec.check is not None:
                spec.check(self, bound)
            if spec.constant is not None:
                bound.constant = spec.constant(bound)
        return bound

    # -- binding ----------------------------------------------------------------------------------------

    def _bind(self, node: Command | Test, spec: CommandSpec | TestSpec) -> Bound:
        key = (id(spec), node.shape)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = Planner(self, spec, node).plan()
        pos = node.pos
        line = bisect_right(self._lines, pos)
        bound = Bound(node.name, spec, node, plan, line, pos - self._lines[line - 1] + 1, NO_TAGS)
        if plan.simple and not self._variables and not self._encoded:
            # Nothing but strings, without references: what most words have.
            args = node.args
            bound.args = [args[place].values for place in plan.positional]  # type: ignore[union-attr]  # all are Strings
            bound.tags = plan.plain_tags or NO_TAGS
            if spec.matches:
                self._matching(bound, plan)
            bound.part = plan.part
            return bound
        if plan.problems:
            if self._deferring and all(problem.code in _ABSENT for problem in plan.problems):
                return self._unavailable(node)
            self._tell(node, plan)
            bound.args = tuple(None for _ in spec.params)
            return bound
        args = node.args
        value = self._value
        if plan.positional:
            bound.args = [None if place < 0 else value(args[place]) for place in plan.positional]
        if plan.tags and plan.plain_tags is not None:
            bound.tags = plan.plain_tags
        elif plan.tags:
            tags: dict[str, Value | None] = {}
            for name, place in plan.tags:
                tags[name] = None if place < 0 else value(args[place])
            bound.tags = tags
        for place in plan.constants:
            self._must_be_constant(node, place)
        if spec.matches:
            self._matching(bound, plan)
        bound.part = plan.part
        for tag in plan.checks:
            if tag.check is not None:
                tag.check(self, bound)
        return bound

    def _value(self, arg: Strings | Number | Tag) -> Value:
        if isinstance(arg, Strings):
            return self._texts(arg) if self._variables or self._encoded else arg.values
        return arg.value if isinstance(arg, Number) else 0

    def _texts(self, strings: Strings) -> Texts:
        values = strings.values
        for value in values:
            if "${" in value:
                break
        else:
            return values
        out: list[Text] = []
        for index, value in enumerate(values):
            if "${" not in value:
                out.append(value)
                continue
            if self._encoded:
                value, fault = encoded.decode(value)
                if fault:
                    self.error(
                        strings.where(index), "encoded-character", fault, "use 1 to 10ffff, but no surrogates"
                    )
            text: Text = value
            if self._variables and "${" in value:
                faults: list[str] = []
                text = parse_template(value, self.active_namespaces(), self.limits, faults)
                for message in faults[:5]:
                    cure = (
                        "require the extension that has it" if "namespace" in message else "use another name"
                    )
                    self.error(strings.where(index), "variable", message, cure)
                if isinstance(text, Template) and any(isinstance(part, Match) for part in text.parts):
                    self.uses_match = True
            out.append(text)
        return tuple(out)

    def _must_be_constant(self, node: Command | Test, place: int) -> None:
        arg = node.args[place]
        if self._variables and isinstance(arg, Strings):
            if any(isinstance(text, Template) for text in self._texts(arg)):
                self.error(
                    arg.pos, "constant", "variables are not allowed in this string", "write the value itself"
                )

    def _matching(self, bound: Bound, plan: Plan) -> None:
        """Resolves match type and comparator, and that they go together."""
        bound.match = plan.match
        if not plan.compares:
            bound.comparator = self.registry.comparators[_DEFAULT_COMPARATOR]
            return
        name = bound.tag_text("comparator")
        name = _DEFAULT_COMPARATOR if name is None or not isinstance(name, str) else name
        comparator = self.registry.comparators.get(name)
        if comparator is None:
            near = self._near(name, self.registry.comparators)
            cure = f'did you mean "{near}"?' if near else 'use "i;ascii-casemap" or "i;octet"'
            self.error(
                self.where_tag(bound, "comparator"),
                "comparator",
                f'the comparator "{name[:60]}" is not known',
                cure,
            )
        elif comparator.needs and not any(need in self.active for need in comparator.needs):
            need = comparator.needs[0]
            cure = f'add "{need}" to require'
            self.error(
                self.where_tag(bound, "comparator"),
                "missing-require",
                f'the comparator "{name}" needs "{need}"',
                cure,
            )
        elif plan.match is not None and plan.match.substring and not comparator.substring:
            message = f'":{plan.match.name}" cannot be used with the comparator "{name}"'
            self.error(bound.node.pos, "comparator", message, "use :is, :value or another comparator")
        bound.comparator = comparator or self.registry.comparators[_DEFAULT_COMPARATOR]

    def _tell(self, node: Command | Test, plan: Plan) -> None:
        """Reports the first problem of a word: others mostly follow from it."""
        problem = min(plan.problems, key=lambda one: _PRECEDENCE.get(one.code, 9))
        pos = node.pos if problem.arg < 0 or problem.arg >= len(node.args) else node.args[problem.arg].pos
        self.error(pos, problem.code, problem.message, problem.cure)

    def _active(self, needs: tuple[str, ...]) -> bool:
        return not needs or not self.active.isdisjoint(needs)

    def _unavailable(self, node: Command | Test) -> Bound:
        """A word that fails when it is reached."""
        line, column = self.place(node.pos)
        spec = UNAVAILABLE_COMMAND if isinstance(node, Command) else UNAVAILABLE_TEST
        return Bound(node.name, spec, node, unavailable_plan(), line, column, NO_TAGS)

    # -- unknown words ----------------------------------------------------------------------------------

    def _needs(self, needs: tuple[str, ...], node: Command | Test, kind: str) -> bool:
        if self._active(needs):
            return True
        if ("needs", node.name) not in self._told and not self.lost_require:
            if not self._unchecked:
                self._told.add(("needs", node.name))
            capability = find_capability(self.registry, needs, self.allowed)
            if capability:
                message, cure = (
                    f'the {kind} "{node.name}" needs the capability "{capability}"',
                    f'add "{capability}" to require',
                )
            else:
                message, cure = (
                    f'the {kind} "{node.name}" is switched off on this server',
                    "ask the administrator",
                )
            self.error(node.pos, "missing-require", message, cure)
        return False

    def _unknown(self, node: Command | Test, kind: str, words: Collection[str]) -> None:
        other = self.registry.tests if kind == "command" else self.registry.commands
        if (kind, node.name) in self._told and node.name not in other:
            return
        if not self._unchecked:
            self._told.add((kind, node.name))
        near = self._near(node.name, (*words, "require") if kind == "command" else words)
        if node.name in other:
            cure = f'"{node.name}" is a {"test" if kind == "command" else "command"}'
            cure += (
                f": write if {node.name} ... {{ ... }}"
                if kind == "command"
                else ": it stands alone or in a block"
            )
        else:
            cure = f'did you mean "{near}"?' if near else "look at its spelling, or remove it"
        self.error(node.pos, f"unknown-{kind}", f'the {kind} "{node.name}" is not known', cure)

    def _near(self, name: str, words: Iterable[str]) -> str:
        self._guesses += 1
        if self._guesses > _GUESSES:
            return ""
        near = difflib.get_close_matches(name[:60], list(words), 1, 0.7)
        return near[0] if near else ""

    def near_tag(self, name: str, words: Iterable[str]) -> str:
        """The known tag nearest to a wrong one, or nothing."""
        return self._near(name, words)


def _asks(test: Bound) -> bool:
    """Is the test's constant value due to an ihave?"""
    return test.name == "ihave" or any(_asks(inner) for inner in test.tests)


def _line_starts(text: str) -> list[int]:
    starts = [0]
    place = text.find("\n")
    while place >= 0:
        starts.append(place + 1)
        place = text.find("\n", place + 1)
    return starts
