"""Sieve scripts of accounts and of the administrator: compiled once, kept in memory, bounded.

A script that does not compile (it was put there by hand) never stops mail: the account's mail is kept and the trace and the
log say why. Scripts are looked up by the digest of their text, so activation by another process is seen with the next message.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from filterd.accounts.scripts_base import ScriptStore, ScriptStoreError
from rules import registry
from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptErrors, render

log = logging.getLogger("filterd.sieve")

MAX_COMPILED = 512  # scripts kept compiled in one process


class ScriptService:
    """``store_of`` opens an account's script storage; ``before``/``after``/``default`` are the administrator's files."""

    def __init__(
        self,
        store_of: Callable[[str], ScriptStore],
        before: Sequence[Path] = (),
        after: Sequence[Path] = (),
        default: Path | None = None,
        script_size: int = 65_536,
    ) -> None:
        self._store_of = store_of
        self._before = tuple(before)
        self._after = tuple(after)
        self._default = default
        self._compiled: OrderedDict[str, CompiledScript | ScriptErrors] = OrderedDict()
        self._capabilities = registry.capabilities()
        self.script_size = script_size

    # -- servers.ports.Scripts ---------------------------------------------------------------------------
    def of(self, account: str) -> ScriptStore:
        return self._store_of(account)

    def check(self, account: str, text: str) -> tuple[list[str], list[str]]:
        """(errors, warnings) for people, each ``line:column: text``."""
        try:
            compiled = compile_script(text, name="script")
        except ScriptErrors as failure:
            return render(failure.errors, text, "script").splitlines(), []
        return [], [f"line {w.line}: {w.message}" for w in compiled.warnings]

    def capabilities(self) -> tuple[str, ...]:
        return self._capabilities

    # -- delivery ---------------------------------------------------------------------------
    def chain(self, account: str) -> tuple[list[CompiledScript], str | None]:
        """The scripts to run for a message to ``account``, in order, and an error text when one cannot be used."""
        out: list[CompiledScript] = []
        error: str | None = None
        active = self._store_of(account).active()
        own: list[tuple[str, str]] = []
        if active is not None:
            own.append(active)
        elif self._default is not None:
            own.extend(self._read((self._default,)))
        for name, text in (*self._read(self._before), *own, *self._read(self._after)):
            compiled = self._compile(name, text)
            if isinstance(compiled, ScriptErrors):
                first = compiled.errors[0]
                error = f"script “{name}” does not compile: line {first.line}: {first.message}"
                log.warning("account %s: %s", account, error)
            else:
                out.append(compiled)
        return out, error

    def can_reject(self, account: str) -> bool:
        """Whether the account's chain may refuse a message (HOUSE item 9)."""
        return any(script.can_reject for script in self.chain(account)[0])

    def personal(self, account: str, name: str) -> str | None:
        """The text of one of the account's scripts, for ``include :personal``; None when there is none."""
        try:
            return self._store_of(account).get(name)
        except ScriptStoreError:
            return None

    def _read(self, paths: Sequence[Path]) -> list[tuple[str, str]]:
        out = []
        for path in paths:
            try:
                out.append((path.stem, path.read_text("utf-8")))
            except (
                OSError,
                UnicodeDecodeError,
            ) as error:  # a missing first script must not disable the others
                log.warning("script %s: %s", path, error)
        return out

    def _compile(self, name: str, text: str) -> CompiledScript | ScriptErrors:
        key = f"{name}\0{hashlib.sha256(text.encode()).hexdigest()}"
        found = self._compiled.get(key)
        if found is not None:
            self._compiled.move_to_end(key)
            return found
        try:
            found = compile_script(text, name=name)
        except ScriptErrors as failure:
            found = failure
        self._compiled[key] = found
        if len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        return found
