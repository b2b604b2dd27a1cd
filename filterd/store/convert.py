"""An account from Maildir to mbox or back: UIDs, UIDVALIDITY, mailbox ids, flags, keywords, dates and subscriptions stay.

The account stays where it is and locked; clients and senders are told to come again (or wait) meanwhile. The new files are built
in ``filterd-convert`` in the account's directory and synced, then what does not disturb the old kind is put into its place, the
index is put aside, and one rename decides: ``.mailboxes`` comes (mbox) or goes (Maildir). Before it the account is what it was,
behind it the new one; the index is made anew from the files, which carry all that must be kept, by whoever opens the account next.
Annotations and the memory of Sieve (vacation, duplicate) are read from the old index and written to the new one; a crash between
the rename and that loses these two. A run that was cut short is simply run again.

Other programs do not know the account's lock. An mbox INBOX is therefore locked against them from its reading until it is put
away or emptied; when anything has changed all the same since it was read, nothing is switched, and it must be run again.

The old files are kept in ``filterd-old-<kind>-<time>`` for their owner to remove. Change numbers (CONDSTORE) go on above those of
before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from filterd.store import durable, mbox_sync, mbox_tree, names, tree
from filterd.store import flags as fl
from filterd.store.base import StoreUnavailable
from filterd.store.choice import MAILDIR, MBOX, ChosenStore, format_of
from filterd.store.core import Core
from filterd.store.durable import LockRules, opened
from filterd.store.folder import KEYWORDS_FILE, MAILBOX_FILE, Folder, MailboxFile
from filterd.store.index import HotRow, MailboxRow
from filterd.store.layout import MBOX_HOME
from filterd.store.mbox_delivery import Appending, area_of, prepared
from filterd.store.mbox_file import CHUNK, MboxFile, mbox_of
from filterd.store.record import to_disk
from filterd.store.snapshot_text import SNAPSHOT_FILE

WORK = "filterd-convert"
OLD = "filterd-old"
MAILDIR_PARTS = ("cur", "new", "tmp")

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Converted:
    """``old``: where the files of before are."""

    mailboxes: int = 0
    messages: int = 0
    old: str = ""
    notes: list[str] = field(default_factory=list)


def convert(
    store: ChosenStore, account: str, to: str, progress: Progress = lambda what, done, total: None
) -> Converted:
    """Raises StoreUnavailable (in use, no room), ValueError for what cannot be done."""
    path = store.path(account)
    if format_of(path) in ("", to):
        raise ValueError(
            f"{account} is kept as {to} already" if format_of(path) else f"{account} has no mail yet"
        )
    source = store.of(account)
    store.close_account(account)
    core = source.core(account)
    try:
        with core.guard(), core.locked():
            done, kept = _Conversion(core, to, store, progress).run()
    finally:
        core.close()
    _restore(store, account, kept)
    return done


@dataclass(slots=True)
class _Kept:
    """What only the index knows."""

    metadata: list[tuple[object, ...]] = field(default_factory=list)  # mailbox id, name, value
    state: list[tuple[object, ...]] = field(default_factory=list)
    keywords: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # mailbox -> keyword -> UIDs


class _Conversion:
    def __init__(self, core: Core, to: str, store: ChosenStore, progress: Progress) -> None:
        self.core = core
        self.disk = core.settings.disk
        self.to = to
        self.store = store
        self.progress = progress
        self.work = f"{core.path}/{WORK}"
        self.done = Converted()
        self.kept = _Kept()
        self.written: list[tuple[Folder, MailboxRow]] = []  # as they were when they were read
        self.inbox: MboxFile | None = None  # of an mbox account, held

    def run(self) -> tuple[Converted, _Kept]:
        core = self.core
        self._clear()
        durable.make_dirs(self.disk, self.work)
        rows = tree.listing(core)
        total = sum(row.messages for row in rows)
        with contextlib.ExitStack() as stack:
            for row in sorted(rows, key=lambda row: row.name == names.INBOX):  # it is locked for others: last
                folder, _ = core.box(row.name)
                if row.name == names.INBOX and self.to == MAILDIR:
                    self._hold(folder, stack)
                    row = mbox_sync.current(core, folder)
                    self._write(row)
                    core.hand_over(row.id)  # it must stay open when the index is put aside
                else:
                    row = core.settings.layout.refresh(core, folder, row)
                    self._write(row)
                self.written.append((folder, row))
                self.progress(row.name, self.done.messages, total)
            self._remember()
            self._unchanged()
            self._switch(rows)
        return self.done, self.kept

    def _hold(self, inbox: Folder, stack: contextlib.ExitStack) -> None:
        """Nobody adds to INBOX from here on until it is put away."""
        self.inbox = mbox_of(inbox)
        stack.callback(inbox.close)
        stack.enter_context(self.inbox.held())

    def _write(self, row: MailboxRow) -> None:
        hots = self.core.index.hot_all(row.id)
        (self._write_mbox if self.to == MBOX else self._write_maildir)(row, hots)
        self.done.mailboxes += 1
        self.done.messages += len(hots)

    def _unchanged(self) -> None:
        """Has nobody changed what is written already? Raises StoreUnavailable."""
        layout = self.core.settings.layout
        for folder, row in self.written:
            now = layout.refresh(self.core, folder, row)
            if now.modseq != row.modseq or (
                self.to == MAILDIR and folder.times() != (now.new_mtime, now.cur_mtime)
            ):
                raise StoreUnavailable(f"another program has changed {row.name} meanwhile: run it again")

    def _clear(self) -> None:
        """What an earlier run has left."""
        for place, folders, files in os.walk(self.work, topdown=False):
            with opened(self.disk, place) as at:
                for name in files:
                    self.disk.unlink(at, name)
                for name in folders:
                    self.disk.remove_dir(at, name)

    def _file_of(self, row: MailboxRow) -> MailboxFile:
        return MailboxFile(
            row.mid,
            row.uidvalidity,
            max(row.uid_mark, row.uidnext),
            max(row.modseq_mark, row.modseq + 1),
            row.special_use,
        )

    def _text(self, row: MailboxRow, hot: HotRow) -> bytes:
        text = self.core.settings.layout.read(self.core, row.name, hot.uid)
        if text is None:
            raise StoreUnavailable(f"message {hot.uid} of {row.name} changed meanwhile: try again")
        return text

    def _write_mbox(self, row: MailboxRow, hots: Sequence[HotRow]) -> None:
        below = mbox_tree.file_name(row.name) or mbox_tree.INBOX_FILE
        path = f"{self.work}/{below}"
        durable.make_dirs(self.disk, os.path.dirname(path))
        home = f"{self.work}/{MBOX_HOME}/{row.mid}"
        durable.make_dirs(self.disk, home)
        with opened(self.disk, home) as at:
            place = os.fsencode(mbox_tree.file_name(row.name)) + b"\n"
            durable.replace_small(self.disk, at, mbox_tree.FILE, place)
            durable.replace_small(self.disk, at, MAILBOX_FILE, self._file_of(row).render())
            self._keywords(at, row)
        mbox = MboxFile(self.disk, path, LockRules(()))
        try:
            with mbox.held():
                appending = Appending(mbox, row)
                for hot in hots:
                    key = self._key(row, hot)
                    text = prepared(self._text(row, hot))
                    appending.add(
                        area_of(text, row, hot.uid, (hot.flags, hot.fresh), (hot.date, hot.savedate), key)
                    )
                appending.finish()
                mbox.sync()
        finally:
            mbox.close()

    def _key(self, row: MailboxRow, hot: HotRow) -> bytes:
        found = self.core.index.query("select key from delivery where mbox=? and uid=?", (row.id, hot.uid))
        return bytes(found[0][0]) if found and isinstance(found[0][0], bytes) else b""

    def _keywords(self, at: durable.Dir, row: MailboxRow) -> None:
        text = "".join(f"{number} {word}\n" for number, word in enumerate(row.keyword_list))
        durable.replace_small(self.disk, at, KEYWORDS_FILE, text.encode())

    def _write_maildir(self, row: MailboxRow, hots: Sequence[HotRow]) -> None:
        directory = names.encode_directory(row.name)
        path = f"{self.work}/{directory}" if directory else f"{self.work}/INBOX"
        for part in MAILDIR_PARTS:
            durable.make_dirs(self.disk, f"{path}/{part}")
        with opened(self.disk, path) as at:
            if directory:
                durable.replace_small(self.disk, at, tree.MARKER, b"", durable=False)
            durable.replace_small(self.disk, at, MAILBOX_FILE, self._file_of(row).render())
            self._keywords(at, row)
        host, newline = self.core.settings.host, self.store.maildir.newline
        with opened(self.disk, f"{path}/new") as new, opened(self.disk, f"{path}/cur") as cur:
            for hot in hots:
                if self.inbox is not None:
                    self.inbox.touch()
                text = self._text(row, hot)
                octets, _ = to_disk(text, newline)
                key = self._key(row, hot).hex()
                base = f"{hot.savedate}.M0P{os.getpid()}Q{hot.uid}{'K' + key if key else ''}.{host}"
                name = f"{base},S={len(octets)},W={len(text)},U={row.mid}.{hot.uid}"
                file = self.disk.write_new(new if hot.fresh else cur, octets, hot.date)
                try:
                    self.disk.sync(file)
                    self.disk.publish(file, name if hot.fresh else name + fl.info_of(hot.flags))
                finally:
                    self.disk.discard(file)
                for word in fl.names_of(hot.flags & ~fl.NAMED_MASK, row.keyword_list):
                    self.kept.keywords.setdefault(row.name, {}).setdefault(word, []).append(hot.uid)
            self.disk.sync_dir(new)
            self.disk.sync_dir(cur)

    def _remember(self) -> None:
        query = self.core.index.query
        self.kept.metadata = [
            *query("select '', name, value from metadata where mbox=0"),
            *query(
                "select mailbox.mid, metadata.name, value from metadata join mailbox on mailbox.id = metadata.mbox"
            ),
        ]
        self.kept.state = list(query("select key, until from state"))

    def _switch(self, rows: Sequence[MailboxRow]) -> None:
        """Put the new files beside the old ones, and let one rename decide."""
        core, disk = self.core, self.disk
        kind = MAILDIR if self.to == MBOX else MBOX
        self.done.old = f"{core.path}/{OLD}-{kind}-{core.now()}"
        durable.make_dirs(disk, self.done.old)
        inbox = mbox_tree.inbox_path(self.store.mbox.mbox, core.path, core.account)
        with opened(disk, self.work) as work, opened(disk, self.done.old) as old:
            if self.to == MBOX:
                self._place_mbox(work, inbox)
                core.put_aside_index()
                disk.rename(work, MBOX_HOME, core.root, MBOX_HOME)
                disk.sync_dir(core.root)
                parts = [
                    *MAILDIR_PARTS[:2],
                    *(row.directory for row in rows if row.directory),
                    MAILBOX_FILE,
                    KEYWORDS_FILE,
                    SNAPSHOT_FILE,
                ]
            else:
                self._place_maildir(work)
                core.put_aside_index()
                disk.rename(core.root, MBOX_HOME, old, MBOX_HOME)
                disk.sync_dir(core.root)
                parts = [mbox_tree.MAIL, mbox_tree.INBOX_FILE]
                if os.path.dirname(inbox) != core.path:
                    self._empty(inbox)
            for part in parts:
                with contextlib.suppress(FileNotFoundError):
                    disk.rename(core.root, part, old, part)
            disk.sync_dir(core.root)
        self._clear()
        with contextlib.suppress(OSError):
            disk.remove_dir(core.root, WORK)

    def _empty(self, path: str) -> None:
        """INBOX in the spool: its messages are in the Maildir, and others go on delivering there."""
        assert self.inbox is not None
        try:
            self.inbox.cut(0)
            self.inbox.sync()
        except OSError as error:
            self.done.notes.append(f"{path} is not read any more but cannot be emptied: {error.strerror}")
        else:
            self.done.notes.append(f"{path} is empty now and not read any more")

    def _place_mbox(self, work: durable.Dir, inbox: str) -> None:
        core, disk = self.core, self.disk
        if os.path.lexists(f"{core.path}/{mbox_tree.MAIL}"):
            self._aside(mbox_tree.MAIL)
        if os.path.isdir(f"{work.path}/{mbox_tree.MAIL}"):
            disk.rename(work, mbox_tree.MAIL, core.root, mbox_tree.MAIL)
        if os.path.dirname(inbox) == core.path:
            if os.path.lexists(inbox):
                self._aside(os.path.basename(inbox))
            disk.rename(work, mbox_tree.INBOX_FILE, core.root, os.path.basename(inbox))
        else:
            self._fill(inbox, f"{work.path}/{mbox_tree.INBOX_FILE}")
        disk.sync_dir(core.root)

    def _fill(self, inbox: str, source: str) -> None:
        """INBOX in the spool gets our messages: written into the file that is there, which others may have open."""
        mbox = MboxFile(self.disk, inbox, self.store.mbox.mbox.locks)
        try:
            with mbox.held(), open(source, "rb") as file:
                if mbox.size():
                    raise ValueError(
                        f"{inbox} has messages already: move them first, or empty store.mbox.inbox"
                    )
                try:
                    at = 0
                    while data := file.read(CHUNK):
                        mbox.write(at, data)
                        at += len(data)
                        mbox.touch()
                    mbox.sync()
                except OSError:
                    mbox.cut(0)
                    raise
        finally:
            mbox.close()

    def _place_maildir(self, work: durable.Dir) -> None:
        core, disk = self.core, self.disk
        for name in sorted(os.listdir(work.fd)):
            if name.startswith(".") and name != MBOX_HOME:
                if os.path.lexists(f"{core.path}/{name}"):
                    self._aside(name)
                disk.rename(work, name, core.root, name)
        with opened(disk, f"{work.path}/INBOX") as at:
            for name in ("cur", "new", MAILBOX_FILE, KEYWORDS_FILE):
                if os.path.lexists(f"{core.path}/{name}"):
                    self._aside(name)
                disk.rename(at, name, core.root, name)
        disk.sync_dir(core.root)

    def _aside(self, name: str) -> None:
        """Something else of that name, or a part of a run that was cut short."""
        with opened(self.disk, self.done.old) as old:
            self.disk.rename(self.core.root, name, old, name + ".before")


def _restore(store: ChosenStore, account: str, kept: _Kept) -> None:
    """Open the account as what it is now; what only the old index knew comes back."""
    opened_account = store.account(account)
    for info in opened_account.mailboxes():
        opened_account.status(info.name)  # heals
    for name, words in kept.keywords.items():
        for word, uids in words.items():
            opened_account.set_flags(name, uids, "add", (word,))
    boxes = {info.id: info.name for info in opened_account.mailboxes()}
    for mid, entry, value in kept.metadata:
        if not mid or str(mid) in boxes:
            opened_account.set_metadata(boxes[str(mid)] if mid else None, str(entry), str(value))
    core = store.of(account).core(account)
    try:
        with core.guard(), core.locked(), core.index.transaction(durable=True):
            core.index.execute_many("insert or replace into state values(?, ?)", kept.state)  # type: ignore[arg-type]  # as read
    finally:
        core.close()
