"""Sieve scripts of accounts and of the administrator: compiled once, kept in memory, bounded.

A script that does not compile (it was put there by hand) never stops mail: the account's mail is kept and the trace and the
log say why. A script is looked up by its text, so activation by another process is seen with the next message.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filterd.accounts.scripts_base import ScriptStore, ScriptStoreError
from filterd.store.nowait import Stamp, stamp_of
from rules import includes, registry
from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptErrors, render
from rules.limits import DEFAULT, Limits
from rules.testkit.cases import failures

log = logging.getLogger("filterd.sieve")

MAX_STORES = 2048  # accounts whose script folder is remembered
MAX_COMPILED = 512  # scripts kept compiled in one process
MOST_FAILURES = 10  # told of tests that fail
NOT_ACTIVE = "The script is not made active"
NOT_REPLACED = "The active script is not replaced"


def global_script(folder: Path | None, name: str) -> str | None:
    """The text of a script for ``include :global``; None when there is none, or the name would leave the folder."""
    if folder is None or "/" in name or "\0" in name or name.startswith("."):
        return None
    path = folder / f"{name}.sieve"
    try:
        return path.read_text("utf-8", "replace") if path.is_file() else None
    except OSError:
        return None


def _stamp_of(path: Path) -> Stamp | None:
    """None when it cannot be looked at."""
    try:
        return stamp_of(str(path))  # asked twice a message
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Sources:
    """What an account's chain is made of: its active script, all texts in order as (name, text), stamps of the shared files."""

    active: tuple[str, str] | None
    texts: tuple[tuple[str, str], ...]
    shared: tuple[tuple[Path, Stamp | None], ...]


class GatedStore:
    """An account's storage that asks before a script is made active, or the active one replaced.

    ``gate`` gets the script's name, its text and the sentence that a refusal begins with.
    """

    def __init__(self, store: ScriptStore, gate: Callable[[str, str, str], None]) -> None:
        self._store = store
        self._gate = gate
        self.list = store.list
        self.get = store.get
        self.have_space = store.have_space
        self.delete = store.delete
        self.rename = store.rename
        self.active = store.active

    def activate(self, name: str) -> None:
        """``""`` deactivates all. Raises ScriptStoreError with every reason."""
        if name:
            self._gate(name, self._store.get(name), NOT_ACTIVE)
        self._store.activate(name)

    def put(self, name: str, text: str) -> None:
        active = self._store.active()
        if active is not None and active[0] == name:
            self._gate(name, text, NOT_REPLACED)
        self._store.put(name, text)


