"""What both kinds of daily report are made of: counts kept by UTC day and domain, and which days were reported.

A database has ``seen(day, domain, ..., count)`` and ``sent(day, domain, at, result)``, so that a day is reported once (SQLite,
WAL, synchronous=OFF: a crash loses at most the last seconds of counts). Workers hand over, a thread writes; mail never waits
for it and never fails by it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from filterd.batches import Waiting
from filterd.wal import open_wal, transaction

log = logging.getLogger("filterd.reports")

FLUSH_SECONDS = 1.0
BUSY_SECONDS = 5.0
MAX_WAITING = 50_000
KEEP_DAYS = 14
SENT = """
create table if not exists sent(day text, domain text, at real, result text, primary key(day, domain)) without rowid;
"""

T = TypeVar("T")


def day_of(at: float) -> str:
    """The UTC day, ``2026-01-31``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def connect(path: Path, seen: str) -> sqlite3.Connection:
    """``seen``: the statement that makes the table of counts."""
    return open_wal(path, BUSY_SECONDS, "off", seen + SENT)


class CountLog(Generic[T]):
    """One a process; the thread starts with the first that is to be counted. ``what``: for the log, when it cannot be."""

    def __init__(
        self,
        path: Path,
        name: str,
        what: str,
        connect: Callable[[Path], sqlite3.Connection],
        count: Callable[[sqlite3.Connection, Sequence[T]], None],
    ) -> None:
        self._path = path
        self._name = name
        self._what = what
        self._connect = connect
        self._count = count
        self._waiting: Waiting[T] = Waiting()
        self._thread: threading.Thread | None = None

    def _offer(self, one: T) -> None:
        if len(self._waiting) >= MAX_WAITING:
            return
        self._waiting.put(one)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what is waiting and end the thread."""
        if self._thread is not None:
            self._waiting.end()
            self._thread.join(timeout=10)
            self._thread = None

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        going = True
        while going:
            batch, going = self._waiting.gathered(FLUSH_SECONDS)
            try:
                db = db or self._connect(self._path)
                self._count(db, batch)
            except (sqlite3.Error, OSError) as error:
                log.warning("%s not written: %s", self._what, error)
        if db is not None:
            db.close()


def add(
    db: sqlite3.Connection, columns: Sequence[str], counts: Mapping[tuple[str, ...], int], most: int
) -> None:
    """Add to the counts in one transaction. ``columns`` begins with day and domain, of which there are never more than ``most``
    rows."""
    same = " and ".join(f"{name}=?" for name in columns)
    marks = ",".join("?" * (len(columns) + 1))
    with transaction(db):
        for key, number in counts.items():
            done = db.execute(f"update seen set count=count+? where {same}", (number, *key))
            if done.rowcount == 0:
                db.execute(
                    f"insert into seen select {marks} where (select count(*) from seen where day=? and domain=?) < ?",
                    (*key, number, key[0], key[1], most),
                )


def due(db: sqlite3.Connection, before: str) -> list[tuple[str, str]]:
    """(day, domain) of what is complete (days before ``before``) and not yet reported."""
    query = (
        "select distinct day, domain from seen where day < ?"
        " and not exists (select 1 from sent where sent.day = seen.day and sent.domain = seen.domain) order by 1, 2"
    )
    return [(str(day), str(domain)) for day, domain in db.execute(query, (before,))]


def mark(db: sqlite3.Connection, day: str, domain: str, at: float, result: str) -> None:
    """This day of this domain is done with; what is old is forgotten. In a transaction when the caller has begun one."""
    db.execute("insert or replace into sent values(?, ?, ?, ?)", (day, domain, at, result))
    oldest = day_of(at - KEEP_DAYS * 86_400)
    db.execute("delete from seen where day < ?", (oldest,))
    db.execute("delete from sent where day < ?", (oldest,))


def sent(db: sqlite3.Connection) -> list[tuple[str, str, float, str]]:
    """What was reported: (day, domain, at, result)."""
    return [
        (d, n, float(at), r) for d, n, at, r in db.execute("select * from sent order by day desc, domain")
    ]
