"""Which kind of store an account has: what lies in its directory decides, the configuration where nothing lies there yet.

So accounts of both kinds live side by side, ``filterd store convert`` changes one without touching the configuration, and a
change of ``store.format`` concerns new accounts only.
"""

from __future__ import annotations

import os

from filterd.store import mbox_tree, names
from filterd.store.base import BadName, Store
from filterd.store.maildir import MaildirAccount, MaildirStore
from filterd.store.mbox import MboxStore
from filterd.store.mbox_tree import HOME

MAILDIR, MBOX = "maildir", "mbox"
FORMATS = (MAILDIR, MBOX)


def format_of(path: str) -> str:
    """What lies in an account's directory: "maildir", "mbox" or "" (nothing)."""
    if os.path.isdir(f"{path}/{HOME}"):
        return MBOX
    return MAILDIR if os.path.isdir(f"{path}/cur") else ""


class ChosenStore(Store):
    """Both kinds of accounts below one root. ``default``: the kind of a new account."""

    def __init__(self, maildir: MaildirStore, mbox: MboxStore, default: str = MAILDIR) -> None:
        self.maildir = maildir
        self.mbox = mbox
        self.default = default

    def of(self, account: str) -> MaildirStore:
        """The store that has this account."""
        for store in (self.maildir, self.mbox):
            if store.opened(account) is not None:
                return store
        kind = format_of(self.path(account)) or self.default
        return self.mbox if kind == MBOX else self.maildir

    def account(self, account: str) -> MaildirAccount:
        found = self.opened(account)
        if found is not None:
            if not found.moved:
                return found
            self.close_account(account)
        return self.of(account).account(account)

    def opened(self, account: str) -> MaildirAccount | None:
        """The account if it is open."""
        found = self.maildir.opened(account)
        return found if found is not None else self.mbox.opened(account)

    def surplus(self) -> list[str]:
        return [*self.maildir.surplus(), *self.mbox.surplus()]

    def close_account(self, account: str) -> None:
        self.maildir.close_account(account)
        self.mbox.close_account(account)

    def path(self, account: str) -> str:
        return self.maildir.path(account)

    def watched(self, account: str, mailbox: str) -> tuple[str, ...]:
        """Directories and files whose mtimes tell that another program has changed a mailbox."""
        path = self.path(account)
        if (format_of(path) or self.default) == MAILDIR:
            folder = os.path.join(path, names.encode_directory(mailbox))
            return (os.path.join(folder, "new"), os.path.join(folder, "cur"))
        try:
            file = mbox_tree.inbox_path(self.mbox.mbox, path, account)
            if mailbox != names.INBOX:
                file = f"{path}/{mbox_tree.file_name(mailbox)}"
        except BadName:
            return ()
        return (os.path.dirname(file), file)

    def close(self) -> None:
        self.maildir.close()
        self.mbox.close()
