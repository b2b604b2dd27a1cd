"""The queue's database: what leaves, what must still be stored, which delivery keys are known.

Format (documented nowhere else): ``queue.db``, SQLite, WAL, synchronous=FULL.

``body(id, created, size, path, data)``   the text once a message; ``path`` (a file beside the database) instead of ``data``
                                          above BODY_IN_ROW octets
``item(id, body, key, acked, ...)``       one recipient that leaves, with its delivery key (HOUSE item 11); states below
``store(id, body, item, acked, ...)``     one local store of a delivery with several effects; gone when performed
``change(id, account, ...)``              Sieve state and lists that belong to a delivery with several effects (``changes``)
``attempt(item, at, host, reply, dialogue)``, ``dialogue(id, at, text)``   each try and what was said, for ``queue why``

States of an item: queued, held; ends: sent, bounced, expired, dropped (kept for KEEP_ENDED seconds). ``body`` is NULL once
an item ended; a text in a row goes with its last item, a text in a file is swept when nothing has needed it for FILE_GRACE.

Ids are row ids: milliseconds of arrival and 18 bits from the key, always above every other one, shown as 12 characters of
Crockford's base32. What makes a repeated delivery harmless is the key: while it is unacknowledged and younger than KEY_LIFE
the item that has it is answered again and nothing is added. An acknowledged key never suppresses.

Invariants: a file body is on disk before the transaction that names it begins, and unlinked only when no committed row names
it. All changes happen between ``begin`` and ``commit``. Several processes write: each takes SQLite's write lock by BEGIN
IMMEDIATE with a retry of our own, since SQLite's busy wait has tails of 190 ms.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from filterd.queue import changes as rows_of_changes
from filterd.queue import deliverby, steering
from filterd.queue.base import Outgoing, PendingChange, PendingStore
from filterd.queue.routing import BY_HAND, OUTLETS, ROUTED, Lane, plain
from filterd.queue.rows import (
    AGENDA,
    HOLD,
    ITEM_COLUMNS,
    LIVE,
    SCHEMA,
    Added,
    Agenda,
    Item,
    PutOff,
    id_number,
    id_text,
    item_of,
)
from filterd.queue.steering import Choice
from filterd.store import durable
from filterd.store.base import NewMessage, SieveState, StoreUnavailable

DATABASE = "queue.db"
BODY_IN_ROW = 64 * 1024
BODY_PREFIX = "body-"
KEY_LIFE = 86_400.0
KEEP_ENDED = 7 * 86_400.0
KEEP_DIALOGUE = 14 * 86_400.0
KEEP_ATTEMPTS = 50  # tries of one item
FILE_GRACE = 3_600.0  # a file body nobody names is not swept before
STORE_GRACE = 30.0  # so long the worker that queued a store has it for itself
LOCK_WAIT = 10.0
LOCK_STEPS = (0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002)  # the last one repeats
PRUNE_ROWS = 5_000  # in one transaction
CHECKPOINT_PAGES = 4_000
NO_FILES: Mapping[bytes, str] = MappingProxyType({})
Fresh = Callable[[bytes, float], bool]  # (key, when its row was made): is this no retry of that one?


def always_retry(key: bytes, created: float) -> bool:
    """What holds when nobody knows more than the database."""
    return False


def _where(domain: str | None, here: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    if domain is not None:
        return "domain=?", (domain,)
    routed = f"substr(domain, 1, 1) in {(ROUTED, BY_HAND, *OUTLETS)}"
    return f"domain not in ({','.join('?' * len(here))}) and not {routed}", tuple(here)


def _params(out: Outgoing) -> str:
    if out.hold_until:
        return json.dumps({**out.params, HOLD: f"{out.hold_until:.0f}"})
    return json.dumps(dict(out.params)) if out.params else "{}"


class Journal:
    """One connection to the queue database. Not for two threads at once."""

    def __init__(self, directory: Path, disk: durable.Disk | None = None) -> None:
        self.directory = directory
        self._disk = disk or durable.RealDisk()
        self._last = 0
        self._fresh: list[str] = []  # files written in this transaction
        self._rows: dict[bytes, int] = {}  # texts that have a row in this transaction
        durable.make_dirs(self._disk, str(directory))
        path = directory / DATABASE
        new = not path.exists()
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            if new:
                self._retry(lambda: self._db.execute("pragma page_size=8192"))
            self._retry(lambda: self._db.execute("pragma journal_mode=wal"))
            self._db.execute("pragma synchronous=full")
            self._db.execute(f"pragma wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._db.execute(f"pragma journal_size_limit={64 << 20}")
            self._db.execute("pragma cache_size=-8000")
            self._retry(lambda: self._db.executescript(SCHEMA))
            if new:  # the name of the database itself; SQLite sees to that of its log
                with durable.opened(self._disk, str(directory)) as at:
                    self._disk.sync_dir(at)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @staticmethod
    def _retry(work: Callable[[], object]) -> None:
        deadline = time.monotonic() + LOCK_WAIT
        for pause in itertools.chain(LOCK_STEPS, itertools.repeat(LOCK_STEPS[-1])):
            try:
                work()
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise StoreUnavailable(f"queue: {error}") from error
                if time.monotonic() > deadline:
                    raise StoreUnavailable("the queue's database stays locked") from error
                time.sleep(pause)

    # -- transactions ---------------------------------------------------------------------------
    def begin(self) -> None:
        """Take the write lock. Raises StoreUnavailable."""
        self._retry(lambda: self._db.execute("begin immediate"))
        self._last = 0
        self._fresh.clear()
        self._rows.clear()

    def commit(self) -> None:
        """Durable on return. Raises StoreUnavailable; nothing was done then."""
        try:
            self._db.execute("commit")
        except sqlite3.Error as error:
            self.rollback()
            raise StoreUnavailable(f"queue: {error}") from error
        self._fresh.clear()
        self._rows.clear()
        self._disk.committed(str(self.directory / DATABASE), self._db, True)

    def rollback(self) -> None:
        """Never raises: it runs where something else went wrong already."""
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("rollback")
        for name in self._fresh:
            self.unlink(name)
        self._fresh.clear()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """begin ... commit, or rollback."""
        self.begin()
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        self.commit()

    # -- adding ---------------------------------------------------------------------------
    def add(
        self,
        outgoing: Sequence[Outgoing],
        stores: Sequence[PendingStore],
        now: float,
        files: Mapping[bytes, str] = NO_FILES,
        changes: Sequence[PendingChange] = (),
        fresh: Fresh = always_retry,
        lane: Lane = plain,
    ) -> Added:
        """Inside a transaction. Known unacknowledged keys add nothing, unless ``fresh`` knows better; the ids are returned all the
        same. ``files``: the names of large texts that lie on the disk already; ``lane``: which way each goes."""
        added = Added((), ())
        added.items = tuple(id_text(self._add_item(out, now, files, added, fresh, lane)) for out in outgoing)
        if stores:
            leader = id_number(added.items[0]) if added.items else 0
            added.stores = tuple(
                "S" + id_text(self._add_store(store, leader, now, files, added, fresh)) for store in stores
            )
        for change in changes:
            name = self._new_id(now, b"")
            rows_of_changes.add(self._db, name, change, now, now + STORE_GRACE)
            added.stores += (rows_of_changes.PREFIX + id_text(name),)
        return added

    def _add_item(
        self, out: Outgoing, now: float, files: Mapping[bytes, str], added: Added, fresh: Fresh, lane: Lane
    ) -> int:
        known = self._db.execute(
            "select id, created from item where key=? and acked=0 and created>? order by id desc limit 1",
            (out.key, now - KEY_LIFE),
        ).fetchone()
        if known and not fresh(out.key, known[1]):
            return int(known[0])
        name = self._new_id(now, out.key)
        self._db.execute(
            "insert into item(id, body, key, created, reverse_path, recipient, domain, kind, trace, params, next_at, state,"
            " last_reply) values(?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                name,
                self._body(out.data, now, files, added),
                out.key,
                now,
                out.reverse_path,
                out.recipient,
                out.lane or lane(out.reverse_path, out.recipient),
                out.kind,
                out.trace,
                _params(out),
                max(now, out.hold_until),
                "held" if out.held else "queued",
                out.held,
            ),
        )
        return name

    def _new_id(self, now: float, key: bytes) -> int:
        if not self._last:
            tops = self._db.execute(
                "select (select max(id) from item), (select max(id) from store), (select max(id) from change)"
            ).fetchone()
            self._last = max(top or 0 for top in tops)
        chance = int.from_bytes(durable.digest(key)[:3], "big") & 0x3FFFF
        self._last = max(self._last + 1, int(now * 1000) << 18 | chance)
        return self._last

    def _add_store(
        self,
        store: PendingStore,
        leader: int,
        now: float,
        files: Mapping[bytes, str],
        added: Added,
        fresh: Fresh,
    ) -> int:
        message = store.message
        if message.key:
            known = self._db.execute(
                "select id, created from store where key=? and account=? and mailbox=? and acked=0 and created>?"
                " order by id desc limit 1",
                (message.key, store.account, store.mailbox, now - KEY_LIFE),
            ).fetchone()
            # the same delivery once more, before it could be performed
            if known and not fresh(message.key, known[1]):
                return int(known[0])
        state = {key.hex(): seconds for key, seconds in (store.state.remember if store.state else {}).items()}
        name = self._new_id(now, message.key)
        self._db.execute(
            "insert into store(id, body, item, created, account, mailbox, flags, date, key, trace, decision, state, row_trace,"
            " next_at) values(?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                name,
                self._body(message.data, now, files, added),
                leader,
                now,
                store.account,
                store.mailbox,
                json.dumps(message.flags),
                int(now) if message.date is None else message.date,
                message.key,
                store.trace,
                message.decision,
                json.dumps(state),
                message.trace,
                now + STORE_GRACE,
            ),
        )
        return name

    def _body(self, data: bytes, now: float, files: Mapping[bytes, str], added: Added) -> int:
        known = self._rows.get(data)
        if known is not None:
            return known
        path = ""
        if len(data) > BODY_IN_ROW:
            path = files.get(data) or self._fresh_file(data)
            added.paths.add(path)
            row = self._db.execute("select id from body where path=?", (path,)).fetchone()
            if row:
                self._db.execute("update body set created=? where id=?", (now, row[0]))
                self._rows[data] = int(row[0])
                return int(row[0])
        cursor = self._db.execute(
            "insert into body(created, size, path, data) values(?,?,?,?)",
            (now, len(data), path, None if path else data),
        )
        assert cursor.lastrowid is not None
        self._rows[data] = cursor.lastrowid
        return cursor.lastrowid

    def _fresh_file(self, data: bytes) -> str:
        name = write_body(self._disk, self.directory, data)
        self._fresh.append(name)
        return name

    def acknowledge(self, keys: Iterable[bytes]) -> None:
        """Inside a transaction. Of equal deliveries each is acknowledged for itself, the oldest first."""
        for key in keys:
            (item,) = self._db.execute("select min(id) from item where key=? and acked=0", (key,)).fetchone()
            if item is not None:
                self._db.execute("update store set acked=1 where item=?", (item,))
                self._db.execute("update item set acked=1 where id=?", (item,))

    # -- reading ---------------------------------------------------------------------------
    def body(self, number: int) -> bytes:
        """The text; raises StoreUnavailable when it cannot be read."""
        row = self._db.execute("select data, path from body where id=?", (number,)).fetchone()
        if row is None:
            raise StoreUnavailable(f"queue: text {number} is missing")
        if not row[1]:
            return bytes(row[0])
        try:
            return (self.directory / str(row[1])).read_bytes()
        except OSError as error:
            raise StoreUnavailable(f"queue: {error}") from error

    def agenda(self) -> Agenda:
        domains = [(str(name), float(at)) for name, at in self._db.execute(AGENDA)]
        rows = self._db.execute("select min(next_at) from store union all select min(next_at) from change")
        return Agenda(domains, min((row[0] for row in rows if row[0] is not None), default=None))

    def due(
        self,
        now: float,
        domain: str | None,
        limit: int,
        here: Sequence[str] = (),
        taken: Collection[int] = (),
    ) -> list[Item]:
        """What waits for ``domain`` (None: for any but those of ``here``) but for ``taken``, the oldest appointment first;
        recipients of one text stand together."""
        where, values = _where(domain, here)
        rows = self._db.execute(
            f"select {ITEM_COLUMNS} from item where state='queued' and {where} and next_at<=? order by next_at, id",
            (*values, now),
        )
        free = (item_of(row) for row in rows if row[0] not in taken)
        out = list(itertools.islice(free, limit))
        rows.close()
        return out

    def items(self, states: Sequence[str] = LIVE, limit: int = 10_000) -> list[Item]:
        """In order of arrival."""
        marks = ",".join("?" * len(states))
        rows = self._db.execute(
            f"select {ITEM_COLUMNS} from item where state in ({marks}) order by id limit ?", (*states, limit)
        )
        return [item_of(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Items by state."""
        return {
            str(state): int(count)
            for state, count in self._db.execute("select state, count(*) from item group by state")
        }

    def waiting(self) -> tuple[dict[str, int], float | None]:
        """Live items by state, and when the oldest came. Costs nothing for those that have ended, which may be very many."""
        ask = "select count(*), min(id), created from item where state='%s'"
        # SQLite takes ``created`` from the row with the least id
        found = {state: self._db.execute(ask % state).fetchone() for state in LIVE}
        oldest = min(((first, at) for _, first, at in found.values() if first is not None), default=(0, None))
        return {state: count for state, (count, _, _) in found.items()}, oldest[1]

    def item(self, name: str) -> Item | None:
        row = self._db.execute(f"select {ITEM_COLUMNS} from item where id=?", (id_number(name),)).fetchone()
        return item_of(row) if row else None

    def attempts(self, name: str) -> list[tuple[float, str, str, str]]:
        """(at, host, reply, dialogue), oldest first."""
        rows = self._db.execute(
            "select a.at, a.host, a.reply, coalesce(d.text,'') from attempt a left join dialogue d on d.id=a.dialogue"
            " where a.item=? order by a.at",
            (id_number(name),),
        )
        return [(float(at), str(host), str(reply), str(dialogue)) for at, host, reply, dialogue in rows]

    def pending_stores(self, now: float, limit: int = 100) -> list[tuple[str, int]]:
        """(id, attempts) of stores and changes that a worker began and did not finish, as far as they are due."""
        rows = self._db.execute(
            "select 'S', id, attempts from store where next_at<=?1 union all"
            f" select '{rows_of_changes.PREFIX}', id, attempts from change where next_at<=?1 order by id limit ?2",
            (now, limit),
        )
        return [(kind + id_text(number), attempts) for kind, number, attempts in rows]

    def pending_store(self, name: str) -> PendingStore | PendingChange | None:
        """None when it was performed meanwhile. Raises StoreUnavailable."""
        if name.startswith(rows_of_changes.PREFIX):
            return rows_of_changes.find(self._db, id_number(name[1:]))
        row = self._db.execute(
            "select body, account, mailbox, flags, date, key, trace, decision, state, row_trace from store where id=?",
            (id_number(name[1:]),),
        ).fetchone()
        if row is None:
            return None
        body, account, mailbox, flags, date, key, trace, decision, state, row_trace = row
        try:
            data = self.body(body)
        except StoreUnavailable:
            if self._db.execute("select 1 from store where id=?", (id_number(name[1:]),)).fetchone():
                raise
            return None  # its worker struck it out between two looks
        message = NewMessage(
            data=data,
            flags=tuple(json.loads(flags)),
            date=date,
            key=key,
            trace=row_trace,
            decision=decision,
        )
        remember = {bytes.fromhex(name_): seconds for name_, seconds in json.loads(state).items()}
        return PendingStore(account, mailbox, message, SieveState(remember) if remember else None, trace)

    # -- ends ---------------------------------------------------------------------------
    def stores_done(self, names: Iterable[str]) -> None:
        """Inside a transaction."""
        for name in names:
            number = id_number(name[1:])
            if name.startswith(rows_of_changes.PREFIX):
                self._db.execute("delete from change where id=?", (number,))
                continue
            row = self._db.execute("select body from store where id=?", (number,)).fetchone()
            if row:
                self._db.execute("delete from store where id=?", (number,))
                self._let_go(row[0])

    def store_failed(self, name: str, next_at: float) -> None:
        """Inside a transaction."""
        table = "change" if name.startswith(rows_of_changes.PREFIX) else "store"
        self._db.execute(
            f"update {table} set attempts=attempts+1, next_at=? where id=?", (next_at, id_number(name[1:]))
        )

    def said(self, at: float, text: str) -> int | None:
        """Inside a transaction: keep a dialogue for the attempts that share it."""
        if not text:
            return None
        return self._db.execute("insert into dialogue(at, text) values(?,?)", (at, text)).lastrowid

    def tried(self, item: Item, at: float, host: str, reply: str, dialogue: int | None) -> None:
        """Inside a transaction."""
        number = item.number
        self._db.execute("insert into attempt values(?,?,?,?,?)", (number, at, host, reply, dialogue))
        self._db.execute(
            "update item set attempts=attempts+1, last_at=?, last_reply=? where id=?", (at, reply, number)
        )
        if item.attempts >= KEEP_ATTEMPTS:
            self._db.execute(
                "delete from attempt where item=? and at <="
                " (select at from attempt where item=? order by at desc limit 1 offset ?)",
                (number, number, KEEP_ATTEMPTS),
            )

    def end(self, name: str, state: str, now: float) -> bool:
        """Inside a transaction: how it ended; the first end stays. False when it had ended before."""
        number = id_number(name)
        row = self._db.execute(
            "select body from item where id=? and state in ('queued','held')", (number,)
        ).fetchone()
        if row is None:
            return False
        self._db.execute(
            "update item set state=?, body=null, ended=?, wish='' where id=?", (state, now, number)
        )
        self._let_go(row[0])
        return True

    def _let_go(self, body: int | None) -> None:
        """Drop a text in a row when nothing needs it any more; files are swept later."""
        self._db.execute(
            "delete from body where id=? and path='' and not exists (select 1 from item where body=?)"
            " and not exists (select 1 from store where body=?)",
            (body, body, body),
        )

    def again(self, name: str, next_at: float) -> None:
        """Inside a transaction: try again then, unless the operator took it away meanwhile."""
        self._db.execute(
            "update item set next_at=? where id=? and state='queued'", (next_at, id_number(name))
        )

    def put_off(self, now: float, domain: str | None, here: Sequence[str], wait: PutOff) -> int:
        """Inside a transaction: what is due (as ``due`` says) waits without a try, but for what must be told to its sender; not
        beyond a time of delivery that was asked for (RFC 2852)."""
        where, values = _where(domain, here)
        by, minded = deliverby.SQL_AT, deliverby.SQL_MINDED
        return self._db.execute(
            f"update item set next_at=case when {by} < ?1 and {minded} then {by} else ?1 end, last_reply=?2"
            f" where state='queued' and {where} and next_at<=? and created>? and (warned=1 or created>?) and wish=''"
            f" and not coalesce({by} <= ? and {minded}, 0)",
            (wait.until, wait.reply, *values, now, wait.alive_after, wait.young_after, now),
        ).rowcount

    def set_warned(self, name: str) -> None:
        """Inside a transaction."""
        self._db.execute("update item set warned=1 where id=?", (id_number(name),))

    # -- what the operator wants ---------------------------------------------------------------------------
    def steer(
        self,
        action: str,
        now: float,
        *,
        name: str = "",
        domain: str = "",
        sender: str = "",
        before: float = 0.0,
    ) -> int:
        """Inside a transaction: retry, hold, release, bounce or drop what is chosen (see Choice). How many."""
        choice = Choice(name, domain, sender, before)
        if action != "drop":
            return steering.change(self._db, action, now, choice)
        where, values = choice.where()
        rows = self._db.execute(
            f"select id from item where state in ('queued','held') and {where}", values
        ).fetchall()
        return sum(self.end(id_text(row[0]), "dropped", now) for row in rows)

    def reroute(self, now: float, choice: Choice, url: str, lane: Lane) -> int:
        """Inside a transaction: see ``steering``."""
        return steering.reroute(self._db, now, choice, url, lane)

    def relane(self, lane: Lane, routed: bool) -> int:
        """Inside a transaction: see ``steering``."""
        return steering.relane(self._db, lane, routed)

    # -- growing old ---------------------------------------------------------------------------
    def forget_ended(self, now: float) -> list[str]:
        """Inside a transaction: drop old ends and dialogues, a bounded number; the body files to unlink after the commit."""
        old = self._db.execute(
            "select id from item where ended is not null and ended<? limit ?", (now - KEEP_ENDED, PRUNE_ROWS)
        ).fetchall()
        self._db.executemany("delete from attempt where item=?", old)
        self._db.executemany("delete from item where id=?", old)
        self._db.execute(
            "delete from dialogue where id in (select id from dialogue where at<? order by id limit ?)",
            (now - KEEP_DIALOGUE, PRUNE_ROWS),
        )
        unused = self._db.execute(
            "select id, path from body where path<>'' and created<?"
            " and not exists (select 1 from item where body=body.id)"
            " and not exists (select 1 from store where body=body.id)",
            (now - FILE_GRACE,),
        ).fetchall()
        self._db.executemany("delete from body where id=?", [(row[0],) for row in unused])
        return [str(row[1]) for row in unused]

    def stray_files(self, now: float) -> list[str]:
        """Body files that no row names, left by a crash between writing them and the commit; old enough to be sure."""
        stray = []
        for entry in os.scandir(self.directory):
            if not entry.name.startswith(BODY_PREFIX) and not entry.name.endswith(".filterd"):
                continue
            named = self._db.execute("select 1 from body where path=?", (entry.name,)).fetchone()
            with contextlib.suppress(FileNotFoundError):
                if not named and entry.stat().st_mtime < now - FILE_GRACE:
                    stray.append(entry.name)
        return stray

    def unlink(self, name: str) -> None:
        """Remove a body file; one that is gone already is fine, and a lost removal is swept later."""
        with contextlib.suppress(OSError):
            (self.directory / name).unlink(missing_ok=True)


def write_body(disk: durable.Disk, directory: Path, data: bytes) -> str:
    """A new body file, durable on return; its name. Raises OSError."""
    with durable.opened(disk, str(directory)) as at:
        file = disk.write_new(at, data)
        try:
            disk.sync(file)
            name = f"{BODY_PREFIX}{os.getpid()}-{time.time_ns()}-{file.inode}"
            disk.publish(file, name)
        except BaseException:
            disk.discard(file)
            raise
        disk.sync_dir(at)
    return name
