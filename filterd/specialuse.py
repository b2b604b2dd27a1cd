"""Which mailbox a script means by its use, its id or its name; one that it makes gets the use.

Specification: RFC 8579 4 (:specialuse, and with RFC 5490 :create), RFC 9042 4 (:mailboxid), RFC 6154 2 (the uses).
"""

from __future__ import annotations

from contextlib import suppress

from filterd import shared_delivery
from filterd.imap.sharing import Sharing
from filterd.store.base import AccountStore, BadName, LimitReached, MailboxExists
from filterd.store.names import SPECIAL_USES
from pipeline import plan as plans

JUNK = "\\Junk"


def resolve_mailbox(store: AccountStore, step: plans.Store, sharing: Sharing | None, account: str) -> str:
    """A name in this account, or the name of what another one shares. In the account's job."""
    wanted = JUNK if step.quarantine else (step.special_use or "")
    for info in store.mailboxes():
        if step.mailbox_id and info.id == step.mailbox_id:
            return info.name
        if wanted and info.special_use.lower() == wanted.lower():
            return info.name
    if step.quarantine:
        return "Junk"
    use = SPECIAL_USES.get(wanted.lower())
    if use and step.create and not shared_delivery.foreign(sharing, account, step.mailbox):
        with suppress(MailboxExists, BadName, LimitReached):  # one that is there keeps what it is
            store.create(step.mailbox, use)
    return step.mailbox
