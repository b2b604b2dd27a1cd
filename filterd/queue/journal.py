"""The queue's database: what leaves, what must still be stored, which delivery keys are known.

Format (documented nowhere else): ``queue.db``, SQLite, WAL, synchronous=FULL.

``body(id, data, path, size)``      the text once a message; ``path`` instead of ``data`` above BODY_IN_ROW octets
``item(id, body, ...)``             one recipient that leaves; states below
``store(id, body, ...)``            one local store of a delivery with several effects, gone when performed
``key(key, created, acked)``        delivery keys of what left (HOUSE item 11)
``attempt(item, at, ...)``          each try with the dialogue, for ``filterd queue why``

States of an item: queued -> sent | bounced | expired | dropped (ends, kept for ``KEEP_ENDED`` seconds), held.
Ids derive from the delivery key: queueing the same delivery again while its key is unacknowledged changes nothing.

Concurrency: several workers add, one process sends. Writers take SQLite's write lock with BEGIN IMMEDIATE and an own retry,
since SQLite's busy wait has tails of 190 ms.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filterd.queue.base import Outgoing, PendingStore
from filterd.store import durable
from filterd.store.base import NewMessage, SieveState, StoreUnavailable

BODY_IN_ROW = 64 * 1024
KEY_LIFE = 86_400.0
KEEP_ENDED = 7 * 86_400.0
LOCK_WAIT = 10.0
LOCK_STEP = 0.0005

SCHEMA = """
create table if not exists body(id text primary key, data blob, path text, size integer) without rowid;
create table if not exists item(id text primary key, body text, created real, reverse_path text, recipient text,
  domain text, kind text, trace text, params text, state text, next_at real, attempts integer default 0,
  last_at real default 0, last_reply text default '', warned integer default 0) without rowid;
create index if not exists item_due on item(state, next_at);
create table if not exists store(id text primary key, body text, created real, account text, mailbox text, flags text,
  date integer, key blob, trace text, decision text, state text, next_at real, attempts integer default 0) without rowid;
