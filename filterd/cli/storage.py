"""The message store as the commands need it: opened from the configuration, without a server."""

from __future__ import annotations

from filterd.config.schema import Config
from filterd.ports import SystemClock, SystemIds
from filterd.store.choice import ChosenStore
from filterd.stores import store_of


def open_store(config: Config) -> ChosenStore:
    """The configured store, for looking and for making folders; the caller closes it. Raises StoreUnavailable."""
    quota = config.accounts.quota
    return store_of(config, config.server.hostname, lambda account: quota, SystemClock(), SystemIds())
