"""What a script includes, looked at before it runs: absent and broken scripts, and scripts that include themselves.

Specification: RFC 6609 3.1: an absent script is no error of the including one when that is stored; it is when it runs.
So this is for warnings at upload and for the gate at activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rules.bound import Bound
from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptError, ScriptErrors, render
from rules.limits import Limits

Fetch = Callable[[str, str], str | None]  # (location, name) -> text


@dataclass(frozen=True, slots=True)
class IncludeFault:
    """An ``include`` in the outermost script that would fail; ``inner`` are the errors of the script that it leads to."""

    error: ScriptError
    inner_name: str = ""
    inner_text: str = ""
    inner: tuple[ScriptError, ...] = ()

    def render(self, name: str, text: str, *, kind: str = "error") -> list[str]:
        """Lines for people."""
        lines = render([self.error], text, name, kind=kind)
        return (lines + render(self.inner, self.inner_text, self.inner_name, kind=kind)).splitlines()


def faults(script: CompiledScript, fetch: Fetch, limits: Limits) -> list[IncludeFault]:
    """Every include of the script that would fail, here or further inside."""
    out: list[IncludeFault] = []
    known: dict[tuple[str, str], CompiledScript | ScriptErrors | None] = {}
    for bound in _includes(script):
        found = _follow(bound, [], script, fetch, limits, known)
        if found is not None:
            out.append(found)
    return out


def _includes(script: CompiledScript) -> list[Bound]:
    return [step.bound for step in script.code if step.bound is not None and step.bound.name == "include"]


def _follow(
    bound: Bound,
    stack: list[tuple[str, str]],
    outer: CompiledScript,
    fetch: Fetch,
    limits: Limits,
    known: dict[tuple[str, str], CompiledScript | ScriptErrors | None],
) -> IncludeFault | None:
    name = bound.text(0)
    if not isinstance(name, str) or len(known) > limits.includes:
        return None
    key = ("global" if bound.has("global") else "personal", name)

    def fault(code: str, message: str, cure: str) -> IncludeFault:
        return IncludeFault(ScriptError(bound.line, bound.column, code, message, cure))

    if key in stack:
        if bound.has("once"):
            return None
        return fault("include-loop", f'the script "{name}" includes itself', "use :once")
    if key not in known:
        known[key] = _compile(fetch(*key), name, outer, limits)
    inner = known[key]
    if inner is None:
        if bound.has("optional"):
            return None
        message = f'there is no {key[0]} script "{name}": the run would fail here'
        return fault("include-absent", message, "store it first, or write include :optional")
    if isinstance(inner, ScriptErrors):
        error = ScriptError(
            bound.line,
            bound.column,
            "include-broken",
            f'the included script "{name}" has errors',
            "mend it first",
        )
        return IncludeFault(error, name, fetch(*key) or "", tuple(inner.errors))
    for deeper in _includes(inner):
        found = _follow(deeper, [*stack, key], inner, fetch, limits, known)
        if found is not None:
            place = found.error
            message = f'the included script "{name}" fails in line {place.line}: {place.message}'
            error = ScriptError(bound.line, bound.column, place.code, message, place.cure)
            return IncludeFault(error, found.inner_name, found.inner_text, found.inner)
    return None


def _compile(
    text: str | None, name: str, outer: CompiledScript, limits: Limits
) -> CompiledScript | ScriptErrors | None:
    if text is None:
        return None
    try:
        return compile_script(
            text, name=name, capabilities=outer.capabilities, limits=limits, registry=outer.registry
        )
    except ScriptErrors as errors:
        return errors
