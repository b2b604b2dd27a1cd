"""The message store as the commands need it: opened from the configuration, without a server."""

from __future__ import annotations

from filterd.config.schema import Config
from filterd.store.base import Store


def open_store(config: Config) -> Store:
    """The configured store; the caller closes it. Raises StoreUnavailable."""
    from filterd.app import open_store as build  # the only place that knows the concrete classes

    return build(config)
