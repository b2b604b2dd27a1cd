"""The queue's contract, as the doors see it.

Promises: what ``enqueue`` returned from is on disk (one transaction: it is the commit record of a delivery that has several
effects, HOUSE item 10); every recipient of it comes to a recorded end: sent, bounced, expired or dropped by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from filterd.store.base import NewMessage, SieveState


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One recipient of one message that leaves. ``key`` is the delivery key: an unacknowledged one younger than a day that
    comes again is not queued a second time. ``data`` is the final text (CRLF). ``kind``: redirect, submission, vacation,
    notify, dsn, report. ``params``: NOTIFY ORCPT RET ENVID BODY SMTPUTF8 as they are to be relayed, by upper-case name."""

    key: bytes
    reverse_path: str
    recipient: str
    data: bytes
    kind: str
    trace: str = ""
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PendingStore:
    """A local store that is part of a delivery with several effects; performed after the commit, again after a crash."""

    account: str
    mailbox: str
    message: NewMessage
    state: SieveState | None = None
    trace: str = ""


class Spool(Protocol):
    """The door's side of the queue; one object a process, safe between processes."""

    async def enqueue(
        self, outgoing: Sequence[Outgoing], stores: Sequence[PendingStore] = ()
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Durable on return: (queue ids, store ids). Raises StoreUnavailable."""
        ...

    def performed(self, store_ids: Sequence[str]) -> None:
        """These stores are done; written with the next group commit, without waiting for it."""
        ...

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        """The client went on after our reply."""
        ...
