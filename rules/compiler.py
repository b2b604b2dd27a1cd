"""From a script's text to a flat list of steps.

Specification: RFC 5228 section 3 (control commands), RFC 5463 (what an absent extension guards is left out).
Each test is one step with two targets, each action one step; allof, anyof and not become jumps. Steps are
plain data that keep line and column of their source; a step is linked to its function when it runs for the
first time. Runs of rules that provably do not disturb one another get a dispatch in front
(``rules/merge.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from rules import merge
from rules.ast import Script
from rules.bound import Bound
from rules.checker import Checker
from rules.collector import collector_held
from rules.context import LEAVE, Run
from rules.errors import ScriptError, ScriptErrors
from rules.limits import DEFAULT, Limits
from rules.lint import lint
from rules.parser import parse
from rules.registry import CommandFn, CommandSpec, Registry, TestFn, TestSpec, default_registry

_LARGE = 50_000  # characters from which the garbage collector is held while compiling


class Op(IntEnum):
    """What a step does."""

    TEST = 0  # go to ``yes`` or ``no``
    ACTION = 1  # do it, go on
    JUMP = 2  # go to ``yes``
    HOP = 3  # the start of a rule in a merged run: go on, or to the next rule that may be true
    CALL = 4  # a control structure's own function decides where to go on


@dataclass(slots=True, eq=False)
class Step:
    """One step. ``yes`` and ``no`` are indexes of steps."""

    op: Op
    bound: Bound | None
    what: str
    line: int
    yes: int = 0
    no: int = 0
    test: TestFn | None = None
    act: CommandFn | None = None
    region: merge.Region | None = None


@dataclass(slots=True, eq=False)
class Label:
    """A place in the code that is not known yet."""

    place: int = -1


@dataclass(slots=True, eq=False)
class CompiledScript:
    """A script, ready to run; immutable but for its cache of linked functions and included scripts.

    ``uses``: the capabilities it required. ``can_reject``: it has a reject or ereject, or includes what may have one.
    ``needs_body``: it looks into the body; ``header_only``: header fields and envelope are all it looks at.
    """

    name: str
    text: str
    digest: str
    code: list[Step]
    warnings: list[ScriptError]
    uses: frozenset[str]
    can_reject: bool
    needs_body: bool
    header_only: bool
    captures: bool
    capabilities: frozenset[str]
    registry: Registry
    included: dict[tuple[str, str], CompiledScript] = field(default_factory=dict)
    lines: int = 0


def compile_script(
    text: str,
    *,
    name: str = "main",
    capabilities: Collection[str] | None = None,
    limits: Limits = DEFAULT,
    own_addresses: Collection[str] = (),
    registry: Registry | None = None,
) -> CompiledScript:
    """Compiles a script; raises ScriptErrors with every error of it.

    ``capabilities`` restricts (or, with names that are off by default, widens) what may be required. ``own_addresses``
    are only for the warning about redirects to oneself.
    """
    registry = registry or default_registry()
    allowed = registry.announced(capabilities)
    with collector_held(len(text) >= _LARGE):
        script, errors = parse(text, limits)
        checker = Checker(script, registry, allowed, limits, own_addresses)
        bounds = checker.check()
        if errors or checker.errors:
            every = sorted(set(errors + checker.errors))[: limits.errors]
            raise ScriptErrors(every, name=name, parse_failed=bool(errors))
        emitter = Emitter(checker, limits)
        emitter.block(bounds)
        code = emitter.finish()
        lint(checker, bounds)
    return _compiled(name, script, checker, emitter, code, registry, allowed)


def _compiled(
    name: str,
    script: Script,
    checker: Checker,
    emitter: Emitter,
    code: list[Step],
    registry: Registry,
    allowed: Collection[str],
) -> CompiledScript:
    effects = emitter.effects
    includes = "include" in effects
    needs_body = includes or "body" in effects
    return CompiledScript(
        name=name,
        text=script.text,
        digest=hashlib.sha256(script.text.encode("utf-8", "surrogatepass")).hexdigest(),
        code=code,
        warnings=sorted(set(checker.warnings)),
        uses=frozenset(checker.active),
        can_reject=includes or "reject" in effects,
        needs_body=needs_body,
        header_only=not needs_body and "size" not in effects,
        captures=checker.uses_match,
        capabilities=frozenset(allowed),
        registry=registry,
        lines=checker.place(len(script.text))[0],
    )


class Emitter:
    """Puts steps together; control structures of extensions (``CommandSpec.emit``) use its public methods."""

    def __init__(self, checker: Checker, limits: Limits) -> None:
        self.checker = checker
        self.limits = limits
        self.code: list[Step] = []
        self.effects: set[str] = set()
        self.marks: dict[str, list[Label]] = {}  # open structures by name, for commands that leave them
        self._fixups: list[tuple[int, bool, Label]] = []
        self._captures = checker.uses_match
        altering = (spec for spec in checker.registry.tests.values() if spec.alters)
        self._merging = not any(need in checker.active for spec in altering for need in spec.needs)

    # -- for control structures -------------------------------------------------------------------------

    def label(self) -> Label:
        """A new place, to be set by ``here``."""
        return Label()

    def here(self, label: Label) -> None:
        """Sets a label to the next step."""
        label.place = len(self.code)

    def jump(self, label: Label) -> None:
        """Goes on at the label."""
        self._fixups.append((len(self.code), True, label))
        self.code.append(Step(Op.JUMP, None, "", 0))

    def call(self, bound: Bound, act: Callable[[Run], bool], label: Label) -> None:
        """A step of a control structure: when ``act`` returns False, go on at the label."""
        self._fixups.append((len(self.code), False, label))
        self.code.append(Step(Op.CALL, bound, bound.name, bound.line, yes=len(self.code) + 1, test=act))

    def action(self, bound: Bound, act: CommandFn | None = None) -> None:
        """An action step; ``act`` is for structures, others are linked by their specification."""
        self.code.append(Step(Op.ACTION, bound, bound.name, bound.line, act=act))

    def block(self, bounds: Sequence[Bound]) -> None:
        """The commands of a block."""
        count = len(bounds)
        index = 0
        planned = 0
        while index < count:
            if index >= planned and bounds[index].name == "if" and self._merging:
                planned, region = merge.plan(bounds, index, self._captures)
                if region is not None:
                    self._region(bounds, region)
                    index = planned
                    continue
            index = self._statement(bounds, index, None)

    # -- commands ---------------------------------------------------------------------------------------

    def _statement(self, bounds: Sequence[Bound], index: int, region: merge.Region | None) -> int:
        """One command, or a whole if-elsif-else; returns the index behind it."""
        bound = bounds[index]
        spec = bound.spec
        assert isinstance(spec, CommandSpec)
        if bound.name == "if":
            return self._chain(bounds, index, region)
        self.effects.update(spec.effects)
        if spec.emit is not None:
            spec.emit(self, bound)
        else:
            self.code.append(Step(Op.ACTION, bound, bound.name, bound.line))
        return index + 1

    def _region(self, bounds: Sequence[Bound], region: merge.Region) -> None:
        self.code.append(
            Step(Op.HOP, bounds[region.start], "rules", bounds[region.start].line, no=-1, region=region)
        )
        index = region.start
        plain = False  # the command before was no if: it belongs to the same rule
        while index < region.stop:
            bound = bounds[index]
            if bound.name != "if" and not plain:
                region.places.append(len(self.code))  # always a candidate: it needs no hop
            plain = bound.name != "if"
            index = self._statement(bounds, index, region)
        region.end = len(self.code)

    def _hop(self, bound: Bound, region: merge.Region) -> None:
        self.code.append(Step(Op.HOP, bound, "rules", bound.line, no=len(region.places), region=region))
        region.places.append(len(self.code))

    def _chain(self, bounds: Sequence[Bound], index: int, region: merge.Region | None) -> int:
        end = Label()
        while True:
            bound = bounds[index]
            last = index + 1 >= len(bounds) or bounds[index + 1].name not in ("elsif", "else")
            if region is not None:
                self._hop(bound, region)
            self._branch(bound, None if last else end)
            index += 1
            if last:
                break
        end.place = len(self.code)
        return index

    def _branch(self, bound: Bound, end: Label | None) -> None:
        """if TEST block, or else block; behind the block it goes on at ``end`` (None: right there)."""
        if bound.name == "else":
            self.block(bound.block or ())
            return
        test = bound.tests[0]
        if test.constant is False:
            return
        inside, outside = Label(), Label()
        self.condition(test, inside, outside)
        inside.place = len(self.code)
        self.block(bound.block or ())
        if end is not None:
            self.jump(end)
        outside.place = len(self.code)

    def condition(self, test: Bound, yes: Label, no: Label) -> None:
        """Steps that go to ``yes`` or ``no`` as the test says; short circuit, left to right."""
        if test.constant is not None:
            self.jump(yes if test.constant else no)
            return
        if test.name == "not":
            self.condition(test.tests[0], no, yes)
        elif test.name in ("allof", "anyof"):
            every = test.name == "allof"
            for inner in test.tests[:-1]:
                following = Label()
                if every:
                    self.condition(inner, following, no)
                else:
                    self.condition(inner, yes, following)
                following.place = len(self.code)
            self.condition(test.tests[-1], yes, no)
        else:
            spec = test.spec
            assert isinstance(spec, TestSpec)
            self.effects.update(spec.reads)
            place = len(self.code)
            self._fixups.append((place, True, yes))
            self._fixups.append((place, False, no))
            self.code.append(Step(Op.TEST, test, test.name, test.line))

    def finish(self) -> list[Step]:
        """The code with every label resolved, closed by a step that ends the script."""
        code = self.code
        for place, yes, label in self._fixups:
            if yes:
                code[place].yes = label.place
            else:
                code[place].no = label.place
        code.append(Step(Op.JUMP, None, "end", 0, yes=LEAVE))
        return code


__all__ = ["CompiledScript", "Emitter", "Label", "Op", "Step", "compile_script"]
