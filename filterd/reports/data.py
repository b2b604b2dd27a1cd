"""What aggregate reports are made of: counted observations, kept by day and policy domain.

``reports.db`` (``days``): ``seen(day, domain, policy, row, count)`` where ``row`` is the JSON of a Row and ``policy`` that of the
published policy.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filterd.reports import days
from pipeline.dmarc import Authenticated, Observation

REPORTS = "reports.db"
ROWS_A_DOMAIN = 10_000  # different rows of one domain and day; more are not told apart any more, nor reported
COLUMNS = ("day", "domain", "policy", "row")
SEEN = """
create table if not exists seen(day text, domain text, policy text, row text, count integer,
  primary key(day, domain, policy, row)) without rowid;
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
    fo: str = "0"


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
        fo=record.failure_options,
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
            Identity(one.method, one.domain, one.result, one.note)
            for one in sorted(
                seen.identifiers, key=_is_dkim
            )  # the one of SPF is told however many have signed
            if one.domain
        )[:8],
    )


def _is_dkim(one: Authenticated) -> bool:
    return one.method == "dkim"


def connect(path: Path) -> sqlite3.Connection:
    return days.connect(path, SEEN)


class ObservationLog(days.CountLog[Observation]):
    """Observations for DMARC reports."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "reports", "observations for DMARC reports", connect, count)

    def put(self, seen: Observation) -> None:
        """Count an evaluated message whose domain wants to hear of it."""
        record = seen.outcome.record
        if record is not None and record.rua:
            self._offer(seen)


def count(db: sqlite3.Connection, batch: Sequence[Observation]) -> None:
    """Add observations in one transaction."""
    counts: Counter[tuple[str, ...]] = Counter()
    for seen in batch:
        policy = policy_of(seen)
        if policy is not None:
            counts[(days.day_of(seen.at), policy.domain, _dump(policy), _dump(row_of(seen)))] += 1
    days.add(db, COLUMNS, counts, ROWS_A_DOMAIN)


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


def _dump(value: Policy | Row) -> str:
    return json.dumps(asdict(value), separators=(",", ":"), sort_keys=True)
