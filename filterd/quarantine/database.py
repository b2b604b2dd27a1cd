"""The quarantine on disk: one SQLite file, each text once, a row per recipient.

``quarantine/held.db`` (WAL, synchronous=FULL: a commit is on disk): ``body(id, digest, data)`` holds a text once however many
recipients it has, ``held`` a row per recipient with who, why, until when, the facts of its reception as JSON, and its state
(``base``); ``digest(account, at)`` when a person was last told. A row that came to its end keeps no text and is forgotten
``FORGET_SECONDS`` later, so that asking twice is answered rightly.

Invariants: ``put`` returned = on disk, which is the commit of that recipient's delivery (it is the only effect of its plan, HOUSE
item 10). Every change of state is one conditional update: of two that ask at once, one changes it and the other is told.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filterd.quarantine.base import (
    ASKED,
    DROPPED,
    ENDS,
    EXPIRED,
    HELD,
    RELEASED,
    TEXT_LIMIT,
    Facts,
    Held,
    Hold,
    Kept,
    facts_of,
    facts_plain,
)
from filterd.store.base import StoreUnavailable
from filterd.wal import open_wal, transaction

FOLDER, FILE = "quarantine", "held.db"
BUSY_SECONDS = 10.0
KEY_SECONDS = 86_400.0  # like every delivery key (HOUSE item 11)
FORGET_SECONDS = 30 * 86_400.0
COLUMNS = (
    "id, account, address, stage, reason, sender, subject, message_id, reverse_path, size, created, expires, state,"
    " learn, learned, tries, next_at, ended, note"
)
SCHEMA = """
create table if not exists body(id integer primary key, digest blob unique, data blob);
create table if not exists held(id text primary key, account text, address text, stage text, reason text, sender text,
  subject text, message_id text, reverse_path text, size integer, created real, expires real, state text default 'held',
  learn text default '', learned text default '', tries integer default 0, next_at real default 0, ended real default 0,
  note text default '', key blob, heard integer default 0, body integer, facts text);
