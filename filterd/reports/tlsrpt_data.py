"""How TLS went with other mail hosts, counted by UTC day and recipient domain, for the reports of RFC 8460.

``tls.db`` (``days``): ``seen(day, domain, policy, result, mx, address, detail, count)``, ``policy`` the JSON of a Policy.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filterd.queue.tlsdemand import Policy, Session, TlsResult
from filterd.reports import days
from pipeline.ports import Clock

DATABASE = "tls.db"
ROWS_A_DOMAIN = 1_000  # different rows of one domain and day; more are not told apart, nor reported
DETAIL_CHARACTERS = 300
COLUMNS = ("day", "domain", "policy", "result", "mx", "address", "detail")
SEEN = """
create table if not exists seen(day text, domain text, policy text, result text, mx text, address text, detail text,
  count integer, primary key(day, domain, policy, result, mx, address, detail)) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """Sessions alike in all of this."""

    result: TlsResult
    mx: str
    address: str
    detail: str
    count: int


def connect(path: Path) -> sqlite3.Connection:
    return days.connect(path, SEEN)


class SessionLog(days.CountLog[tuple[str, Session]]):
    """Sessions, each with the day it was on."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path, "tls-reports", "TLS sessions", connect, count)
        self._clock = clock

    def put(self, session: Session) -> None:
        self._offer((days.day_of(self._clock.time()), session))


def count(db: sqlite3.Connection, batch: Sequence[tuple[str, Session]]) -> None:
    """Add (day, session) in one transaction."""
    counts: Counter[tuple[str, ...]] = Counter()
    for day, one in batch:
        good = one.result is TlsResult.OK
        policy = json.dumps(asdict(one.policy), separators=(",", ":"), sort_keys=True)
        where = ("", "", "") if good else (one.mx, one.address, one.detail[:DETAIL_CHARACTERS])
        counts[(day, one.policy.domain, policy, one.result.value, *where)] += 1
    days.add(db, COLUMNS, counts, ROWS_A_DOMAIN)


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
