"""The index of one account: an SQLite database beside the mail (HOUSE items 16, 17, 20).

Format (documented nowhere else): ``index.db``, WAL, synchronous=NORMAL, ``user_version`` = VERSION. Everything in it but what
HOUSE item 12 lists can be made anew from the files, and that from the text beside them (``snapshot``); it may lose its last
transactions in a power failure.

``meta(key, value)``        ``boot``: the boot in which the index was last healed; ``uidvalidity``: the last one given out;
                            ``left A B``: rows A to B of ``cold`` are of messages that went, and wait for ``sweep``
``mailbox``                 one a mailbox, columns as in ``MailboxRow``; ``id`` is never used again
``hot(mbox, uid, ...)``     one a message, what FETCH FLAGS and the file need; ``name`` the file name as it is on disk
``cold(id, ...)``           one a message, ``id`` = mbox << 32 | uid: ENVELOPE, BODY, BODYSTRUCTURE, PREVIEW, headers, trace
``expunged``                what was removed, for ``changes``; ``mailbox.floor`` is the modseq it reaches back to
``delivery``                unacknowledged delivery keys (HOUSE item 11)
``state``                   Sieve state: remembered ids with their end
``metadata``                RFC 5464 entries; mbox 0 is the account
``view``                    uid and flags arrays of a mailbox at a modseq, for a fast first SELECT

Writers hold the account's flock and ``BEGIN IMMEDIATE``; readers use a deferred transaction where they read twice.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from filterd.store.base import COLD_FIELDS, DELETED, SEEN, StoreUnavailable
from filterd.store.durable import Disk
from filterd.store.rowsets import IN_LIST, LONG_RUN, Key, Ways, cold_id, runs, shifts

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 3
# What makes the next version of each older one.
_UPGRADES = {
    1: "update cold set headers=x'00'",  # other fields are kept: messages from before are read for them
    2: "alter table cold add column preview blob default x''",  # and for their first words
}
BUSY_SECONDS = 10.0
BUSY_STEP = 0.0005
CHECKPOINT_PAGES = 8000  # of the log, when nobody finds the time (``upkeep``) before
EXPUNGED_SECONDS = 90 * 86_400
EXPUNGED_ROWS = 50_000  # per mailbox
PRUNE_EVERY = 64  # modseqs
FEW = 8  # rows that are changed one by one
SWEPT = 2000  # rendered rows removed in one go
LEFT, LEFT_END = "left ", "left!"  # keys in ``meta``: all that begin with the first

FRESH, AFTER_KILL, AFTER_POWER = 0, 1, 2  # MailboxRow.stale

SCHEMA = """
create table meta(key text primary key, value text) without rowid;
create table mailbox(id integer primary key autoincrement, mid text not null, directory text not null unique,
  name text not null unique, uidvalidity integer not null, special_use text not null, uidnext integer not null,
  modseq integer not null, uid_mark integer not null, modseq_mark integer not null, keywords text not null,
  floor integer not null, stale integer not null, new_mtime integer not null, cur_mtime integer not null,
  unsure integer not null, messages integer not null, unseen integer not null, deleted integer not null,
  recent integer not null, size integer not null, disk_size integer not null);
create table hot(mbox integer, uid integer, flags integer not null, modseq integer not null, born integer not null,
  size integer not null, date integer not null, savedate integer not null, header_size integer not null,
  email_id blob not null, form integer not null, fresh integer not null, name text not null, inode integer not null,
  disk_size integer not null, mtime integer not null, primary key(mbox, uid)) without rowid;
create index hot_modseq on hot(mbox, modseq);
create table cold(id integer primary key, envelope blob, body blob, bodystructure blob, headers blob, trace text,
  decision text, preview blob default x'');
create table expunged(mbox integer, modseq integer, uid integer, born integer, at integer,
  primary key(mbox, modseq, uid)) without rowid;
create table delivery(key blob primary key, mbox integer, mailbox text, uidvalidity integer, uid integer, at integer)
  without rowid;
