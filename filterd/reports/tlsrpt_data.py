"""How TLS went with other mail hosts, counted by UTC day and recipient domain, for the reports of RFC 8460.

``tls.db`` (SQLite, WAL, synchronous=OFF: a crash loses at most the last seconds of counts):
``seen(day, domain, policy, result, mx, address, detail, count)``, ``policy`` the JSON of a Policy; ``sent(day, domain, at,
result)``, so that a day is reported once. A thread writes; mail never waits for it and never fails by it.
"""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filterd.queue.tlsdemand import Policy, Session, TlsResult
from filterd.reports.data import BUSY_SECONDS, FLUSH_SECONDS, KEEP_DAYS, MAX_WAITING, day_of
from filterd.wal import enter_wal
from pipeline.ports import Clock

DATABASE = "tls.db"
ROWS_A_DOMAIN = 1_000  # different rows of one domain and day; more are not told apart, nor reported
DETAIL_CHARACTERS = 300
SCHEMA = """
create table if not exists seen(day text, domain text, policy text, result text, mx text, address text, detail text,
  count integer, primary key(day, domain, policy, result, mx, address, detail)) without rowid;
create table if not exists sent(day text, domain text, at real, result text, primary key(day, domain)) without rowid;
"""

log = logging.getLogger("filterd.reports")

Key = tuple[str, str, str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """Sessions alike in all of this."""

    result: TlsResult
    mx: str
    address: str
    detail: str
    count: int


def connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    enter_wal(db, BUSY_SECONDS)
    db.execute("pragma synchronous=off")
    db.executescript(SCHEMA)
    return db


class SessionLog:
    """One a process; the thread starts with the first session."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._waiting: queue.SimpleQueue[tuple[str, Session] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, session: Session) -> None:
        if self._waiting.qsize() >= MAX_WAITING:
            return
        self._waiting.put((day_of(self._clock.time()), session))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tls-reports", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what is waiting and end the thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(timeout=10)
            self._thread = None

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        going = True
        while going:
            batch = [self._waiting.get()]
            time.sleep(FLUSH_SECONDS if batch[0] is not None else 0)
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            going = None not in batch
            try:
                db = db or connect(self._path)
                count(db, [one for one in batch if one is not None])
            except (sqlite3.Error, OSError) as error:
                log.warning("TLS sessions not written: %s", error)
        if db is not None:
            db.close()


def count(db: sqlite3.Connection, batch: Sequence[tuple[str, Session]]) -> None:
    """Add (day, session) in one transaction."""
    rows: Counter[Key] = Counter()
    for day, one in batch:
        good = one.result is TlsResult.OK
        policy = json.dumps(asdict(one.policy), separators=(",", ":"), sort_keys=True)
        where = ("", "", "") if good else (one.mx, one.address, one.detail[:DETAIL_CHARACTERS])
        rows[(day, one.policy.domain, policy, one.result.value, *where)] += 1
    db.execute("begin immediate")
    try:
        for key, number in rows.items():
            done = db.execute(
                "update seen set count=count+? where day=? and domain=? and policy=? and result=? and mx=? and address=?"
                " and detail=?",
                (number, *key),
            )
            if done.rowcount == 0:
                db.execute(
                    "insert into seen select ?,?,?,?,?,?,?,?"
                    " where (select count(*) from seen where day=? and domain=?) < ?",
                    (*key, number, key[0], key[1], ROWS_A_DOMAIN),
                )
        db.execute("commit")
    except sqlite3.Error:
        db.execute("rollback")
        raise


def due(db: sqlite3.Connection, before: str) -> list[tuple[str, str]]:
    """(day, domain) of what is complete (days before ``before``) and not yet reported."""
    query = (
        "select distinct day, domain from seen where day < ?"
        " and not exists (select 1 from sent where sent.day = seen.day and sent.domain = seen.domain) order by 1, 2"
    )
    return [(str(day), str(domain)) for day, domain in db.execute(query, (before,))]


def rows(db: sqlite3.Connection, day: str, domain: str) -> dict[Policy, list[Row]]:
    """What was seen of a domain on a day, by the policy that applied."""
    out: dict[Policy, list[Row]] = {}
    query = "select policy, result, mx, address, detail, count from seen where day=? and domain=?"
    for text, result, mx, address, detail, number in db.execute(query, (day, domain)):
        found = json.loads(text)
        policy = Policy(
            found["kind"], found["domain"], tuple(found["lines"]), tuple(found["mx"]), found["base"]
        )
        out.setdefault(policy, []).append(Row(TlsResult(result), mx, address, detail, int(number)))
    return out


def mark(db: sqlite3.Connection, day: str, domain: str, at: float, result: str) -> None:
    """This day of this domain is done with; what is old is forgotten."""
    db.execute("insert or replace into sent values(?, ?, ?, ?)", (day, domain, at, result))
    oldest = day_of(at - KEEP_DAYS * 86_400)
    db.execute("delete from seen where day < ?", (oldest,))
    db.execute("delete from sent where day < ?", (oldest,))


def sent(db: sqlite3.Connection) -> list[tuple[str, str, float, str]]:
    """What was reported: (day, domain, at, result)."""
    return [
        (d, n, float(at), r) for d, n, at, r in db.execute("select * from sent order by day desc, domain")
    ]
