"""Delivery into somebody else's mailbox: what ``fileinto "user/bob@example.org/Work"`` of a script comes down to.

It needs the right ``i`` or ``p`` there (RFC 4314 4). Without it, where there is no such mailbox, or no room left in that account,
the message is kept in the recipient's INBOX: a script never fails for what others have changed. A mailbox of the recipient's own
that has such a name is his own, but none is made by that name.

A record of the queue holds the recipient and the name as he said it; whose mailbox that is, is asked when the message is stored,
each time anew. So what was removed, filled or closed meanwhile costs no message, and nothing is made in an account of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from filterd.imap.shared import SharedStore
from filterd.imap.sharing import Sharing, rights_in
from filterd.queue.base import PendingStore
from filterd.sieve_host import AccountFacts
from filterd.store.base import AccountStore, MailboxInfo, NoSuchMailbox, OverQuota, StoreError
from filterd.store.names import INBOX

if TYPE_CHECKING:
    from filterd.store.jobs import AccountJobs

_POSTING = frozenset("ip")
_MORE = 4_096  # octets that a store may add to a message


def destination(sharing: Sharing, account: str, mailbox: str, own: AccountStore) -> tuple[str, str] | None:
    """Account and mailbox; in a job of the account. None: the message may not go there, or there is no such place."""
    with suppress(NoSuchMailbox):
        own.info(mailbox)
        return account, mailbox
    place = sharing.place(account, mailbox)
    if place is not None:
        with suppress(NoSuchMailbox), sharing.guests.use(place.owner) as guest:
            if rights_in(guest, place.inner, account) & _POSTING:
                return place.owner, guest.info(place.inner).name
    return None


async def resolved(sharing: Sharing | None, jobs: AccountJobs, pending: PendingStore) -> PendingStore | None:
    """Where it goes now. None: not where it was meant for. Raises StoreError."""
    if sharing is None or not foreign(sharing, pending.account, pending.mailbox):
        return pending
    place = partial(destination, sharing, pending.account, pending.mailbox)
    found = await jobs.run(pending.account, place)
    if found is None or found[0] == pending.account:
        return None if found is None else pending
    message = replace(pending.message, trace="", decision="")  # what happened is the recipient's own business
    return replace(pending, account=found[0], mailbox=found[1], message=message)


async def done(sharing: Sharing | None, jobs: AccountJobs, pending: PendingStore) -> bool:
    """Was it stored before a crash, wherever it was to go then? Its account knows the key of what it took; but a record that is
    carried out once more may lead to another account than before. Raises StoreError."""
    if sharing is None or not foreign(sharing, pending.account, pending.mailbox):
        return False
    work = partial(_done, sharing, pending.account, pending.mailbox, pending.message.key)
    return await jobs.run(pending.account, work)


def _done(sharing: Sharing, account: str, mailbox: str, key: bytes, own: AccountStore) -> bool:
    if own.delivered(INBOX, key):
        return True
    place = sharing.place(account, mailbox)
    if place is not None:
        with suppress(NoSuchMailbox), sharing.guests.use(place.owner) as guest:
            return guest.delivered(place.inner, key)
    return False


def kept(pending: PendingStore) -> tuple[PendingStore, str]:
    """In the recipient's INBOX instead, and why."""
    return replace(pending, mailbox=INBOX), f"“{pending.mailbox}” takes it no more: INBOX instead"


async def check_room(sharing: Sharing | None, jobs: AccountJobs, stores: Sequence[PendingStore]) -> None:
    """Raises OverQuota: what cannot be stored for a long time must not be promised. (A single store finds out itself.) What goes
    to others needs room there, or else in the recipient's own account; all together, not each alone."""
    room: dict[str, float] = {}

    async def takes(account: str, octets: int) -> bool:
        if account not in room:
            room[account] = float("inf")  # also where it cannot be told now
            with suppress(StoreError):
                quota = await jobs.run(account, lambda opened: opened.quota())
                if quota.limit > 0:
                    room[account] = quota.limit - quota.used
        if octets > room[account]:
            return False
        room[account] -= octets
        return True

    for one in stores:
        octets = len(one.message.data)
        place = await resolved(sharing, jobs, one)
        if place is not None and place.account != one.account and await takes(place.account, octets + _MORE):
            continue
        if not await takes(one.account, octets):
            raise OverQuota("the mailbox is full")


def foreign(sharing: Sharing | None, account: str, mailbox: str) -> bool:
    """May it be somebody else's mailbox?"""
    return sharing is not None and mailbox.startswith(sharing.prefixes(account))


def seen_by(sharing: Sharing | None, account: str, own: AccountStore) -> AccountStore:
    """The account's store, with what others share."""
    return own if sharing is None else SharedStore(sharing, account).enter(own)


class Reachable:
    """``sieve_host.AccountFacts`` of one's own mailboxes and those of others one may file into (RFC 5490 3.1)."""

    def __init__(self, sharing: Sharing, account: str, own: AccountStore) -> None:
        self._shared = SharedStore(sharing, account).enter(own)

    def mailboxes(self) -> tuple[MailboxInfo, ...]:
        return tuple(info for info in self._shared.mailboxes() if self._may(info.name))

    def _may(self, name: str) -> bool:
        if not self._shared.foreign(name):
            return True
        with suppress(NoSuchMailbox):
            return bool(self._shared.rights(name) & _POSTING)
        return False

    def remembered(self, key: bytes, now: float) -> bool:
        return self._shared.remembered(key, now)

    def get_metadata(self, mailbox: str | None, name: str) -> str | None:
        return self._shared.get_metadata(mailbox, name)


def reachable(sharing: Sharing | None, account: str, own: AccountStore) -> AccountFacts:
    return own if sharing is None else Reachable(sharing, account, own)
