"""FILTER=SIEVE between the session and whoever runs the scripts.

The command finds the messages; the shell hands them to the service, outside of the account's job, because what a script sends is
queued there; the session then tells what became of each message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Filter:
    """Run a script over messages. ``kind``: DELIVERY, PERSONAL, GLOBAL or SCRIPT; ``text``: the script's name, or itself."""

    tag: bytes
    uid: bool
    account: str
    mailbox: str
    uids: tuple[int, ...]
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Filtered:
    """``missing``: there is no such script; ``fault``: it does not compile, for people; then nothing was done. ``messages``: uid
    and what went wrong with it ("" nothing did); messages that a script left as they are do not appear."""

    messages: tuple[tuple[int, str], ...] = ()
    missing: bool = False
    fault: str = ""


class FilterService(Protocol):
    async def filter(self, request: Filter) -> Filtered: ...
