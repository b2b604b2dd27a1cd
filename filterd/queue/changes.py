"""What a delivery changes in an account beside its messages, as rows of the queue's database until it is done.

Sieve state (ids of ``duplicate``, answers of ``vacation``) and list entries of a plan with several effects are written with the
commit record (HOUSE item 10) and struck out once they are in the account; what a crash leaves is rolled forward. Doing one twice
changes nothing.

``change(id, created, account, remember, lists, trace, next_at, attempts)``: ``remember`` is JSON, hex key to seconds of life;
``lists`` JSON, [name, value, remove] each.
"""

from __future__ import annotations

import json
import sqlite3

from filterd.queue.base import PendingChange
from rules.actions import ListStore

PREFIX = "T"  # of the ids people see; stores have S

SCHEMA = """
create table if not exists change(id integer primary key, created real not null, account text not null,
  remember text not null, lists text not null, trace text not null, next_at real not null,
  attempts integer not null default 0);
"""


def add(db: sqlite3.Connection, number: int, change: PendingChange, now: float, next_at: float) -> None:
    """Inside a transaction."""
    remember = {key.hex(): seconds for key, seconds in change.remember.items()}
    lists = [[one.name, one.value, one.remove] for one in change.lists]
    db.execute(
        "insert into change(id, created, account, remember, lists, trace, next_at) values(?,?,?,?,?,?,?)",
        (number, now, change.account, json.dumps(remember), json.dumps(lists), change.trace, next_at),
    )


def find(db: sqlite3.Connection, number: int) -> PendingChange | None:
    """None when it was done meanwhile."""
    row = db.execute("select account, remember, lists, trace from change where id=?", (number,)).fetchone()
    if row is None:
        return None
    account, remember, lists, trace = row
    return PendingChange(
        str(account),
        {bytes.fromhex(key): int(seconds) for key, seconds in json.loads(remember).items()},
        tuple(ListStore(name=name, value=value, remove=remove) for name, value, remove in json.loads(lists)),
        str(trace),
    )
