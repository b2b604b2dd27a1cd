"""Message stores: one contract (``base``), several implementations (memory, Maildir)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filterd.accounts.directory import Directory
    from filterd.config.schema import Config
    from filterd.store.base import Store
    from pipeline.ports import Clock


def open_store(
    config: Config,
    directory: Directory | None = None,
    clock: Clock | None = None,
    notify: Callable[[str, str, int], None] = lambda account, mailbox, modseq: None,
) -> Store:
    """The configured store. Without a directory every account has the configured quota.

    ``notify(account, mailbox, modseq)`` is called after each commit, from the thread that made it. Open it after a fork.
    """
    from filterd.accounts.places import account_folder
    from filterd.ports import SystemClock, SystemIds
    from filterd.store.maildir import MaildirStore

    def quota_of(account: str) -> int:
        found = directory.account(account) if directory is not None else None
        return found.quota if found is not None else config.accounts.quota

    return MaildirStore(
        Path(config.server.data_dir),
        config.server.hostname,
        config.store.newline,
        quota_of,
        clock or SystemClock(),
        SystemIds(),
        path_of=lambda account: account_folder(config, account),
        notify=notify,
    )
