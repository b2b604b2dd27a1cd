"""What aggregate reports are made of: counted observations, kept by day and policy domain.

``reports.db`` (SQLite, WAL, synchronous=OFF: a crash loses at most the last seconds of counts):
``seen(day, domain, policy, row, count)`` where ``row`` is the JSON of a Row and ``policy`` that of the published policy;
``sent(day, domain, at, result)``, so that a day is reported once.

Like traces: workers hand over, a thread writes; mail never waits for it and never fails by it.
"""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filterd.wal import enter_wal
from pipeline.dmarc import Observation

log = logging.getLogger("filterd.reports")

REPORTS = "reports.db"
FLUSH_SECONDS = 1.0
BUSY_SECONDS = 5.0
MAX_WAITING = 50_000
ROWS_A_DOMAIN = 10_000  # different rows of one domain and day; more are not told apart any more, nor reported
KEEP_DAYS = 14
SCHEMA = """
create table if not exists seen(day text, domain text, policy text, row text, count integer,
  primary key(day, domain, policy, row)) without rowid;
create table if not exists sent(day text, domain text, at real, result text, primary key(day, domain)) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Policy:
    """The published policy as it was applied (RFC 7489 appendix C, PolicyPublishedType). ``rua``: where to report."""

    domain: str
    adkim: str
    aspf: str
    p: str
    sp: str
    pct: int
    rua: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """One DKIM signature (``note`` = selector) or SPF result (``note`` = scope)."""

    method: str
    domain: str
    result: str
    note: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report: messages alike in all of this are counted together."""

    ip: str
    disposition: str
    dkim: str
    spf: str
    override: str
    header_from: str
    envelope_from: str
    identities: tuple[Identity, ...]


def day_of(at: float) -> str:
    """The UTC day, ``2026-01-31``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def policy_of(seen: Observation) -> Policy | None:
    record = seen.outcome.record
    if record is None:
        return None
    return Policy(
        domain=record.domain,
        adkim="s" if record.strict_dkim else "r",
        aspf="s" if record.strict_spf else "r",
        p=record.policy,
        sp=record.subdomain_policy or record.policy,
        pct=record.percent,
        rua=record.rua,
    )


def row_of(seen: Observation) -> Row:
    outcome = seen.outcome
    return Row(
        ip=seen.ip,
        disposition=seen.disposition,
        dkim="pass" if outcome.dkim_aligned else "fail",
        spf="pass" if outcome.spf_aligned else "fail",
        override=seen.override,
        header_from=outcome.domain,
        envelope_from=seen.envelope_from,
        identities=tuple(
            Identity(one.method, one.domain, one.result, one.note) for one in seen.identifiers if one.domain
        )[:8],
    )


def connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    enter_wal(db, BUSY_SECONDS)
    db.execute("pragma synchronous=off")
    db.executescript(SCHEMA)
    return db


class ObservationLog:
    """One a process; the thread starts with the first observation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: queue.SimpleQueue[Observation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, seen: Observation) -> None:
        """Count an evaluated message whose domain wants to hear of it."""
        record = seen.outcome.record
        if record is None or not record.rua or self._waiting.qsize() >= MAX_WAITING:
            return
        self._waiting.put(seen)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
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
                count(db, [seen for seen in batch if seen is not None])
            except sqlite3.Error as error:
                log.warning("observations for DMARC reports not written: %s", error)
        if db is not None:
            db.close()


def count(db: sqlite3.Connection, batch: list[Observation]) -> None:
    """Add observations in one transaction."""
    rows: dict[tuple[str, str, str, str], int] = {}
    for seen in batch:
        policy = policy_of(seen)
        if policy is None:
            continue
        key = (day_of(seen.at), policy.domain, _dump(policy), _dump(row_of(seen)))
        rows[key] = rows.get(key, 0) + 1
    db.execute("begin immediate")
    try:
        for key, number in rows.items():
            done = db.execute(
                "update seen set count = count + ? where day = ? and domain = ? and policy = ? and row = ?",
                (number, *key),
            )
            if done.rowcount == 0:
                db.execute(
                    "insert into seen select ?, ?, ?, ?, ?"
                    " where (select count(*) from seen where day = ? and domain = ?) < ?",
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


def rows(db: sqlite3.Connection, day: str, domain: str) -> dict[Policy, list[tuple[Row, int]]]:
    """What was seen of a domain on a day, by the policy that was in force (it may have changed)."""
    out: dict[Policy, list[tuple[Row, int]]] = {}
    query = "select policy, row, count from seen where day = ? and domain = ?"
    for policy, row, number in db.execute(query, (day, domain)):
        found = json.loads(policy)
        told = json.loads(row)
        told["identities"] = tuple(Identity(**one) for one in told["identities"])
        found["rua"] = tuple(found["rua"])
        out.setdefault(Policy(**found), []).append((Row(**told), int(number)))
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


def _dump(value: Policy | Row) -> str:
    return json.dumps(asdict(value), separators=(",", ":"), sort_keys=True)
