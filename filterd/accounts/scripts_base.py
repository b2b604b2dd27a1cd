"""The contract of an account's Sieve script storage (RFC 5804): names, texts, which one is active."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class ScriptStoreError(Exception):
    """``code`` is the ManageSieve response code ("NONEXISTENT", "ALREADYEXISTS", "QUOTA/MAXSCRIPTS", "ACTIVE", ...)."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class ScriptInfo:
    name: str
    active: bool


class ScriptStore(Protocol):
    """One account's scripts. Every change is atomic and durable on return; names are validated (RFC 5804 1.6)."""

    def list(self) -> tuple[ScriptInfo, ...]: ...

    def get(self, name: str) -> str:
        """Raises ScriptStoreError NONEXISTENT."""
        ...

    def put(self, name: str, text: str) -> None:
        """Stores without checking the language (the caller did). Raises QUOTA/MAXSCRIPTS, QUOTA/MAXSIZE."""
        ...

    def have_space(self, name: str, size: int) -> None:
        """Raises the error that ``put`` would."""
        ...

    def delete(self, name: str) -> None:
        """Raises NONEXISTENT, ACTIVE."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def activate(self, name: str) -> None:
        """``""`` deactivates all."""
        ...

    def active(self) -> tuple[str, str] | None:
        """(name, text) of the active script; cheap to ask for each message."""
        ...
