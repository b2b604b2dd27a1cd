"""The mbox store: accounts whose mailboxes are files of many messages, with the same SQLite index beside them as Maildir's.

Specification: RFC 4155 and what ``mbox_format`` names. Complete: yes. How mailboxes lie on disk: ``mbox_tree``; how files change so
that no crash loses a message: ``mbox_delivery`` (what is added) and ``mbox_journal`` (all else); how changes of other programs are
seen: ``mbox_sync``. Index, numbers, views, searches, quota and delivery keys are shared with Maildir (``layout``).

Everything is done under two locks: the account's, between our processes, and those of the file (``durable.MailLock``), which
mail programs agree on. The second is taken for a moment and with a time limit, and never on the event loop: stores are called
from a pool (``jobs``). Who only looks while another program has the file sees what we knew last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from filterd.store import mbox_read, mbox_sync, mbox_transfer, mbox_tree
from filterd.store.core import Core
from filterd.store.durable import Disk
from filterd.store.folder import Folder
from filterd.store.index import MailboxRow
from filterd.store.layout import Layout
from filterd.store.maildir import Boxes, MaildirAccount, MaildirStore, Moves
from filterd.store.mbox_delivery import MboxBatch
from filterd.store.mbox_file import MboxFolder
from filterd.store.mbox_tree import HOME, MAIL, MboxSettings
from pipeline.ports import Clock, Ids


class MboxLayout(Layout):
    """Mailboxes as files."""

    name = "mbox"
    places = (MAIL, HOME, "tmp")
    counts_sizes = False

    def __init__(self, settings: MboxSettings) -> None:
        self.settings = settings

    def belongs(self, path: str) -> bool:
        return os.path.isdir(f"{path}/{HOME}")

    def finish(self, core: Core) -> None:
        mbox_tree.finish(core)

    def discover(self, core: Core) -> None:
        mbox_tree.discover(core)

    def looked_recently(self, core: Core) -> bool:
        return mbox_tree.looked_recently(core)

    def sweep(self, core: Core) -> None:
        mbox_tree.sweep(core)

    def open_folder(self, core: Core, row: MailboxRow) -> Folder:
        if not mbox_tree.exists(core, row):
            raise FileNotFoundError(row.directory)
        mbox = mbox_tree.open_mbox(core, row.directory)
        try:
            return MboxFolder(
                core.settings.disk, core.path_of(row.directory), row, f"{core.path}/{HOME}/{row.mid}", mbox
            )
        except BaseException:
            mbox.close()
            raise

    def heal(self, core: Core, folder: Folder) -> bool:
        return mbox_sync.heal(core, folder)

    def refresh(self, core: Core, folder: Folder, row: MailboxRow) -> MailboxRow:
        return mbox_sync.refresh(core, folder, row)

    def read(self, core: Core, mailbox: str, uid: int) -> bytes | None:
        return mbox_read.read(core, mailbox, uid)

    def read_many(self, core: Core, mailbox: str, uids: Sequence[int], octets: int) -> list[bytes | None]:
        return mbox_read.read_many(core, mailbox, uids, octets)

    def changed(self, core: Core, folder: Folder, row: MailboxRow, uids: Sequence[int]) -> set[int]:
        return mbox_read.changed(core, folder, uids, row.id)


class MboxAccount(MaildirAccount):
    """One account: what does not differ is Maildir's."""

    boxes: ClassVar[Boxes] = mbox_tree
    moves: ClassVar[Moves] = mbox_transfer
    batch = MboxBatch


class MboxStore(MaildirStore):
    """The accounts below ``root``, as files. One a process, made after the fork."""

    def __init__(
        self,
        root: Path,
        host: str,
        quota_of: Callable[[str], int],
        clock: Clock,
        ids: Ids,
        settings: MboxSettings | None = None,
        disk: Disk | None = None,
        index_root: Path | None = None,
        notify: Callable[[str, str, int], None] = lambda account, mailbox, modseq: None,
        path_of: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(root, host, "lf", quota_of, clock, ids, disk, index_root, notify, path_of)
        self.mbox = settings or MboxSettings()
        self._settings.layout = MboxLayout(self.mbox)

    def _make(self, core: Core) -> MaildirAccount:
        return MboxAccount(core)
