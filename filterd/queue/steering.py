"""What the operator wants of items in the queue: which ones, and what is to be done. Inside the journal's transactions."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from filterd.queue.routing import BY_HAND, OUTLETS, ROUTED, Lane
from filterd.queue.rows import HOLD, id_number
from pipeline.dns_name import normalise

LATER = (
    f"max(?, coalesce(json_extract(params, '$.{HOLD}') + 0, 0))"  # not before the time its sender asked for
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Items that are all of this; nothing said: all. ``sender``: an address, "@domain" or "<>". ``before``: came before."""

    name: str = ""
    domain: str = ""
    sender: str = ""
    before: float = 0.0

    def where(self) -> tuple[str, list[object]]:
        parts, values = ["1"], list[object]()
        if self.name:
            parts.append("id=?")
            values.append(id_number(self.name))
        if self.domain:
            domain = normalise(self.domain) or self.domain.lower()
            tail = self.domain.lower()
            parts.append("(domain=? or lower(substr(recipient, -?)) in (?, ?))")
            # an item with a route has another lane: its recipient tells
            values += [domain, len(domain) + 1, f"@{domain}", f"@{tail}"]
        if self.sender:
            wanted = "" if self.sender == "<>" else self.sender.lower()
            if wanted.startswith("@"):
                parts.append("lower(substr(reverse_path, -?))=?")
                values += [len(wanted), wanted]
            else:
                parts.append("lower(reverse_path)=?")
                values.append(wanted)
        if self.before:
            parts.append("created<?")
            values.append(self.before)
        return " and ".join(parts), values


CHANGES = {
    "retry": (f"next_at={LATER}", "state='queued'"),
    "hold": ("state='held', next_at=?", "state='queued'"),
    "release": (f"state='queued', next_at={LATER}", "state='held'"),
    "bounce": ("state='queued', wish='bounce', next_at=?", "state in ('queued','held')"),
}


def change(db: sqlite3.Connection, action: str, now: float, choice: Choice) -> int:
    """retry, hold, release or bounce; how many."""
    where, values = choice.where()
    what, states = CHANGES[action]
    if action == "retry" and choice.name:
        what = "next_at=?"  # named on purpose: before its time, too
    return db.execute(f"update item set {what} where {states} and {where}", (now, *values)).rowcount


def reroute(db: sqlite3.Connection, now: float, choice: Choice, url: str, lane: Lane) -> int:
    """To the next hop ``url``, or "" = the way it would take by itself; tried at once. What is for a program or a file stays."""
    where, values = choice.where()
    rows = db.execute(
        "select id, reverse_path, recipient from item where state in ('queued','held')"
        f" and substr(domain, 1, 1) not in {OUTLETS} and {where}",
        values,
    ).fetchall()
    for number, reverse_path, recipient in rows:
        new = f"{BY_HAND}{url}" if url else lane(reverse_path, recipient)
        db.execute(f"update item set domain=?, next_at={LATER} where id=?", (new, now, number))
    return len(rows)


def relane(db: sqlite3.Connection, lane: Lane, routed: bool) -> int:
    """Give all that waits its lane anew, but for the operator's choices; ``routed`` False: there are no routes. How many moved."""
    fixed = (BY_HAND, *OUTLETS)
    which = f"substr(domain, 1, 1) not in {fixed}" if routed else f"substr(domain, 1, 1)='{ROUTED}'"
    rows = db.execute(
        f"select id, reverse_path, recipient, domain from item where state in ('queued','held') and {which}"
    ).fetchall()
    moved = [
        (new, number)
        for number, reverse_path, recipient, old in rows
        if (new := lane(reverse_path, recipient)) != old
    ]
    db.executemany("update item set domain=? where id=?", moved)
    return len(moved)
