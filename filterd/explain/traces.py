"""The trace database: written in batches beside the mail, read by ``filterd explain``.

A trace never delays and never fails mail: workers hand traces to a thread that writes what has gathered, several a
transaction; what a crash takes with it is the detail only, since the decision is a column of the message's index row.

Format: ``traces.db`` (SQLite, WAL, synchronous=OFF at most loses the last batch): ``trace(id, at, message_id, sender,
reverse_path, outcome, body)``, ``party(trace, account, address)`` for who received it, ``event(trace, at, body)`` for
what happened later (queue attempts), ``alias(name, trace)`` for queue ids.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filterd.batches import Waiting
from filterd.explain.codec import dump, load, plain
from filterd.metrics import Meter, count_event, count_trace
from filterd.wal import open_wal, transaction
from pipeline.trace import MessageTrace, RecipientTrace, Span

log = logging.getLogger("filterd.explain")

FLUSH_SECONDS = 0.2
BUSY_SECONDS = 5.0
MAX_WAITING = 20_000  # traces in memory when the disk does not keep up; more are dropped, counted and logged
PRUNE_SECONDS = 3600.0

SCHEMA = """
create table if not exists trace(id text primary key, at real, message_id text, sender text, reverse_path text,
  outcome text, body text);
create index if not exists trace_at on trace(at);
create index if not exists trace_message on trace(message_id);
create table if not exists party(account text, trace text, address text, primary key(account, trace, address)) without rowid;
create index if not exists party_trace on party(trace);
create table if not exists event(trace text, at real, body text);
create index if not exists event_trace on event(trace);
create table if not exists alias(name text primary key, trace text) without rowid;
"""


def connect(path: Path, readonly: bool = False) -> sqlite3.Connection:
    """An open trace database; creates it when it is missing and ``readonly`` is False."""
    if readonly:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    return open_wal(path, BUSY_SECONDS, "off", SCHEMA)


Entry = MessageTrace | tuple[str, Span] | tuple[str, str, None]


class TraceWriter:
    """One a process. ``put`` is called from the loop and costs microseconds; a thread does the rest."""

    def __init__(self, path: Path, keep_seconds: float, meter: Meter | None = None) -> None:
        self._path = path
        self._meter = meter
        self._keep = keep_seconds
        self._waiting: Waiting[Entry] = Waiting()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def put(self, trace: MessageTrace) -> None:
        """Keep a finished trace."""
        self._offer(trace)

    def event(self, trace_id: str, span: Span) -> None:
        """Something that happened to a message after its trace was written."""
        self._offer((trace_id, span))

    def alias(self, name: str, trace_id: str) -> None:
        """Make a queue id lead to its trace."""
        self._offer((name, trace_id, None))

    def _offer(self, entry: Entry) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.put(entry)

    def close(self) -> None:
        """Write what is waiting and end the thread."""
        self._waiting.end()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        pruned = 0.0
        going = True
        while going:
            entries, going = self._waiting.gathered(FLUSH_SECONDS)
            self._count(entries)
            try:
                if db is None:
                    if not entries:  # the end, and there was never anything to write
                        break
                    db = connect(self._path)
                self._write(db, entries)
                if time.time() - pruned > PRUNE_SECONDS:
                    pruned = time.time()
                    self._prune(db, pruned - self._keep)
            except (
                Exception
            ) as error:  # a trace never fails mail, and one odd trace not the next; the operator learns of it
                log.warning("traces not written: %s", error)
            if self._dropped:
                log.warning("%d traces dropped: the disk does not keep up", self._dropped)
                self._dropped = 0
        if db is not None:
            db.close()

    def _count(self, entries: list[Entry]) -> None:
        if self._meter is None:
            return
        try:
            for entry in entries:
                if isinstance(entry, MessageTrace):
                    count_trace(self._meter, entry)
                elif len(entry) == 2:
                    count_event(self._meter, entry[1])
        except Exception:
            log.exception("bug while counting")

    @staticmethod
    def _write(db: sqlite3.Connection, batch: list[Entry]) -> None:
        traces: list[tuple[object, ...]] = []
        parties: list[tuple[object, ...]] = []
        events: list[tuple[object, ...]] = []
        names: list[tuple[object, ...]] = []
        for entry in batch:
            if isinstance(entry, MessageTrace):
                t = entry
                traces.append(
                    (
                        t.id,
                        t.at,
                        plain(t.message_id.strip("<> ")),
                        plain(t.sender.lower()),
                        plain(t.reverse_path.lower()),
                        t.outcome,
                        dump(t),
                    )
                )
                parties.extend((plain(r.account), t.id, plain(r.address)) for r in t.recipients)
            elif len(entry) == 3:
                names.append((entry[0], entry[1]))
            else:
                span = entry[1]
                body = json.dumps(
                    [span.stage, span.at, span.duration, span.result, span.summary, span.evidence],
                    ensure_ascii=False,
                )
                events.append((entry[0], span.at, plain(body)))
        with transaction(db):
            db.executemany("insert or replace into trace values(?,?,?,?,?,?,?)", traces)
            db.executemany("insert or replace into party values(?,?,?)", parties)
            db.executemany("insert into event values(?,?,?)", events)
            db.executemany("insert or replace into alias values(?,?)", names)

    @staticmethod
    def _prune(db: sqlite3.Connection, before: float) -> None:
        db.execute("delete from party where trace in (select id from trace where at < ?)", (before,))
        db.execute("delete from alias where trace in (select id from trace where at < ?)", (before,))
        db.execute("delete from trace where at < ?", (before,))
        db.execute("delete from event where at < ?", (before,))


def forget_account(path: Path, account: str) -> None:
    """Take the parts of an account out of every trace; a trace that told of nobody else goes (HOUSE item 22)."""
    if not path.exists():
        return
    db = connect(path)
    try:
        with transaction(db):
            found = db.execute(
                "select id, body from trace where id in (select trace from party where account=?)", (account,)
            ).fetchall()
            for name, body in found:
                trace = load(body)
                # the others keep their numbers, which stand in their messages
                trace.recipients = [
                    RecipientTrace("", "") if r.account == account else r for r in trace.recipients
                ]
                if any(r.address for r in trace.recipients):
                    db.execute("update trace set body=? where id=?", (dump(trace), name))
                    continue
                for table, column in (("trace", "id"), ("event", "trace"), ("alias", "trace")):
                    db.execute(f"delete from {table} where {column}=?", (name,))
            db.execute("delete from party where account=?", (account,))
    finally:
        db.close()


class TraceReader:
    """Finds traces for the command line and the pages; opens the database read-only."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path, readonly=True)

    def close(self) -> None:
        self._db.close()

    def get(self, trace_id: str) -> MessageTrace | None:
        """By trace id, spelled with or without its dash, in any case; a recipient's suffix (``.2``) is ignored."""
        plain = trace_id.upper().split(".", 1)[0].replace("-", "")
        if len(plain) != 10:
            return None
        return self._one("select body from trace where id=?", f"{plain[:5]}-{plain[5:]}")

    def by_queue_id(self, queue_id: str) -> MessageTrace | None:
        return self._one("select t.body from alias a join trace t on t.id=a.trace where a.name=?", queue_id)

    def by_message_id(self, message_id: str) -> list[MessageTrace]:
        """Newest first; ``message_id`` with or without angle brackets."""
        bare = message_id.strip("<> ")
        rows = self._db.execute(
            "select body from trace where message_id=? order by at desc limit 20", (bare,)
        )
        return [load(body) for (body,) in rows]

    def last_from(self, sender: str, account: str = "") -> MessageTrace | None:
        """The newest trace whose From or reverse-path contains ``sender``."""
        pattern = f"%{sender.lower().replace('%', '')}%"
        if account:
            return self._one(
                "select t.body from trace t join party p on p.trace=t.id where p.account=? and"
                " (t.sender like ? or t.reverse_path like ?) order by t.at desc limit 1",
                account,
                pattern,
                pattern,
            )
        return self._one(
            "select body from trace where sender like ? or reverse_path like ? order by at desc limit 1",
            pattern,
            pattern,
        )

    def recent(self, account: str = "", limit: int = 50) -> Iterator[MessageTrace]:
        """Newest first."""
        if account:
            rows = self._db.execute(
                "select distinct t.at, t.body from trace t join party p on p.trace=t.id where p.account=?"
                " order by t.at desc limit ?",
                (account, limit),
            )
        else:
            rows = self._db.execute("select at, body from trace order by at desc limit ?", (limit,))
        for _, body in rows:
            yield load(body)

    def events(self, trace_id: str) -> list[Span]:
        rows = self._db.execute("select body from event where trace=? order by at", (trace_id,))
        return [Span(*json.loads(body)) for (body,) in rows]

    def _one(self, sql: str, *arguments: object) -> MessageTrace | None:
        row = self._db.execute(sql, arguments).fetchone()
        return load(row[0]) if row else None