create table if not exists key(key blob primary key, created real, acked integer default 0) without rowid;
create table if not exists attempt(item text, at real, host text, reply text, dialogue text);
create index if not exists attempt_item on attempt(item, at);
"""


@dataclass(slots=True)
class Item:
    """A row of ``item``."""

    id: str
    body: str
    created: float
    reverse_path: str
    recipient: str
    domain: str
    kind: str
    trace: str
    params: dict[str, str]
    state: str
    next_at: float
    attempts: int
    last_at: float
    last_reply: str
    warned: int


ITEM_COLUMNS = (
    "id, body, created, reverse_path, recipient, domain, kind, trace, params, state, next_at, attempts, last_at,"
    " last_reply, warned"
)


def item_of(row: Sequence[object]) -> Item:
    values = list(row)
    values[8] = json.loads(str(values[8]))
    return Item(*values)  # type: ignore[arg-type]  # the columns of ITEM_COLUMNS in order


def queue_id(key: bytes, recipient: str) -> str:
    """12 base32 characters, the same for the same delivery key and recipient."""
    digest = durable.digest(key + b"\0" + recipient.encode())
    return base64.b32encode(digest[:8]).decode().rstrip("=")[:12]


class Journal:
    """One connection to the queue database. Not for use by two threads at once."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self._db = sqlite3.connect(
            directory / "queue.db", timeout=0, isolation_level=None, check_same_thread=False
        )
        self._retry(lambda: self._db.execute("pragma journal_mode=wal"))
        self._db.execute("pragma synchronous=full")
        self._db.execute("pragma wal_autocheckpoint=4000")
        self._retry(lambda: self._db.executescript(SCHEMA))

    def close(self) -> None:
        self._db.close()

    @staticmethod
    def _retry(work: object) -> None:
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                work()  # type: ignore[operator]  # a callable without arguments
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) and "busy" not in str(error):
                    raise StoreUnavailable(str(error)) from error
                if time.monotonic() > deadline:
                    raise StoreUnavailable("the queue's database stays locked") from error
                time.sleep(LOCK_STEP)

    # -- transactions ---------------------------------------------------------------------------
    def begin(self) -> None:
        """Take the write lock."""
        self._retry(lambda: self._db.execute("begin immediate"))

    def commit(self) -> None:
        """Durable on return."""
        try:
            self._db.execute("commit")
        except sqlite3.Error as error:
            self.rollback()
            raise StoreUnavailable(f"queue: {error}") from error

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("rollback")

    # -- adding ---------------------------------------------------------------------------
    def add(
        self, outgoing: Sequence[Outgoing], stores: Sequence[PendingStore], now: float
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Inside a transaction. Known unacknowledged keys add nothing; the ids are returned all the same."""
        bodies: dict[int, str] = {}
        ids: list[str] = []
        for out in outgoing:
            name = queue_id(out.key, out.recipient)
            if self._known(out.key, now):
                ids.append(name)
                continue
            if self._db.execute("select 1 from item where id=?", (name,)).fetchone():
                name = queue_id(
                    out.key + str(now).encode(), out.recipient
                )  # an acknowledged key never suppresses
            ids.append(name)
            body = self._body(bodies, out.data, name)
            domain = out.recipient.rpartition("@")[2].lower()
            self._db.execute(
                f"insert into item({ITEM_COLUMNS}) values(?,?,?,?,?,?,?,?,?,'queued',?,0,0,'',0)",
                (
                    name,
                    body,
                    now,
                    out.reverse_path,
                    out.recipient,
                    domain,
                    out.kind,
                    out.trace,
                    json.dumps(dict(out.params)),
                    now,
                ),
            )
        for out in outgoing:
            self._db.execute(
                "insert into key values(?,?,0) on conflict(key) do update set created=excluded.created, acked=0"
                " where acked=1 or created < excluded.created - ?",
                (out.key, now, KEY_LIFE),
            )
        return tuple(ids), tuple(self._add_store(bodies, store, now) for store in stores)

    def _add_store(self, bodies: dict[int, str], store: PendingStore, now: float) -> str:
        name = "S" + queue_id(store.message.key, f"{store.account}\0{store.mailbox}")
        body = self._body(bodies, store.message.data, name)
        state = {key.hex(): seconds for key, seconds in (store.state.remember if store.state else {}).items()}
        self._db.execute(
            "insert or ignore into store values(?,?,?,?,?,?,?,?,?,?,?,?,0)",
            (
                name,
                body,
                now,
                store.account,
                store.mailbox,
                json.dumps(store.message.flags),
                store.message.date,
                store.message.key,
                store.trace,
                store.message.decision,
                json.dumps(state),
                now + 5.0,  # the worker that added it performs it at once; later the queue process does
            ),
        )
        return name

    def _known(self, key: bytes, now: float) -> bool:
        row = self._db.execute("select created, acked from key where key=?", (key,)).fetchone()
        return bool(row and not row[1] and now - row[0] < KEY_LIFE)

    def _body(self, bodies: dict[int, str], data: bytes, name: str) -> str:
        if id(data) not in bodies:
            path = ""
            if len(data) > BODY_IN_ROW:
                path = f"body-{name}"
                durable.write_file(self.directory / path, data)
            self._db.execute(
                "insert or ignore into body values(?,?,?,?)", (name, None if path else data, path, len(data))
            )
            bodies[id(data)] = name
        return bodies[id(data)]

    def acknowledge(self, keys: Iterable[bytes]) -> None:
        """Inside a transaction."""
        self._db.executemany("update key set acked=1 where key=?", [(key,) for key in keys])

    # -- reading ---------------------------------------------------------------------------
    def body(self, name: str) -> bytes:
        """The text; raises StoreUnavailable when it cannot be read."""
        row = self._db.execute("select data, path from body where id=?", (name,)).fetchone()
        if row is None:
            raise StoreUnavailable(f"queue: body {name} is missing")
        if row[1]:
            try:
                return (self.directory / str(row[1])).read_bytes()
            except OSError as error:
                raise StoreUnavailable(f"queue: {error}") from error
        return bytes(row[0])

    def due(self, now: float, limit: int = 500) -> list[Item]:
        rows = self._db.execute(
            f"select {ITEM_COLUMNS} from item where state='queued' and next_at<=? order by next_at limit ?",
            (now, limit),
        )
        return [item_of(row) for row in rows]

    def next_due(self) -> float | None:
        """When the next item or store wants attention."""
        row = self._db.execute("select min(next_at) from item where state='queued'").fetchone()
        other = self._db.execute("select min(next_at) from store").fetchone()
        times = [value[0] for value in (row, other) if value[0] is not None]
        return min(times) if times else None

    def items(self, states: Sequence[str] = ("queued", "held"), limit: int = 10_000) -> list[Item]:
        marks = ",".join("?" * len(states))
        rows = self._db.execute(
            f"select {ITEM_COLUMNS} from item where state in ({marks}) order by created limit ?",
            (*states, limit),
        )
        return [item_of(row) for row in rows]

    def item(self, name: str) -> Item | None:
        row = self._db.execute(f"select {ITEM_COLUMNS} from item where id=?", (name.upper(),)).fetchone()
        return item_of(row) if row else None

    def attempts(self, name: str) -> list[tuple[float, str, str, str]]:
        """(at, host, reply, dialogue), oldest first."""
        rows = self._db.execute(
            "select at, host, reply, dialogue from attempt where item=? order by at", (name.upper(),)
        )
        return [(float(at), str(host), str(reply), str(dialogue)) for at, host, reply, dialogue in rows]

    def pending_stores(self, now: float) -> list[tuple[str, int, PendingStore]]:
        """Stores that a worker began and did not finish: (id, attempts, store)."""
        rows = self._db.execute(
            "select id, attempts, body, account, mailbox, flags, date, key, trace, decision, state from store"
            " where next_at<=? order by created limit 200",
            (now,),
        ).fetchall()
        out = []
        for name, attempts, body, account, mailbox, flags, date, key, trace, decision, state in rows:
            message = NewMessage(
                data=self.body(body),
                flags=tuple(json.loads(flags)),
                date=date,
                key=key,
                trace=trace,
                decision=decision,
            )
            remember = {bytes.fromhex(name_): seconds for name_, seconds in json.loads(state).items()}
            out.append((name, attempts, PendingStore(account, mailbox, message, SieveState(remember), trace)))
        return out

    # -- ends ---------------------------------------------------------------------------
    def stores_done(self, names: Iterable[str]) -> None:
        """Inside a transaction."""
        self._db.executemany("delete from store where id=?", [(name,) for name in names])

    def store_failed(self, name: str, next_at: float) -> None:
        """Inside a transaction."""
        self._db.execute("update store set attempts=attempts+1, next_at=? where id=?", (next_at, name))

    def tried(self, name: str, at: float, host: str, reply: str, dialogue: str) -> None:
        """Inside a transaction: keep what was said."""
        self._db.execute("insert into attempt values(?,?,?,?,?)", (name, at, host, reply, dialogue))
        self._db.execute(
            "update item set attempts=attempts+1, last_at=?, last_reply=? where id=?", (at, reply, name)
        )

    def set_state(self, name: str, state: str, next_at: float = 0.0) -> None:
        """Inside a transaction."""
        self._db.execute("update item set state=?, next_at=? where id=?", (state, next_at, name))

    def set_warned(self, name: str) -> None:
        """Inside a transaction."""
        self._db.execute("update item set warned=1 where id=?", (name,))

    def forget_ended(self, now: float) -> list[str]:
        """Inside a transaction: drop old ends, old keys and bodies nobody needs; the body files to unlink after commit."""
        ended = "('sent','bounced','expired','dropped')"
        old = now - KEEP_ENDED
        self._db.execute(
            f"delete from attempt where item in (select id from item where state in {ended} and last_at<?)",
            (old,),
        )
        self._db.execute(f"delete from item where state in {ended} and last_at<? and created<?", (old, old))
        self._db.execute("delete from key where created<?", (now - KEY_LIFE,))
        unused = (
            f"from body where id not in (select body from item where state not in {ended})"
            " and id not in (select body from store)"
        )
        files = [row[0] for row in self._db.execute(f"select path {unused} and path<>''")]
        self._db.execute(f"delete {unused}")
        return files
