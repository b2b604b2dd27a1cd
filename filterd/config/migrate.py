"""Lifting older files: spellings that a key once had, or has in the plan that people read (UX), and what became of it.

Version 1 is the only version so far, so a file never has to change for its number. A spelling is lifted when its meaning is
kept for certain; what would need a guess is left as it stands and told, and so is every key that only had to go.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

from filterd.config.edit import CannotEdit, changed, removed, renamed
from filterd.config.positions import Path, locate

LISTS = ("incoming", "outgoing")
_WORDS = {"spam": "spamassassin", "dkim-verify": "dkim", "virus": "clamav"}
_NO_STAGE = ("store",)  # delivering is no stage: it always comes last


@dataclass(frozen=True, slots=True)
class Step:
    """What was done, or why not: ``line`` of the text as it was."""

    line: int
    text: str
    done: bool


@dataclass(frozen=True, slots=True)
class _Gone:
    """A key that is dropped when it holds ``harmless`` (None: whatever it holds)."""

    path: tuple[str, ...]
    harmless: tuple[object, ...] | None
    why: str


_RENAMED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("stage", "spam"), ("stage", "spamassassin")),
    (("stage", "milter"), ("stage", "milters")),
)
_GONE: tuple[_Gone, ...] = (
    _Gone(
        ("store", "fsync"), ("optimized", "always"), "250 always means on disk; there is nothing to switch"
    ),
    _Gone(("store", "search_index"), (True,), "there always is one"),
    _Gone(("store", "dedupe"), (False,), "a message is stored once an account"),
    _Gone(("log", "redact"), None, "subjects, bodies and secrets are never logged"),
    _Gone(("accounts", "source"), ("builtin",), "accounts are kept by filterd"),
    _Gone(("accounts", "hash"), ("argon2id",), "passwords are kept as argon2id"),
    _Gone(("accounts", "app_passwords"), (True,), "they are always there: filterd account app-password"),
    _Gone(("accounts", "dot_forward"), (False,), "is accounts.forward.enabled now, and off"),
    _Gone(("queue", "dane"), (True,), 'is part of queue.tls = "dane", the default'),
    _Gone(("queue", "mta_sts"), (True,), 'is part of queue.tls = "dane", the default'),
    _Gone(("stage", "privacy", "hostname"), ("hide",), "is part of stage.privacy.client_ip"),
    _Gone(("web", "enabled"), (False,), "listen.web opens the page"),
    _Gone(("autoconfig", "enabled"), (False,), "there is none"),
)


def migrate(text: str) -> tuple[str, list[Step]]:
    """The text in today's spellings, and every step. The text must be TOML."""
    before = locate(text)
    steps: list[Step] = []

    def line(path: Path) -> int:
        return before.key(path).line

    def attempt(path: Path, new: str | None, said: str) -> str:
        steps.append(Step(line(path), said, new is not None))
        return current if new is None else new

    current = text
    for old, name in _RENAMED:
        if _has(current, old):
            try:
                new = renamed(current, old, name[-1])
                current = attempt(old, new, f"{_dotted(old)} is {_dotted(name)} now")
            except CannotEdit as error:
                current = attempt(old, None, f"{_dotted(old)} is {_dotted(name)} now, but {error}")
    forward = ("accounts", "dot_forward")
    if _value(current, forward) is True:
        new = changed(removed(current, forward), ("accounts", "forward", "enabled"), True)
        current = attempt(forward, new, "accounts.dot_forward is accounts.forward.enabled now")
    for gone in _GONE:
        value = _value(current, gone.path)
        if value is None:
            continue
        if gone.harmless is None or value in gone.harmless:
            current = attempt(
                gone.path, removed(current, gone.path), f"{_dotted(gone.path)} is gone: {gone.why}"
            )
        else:
            said = f"{_dotted(gone.path)} = {value!r} has nothing that does the same: {gone.why}"
            current = attempt(gone.path, None, said)
    for path, words, said in list(_stage_lists(current)):
        current = attempt(path, changed(current, path, words), said)
    return current, sorted(steps, key=lambda step: step.line)


def _stage_lists(text: str) -> Iterator[tuple[Path, list[object], str]]:
    for name in LISTS:
        path: Path = ("pipeline", name)
        old = _value(text, ("pipeline", name))
        if not isinstance(old, list):
            continue
        new = [
            _WORDS.get(item, item) if isinstance(item, str) else item for item in old if item not in _NO_STAGE
        ]
        if new != old:
            changes = [f'"{word}" is "{_WORDS[word]}" now' for word in old if word in tuple(_WORDS)]
            changes += [f'"{word}" is no stage: it always comes last' for word in old if word in _NO_STAGE]
            yield path, new, f"pipeline.{name}: {', '.join(changes)}"


def _value(text: str, path: tuple[str, ...]) -> object | None:
    at: object = tomllib.loads(text)
    for part in path:
        at = at.get(part) if isinstance(at, dict) else None
    return at


def _has(text: str, path: tuple[str, ...]) -> bool:
    return _value(text, path) is not None


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)
