"""Errors that Pigeonhole finds in the scripts a script includes, for ``test_script_compile``.

It compiles included scripts together with the outermost one: absent ones, circles, too many and too deep ones are errors at
once, and every script on the way to one adds an entry that sums up. (By RFC 6609 3.2 the engine itself finds out at run time.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rules.bound import Bound
from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptErrors
from rules.limits import Limits

Fetch = Callable[[str, str], str | None]  # (location, name) -> text
_Key = tuple[str, str]


@dataclass(slots=True)
class Closure:
    """One walk through everything that a script includes."""

    fetch: Fetch
    limits: Limits
    _known: set[_Key] = field(default_factory=set)

    def errors(self, script: CompiledScript, stack: tuple[_Key, ...] = ()) -> list[str]:
        """The entries of the error log; empty when all is well."""
        out: list[str] = []
        for step in script.code:
            if step.bound is not None and step.bound.name == "include":
                out += self._follow(step.bound, script, stack)
        return [*out, f"validation failed for script '{script.name}'"] if out else out

    def _follow(self, bound: Bound, outer: CompiledScript, stack: tuple[_Key, ...]) -> list[str]:
        name = bound.text(0)
        if not isinstance(name, str):
            return []
        key = ("global" if bound.has("global") else "personal", name)
        if key in stack:
            return [] if bound.has("once") else [f"circular include of script '{name}'"]
        if len(stack) >= self.limits.include_depth:
            return [f"cannot nest includes deeper than {self.limits.include_depth} levels"]
        if key not in self._known and len(self._known) >= self.limits.includes:
            return [f"failed to include script '{name}': no more than {self.limits.includes} are allowed"]
        self._known.add(key)
        text = self.fetch(*key)
        if text is None:
            return [] if bound.has("optional") else [f"included {key[0]} script '{name}' does not exist"]
        try:
            inner = compile_script(
                text, name=name, capabilities=outer.capabilities, limits=self.limits, registry=outer.registry
            )
        except ScriptErrors as failure:
            return [*(error.message for error in failure.errors), f"validation failed for script '{name}'"]
        return self.errors(inner, (*stack, key))
