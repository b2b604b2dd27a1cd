"""What a new account gets: the folders that mail programs look for, marked by their use (RFC 6154) and subscribed."""

from __future__ import annotations

from filterd.store.base import AccountStore, MailboxExists, Store

FOLDERS = (
    ("Drafts", "\\Drafts"),
    ("Sent", "\\Sent"),
    ("Junk", "\\Junk"),
    ("Trash", "\\Trash"),
    ("Archive", "\\Archive"),
)


def provision(store: Store, account: str) -> AccountStore:
    """Make what is missing; folders that exist are left as they are. Raises StoreError."""
    opened = store.account(account)
    present = {info.name: info for info in opened.mailboxes()}
    used = {info.special_use for info in present.values()}
    opened.subscribe("INBOX", True)
    for name, use in FOLDERS:
        if name in present or use in used:
            continue
        try:
            opened.create(name, use)
        except MailboxExists:  # another process was faster
            continue
        opened.subscribe(name, True)
    return opened
