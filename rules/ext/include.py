"""include, return, global: scripts in scripts.

Specification: RFC 6609. Complete: yes. Included scripts are fetched from the host and compiled when they are
reached (3.1 forbids looking for them at upload); the compiled form is kept in the including script by the
text's digest. Each has its own variables and its own require; global ones are shared by the whole tree.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rules.compiler import CompiledScript, compile_script
from rules.context import LEAVE, STOP, StateKey
from rules.errors import RunError, ScriptErrors
from rules.execute import execute
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Namespace, Param, TagSpec
from rules.variables import Variables

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_NAME_LENGTH = 128  # characters; RFC 5804 1.6 asks for at least 128


@dataclass(slots=True)
class _State:
    included: set[tuple[str, str]] = field(default_factory=set)
    stack: list[tuple[str, str]] = field(default_factory=list)
    fetched: int = 0


_STATE: StateKey[_State] = StateKey("include", _State)


def script_name_fault(name: str) -> str | None:
    """RFC 5804 1.6: why this is no script's name."""
    if not name:
        return "the name of a script must not be empty"
    if len(name) > _NAME_LENGTH:
        return "the name of the script is too long"
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in name):
        return "the name of a script must not have control characters"
    if "/" in name or name in (".", ".."):
        return "the name of a script must not have a slash"
    return None


def _check_include(checker: Checker, bound: Bound) -> None:
    name = bound.text(0)
    if isinstance(name, str) and (fault := script_name_fault(name)):
        checker.error(checker.where(bound, 0), "script-name", fault, "name a script of yours")


def _include(bound: Bound) -> CommandFn:
    name = bound.text(0)
    assert isinstance(name, str)
    location = "global" if bound.has("global") else "personal"
    key = (location, name)

    def act(run: Run) -> int | None:
        state = run.get(_STATE)
        run.seen, run.key = name, location
        if bound.has("once") and (key in state.included or key in state.stack):
            run.seen = f"{name} (already included)"
            return None
        if key in state.stack:
            raise RunError(f'include: the script "{name}" includes itself')
        if len(state.stack) >= run.limits.include_depth:
            raise RunError(f"include: scripts are nested deeper than {run.limits.include_depth}")
        script = _fetch(run, state, key)
        if script is None:
            if bound.has("optional"):
                run.seen = f"{name} (absent)"
                return None
            raise RunError(f'include: there is no {location} script "{name}"')
        state.included.add(key)
        return _run_inside(run, state, key, script)

    return act


def _fetch(run: Run, state: _State, key: tuple[str, str]) -> CompiledScript | None:
    state.fetched += 1
    if state.fetched > run.limits.includes:
        raise RunError(f"include: more than {run.limits.includes} scripts")
    text = run.host.include(*key)
    if text is None:
        return None
    outer = run.script
    assert outer is not None
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    known = outer.included.get(key)
    if known is not None and known.digest == digest:
        return known
    try:
        script = compile_script(
            text, name=key[1], capabilities=outer.capabilities, limits=run.limits, registry=outer.registry
        )
    except ScriptErrors as errors:
        raise RunError(f'include: the script "{key[1]}" has an error: {errors.errors[0]}') from errors
    if len(outer.included) >= run.limits.includes:
        outer.included.clear()
    outer.included[key] = script
    return script


def _run_inside(run: Run, state: _State, key: tuple[str, str], script: CompiledScript) -> int | None:
    outer, variables, captures, step = run.script, run.variables, run.captures, run.step
    state.stack.append(key)
    loops = len(run.loops)
    run.script = script
    run.variables = Variables(run.limits, run.globals)
    run.captures = script.captures
    # On an error the inner script stays in place: that is where the error is told to be.
    ended = execute(run, script)
    state.stack.pop()
    del run.loops[loops:]  # of foreverypart loops that "return" left
    run.script, run.variables, run.captures, run.step = outer, variables, captures, step
    run.seen, run.key = key[1], key[0]
    return STOP if ended == STOP else None


def _return(bound: Bound) -> CommandFn:
    def act(run: Run) -> int:
        return LEAVE

    return act


def _check_global(checker: Checker, bound: Bound) -> None:
    if not checker.has("variables") or not checker.has("include"):
        checker.error(
            bound.node.pos, "missing-require", '"global" needs "include" and "variables"', "require both"
        )
    names = checker.scope.marks.setdefault("set", set())
    for item, name in enumerate(bound.texts(0)):
        if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
            message = f'"{str(name)[:60]}" is not a name of a variable'
            checker.error(checker.where(bound, 0, item), "variable-name", message, "no namespace, no number")
        elif isinstance(names, set) and name.lower() in names:
            message = f'the variable "{name}" was set before it is declared global'
            checker.error(checker.where(bound, 0, item), "global", message, "declare it first")


def _global(bound: Bound) -> CommandFn:
    names = [name.lower() for name in bound.texts(0) if isinstance(name, str)]

    def act(run: Run) -> None:
        run.variables.shared.update(names)
        run.seen = " ".join(names)

    return act


def _read_global(run: Run, name: str) -> str:
    return run.globals.get(name, "")


def _write_global(run: Run, name: str, value: str) -> None:
    run.variables.put(run.globals, name, value)


def _check_namespace(name: str) -> str | None:
    return (
        None
        if _IDENTIFIER.fullmatch(name)
        else f"${{global.{name[:40]}}}: the namespace has only plain names"
    )


_NEEDS = ("include",)
_ON = ("include",)

EXTENSION = Extension(
    "include",
    _NEEDS,
    dialect="RFC 6609",
    commands=(
        CommandSpec(
            "include",
            _NEEDS,
            (Param("script name", Kind.STRING, constant=True),),
            check=_check_include,
            link=_include,
            effects=("include",),
        ),
        CommandSpec("return", _NEEDS, link=_return, keeps_message=True, ends=True),
        CommandSpec(
            "global",
            ("include", "variables"),
            (Param("names", Kind.STRINGS, constant=True),),
            check=_check_global,
            link=_global,
            keeps_message=True,
        ),
    ),
    tags=(
        TagSpec("personal", _ON, group="location"),
        TagSpec("global", _ON, group="location"),
        TagSpec("once", _ON),
        TagSpec("optional", _ON),
    ),
    namespaces=(Namespace("global", _read_global, _NEEDS, _write_global, _check_namespace),),
)
