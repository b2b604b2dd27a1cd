"""The message store as the commands need it: opened from the configuration, without a server.

Imported only when it is opened: `--help` of a command does not wait for all of the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.config.schema import Config

if TYPE_CHECKING:
    from filterd.store.choice import ChosenStore


def open_store(config: Config) -> ChosenStore:
    """The configured store, for looking and for making folders; the caller closes it. Raises StoreUnavailable."""
    from filterd.ports import SystemClock, SystemIds
    from filterd.stores import store_of

    quota = config.accounts.quota
    return store_of(config, config.server.hostname, lambda account: quota, SystemClock(), SystemIds())
