"""The way into other people's mailboxes, as the configuration allows it (``[sharing]``)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from filterd.config.schema import Config
from filterd.imap.sharing import Sharing
from filterd.ports import SystemClock, SystemIds
from filterd.store.acl_guests import Guests
from filterd.store.acl_shares import FILE, SharesFile
from filterd.stores import store_of

NOBODY = "nobody"


def shares_of(config: Config) -> SharesFile:
    """The caller closes it."""
    return SharesFile(Path(config.server.data_dir) / FILE)


def sharing_of(
    config: Config, quota: Callable[[str], int], notify: Callable[[str, str, int], None]
) -> Sharing | None:
    """None: nobody shares. One a process, made after the fork; the caller closes it."""
    if config.sharing.scope == NOBODY:
        return None
    store = store_of(config, socket.gethostname(), quota, SystemClock(), SystemIds(), notify)
    return Sharing(Guests(store), shares_of(config), config.sharing.scope, config.sharing.public)
