"""How an account's messages lie on disk, as far as index and views must know: below this seam Maildir and mbox differ.

Numbers, flags, changes, quota, searches and delivery keys are the index's and the same for both. A layout says which mailboxes
there are, brings the index in line with what lies there, and reads the text of a message.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from filterd.store import rescan, tree, views
from filterd.store.folder import Folder

if TYPE_CHECKING:
    from filterd.store.core import Core
    from filterd.store.index import MailboxRow


MBOX_HOME = ".mailboxes"  # what an mbox account has and a Maildir has not


class Layout(Protocol):
    """``name``: as in ``store.format``. ``places``: directories that an account has. ``counts_sizes``: it has a ``maildirsize``."""

    name: str
    places: tuple[str, ...]
    counts_sizes: bool

    def belongs(self, path: str) -> bool:
        """The account in this directory is of this layout."""
        ...

    def finish(self, core: Core) -> None:
        """Under the lock, before anything is looked at: carry out what a dead writer had decided."""
        ...

    def discover(self, core: Core) -> None:
        """Under the lock: bring the index's mailboxes in line with the disk."""
        ...

    def looked_recently(self, core: Core) -> bool:
        """No mailbox has come or gone since."""
        ...

    def sweep(self, core: Core) -> None:
        """Under the lock: remove what dead writers left."""
        ...

    def open_folder(self, core: Core, row: MailboxRow) -> Folder:
        """Raises FileNotFoundError, NotADirectoryError."""
        ...

    def heal(self, core: Core, folder: Folder) -> bool:
        """Under the lock, one slice: make a stale mailbox whole. False: come again."""
        ...

    def refresh(self, core: Core, folder: Folder, row: MailboxRow) -> MailboxRow:
        """The row after changes of other programs have been taken in."""
        ...

    def read(self, core: Core, mailbox: str, uid: int) -> bytes | None: ...

    def read_many(self, core: Core, mailbox: str, uids: Sequence[int], octets: int) -> list[bytes | None]: ...

    def changed(self, core: Core, folder: Folder, row: MailboxRow, uids: Sequence[int]) -> set[int]:
        """Those whose text may not be the one that the index knows."""
        ...


class MaildirLayout(Layout):
    """Directories of message files."""

    name = "maildir"
    places = ("cur", "new", "tmp")
    counts_sizes = True

    def belongs(self, path: str) -> bool:
        return not os.path.isdir(f"{path}/{MBOX_HOME}")

    def finish(self, core: Core) -> None:
        tree.finish_rename(core)

    def discover(self, core: Core) -> None:
        tree.discover(core)

    def looked_recently(self, core: Core) -> bool:
        return tree.looked_recently(core)

    def sweep(self, core: Core) -> None:
        tree.sweep(core)

    def open_folder(self, core: Core, row: MailboxRow) -> Folder:
        return Folder(core.settings.disk, core.path_of(row.directory), row)

    def heal(self, core: Core, folder: Folder) -> bool:
        return rescan.heal(core, folder)

    def refresh(self, core: Core, folder: Folder, row: MailboxRow) -> MailboxRow:
        return rescan.refresh(core, folder, row)

    def read(self, core: Core, mailbox: str, uid: int) -> bytes | None:
        return views.read(core, mailbox, uid)

    def read_many(self, core: Core, mailbox: str, uids: Sequence[int], octets: int) -> list[bytes | None]:
        return views.read_many(core, mailbox, uids, octets)

    def changed(self, core: Core, folder: Folder, row: MailboxRow, uids: Sequence[int]) -> set[int]:
        changed = set()
        columns = ("name", "fresh", "inode", "disk_size", "mtime")
        for uid, name, fresh, *known in core.index.columns(row.id, uids, columns):
            try:
                facts = os.stat(str(name), dir_fd=folder.place(int(fresh or 0)).fd, follow_symlinks=False)
                same = known == [facts.st_ino, facts.st_size, facts.st_mtime_ns]
            except OSError:
                same = False
            if not same:
                changed.add(int(uid or 0))
        return changed
