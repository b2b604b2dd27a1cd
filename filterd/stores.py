"""The message store that the configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filterd.accounts.places import mail_root
from filterd.config.schema import Config
from filterd.store.choice import ChosenStore
from filterd.store.durable import LockRules
from filterd.store.maildir import MaildirStore
from filterd.store.mbox import MboxStore
from filterd.store.mbox_tree import MboxSettings
from pipeline.ports import Clock, Ids


def mbox_settings(config: Config) -> MboxSettings:
    chosen = config.store.mbox
    locks = LockRules(chosen.locks, chosen.lock_wait, chosen.lock_stale)
    return MboxSettings(chosen.inbox, chosen.quoting, locks)


def store_of(
    config: Config,
    host: str,
    quota: Callable[[str], int],
    clock: Clock,
    ids: Ids,
    notify: Callable[[str, str, int], None] = lambda account, mailbox, modseq: None,
) -> ChosenStore:
    """The caller closes it. One a process, made after the fork."""
    root = Path(mail_root(config))
    maildir = MaildirStore(root, host, config.store.newline, quota, clock, ids, notify=notify)
    mbox = MboxStore(root, host, quota, clock, ids, mbox_settings(config), notify=notify)
    return ChosenStore(maildir, mbox, config.store.format)
