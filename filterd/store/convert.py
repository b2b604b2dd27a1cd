"""An account from Maildir to mbox or back: UIDs, UIDVALIDITY, mailbox ids, flags, keywords, dates and subscriptions stay.

The account stays where it is and locked; clients and senders are told to come again (or wait) meanwhile. The new files are built
in ``filterd-convert`` in the account's directory and synced, then what does not disturb the old kind is put into its place, the
index is put aside, and one rename decides: ``.mailboxes`` comes (mbox) or goes (Maildir). Before it the account is what it was,
behind it the new one; the index is made anew from the files, which carry all that must be kept, by whoever opens the account next.
Messages for an INBOX in the spool wait in a journal (``mbox_journal``) that comes with the rename. What is left to do then
(``convert_switch``: the old files aside, annotations, the memory of Sieve) is written down before. A run that was cut short,
wherever, is simply run again.

Other programs do not know the account's lock. An mbox INBOX is therefore locked against them from its reading until it is put
away; when anything has changed all the same since it was read, nothing is switched, and it must be run again. What comes
between that last look and the old files' being put away is found there and taken along; flags that others set in that
moment are not.

The old files are kept in ``filterd-old-<kind>-<time>`` for their owner to remove. Change numbers (CONDSTORE) go on above those of
before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import overload

from filterd.store import convert_switch, durable, mbox_journal, mbox_sync, mbox_tree, names, rescan, tree
from filterd.store import flags as fl
from filterd.store.base import StoreUnavailable
from filterd.store.choice import MAILDIR, MBOX, ChosenStore, format_of
from filterd.store.convert_switch import WORK, Box, Converted, Switch
from filterd.store.core import Core
from filterd.store.durable import LockRules, opened
from filterd.store.folder import KEYWORDS_FILE, MAILBOX_FILE, Folder, MailboxFile, claimed_uid
from filterd.store.index import HotRow, MailboxRow
from filterd.store.layout import MBOX_HOME
from filterd.store.mbox_delivery import Appending, area_of, prepared
from filterd.store.mbox_file import CHUNK, MboxFile, mbox_of
from filterd.store.mbox_journal import Change
from filterd.store.record import to_disk
from filterd.store.snapshot_text import SNAPSHOT_FILE

OLD = "filterd-old"
MAILDIR_PARTS = ("cur", "new", "tmp")

Progress = Callable[[str, int, int], None]


def convert(
    store: ChosenStore, account: str, to: str, progress: Progress = lambda what, done, total: None
) -> Converted:
    """Raises StoreUnavailable (in use, no room), ValueError for what cannot be done."""
    path = store.path(account)
    done = convert_switch.finish(store, account)  # of a run that was cut short
    if format_of(path) in ("", to):
        if done is not None:
            return done
        raise ValueError(
            f"{account} is kept as {to} already" if format_of(path) else f"{account} has no mail yet"
        )
    source = store.of(account)
    store.close_account(account)
    core = source.core(account)
    try:
        with core.guard(), core.locked():
            _Conversion(core, to, store, progress).run()
    finally:
        core.close()
    done = convert_switch.finish(store, account)
    assert done is not None
    return done


class _Conversion:
    def __init__(self, core: Core, to: str, store: ChosenStore, progress: Progress) -> None:
        self.core = core
        self.disk = core.settings.disk
        self.to = to
        self.store = store
        self.progress = progress
        self.work = f"{core.path}/{WORK}"
        self.switch = Switch(to)
        self.written: list[tuple[Folder, MailboxRow]] = []  # as they were when they were read
        self.inbox: MboxFile | None = None  # of an mbox account, held

    def run(self) -> None:
        core = self.core
        convert_switch.clear(self.disk, core.path)
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
                    row = self._current(folder, row)
                    self._write(row)
                self.written.append((folder, row))
                self.progress(row.name, self.switch.messages, total)
            self._remember()
            self._unchanged()
            try:
                self._switch(rows, stack)
            except BaseException:
                with contextlib.suppress(OSError):  # nothing is in it
                    self.disk.remove_dir(core.root, self.switch.old)
                raise

    def _hold(self, inbox: Folder, stack: contextlib.ExitStack) -> None:
        """Nobody adds to INBOX from here on until it is put away."""
        self.inbox = mbox_of(inbox)
        stack.callback(inbox.close)
        stack.enter_context(self.inbox.held())

    def _write(self, row: MailboxRow) -> None:
        hots = self.core.index.hot_all(row.id)
        box = Box(row.name, row.mid, row.directory)
        (self._write_mbox if self.to == MBOX else self._write_maildir)(row, hots)
        if self.to == MBOX:
            bases = (fl.split_name(hot.name)[0] for hot in hots)
            box.unmarked = [base for base in bases if not claimed_uid(base, row.mid)]
        else:
            mbox = mbox_of(self.core.box(row.name)[0])
            with mbox.held():
                box.octets = row.cur_mtime
                box.anchor = convert_switch.anchor_of(mbox, box.octets)
        self.switch.boxes.append(box)
        self.switch.mailboxes += 1
        self.switch.messages += len(hots)

    def _current(self, folder: Folder, row: MailboxRow) -> MailboxRow:
        """With what other programs did, though an mtime does not tell."""
        if self.to == MBOX:
            return rescan.force(self.core, folder)
        return mbox_sync.refresh(self.core, folder, row)

    def _unchanged(self) -> None:
        """Has nobody changed what is written already? Raises StoreUnavailable."""
        for folder, row in self.written:
            now = self._current(folder, row)
            unread = self.to == MAILDIR and folder.times() != (now.new_mtime, now.cur_mtime)
            if unread or now.modseq != row.modseq:
                raise StoreUnavailable(f"another program has changed {row.name} meanwhile: run it again")

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
                    self.switch.keywords.setdefault(row.name, {}).setdefault(word, []).append(hot.uid)
            self.disk.sync_dir(new)
            self.disk.sync_dir(cur)

    def _remember(self) -> None:
        """What only the index knows."""
        query = self.core.index.query
        found = [
            *query("select '', name, value from metadata where mbox=0"),
            *query(
                "select mailbox.mid, metadata.name, value from metadata join mailbox on mailbox.id = metadata.mbox"
            ),
        ]
        self.switch.metadata = [(str(mid), str(name), str(value)) for mid, name, value in found]
        state = query("select key, until from state")
        self.switch.state = [
            (key.hex(), float(until or 0))
            for key, until in state
            if isinstance(key, bytes) and not isinstance(until, bytes)
        ]

    def _switch(self, rows: Sequence[MailboxRow], stack: contextlib.ExitStack) -> None:
        """Put the new files beside the old ones, and let one rename decide."""
        core, disk = self.core, self.disk
        self._make_old()
        inbox = mbox_tree.inbox_path(self.store.mbox.mbox, core.path, core.account)
        spool = os.path.dirname(inbox) != core.path
        with opened(disk, self.work) as work, opened(disk, self.old) as old:
            if self.to == MBOX:
                filling = self._journalled(inbox, stack) if spool else None
                self._place_mbox(work, "" if spool else os.path.basename(inbox))
                self.switch.parts = [
                    *MAILDIR_PARTS[:2],
                    *(row.directory for row in rows if row.directory),
                    MAILBOX_FILE,
                    KEYWORDS_FILE,
                    SNAPSHOT_FILE,
                ]
                self.switch.write(disk, work)
                self._unchanged()
                core.put_aside_index()
                try:
                    if filling is not None:
                        filling.mbox.cut(filling.octets)  # there is room for it
                    disk.rename(work, MBOX_HOME, core.root, MBOX_HOME)
                except BaseException:
                    if filling is not None:
                        filling.mbox.cut(0)
                    raise
            else:
                self._place_maildir(work)
                self.switch.parts = [mbox_tree.MAIL, *(() if spool else (os.path.basename(inbox),))]
                self.switch.write(disk, work)
                self._unchanged()
                core.put_aside_index()
                disk.rename(core.root, MBOX_HOME, old, MBOX_HOME)
            disk.sync_dir(core.root)

    def _make_old(self) -> None:
        """Where the old files go: a new directory each time."""
        kind = MAILDIR if self.to == MBOX else MBOX
        name = first = f"{OLD}-{kind}-{self.core.now()}"
        number = 1
        while os.path.lexists(f"{self.core.path}/{name}"):
            number += 1
            name = f"{first}.{number}"
        self.switch.old = name
        self.old = f"{self.core.path}/{name}"
        durable.make_dirs(self.disk, self.old)

    def _place_mbox(self, work: durable.Dir, inbox: str) -> None:
        """``inbox``: name of the file in the account's directory, "" when it lies elsewhere."""
        core, disk = self.core, self.disk
        if os.path.lexists(f"{core.path}/{mbox_tree.MAIL}"):
            self._aside(mbox_tree.MAIL)
        if os.path.isdir(f"{work.path}/{mbox_tree.MAIL}"):
            disk.rename(work, mbox_tree.MAIL, core.root, mbox_tree.MAIL)
        if inbox:
            if os.path.lexists(f"{core.path}/{inbox}"):
                self._aside(inbox)
            disk.rename(work, mbox_tree.INBOX_FILE, core.root, inbox)
        disk.sync_dir(core.root)

    def _journalled(self, inbox: str, stack: contextlib.ExitStack) -> Change:
        """INBOX in the spool gets our messages: written into the file that is there, which others may have open. It is held
        until the rename."""
        mbox = MboxFile(self.disk, inbox, self.store.mbox.mbox.locks)
        stack.callback(mbox.close)
        stack.enter_context(mbox.held())
        size = mbox.size()
        if any(piece.strip(b"\0") for piece in mbox.pieces(0, size)):
            raise ValueError(f"{inbox} has messages already: move them first, or empty store.mbox.inbox")
        if size:
            mbox.cut(0)  # room that a run made which was cut short
        change = Change("", mbox, 0, _Pieces(f"{self.work}/{mbox_tree.INBOX_FILE}"))
        with opened(self.disk, f"{self.work}/{MBOX_HOME}") as home:
            mbox_journal.write_down(self.disk, home, [change])
        return change

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
        with opened(self.disk, self.old) as old:
            self.disk.rename(self.core.root, name, old, name + ".before")


class _Pieces(Sequence[bytes]):
    """A file in pieces that are read when they are asked for."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._octets = os.path.getsize(path)

    def __len__(self) -> int:
        return -(-self._octets // CHUNK)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        with open(self._path, "rb") as file:
            return os.pread(file.fileno(), CHUNK, at * CHUNK)