create index if not exists held_account on held(account, created);
create index if not exists held_state on held(state, next_at);
create index if not exists held_key on held(key);
create index if not exists held_body on held(body);
create table if not exists digest(account text primary key, at real) without rowid;
"""


def database_path(data_dir: Path) -> Path:
    return data_dir / FOLDER / FILE


def _text(value: str) -> str:
    """What SQLite can store, on one line: strangers wrote it."""
    shown = "".join(char if char.isprintable() else " " for char in value[:TEXT_LIMIT])
    return shown.encode("utf-8", "replace").decode()


class QuarantineDatabase:
    """An open database; used by one thread at a time. Every method raises StoreUnavailable when the disk or a lock says no."""

    def __init__(self, path: Path) -> None:
        with _told():
            self._db = open_wal(path, BUSY_SECONDS, "full", SCHEMA)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _told(), transaction(self._db):
            yield self._db

    # -- holding ----------------------------------------------------------------------------------
    def put(self, hold: Hold, now: float, keep: float) -> Kept:
        """Hold a copy, unless its key tells that it is held and that the client's reply was lost. On disk on return."""
        with self._transaction() as db:
            if hold.key:
                known = db.execute(
                    "select id, created, expires from held where key=? and not heard and created>? order by created desc",
                    (hold.key, now - KEY_SECONDS),
                ).fetchone()
                if known is not None:
                    return Kept(known[0], known[1], known[2], True)
            facts = hold.facts
            row = (
                hold.id, hold.account, _text(facts.address), hold.stage, _text(hold.reason), _text(hold.sender),
                _text(hold.subject), _text(hold.message_id), _text(facts.reverse_path), len(hold.data), now, now + keep,
                hold.key, self._body(hold.data), json.dumps(facts_plain(facts)),
            )  # fmt: skip
            db.execute(
                "insert into held(id, account, address, stage, reason, sender, subject, message_id, reverse_path, size,"
                " created, expires, key, body, facts) values(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                row,
            )
        return Kept(hold.id, now, now + keep)

    def _body(self, data: bytes) -> int:
        digest = hashlib.sha256(data).digest()
        known = self._db.execute("select id from body where digest=?", (digest,)).fetchone()
        if known is not None:
            return int(known[0])
        made = self._db.execute("insert into body(digest, data) values(?, ?)", (digest, data))
        assert made.lastrowid is not None
        return made.lastrowid

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        with self._transaction() as db:
            db.executemany("update held set heard=1 where key=?", [(key,) for key in keys])

    # -- looking ----------------------------------------------------------------------------------
    def _select(self, where: str, *arguments: object) -> list[Held]:
        with _told():
            found = self._db.execute(f"select {COLUMNS} from held where {where}", arguments).fetchall()
        return [Held(*row) for row in found]

    def rows(self, account: str = "", ended: bool = False, limit: int = 10_000) -> list[Held]:
        """Newest first; of everybody without ``account``; those that came to their end with ``ended``."""
        where = "(?='' or account=?) and (? or state in ('held', 'asked')) order by created desc, id limit ?"
        return self._select(where, account, account, ended, limit)

    def find(self, name: str, account: str = "") -> list[Held]:
        """By id, or by its trace id: all copies of that message. An owner (``account``) finds only his own."""
        bare = name.strip().upper()
        head, dot, tail = bare.partition(".")
        plain = head.replace("-", "")
        head = f"{plain[:5]}-{plain[5:]}" if len(plain) == 10 else head
        if dot:
            return self._select("id=? and (?='' or account=?)", f"{head}.{tail}", account, account)
        return self._select(
            "id>=? and id<? and (?='' or account=?) order by id", f"{head}.", f"{head}/", account, account
        )

    def data(self, name: str) -> bytes | None:
        """The text, with our fields; None when it is gone."""
        with _told():
            row = self._db.execute(
                "select data from body where id=(select body from held where id=?)", (name,)
            ).fetchone()
        return bytes(row[0]) if row is not None else None

    def facts(self, name: str) -> Facts | None:
        with _told():
            row = self._db.execute("select facts from held where id=?", (name,)).fetchone()
        return facts_of(json.loads(row[0])) if row is not None and row[0] else None

    # -- steering ---------------------------------------------------------------------------------
    def ask(self, name: str, now: float, learn: str = "") -> bool:
        """Ask for its release; False when it is not held (any more)."""
        with self._transaction() as db:
            done = db.execute(
                "update held set state=?, next_at=?, tries=0, note='', learn=? where id=? and state=?",
                (ASKED, now, learn, name, HELD),
            )
        return done.rowcount > 0

    def drop(self, name: str, now: float) -> bool:
        """Throw it away; False when it is not held (any more)."""
        with self._transaction() as db:
            changed = db.execute(
                "update held set state=?, ended=?, body=null, facts='' where id=? and state=?",
                (DROPPED, now, name, HELD),
            ).rowcount
            self._sweep(db)
        return changed > 0

    def due(self, now: float, limit: int = 50) -> list[Held]:
        """Those to be released now."""
        return self._select("state=? and next_at<=? order by next_at limit ?", ASKED, now, limit)

    def next_ask(self) -> float | None:
        """When the next one that was asked for is due."""
        with _told():
            row = self._db.execute("select min(next_at) from held where state=?", (ASKED,)).fetchone()
        return float(row[0]) if row is not None and row[0] is not None else None

    def claim(self, name: str, now: float, seconds: float) -> bool:
        """Nobody else releases it for so long."""
        with self._transaction() as db:
            done = db.execute(
                "update held set next_at=?, tries=tries+1 where id=? and state=? and next_at<=?",
                (now + seconds, name, ASKED, now),
            )
        return done.rowcount > 0

    def resume(self, now: float) -> None:
        """The one who releases begins anew: what its predecessor had claimed, and did not end or put off, is due at once."""
        with self._transaction() as db:
            db.execute("update held set next_at=? where state=? and next_at>? and note=''", (now, ASKED, now))

    def later(self, name: str, next_at: float, note: str) -> None:
        with self._transaction() as db:
            db.execute(
                "update held set next_at=?, note=? where id=? and state=?",
                (next_at, _text(note), name, ASKED),
            )

    def back(self, name: str, note: str) -> None:
        """It cannot be released: it stays."""
        with self._transaction() as db:
            db.execute(
                "update held set state=?, note=? where id=? and state=?", (HELD, _text(note), name, ASKED)
            )

    def released(self, name: str, now: float, note: str, learned: str = "") -> None:
        with self._transaction() as db:
            db.execute(
                "update held set state=?, ended=?, note=?, learned=?, body=null, facts='' where id=? and state=?",
                (RELEASED, now, _text(note), _text(learned), name, ASKED),
            )
            self._sweep(db)

    # -- ends -------------------------------------------------------------------------------------
    def purge(self, now: float) -> list[Held]:
        """End what is too old, forget what ended long ago; what expired now is returned."""
        old = self._select("state=? and expires<=?", HELD, now)
        if not old and not self._select(
            "state not in ('held', 'asked') and ended<=? limit 1", now - FORGET_SECONDS
        ):
            return []
        with self._transaction() as db:
            db.execute(
                "update held set state=?, ended=?, body=null, facts='' where state=? and expires<=?",
                (EXPIRED, now, HELD, now),
            )
            marks = ", ".join("?" * len(ENDS))
            db.execute(
                f"delete from held where state in ({marks}) and ended<=?", (*ENDS, now - FORGET_SECONDS)
            )
            self._sweep(db)
        return old

    def forget(self, account: str) -> None:
        """The account is gone, and all that is held for it."""
        with self._transaction() as db:
            db.execute("delete from held where account=?", (account,))
            db.execute("delete from digest where account=?", (account,))
            self._sweep(db)

    @staticmethod
    def _sweep(db: sqlite3.Connection) -> None:
        db.execute("delete from body where not exists (select 1 from held where held.body=body.id)")

    # -- who was told -----------------------------------------------------------------------------
    def told(self) -> dict[str, float]:
        """When each person last got a digest."""
        with _told():
            return {row[0]: row[1] for row in self._db.execute("select account, at from digest").fetchall()}

    def tell(self, account: str, at: float) -> None:
        with self._transaction() as db:
            db.execute("insert or replace into digest values(?, ?)", (account, at))


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"the quarantine: {error}") from error