class ScriptService:
    """``store_of`` opens an account's script storage; ``before``/``after``/``default`` are the administrator's files.

    ``own_addresses`` gives every address of an account (for the warning about redirects to oneself), ``global_dir`` holds
    the scripts for ``include :global``. ``tests_of`` is the folder of an account's rule tests (``rules.testkit.cases``): where
    there is one, only a script that passes them goes live. ``more`` are capabilities that are off by default.
    """

    def __init__(
        self,
        store_of: Callable[[str], ScriptStore],
        before: Sequence[Path] = (),
        after: Sequence[Path] = (),
        default: Path | None = None,
        limits: Limits = DEFAULT,
        own_addresses: Callable[[str], Iterable[str]] | None = None,
        global_dir: Path | None = None,
        tests_of: Callable[[str], str] | None = None,
        more: Sequence[str] = (),
    ) -> None:
        self._open_store = store_of
        self._stores: dict[str, ScriptStore] = {}
        self._before = tuple(before)
        self._after = tuple(after)
        self._default = default
        self._compiled: dict[tuple[str, str], CompiledScript | ScriptErrors] = {}
        self._files: dict[Path, tuple[Stamp, str]] = {}
        self._guard = threading.Lock()
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        self._capabilities = (*registry.capabilities(), *more)
        self._limits = limits
        self._own_addresses = own_addresses
        self._global_dir = global_dir
        self._tests_of = tests_of

    # -- servers.ports.Scripts ---------------------------------------------------------------------------
    def of(self, account: str) -> ScriptStore:
        """The account's storage; a script that cannot run, or fails the account's tests, is not activated."""
        return GatedStore(
            self._store_of(account), lambda name, text, head: self._may_activate(account, name, text, head)
        )

    def _store_of(self, account: str) -> ScriptStore:
        """The account's storage, kept open: it remembers the active script as long as the file is the same."""
        found = self._stores.get(account)
        if found is None:
            if len(self._stores) >= MAX_STORES:
                self._stores.clear()
            found = self._stores.setdefault(account, self._open_store(account))
        return found

    def check(self, account: str, text: str) -> tuple[list[str], list[str]]:
        """(errors, warnings) for people: each with its place, the source line, a caret and the cure."""
        own = {account, *(self._own_addresses(account) if self._own_addresses is not None else ())}
        try:
            compiled = compile_script(
                text,
                name="script",
                limits=self._limits,
                own_addresses=own,
                capabilities=self._capabilities,
            )
        except ScriptErrors as failure:
            return render(failure.errors, text, "script").splitlines(), []
        warnings = render(compiled.warnings, text, "script", kind="warning").splitlines()
        for fault in includes.faults(compiled, self._included(account), self._limits):
            warnings += fault.render("script", text, kind="warning")
        return [], warnings

    def _included(self, account: str) -> Callable[[str, str], str | None]:
        def fetch(location: str, name: str) -> str | None:
            return self.personal(account, name) if location == "personal" else self.global_script(name)

        return fetch

    def global_script(self, name: str) -> str | None:
        """The text of one of the administrator's scripts, for ``include :global``; None when there is none."""
        return global_script(self._global_dir, name)

    def _may_activate(self, account: str, name: str, text: str, head: str) -> None:
        """Raises ScriptStoreError when the script, or one that it includes, would fail with the first message, or when a
        test of the account's fails."""
        lines: list[str] = []
        try:
            compiled = compile_script(text, name=name, limits=self._limits, capabilities=self._capabilities)
        except ScriptErrors as failure:
            lines = render(failure.errors, text, name).splitlines()
        else:
            for fault in includes.faults(compiled, self._included(account), self._limits):
                lines += fault.render(name, text)
            lines = lines or self.failed_tests(account, text)
        if lines:
            raise ScriptStoreError("", "\n".join([f"{head}:", *lines]))

    def failed_tests(self, account: str, text: str) -> list[str]:
        """What the account's rule tests say against this script, a line each; none where there are no tests."""
        folder = self._tests_of(account) if self._tests_of is not None else ""
        if not folder or not os.path.isdir(folder):
            return []
        found = failures(
            folder,
            text,
            limits=self._limits,
            capabilities=self._capabilities,
            fetch=self._included(account),
        )
        lines = [f"test {one}" for one in found[:MOST_FAILURES]]
        return [*lines, f"and {len(found) - MOST_FAILURES} more"] if len(found) > MOST_FAILURES else lines

    def capabilities(self) -> tuple[str, ...]:
        return self._capabilities

    # -- delivery ---------------------------------------------------------------------------
    def chain(self, account: str) -> tuple[list[CompiledScript], str | None]:
        """The scripts to run for a message to ``account``, in order, and an error text when one cannot be used."""
        return self.compiled(account, self.sources(account))

    def sources(self, account: str) -> Sources:
        """The texts of the account's chain; reads what has changed."""
        stamps = {
            path: _stamp_of(path) for path in (*self._before, *self._after)
        }  # before the texts are read
        if self._default is not None:
            stamps[self._default] = _stamp_of(self._default)
        active = self._store_of(account).active()
        own: list[tuple[str, str]] = []
        if active is not None:
            own.append(active)
        elif self._default is not None:
            own.extend(self._read((self._default,)))
        texts = (*self._read(self._before), *own, *self._read(self._after))
        if active is not None and self._default is not None:
            del stamps[self._default]
        return Sources(active, texts, tuple(stamps.items()))

    def unchanged(self, account: str, sources: Sources) -> bool:
        """Are the files still those that ``sources`` came from? Reads none of them."""
        store = self._stores.get(account)
        if store is None:
            return False
        still = getattr(store, "still", None)
        if not (still(sources.active) if still is not None else store.active() == sources.active):
            return False
        return all(_stamp_of(path) == stamp for path, stamp in sources.shared)

    def compiled(self, account: str, sources: Sources) -> tuple[list[CompiledScript], str | None]:
        """``sources`` compiled, and an error text when one cannot be used."""
        out: list[CompiledScript] = []
        error: str | None = None
        for name, text in sources.texts:
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
        """(name, text) of the administrator's files that can be read: a missing first script must not disable the others."""
        out = []
        for path in paths:
            try:
                stamp = _stamp_of(path)
                if stamp is None:
                    raise OSError("it cannot be looked at")
                known = self._files.get(path)
                if known is None or known[0] != stamp:
                    known = self._files[path] = (stamp, path.read_text("utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                log.warning("script %s: %s", path, error)
                continue
            out.append((path.stem, known[1]))
        return out

    def _compile(self, name: str, text: str) -> CompiledScript | ScriptErrors:
        key = (name, text)  # the same str object each time: found by identity, hashed once
        found = self._compiled.get(key)
        if found is not None:
            return found
        with self._guard:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:  # two threads, one script of many accounts: compiled once
            found = self._compiled.get(key)
            if found is None:
                try:
                    found = compile_script(
                        text, name=name, limits=self._limits, capabilities=self._capabilities
                    )
                except ScriptErrors as failure:
                    found = failure
                if len(self._compiled) >= MAX_COMPILED:
                    self._compiled.clear()
                self._compiled[key] = found
        with self._guard:
            self._turns.pop(key, None)
        return found
