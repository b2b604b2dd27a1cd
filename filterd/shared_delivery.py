"""Delivery into somebody else's mailbox: what ``fileinto "user/bob@example.org/Work"`` of a script comes down to.

It needs the right ``i`` or ``p`` there (RFC 4314 4). Without it, where there is no such mailbox, or no room left in that account,
the message is kept in the recipient's INBOX: a script never fails for what others have changed. A mailbox of the recipient's own
that has such a name is his own, but none is made by that name.
"""

from __future__ import annotations

from contextlib import suppress

from filterd.imap.shared import SharedStore
from filterd.imap.sharing import Sharing, rights_in
from filterd.sieve_host import AccountFacts
from filterd.store.base import AccountStore, MailboxInfo, NoSuchMailbox
from filterd.store.names import INBOX

_POSTING = frozenset("ip")
_MORE = 4_096  # octets that a store may add to a message


def destination(
    sharing: Sharing, account: str, mailbox: str, octets: int, own: AccountStore
) -> tuple[str, str]:
    """Account and mailbox for so many octets; in a job of the account. Raises StoreError."""
    with suppress(NoSuchMailbox):
        own.info(mailbox)
        return account, mailbox
    place = sharing.place(account, mailbox)
    if place is not None:
        with suppress(NoSuchMailbox), sharing.guests.use(place.owner) as guest:
            if rights_in(guest, place.inner, account) & _POSTING and _has_room(guest, octets + _MORE):
                return place.owner, guest.info(place.inner).name
    return account, INBOX


def _has_room(store: AccountStore, octets: int) -> bool:
    quota = store.quota()
    return not quota.limit or quota.used + octets <= quota.limit


def foreign(sharing: Sharing | None, account: str, mailbox: str) -> bool:
    """Must ``destination`` be asked?"""
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
