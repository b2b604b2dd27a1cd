"""What commands report when they have changed a mailbox: the seam for Sieve on IMAP events and for learning what is spam.

A command asks ``wants`` once (its price is one attribute test when nobody listens), does its work, and leaves the event in
its ``Call``. The shell tells the listeners when the answer has been written: on the loop, in the order of the events, before
the connection's next command. A listener's failure never fails the command; its own changes to the store cause no events.
Recorders are told in the account's job, right after the change and before the answer.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from filterd.imap import acl
from filterd.store.base import SYSTEM_FLAGS, AccountStore, Copied, FlagChange, Stored

if TYPE_CHECKING:
    from filterd.imap.call import Call

log = logging.getLogger("filterd.imap")

APPEND, COPY, MOVE, FLAG = "APPEND", "COPY", "MOVE", "FLAG"


@dataclass(frozen=True, slots=True)
class MailboxEvent:
    """``cause``: APPEND (REPLACE too), COPY, MOVE or FLAG. ``mailbox`` holds ``uids`` (ascending) now; ``source`` is where
    copied and moved ones came from. ``added``/``removed``: flags by uid, of those whose flags really changed."""

    account: str
    login: str
    cause: str
    mailbox: str
    uids: tuple[int, ...]
    source: str = ""
    source_uids: tuple[int, ...] = ()
    added: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    removed: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


class MailboxListener(Protocol):
    def wants(self, store: AccountStore, mailbox: str, cause: str) -> bool:
        """Asked in the account's job for each command; cheap."""
        ...

    async def told(self, event: MailboxEvent) -> None:
        """On the loop. Asks again what it wants: another listener may have wanted the event."""
        ...


class MailboxRecorder(Protocol):
    """Writes down what happened before the command is answered: what it has recorded outlives a crash right after."""

    def wants_flags(self, names: Sequence[str]) -> bool:
        """Do changes of any of these flags matter? (Moves, copies and appended messages always do.)"""
        ...

    def record(self, store: AccountStore, event: MailboxEvent) -> None:
        """In the account's job, after the change."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class MailboxEvents:
    """The listeners of one IMAP door; ``ImapServerConfig.events`` is None where there are none."""

    listeners: tuple[MailboxListener, ...]
    recorders: tuple[MailboxRecorder, ...] = ()

    def wants_flags(self, names: Sequence[str]) -> bool:
        return any(one.wants_flags(names) for one in self.recorders)

    def record(self, store: AccountStore, event: MailboxEvent) -> None:
        for one in self.recorders:
            try:
                one.record(store, event)
            except Exception:
                log.exception("recording %s in %s of %s", event.cause, event.mailbox, event.account)

    def close(self) -> None:
        for one in self.recorders:
            one.close()

    def wants(self, store: AccountStore, mailbox: str, cause: str) -> bool:
        """A listener that cannot say is told: what it asks about has happened, and its failure must not undo the answer."""
        for one in self.listeners:
            try:
                if one.wants(store, mailbox, cause):
                    return True
            except Exception:
                log.exception("asking about %s in %s", cause, mailbox)
                return True
        return False

    async def told(self, events: Sequence[MailboxEvent]) -> None:
        for event in events:
            for one in self.listeners:
                try:
                    await one.told(event)
                except Exception:
                    log.exception("after %s in %s of %s", event.cause, event.mailbox, event.account)


def stored(call: Call, result: Sequence[Stored]) -> None:
    """Messages were appended."""
    if result and call.session.config.events is not None:
        account = _account(call)
        uids = tuple(one.uid for one in result)
        _report(call, MailboxEvent(account, account, APPEND, result[0].mailbox, uids))


def copied(call: Call, source: str, result: Copied, *, move: bool) -> None:
    cause = MOVE if move else COPY
    mailbox = result.destination.name
    if result.uids and call.session.config.events is not None:
        account = _account(call)
        _report(call, MailboxEvent(account, account, cause, mailbox, result.uids, source, result.source_uids))


class FlagWatch:
    """The flags before a STORE, when somebody wants to hear what it changes."""

    __slots__ = ("_before", "_call", "_mailbox")

    def __init__(self, call: Call, mailbox: str, uids: Sequence[int]) -> None:
        self._call, self._mailbox = call, mailbox
        snapshot = call.store.snapshot(mailbox)
        chosen = frozenset(uids)
        self._before = {
            uid: mask for uid, mask in zip(snapshot.uids, snapshot.flags, strict=True) if uid in chosen
        }

    @classmethod
    def of(
        cls, call: Call, mailbox: str, uids: array[int], mode: str = "", flags: Sequence[str] = ()
    ) -> FlagWatch | None:
        """``mode`` "set" with ``flags`` may take away any of the mailbox's keywords."""
        events = call.session.config.events
        if events is None:
            return None
        names = (*flags, *call.store.snapshot(mailbox).keywords) if mode == "set" else flags
        if events.wants_flags(names) or events.wants(call.store, mailbox, FLAG):
            return cls(call, mailbox, uids)
        return None

    def changed(self, result: FlagChange) -> None:
        names = (*SYSTEM_FLAGS, *self._call.store.snapshot(self._mailbox).keywords)
        added: dict[int, tuple[str, ...]] = {}
        removed: dict[int, tuple[str, ...]] = {}
        for uid, mask, _ in result.changed:
            old = self._before.get(uid, mask)
            if old != mask:
                added[uid] = flag_names(mask & ~old, names)
                removed[uid] = flag_names(old & ~mask, names)
        if added:
            account = _account(self._call)
            event = MailboxEvent(
                account, account, FLAG, self._mailbox, tuple(added), added=added, removed=removed
            )
            _report(self._call, event)


def flag_names(mask: int, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(names) if mask >> bit & 1)


def _account(call: Call) -> str:
    account = call.session.account
    return account.id if account is not None else ""


def _report(call: Call, event: MailboxEvent) -> None:
    events = call.session.config.events
    if events is None or acl.foreign(call.session, event.mailbox):
        return  # scripts and learning are about one's own mail
    events.record(call.store, event)
    if events.wants(call.store, event.mailbox, event.cause):
        call.events.append(event)
