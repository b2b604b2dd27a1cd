"""The message store as the commands need it: opened from the configuration, without a server."""

from __future__ import annotations

from pathlib import Path

from filterd.accounts.places import mail_root
from filterd.config.schema import Config
from filterd.ports import SystemClock, SystemIds
from filterd.store.base import Store
from filterd.store.maildir import MaildirStore


def open_store(config: Config) -> Store:
    """The configured store, for looking and for making folders; the caller closes it. Raises StoreUnavailable."""
    quota = config.accounts.quota
    return MaildirStore(
        Path(mail_root(config)),
        config.server.hostname,
        config.store.newline,
        lambda account: quota,
        SystemClock(),
        SystemIds(),
    )
