"""The queue's contract, as the doors see it.

Promises: what ``enqueue`` returned from is on disk (one transaction: it is the commit record of a delivery that has several
effects, HOUSE item 10); every recipient of it comes to a recorded end: sent, bounced, expired or dropped by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from filterd.store.base import NewMessage, SieveState
from rules.actions import ListStore


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One recipient of one message that leaves. ``key`` is the delivery key: an unacknowledged one younger than a day that
    comes again is not queued a second time. ``data`` is the final text (CRLF). ``kind``: redirect, submission, vacation,
    notify, dsn, report, relay. ``hold_until``: not to leave before (seconds since the epoch); ``held``: why it waits for the
    operator to release it. ``params``: NOTIFY ORCPT RET ENVID BODY SMTPUTF8 REQUIRETLS as they are to be relayed, by upper-case
    name. ``lane``: what it waits for when that is no mail server (``routing``)."""

    key: bytes
    reverse_path: str
    recipient: str
    data: bytes
    kind: str
    trace: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    hold_until: float = 0.0
    held: str = ""
    lane: str = ""


@dataclass(frozen=True, slots=True)
class PendingStore:
    """A local store that is part of a delivery with several effects; performed after the commit, again after a crash."""

    account: str
    mailbox: str
    message: NewMessage
    state: SieveState | None = None
    trace: str = ""


@dataclass(frozen=True, slots=True)
class PendingChange:
    """What a delivery changes in an account beside its messages: Sieve state that no store of the plan takes along (key ->
    seconds of life), entries of the account's lists. Doing it twice changes nothing."""

    account: str
    remember: Mapping[bytes, int] = field(default_factory=dict)
    lists: tuple[ListStore, ...] = ()
    trace: str = ""


def nothing() -> None:
    """For who does not want to be told."""


class Spool(Protocol):
    """The door's side of the queue; one object a process, safe between processes."""

    async def enqueue(
        self,
        outgoing: Sequence[Outgoing],
        stores: Sequence[PendingStore] = (),
        changes: Sequence[PendingChange] = (),
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Durable on return: (queue ids, ids of the stores and then of the changes). Raises StoreUnavailable."""
        ...

    def performed(self, ids: Sequence[str], then: Callable[[], None] = nothing) -> None:
        """These stores and changes are done; written at once, without waiting for it. ``then`` is called on the loop when a
        crash cannot have them done again any more."""
        ...

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        """The client went on after our reply."""
        ...