create table state(key blob primary key, until real) without rowid;
create table metadata(mbox integer, name text, value text, primary key(mbox, name)) without rowid;
create table view(mbox integer primary key, modseq integer, uids blob, flags blob);
"""


@dataclass(slots=True)
class MailboxRow:
    """``uid_mark`` and ``modseq_mark``: what is given out stays below them (``folder.MailboxFile``). ``keywords``: one a line.

    ``stale``: must be healed before it is believed. ``new_mtime``, ``cur_mtime``: of the directories when the index last
    agreed with them; ``unsure``: a change by others may hide behind the same mtime, look once more when it has aged.
    """

    id: int
    mid: str
    directory: str
    name: str
    uidvalidity: int
    special_use: str = ""
    uidnext: int = 1
    modseq: int = 1
    uid_mark: int = 1
    modseq_mark: int = 1
    keywords: str = ""
    floor: int = 0
    stale: int = FRESH
    new_mtime: int = 0
    cur_mtime: int = 0
    unsure: int = 0
    messages: int = 0
    unseen: int = 0
    deleted: int = 0
    recent: int = 0
    size: int = 0
    disk_size: int = 0

    @property
    def keyword_list(self) -> tuple[str, ...]:
        return tuple(self.keywords.split("\n")) if self.keywords else ()


@dataclass(slots=True)
class HotRow:
    """A row of ``hot``; ``fresh``: the file lies in ``new``."""

    mbox: int
    uid: int
    flags: int
    modseq: int
    born: int
    size: int
    date: int
    savedate: int
    header_size: int
    email_id: bytes
    form: int
    fresh: int
    name: str
    inode: int
    disk_size: int
    mtime: int


class FlagRow(NamedTuple):
    """What of a row of ``hot`` a change of flags must know."""

    mbox: int
    uid: int
    flags: int
    modseq: int
    fresh: int
    name: str


class GoneRow(NamedTuple):
    """What of a row of ``hot`` its removal must know."""

    uid: int
    flags: int
    fresh: int
    size: int
    disk_size: int
    name: str


# What ``_make`` does, without its frame: a third of the time.
_FLAG_ROW, _GONE_ROW = partial(tuple.__new__, FlagRow), partial(tuple.__new__, GoneRow)
# envelope, body, bodystructure, headers, trace, decision, preview
Cold = tuple[bytes, bytes, bytes, bytes, str, str, bytes]
SqlValue = str | bytes | int | float | None

MAILBOX_COLUMNS = ", ".join(field.name for field in fields(MailboxRow))
HOT_COLUMNS = ", ".join(field.name for field in fields(HotRow))
_SAVE = f"update mailbox set {', '.join(f'{field.name}=?' for field in fields(MailboxRow)[1:])} where id=?"
_ADD_HOT = f"insert into hot values({', '.join('?' * len(fields(HotRow)))})"
_GET_MAILBOX = f"select {MAILBOX_COLUMNS} from mailbox where id=?"


class Index:
    """An open index. Not for two threads at once, not across a fork. sqlite3.DatabaseError may come from everywhere."""

    def __init__(self, path: str, disk: Disk) -> None:
        self.path = path
        self._disk = disk
        self.created = not os.path.exists(path)
        self._db = sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=200
        )
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise
        self.inode = os.stat(path).st_ino
        self.leftovers = bool(self._left())
        self._checked = self._db.total_changes

    def _open(self) -> None:
        self.retry("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=normal")
        self._db.execute(f"pragma wal_autocheckpoint={CHECKPOINT_PAGES}")
        self._db.execute("pragma temp_store=memory")
        # Debian's SQLite writes zeros over whole freed pages, twice the work of an EXPUNGE; what costs no page more is still wiped.
        self._db.execute("pragma secure_delete=fast")
        if self._version() == 0:
            self.begin()
            if self._version() == 0:
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"pragma user_version={VERSION}")
                self.created = True
            self.commit()
        while (old := self._version()) in _UPGRADES:
            self.begin()
            if self._version() == old:
                self._db.execute(_UPGRADES[old])
                self._db.execute(f"pragma user_version={old + 1}")
            self.commit()
        if self._version() != VERSION:
            raise StoreUnavailable(f"{self.path} is of another version of filterd")

    def _version(self) -> int:
        return int(self.retry("pragma user_version").fetchone()[0])

    def close(self) -> None:
        self._db.close()

    def same_file(self) -> bool:
        """False when somebody put the database aside."""
        try:
            return os.stat(self.path).st_ino == self.inode
        except FileNotFoundError:
            return False

    # -- transactions ---------------------------------------------------------------------------------------------------
    def retry(self, statement: str, values: Sequence[SqlValue] = ()) -> sqlite3.Cursor:
        """Execute, waiting out a lock (a checkpoint, or somebody with an SQLite shell) in small steps."""
        deadline = 0.0
        while True:
            try:
                return self._db.execute(statement, values)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
                now = time.monotonic()
                deadline = deadline or now + BUSY_SECONDS
                if now > deadline:
                    raise StoreUnavailable("the index stays locked") from error
                time.sleep(BUSY_STEP)

    def begin(self) -> None:
        self.retry("begin immediate")

    def commit(self) -> None:
        self.retry("commit")
        self._disk.committed(self.path, self._db, False)

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("rollback")

    @contextmanager
    def transaction(self, durable: bool = False) -> Iterator[None]:
        """A writing transaction; ``durable``: it survives a power failure once left."""
        if durable:
            self._db.execute("pragma synchronous=full")
        try:
            self.begin()
            yield
            self.retry("commit")
            self._disk.committed(self.path, self._db, durable)
        except BaseException:
            self.rollback()
            raise
        finally:
            if durable:
                self._db.execute("pragma synchronous=normal")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._db.in_transaction:
            yield
            return
        self.retry("begin")
        try:
            yield
        finally:
            self._db.execute("rollback")

    def reading(self) -> AbstractContextManager[None]:
        """All reads inside see one state."""
        return self._reading()

    def query(self, statement: str, values: Sequence[SqlValue] = ()) -> list[tuple[SqlValue, ...]]:
        return self.retry(statement, values).fetchall()

    def execute(self, statement: str, values: Sequence[SqlValue] = ()) -> int:
        """The number of rows changed. Inside a transaction."""
        return self._db.execute(statement, values).rowcount

    def execute_many(self, statement: str, values: Iterable[Sequence[SqlValue]]) -> None:
        self._db.executemany(statement, values)

    # -- upkeep: when nobody waits for it ---------------------------------------------------------------------------------
    def changes(self) -> int:
        """Rows written by this connection since its last checkpoint."""
        return self._db.total_changes - self._checked

    def checkpoint(self) -> None:
        """As far as readers let it."""
        self._checked = self._db.total_changes
        self.retry("pragma wal_checkpoint(passive)").fetchall()

    def _left(self) -> list[str]:
        found = self.retry(
            "select key from meta where key>=? and key<? order by key limit 1", (LEFT, LEFT_END)
        )
        return [str(key) for (key,) in found]

    def sweep(self) -> None:
        """Rendered rows of messages that went, SWEPT at most. Inside a transaction."""
        for key in self._left():
            first, last = map(int, key.removeprefix(LEFT).split())
            end = min(last, first + SWEPT - 1)
            # A file that somebody has put back under its UID is a message again.
            back = "exists (select 1 from hot where mbox = id >> 32 and uid = id & 4294967295)"
            self._db.execute(f"delete from cold where id between ? and ? and not {back}", (first, end))
            self._db.execute("delete from meta where key=?", (key,))
            if end < last:
                self.set_meta(f"{LEFT}{end + 1} {last}", "")
        self.leftovers = bool(self._left())

    # -- meta -----------------------------------------------------------------------------------------------------------
    def meta(self, key: str) -> str:
        row = self.retry("select value from meta where key=?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def set_meta(self, key: str, value: str) -> None:
        self._db.execute("insert or replace into meta values(?, ?)", (key, value))

    # -- mailboxes --------------------------------------------------------------------------------------------------------
    def mailbox(self, mailbox_id: int) -> MailboxRow | None:
        row = self.retry(_GET_MAILBOX, (mailbox_id,)).fetchone()
        return MailboxRow(*row) if row else None

    def mailbox_named(self, name: str) -> MailboxRow | None:
        row = self.retry(f"select {MAILBOX_COLUMNS} from mailbox where name=?", (name,)).fetchone()
        return MailboxRow(*row) if row else None

    def mailboxes(self) -> list[MailboxRow]:
        return [MailboxRow(*row) for row in self.retry(f"select {MAILBOX_COLUMNS} from mailbox")]

    def add_mailbox(self, row: MailboxRow) -> MailboxRow:
        """Gives it its id."""
        marks = ", ".join("?" * (len(fields(MailboxRow)) - 1))
        columns = MAILBOX_COLUMNS.removeprefix("id, ")
        cursor = self._db.execute(f"insert into mailbox({columns}) values({marks})", astuple(row)[1:])
        row.id = cursor.lastrowid or 0
        return row

    def save(self, row: MailboxRow) -> None:
        self._db.execute(_SAVE, (*_mailbox_values(row), row.id))

    def drop_mailbox(self, mailbox_id: int) -> None:
        """With all that belongs to it."""
        low, high = cold_id(mailbox_id, 0), cold_id(mailbox_id + 1, 0)
        self._db.execute("delete from cold where id>=? and id<?", (low, high))
        for table in ("hot", "expunged", "metadata", "view"):
            self._db.execute(f"delete from {table} where mbox=?", (mailbox_id,))
        self._db.execute("delete from mailbox where id=?", (mailbox_id,))

    # -- messages; the row's counters are kept right, the caller saves it -------------------------------------------------
    def add(self, box: MailboxRow, messages: Sequence[tuple[HotRow, Cold]]) -> None:
        self._db.executemany(_ADD_HOT, [_hot_values(hot) for hot, _ in messages])
        self._db.executemany(
            "insert or replace into cold values(?, ?, ?, ?, ?, ?, ?, ?)",
            [(cold_id(hot.mbox, hot.uid), *cold) for hot, cold in messages],
        )
        for hot, _ in messages:
            self._count(box, hot, 1)

    def add_copies(self, box: MailboxRow, copies: Sequence[tuple[HotRow, HotRow]]) -> None:
        """(source, copy); the cold part is copied inside the database."""
        self._db.executemany(_ADD_HOT, [_hot_values(hot) for _, hot in copies])
        self._db.executemany(
            "insert into cold select id + ?, envelope, body, bodystructure, headers, trace, decision, preview from cold"
            " where id between ? and ?",
            shifts(copies),
        )
        for _, hot in copies:
            self._count(box, hot, 1)

    def change(self, box: MailboxRow, changes: Sequence[tuple[HotRow | FlagRow, int, int, int, str]]) -> None:
        """(row, new flags, new modseq, new fresh, new name)."""
        self._db.executemany(
            "update hot set flags=?, modseq=?, fresh=?, name=? where mbox=? and uid=?",
            [(mask, modseq, fresh, name, hot.mbox, hot.uid) for hot, mask, modseq, fresh, name in changes],
        )
        for hot, mask, _, fresh, _ in changes:
            changed = hot.flags ^ mask
            if changed & (SEEN | DELETED):
                if changed & SEEN:
                    box.unseen += -1 if mask & SEEN else 1
                if changed & DELETED:
                    box.deleted += 1 if mask & DELETED else -1
            if hot.fresh:
                box.recent += fresh - hot.fresh

    def reflag(self, box: MailboxRow, changed: Sequence[tuple[FlagRow, str]], ways: Ways) -> None:
        """(row, new name), ascending: one change of flags, as ``ways`` says."""
        if not ways.plain or len(changed) < FEW:
            self.change(box, [(hot, ways.masks[hot.flags], ways.modseq, 0, name) for hot, name in changed])
            return
        update, values = ways.statement()
        for block in runs([hot.uid for hot, _ in changed]):
            chosen, bound = Key.hot(box.id).among(block)
            self._db.execute(f"{update} where {chosen}", (*values, *bound))
        before = [hot.flags for hot, _ in changed]
        box.unseen -= ways.counted(before, SEEN)
        box.deleted += ways.counted(before, DELETED)
        box.recent -= sum([hot.fresh for hot, _ in changed])

    def replace(self, box: MailboxRow, old: HotRow, new: HotRow, cold: Cold) -> None:
        """The file of a message has other content than when it was rendered."""
        self._db.execute("delete from hot where mbox=? and uid=?", (old.mbox, old.uid))
        self._db.execute("delete from cold where id=?", (cold_id(old.mbox, old.uid),))
        self._count(box, old, -1)
        self.add(box, [(new, cold)])

    def remove(self, box: MailboxRow, gone: Sequence[HotRow | GoneRow], modseq: int, now: int) -> None:
        """Rendered rows that lie side by side wait for ``sweep``: to remove them is half of the work."""
        for block in runs(sorted(hot.uid for hot in gone)):
            for key, act in (
                (Key.hot(box.id), "insert or replace into expunged select mbox, ?, uid, born, ? from hot"),
                (Key.hot(box.id), "delete from hot"),
                (Key.cold(box.id), "delete from cold"),
            ):
                if act == "delete from cold" and len(block) >= LONG_RUN and block[-1] - block[0] < len(block):
                    self.set_meta(f"{LEFT}{cold_id(box.id, block[0])} {cold_id(box.id, block[-1])}", "")
                    self.leftovers = True
                    continue
                chosen, bound = key.among(block)
                first = (modseq, now) if act.startswith("insert") else ()
                self._db.execute(f"{act} where {chosen}", (*first, *bound))
        box.messages -= len(gone)
        box.unseen -= sum([not hot.flags & SEEN for hot in gone])
        box.deleted -= sum([hot.flags & DELETED != 0 for hot in gone])
        box.recent -= sum([hot.fresh for hot in gone])
        box.size -= sum([hot.size for hot in gone])
        box.disk_size -= sum([hot.disk_size for hot in gone])
        self._prune(box, now)

    def _prune(self, box: MailboxRow, now: int) -> None:
        """Now and then: forget what was expunged long ago, or beyond the number kept."""
        if box.modseq % PRUNE_EVERY:
            return
        old = self.retry(
            "select max(modseq) from expunged where mbox=? and at<?", (box.id, now - EXPUNGED_SECONDS)
        ).fetchone()[0]
        over = self.retry(
            "select modseq from expunged where mbox=? order by modseq desc limit 1 offset ?",
            (box.id, EXPUNGED_ROWS),
        ).fetchone()
        floor = max(old or 0, over[0] if over else 0)
        if floor > box.floor:
            box.floor = floor
            self._db.execute("delete from expunged where mbox=? and modseq<=?", (box.id, floor))

    @staticmethod
    def _count(box: MailboxRow, hot: HotRow, sign: int) -> None:
        box.messages += sign
        box.unseen += 0 if hot.flags & SEEN else sign
        box.deleted += sign if hot.flags & DELETED else 0
        box.recent += sign * hot.fresh
        box.size += sign * hot.size
        box.disk_size += sign * hot.disk_size

    def recount(self, box: MailboxRow) -> None:
        row = self.retry(
            "select count(*), total(not flags & 1), total((flags & 8) != 0), total(fresh), total(size), total(disk_size)"
            " from hot where mbox=?",
            (box.id,),
        ).fetchone()
        box.messages, box.unseen, box.deleted, box.recent, box.size, box.disk_size = map(int, row)

    def hot(self, mailbox_id: int, uids: Sequence[int]) -> list[HotRow]:
        """Of those of ``uids`` that exist, ascending."""
        found = self._chosen(f"select {HOT_COLUMNS} from hot", Key.hot(mailbox_id), uids, 1)
        return [HotRow(*row) for row in found]  # type: ignore[arg-type]  # HOT_COLUMNS are its fields in order

    def flag_rows(self, mailbox_id: int, uids: Sequence[int]) -> list[FlagRow]:
        """Of those of ``uids`` that exist, ascending."""
        select = "select mbox, uid, flags, modseq, fresh, name from hot"
        return list(map(_FLAG_ROW, self._chosen(select, Key.hot(mailbox_id), uids, 1)))

    def gone_rows(self, mailbox_id: int, uids: Sequence[int]) -> list[GoneRow]:
        """Of those of ``uids`` that exist and are \\Deleted, ascending."""
        select = "select uid, flags, fresh, size, disk_size, name from hot"
        key = Key.hot(mailbox_id, f"flags & {DELETED} and ")
        return list(map(_GONE_ROW, self._chosen(select, key, uids, 0)))

    def hot_all(self, mailbox_id: int) -> list[HotRow]:
        rows = self.retry(f"select {HOT_COLUMNS} from hot where mbox=? order by uid", (mailbox_id,))
        return [HotRow(*row) for row in rows]

    def _chosen(self, select: str, key: Key, uids: Sequence[int], uid_at: int) -> list[tuple[SqlValue, ...]]:
        """Rows of those of ``uids`` that exist, ascending; column ``uid_at`` of the select is the UID."""
        wanted = uids if len(uids) <= 1 else sorted(set(uids))
        shift, found = key.shift, []
        for at in range(0, len(wanted), IN_LIST):
            block = wanted[at : at + IN_LIST]
            low, high = block[0] + shift, block[-1] + shift
            if high - low < 2 * len(block):
                where = f"{select} where {key.where} between ? and ? order by {key.order}"
                rows = self.retry(where, (*key.bound, low, high)).fetchall()
                if len(rows) != len(block) or high - low + 1 != len(block):
                    chosen = frozenset(block)
                    rows = [row for row in rows if row[uid_at] in chosen]
            else:
                marks = ", ".join("?" * len(block))
                where = f"{select} where {key.where} in ({marks}) order by {key.order}"
                rows = self.retry(where, (*key.bound, *[uid + shift for uid in block])).fetchall()
            found += rows
        return found

    def full(self, mailbox_id: int, uids: Sequence[int], cold: bool) -> list[tuple[SqlValue, ...]]:
        """mbox, uid, flags, modseq, size, date, savedate, header_size, email_id[, cold columns]."""
        columns = "mbox, uid, flags, modseq, size, date, savedate, header_size, email_id"
        if not cold:
            return self._chosen(f"select {columns} from hot", Key.hot(mailbox_id), uids, 1)
        more = ", envelope, body, bodystructure, headers, trace, decision, preview"
        select = f"select {columns}{more} from hot join cold on cold.id = (hot.mbox << 32 | hot.uid)"
        return self._chosen(select, Key.hot(mailbox_id), uids, 1)

    def columns(
        self, mailbox_id: int, uids: Sequence[int], wanted: Sequence[str]
    ) -> list[tuple[SqlValue, ...]]:
        """uid and the ``wanted`` columns of hot and cold. A column of cold costs the reading of those before it."""
        listed = ", ".join(wanted)
        if COLD_FIELDS.issuperset(wanted):
            return self._chosen(f"select id & 4294967295, {listed} from cold", Key.cold(mailbox_id), uids, 0)
        tables = (
            "hot"
            if COLD_FIELDS.isdisjoint(wanted)
            else "hot join cold on cold.id = (hot.mbox << 32 | hot.uid)"
        )
        return self._chosen(f"select uid, {listed} from {tables}", Key.hot(mailbox_id), uids, 0)


def _mailbox_values(row: MailboxRow) -> tuple[SqlValue, ...]:
    return (
        row.mid, row.directory, row.name, row.uidvalidity, row.special_use, row.uidnext, row.modseq, row.uid_mark,
        row.modseq_mark, row.keywords, row.floor, row.stale, row.new_mtime, row.cur_mtime, row.unsure, row.messages,
        row.unseen, row.deleted, row.recent, row.size, row.disk_size,
    )  # fmt: skip


def _hot_values(hot: HotRow) -> tuple[SqlValue, ...]:
    return (
        hot.mbox, hot.uid, hot.flags, hot.modseq, hot.born, hot.size, hot.date, hot.savedate, hot.header_size,
        hot.email_id, hot.form, hot.fresh, hot.name, hot.inode, hot.disk_size, hot.mtime,
    )  # fmt: skip
