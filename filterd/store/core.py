"""What the parts of an open Maildir account share: disk, lock, index, open folders; and how a dead writer is noticed.

Clocks, races and broken neighbours (read this before changing anything in the Maildir store):

* **One writer at a time.** Whoever changes files or index holds the account's flock. While names change on disk that the index
  does not know yet, the lock file holds the numbers of the mailboxes concerned. A process killed there leaves that note; the
  next holder marks those mailboxes *stale*. They are healed (``rescan``) before anybody believes or extends them.
* **Power failure.** The index may lose its last commits (WAL, synchronous=NORMAL), the files what was not synced. The kernel's
  boot id, kept in the index, tells: after a new boot all mailboxes are stale, numbering goes on at the reserved marks, and
  files that the index has forgotten come back under the UIDs in their names. Likewise when the index's files are not those that
  we left (``witness``).
* **The index was deleted or put aside**: each call compares the inode of the database; a new one starts with all stale.
* **Other programs** rename in ``cur`` and drop into ``new`` at any time. They are noticed by the directories' mtimes. An mtime
  is only as fine as the kernel's tick, and our own changes move it too: ``unsure`` says that a foreign change may hide behind
  an mtime that we have already seen, and one more look is due when it has aged (``rescan.refresh``).
* A name that is gone (ENOENT) means one rescan, then one more try.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from filterd.store import adopt_journal, attempt, durable, mounts, names, snapshot, textpack, witness
from filterd.store.base import NoSuchMailbox, StoreUnavailable
from filterd.store.durable import EVERYTHING, LOCK_SECONDS, Dir, Disk
from filterd.store.folder import Folder, safe_host
from filterd.store.index import AFTER_KILL, AFTER_POWER, Index, MailboxRow
from filterd.store.latenotes import LateNotes
from filterd.store.layout import Layout, MaildirLayout
from filterd.store.nowait import CachedOpen
from filterd.store.ownchanges import OwnChanges
from filterd.store.shelf import Shelf
from pipeline.ports import Clock, Ids

INDEX_DIRECTORY = ".filterd"
INDEX_FILE = "index.db"
LOCK_FILE = "lock"
KNOWN_NAMES = 200
OPEN_FOLDERS = 8  # per account; three descriptors each
_REMOVED = {errno.ENOENT, errno.EPERM, errno.ESTALE}  # EPERM is what O_TMPFILE says in a removed directory
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@dataclass(slots=True)
class Settings:
    """What the whole store has in common. ``notify`` is called after a commit with (account, mailbox name, modseq);
    the name is empty when it is about no single mailbox."""

    disk: Disk
    clock: Clock
    ids: Ids
    host: str
    newline: str
    notify: Callable[[str, str, int], None] = lambda account, mailbox, modseq: None
    shelf: Shelf = field(default_factory=Shelf)
    open_cached: CachedOpen = field(default_factory=CachedOpen)
    layout: Layout = field(default_factory=MaildirLayout)


@dataclass(slots=True)
class Core:
    """One open account. Not for two threads at once."""

    account: str
    path: str
    index_path: str
    settings: Settings
    limit: Callable[[], int]
    local: bool = field(init=False)  # directories tell of changes, and a stat does not wait
    root: Dir = field(init=False)
    index_dir: Dir = field(init=False)
    lock: durable.Lock = field(init=False)
    late: LateNotes = field(default_factory=LateNotes)
    adopting: bool = False  # ``adopt`` is at work through this object
    acks: set[bytes] = field(default_factory=set)  # delivery keys to forget with the next transaction
    root_seen: int = 0  # mtime of the root when its folders were last listed; 0: list them
    subscribed: tuple[tuple[int, int, int], tuple[str, ...]] | None = None  # (stamp of the file, names)
    serial: int = 0
    own: OwnChanges = field(default_factory=OwnChanges)
    confirm: dict[int, float] = field(
        default_factory=dict
    )  # mailbox -> when the next look for hidden changes may be
    _index: Index | None = None
    _folders: dict[int, Folder] = field(default_factory=dict)
    _held: int = 0
    _names: dict[str, str] = field(default_factory=dict)  # as asked for -> as the index has it
    _lost: bool = False
    _guarded: bool = False
    _looked: bool = False  # the index was looked at in this call
    moved: bool = False  # the account is of another layout now: open it anew
    _notices: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        disk = self.settings.disk
        self.settings.host = safe_host(self.settings.host)
        for place in self.settings.layout.places:
            durable.make_dirs(disk, f"{self.path}/{place}")
        durable.make_dirs(disk, self.index_path)
        if kind := mounts.network_file_system(self.index_path):
            raise StoreUnavailable(
                f"the index must not lie on {kind} ({self.index_path}): set store.index_dir"
            )
        self.local = "cur" in self.settings.layout.places and not mounts.network_file_system(self.path)
        self.root = disk.open_dir(self.path)
        self.index_dir = disk.open_dir(self.index_path)
        self.lock = disk.open_lock(self.index_dir, LOCK_FILE)

    @property
    def closed(self) -> bool:
        return self.root.fd < 0

    def close(self) -> None:
        self._forget_index()
        self.lock.close()
        self.root.close()
        self.index_dir.close()

    # -- the index --------------------------------------------------------------------------------------------------------
    @property
    def index(self) -> Index:
        """Open and the one that is there; opened and prepared under the lock when it is not."""
        if self._index is None or not (self._looked or self._index.same_file()):
            with self.locked():
                pass
        assert self._index is not None
        self._looked = self._guarded
        return self._index

    @property
    def opened_index(self) -> Index | None:
        """As it is; nothing is looked at."""
        return self._index

    def _forget_index(self) -> None:
        if self._index is not None:
            self._index.close()
            witness.note(self._index.path)
            self._index = None
            self.own = OwnChanges()
        self._forget_folders()

    def _forget_folders(self) -> None:
        for folder in self._folders.values():
            folder.close()
        self._folders.clear()
        self.root_seen = 0

    def _open_index(self) -> Index:
        path = f"{self.index_path}/{INDEX_FILE}"
        disk = self.settings.disk
        intact = witness.intact(path)
        try:
            index = Index(path, disk)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _BROKEN:
                raise
            self._put_aside()
            index = Index(path, disk)
        layout = self.settings.layout.name
        if not index.created and (index.meta("layout") or "maildir") != layout:  # from before a conversion
            index.close()
            self._put_aside()
            index = Index(path, disk)
        if index.created and index.meta("layout") != layout:
            with index.transaction():
                index.set_meta("layout", layout)
        self._index = index
        if not intact or index.meta("boot") != disk.boot_id():
            with index.transaction():
                index.execute("update mailbox set stale=?", (AFTER_POWER,))
                index.set_meta("boot", disk.boot_id())
        witness.note(path)
        return index

    def put_aside_index(self) -> None:
        """Under the lock: whoever comes next makes it anew."""
        snapshot.write_account(self)
        self._put_aside()

    def _put_aside(self) -> None:
        """A broken index is kept for people to look at, and made anew."""
        self._forget_index()
        stamp = int(self.settings.clock.time())
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                self.settings.disk.rename(
                    self.index_dir, INDEX_FILE + suffix, self.index_dir, f"broken.{stamp}.db{suffix}"
                )

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """What the world does to us becomes StoreUnavailable; a broken index is put aside for the next call. Once a call, and
        once a lock, we look whether the database is still the one that is there."""
        self._guarded, self._looked = True, False
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
                with contextlib.suppress(StoreUnavailable, OSError):
                    self.lock.acquire(LOCK_SECONDS)
                    try:
                        self._put_aside()
                    finally:
                        self.lock.release()
            raise StoreUnavailable(f"index: {error}") from error
        except OSError as error:
            if (
                error.errno == errno.ENOENT
            ):  # a folder that we hold open was removed by somebody: look again next time
                self._forget_folders()
            raise StoreUnavailable(f"store: {error.strerror or error}") from error
        finally:
            self._guarded = self._looked = False
            if self._lost and self._held == 0:
                self._lost = False
                self._forget_folders()
            self._trim()
            self._tell()

    def failed(self, error: OSError) -> None:
        """Perhaps a folder that we hold open was removed by somebody: open it anew next time."""
        self._lost = self._lost or error.errno in _REMOVED

    # -- the lock -----------------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The account's writer lock; may be taken again inside."""
        if self._held == 0:
            self.lock.acquire(LOCK_SECONDS)
            self.lock.begin_turn()
        self._held += 1
        try:
            if self._held == 1:
                self._prepare()
            yield
        finally:
            self._held -= 1
            if self._held == 0:
                try:
                    self.lock.end_turn()
                finally:
                    self.lock.release()

    def _prepare(self) -> None:
        """Under the lock, before anything else: is the index there, and did the last holder finish?"""
        if self._index is None or not self._index.same_file():
            self._forget_index()
            adopt_journal.refuse_unfinished(self)
            if not self.settings.layout.belongs(self.path):
                self.moved = True
                raise StoreUnavailable("the account's mail was converted meanwhile")
            try:
                self._open_index()
                self.settings.layout.finish(self)
                self.settings.layout.discover(self)
                attempt.undo_dead(self)
                snapshot.restore_account(self)
                self.settings.layout.sweep(self)
                textpack.sweep(self)
            except BaseException:
                self._forget_index()  # the next one does all of it
                raise
        note = self.lock.note()
        if note == adopt_journal.ADOPTING:
            adopt_journal.refuse_unfinished(self)
            note = EVERYTHING
        if note:
            self._mark_stale(note)
            self.settings.layout.finish(self)
            attempt.undo_dead(self)
            self.lock.set_note(
                b""
            )  # last: who is stopped on the way is followed by one who does it all again

    def _mark_stale(self, note: bytes) -> None:
        assert self._index is not None
        with self._index.transaction():
            if note == EVERYTHING:
                self._index.execute("update mailbox set stale=? where stale=0", (AFTER_KILL,))
                return
            numbers = [(AFTER_KILL, int(part)) for part in note.split(b",") if part.isdigit()]
            self._index.execute_many("update mailbox set stale=? where id=? and stale=0", numbers)

    @contextlib.contextmanager
    def publishing(self, *mailboxes: int) -> Iterator[None]:
        """Around changes of names up to their index commit. Left by an error, the note stays and the mailboxes are healed."""
        self.lock.set_note(b",".join(b"%d" % number for number in sorted(set(mailboxes))))
        try:
            yield
        except BaseException:
            self.index.rollback()
            raise
        self.lock.set_note(b"")

    # -- mailboxes ------------------------------------------------------------------------------------------------------------
    def box(self, mailbox: str) -> tuple[Folder, MailboxRow]:
        """The open folder and the index row of a mailbox, healed. Raises NoSuchMailbox."""
        name = self._names.get(mailbox) or self._spelled(mailbox)
        for _ in range(4):
            index = self.index
            row = index.mailbox_named(name)
            if row is None:
                if self.settings.layout.looked_recently(self):
                    break
                with self.locked():
                    self.settings.layout.discover(self)
                continue
            folder = self._folder(row)
            if folder is None:
                with self.locked():
                    self.settings.layout.discover(self)
                continue
            if row.stale:
                self._heal(folder)
                continue
            return folder, row
        raise NoSuchMailbox(f"no mailbox {name}")

    def seen(self, mailbox: str) -> Folder:
        """The folder of a mailbox that was looked at before (``box``): its messages are found by number and descriptor, so
        that a rename by others does no harm. Opened like ``box`` when it is not open."""
        for folder in reversed(self._folders.values()):
            if folder.name == mailbox:
                return folder
        return self.box(mailbox)[0]

    def open_folder(self, mailbox_id: int) -> Folder | None:
        """As it was seen last; None when it was not kept open."""
        return self._folders.get(mailbox_id)

    def _heal(self, folder: Folder) -> None:
        """Slice by slice, so that others come to their turn."""
        done = False
        while not done:
            with self.locked():
                done = self.settings.layout.heal(self, folder)

    def _spelled(self, mailbox: str) -> str:
        name = names.normalise_known(mailbox)
        if len(self._names) < KNOWN_NAMES:
            self._names[mailbox] = name
        return name

    def fresh_row(self, folder: Folder) -> MailboxRow:
        """The index row now, under the lock; healed. Raises NoSuchMailbox when the mailbox went away."""
        row = self.index.mailbox(folder.id)
        if row is not None and row.stale:
            self._heal(folder)
            row = self.index.mailbox(folder.id)
        if row is None or row.name != folder.name:
            raise NoSuchMailbox(f"no mailbox {folder.name}")
        return row

    def _folder(self, row: MailboxRow) -> Folder | None:
        """None when its directory is not there."""
        folder = self._folders.pop(row.id, None)
        if folder is not None and (folder.name != row.name or folder.path != self.path_of(row.directory)):
            folder.close()
            folder = None
        if folder is None:
            try:
                folder = self.settings.layout.open_folder(self, row)
            except (FileNotFoundError, NotADirectoryError):
                return None
        self._folders[row.id] = folder  # last used is last
        return folder

    def path_of(self, directory: str) -> str:
        return os.path.join(self.path, directory) if directory else self.path

    def drop_folder(self, mailbox_id: int) -> None:
        folder = self._folders.pop(mailbox_id, None)
        if folder is not None:
            folder.close()

    def hand_over(self, mailbox_id: int) -> Folder:
        """An open folder for the caller to keep, and to close; it outlives the index."""
        return self._folders.pop(mailbox_id)

    def _trim(self) -> None:
        while len(self._folders) > OPEN_FOLDERS and self._held == 0:
            self.drop_folder(next(iter(self._folders)))

    # -- notices ----------------------------------------------------------------------------------------------------------------
    def changed(self, row: MailboxRow) -> None:
        """To be told to others once the lock is let go of."""
        self._notices[row.name] = row.modseq

    def account_changed(self) -> None:
        """Names, subscriptions or metadata are others now; likewise."""
        self._notices[""] = 0

    def _tell(self) -> None:
        if self._notices and self._held == 0:
            notices, self._notices = self._notices, {}
            for mailbox, modseq in notices.items():
                self.settings.notify(self.account, mailbox, modseq)

    def now(self) -> int:
        return int(self.settings.clock.time())


def touched(row: MailboxRow, before: tuple[int, int], after: tuple[int, int]) -> None:
    """Our own changes moved the directories' mtimes: take the new ones, unless a foreign change is pending there."""
    if before[0] == row.new_mtime and after[0] != before[0]:
        row.new_mtime = after[0]
        row.unsure = 1
    if before[1] == row.cur_mtime and after[1] != before[1]:
        row.cur_mtime = after[1]
        row.unsure = 1
