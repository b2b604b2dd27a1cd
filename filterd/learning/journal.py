"""What is still to be learned, and what was: one SQLite file, ``learning/journal.db`` (WAL, synchronous=FULL).

``message(digest, data)``: texts that wait, compressed; ``job(account, digest, engine, kind, ...)``: one engine is to learn one of
them; ``look(account, mailbox, uid, kind)``: messages of large moves, still to be read from the mailbox; ``learned(account, digest,
engine, kind, at)``: what an engine knows; ``counter(account, engine, what, number)``.
Invariants: a job and its text commit together, before the IMAP command that caused them is answered; a later lesson on the same
message replaces an earlier one that still waits; what waits and what is remembered is bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filterd.learning.lesson import FAILED, KINDS, NONE, Lesson, Outcome, digest
from filterd.wal import open_wal, transaction
from rules.mail.lineends import with_crlf

FOLDER: Final = "learning"
FILE: Final = "journal.db"
BUSY_SECONDS: Final = 10.0
MAX_WAITING: Final = 20_000  # jobs; more are not taken
MAX_REMEMBERED: Final = 300_000
DAY: Final = 86_400.0
GIVE_UP: Final = 3 * DAY
ABSENT: Final = 3600.0  # an "auto" engine that is not installed
STEPS: Final = (5.0, 30.0, 120.0, 600.0, 3600.0)  # seconds until the next try
SCHEMA: Final = """
create table if not exists message(digest blob primary key, data blob, at real);
create table if not exists job(account text, digest blob, engine text, kind text, at real, next_at real, tries integer,
  error text, primary key(account, digest, engine)) without rowid;
create index if not exists job_next on job(next_at);
create table if not exists look(id integer primary key, account text, mailbox text, uid integer, kind text, at real);
create table if not exists learned(account text, digest blob, engine text, kind text, at real,
  primary key(account, digest, engine)) without rowid;
create table if not exists counter(account text, engine text, what text, number integer,
  primary key(account, engine, what)) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Job:
    """``at``: when it was asked for; ``tries`` so far."""

    account: str
    engine: str
    lesson: Lesson
    at: float
    tries: int


@dataclass(frozen=True, slots=True)
class Look:
    """A message that is still to be read from its mailbox."""

    id: int
    account: str
    mailbox: str
    uid: int
    kind: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job as a person sees it."""

    account: str
    engine: str
    kind: str
    at: float
    next_at: float
    tries: int
    error: str


def journal_path(data_dir: Path) -> Path:
    return data_dir / FOLDER / FILE


class Journal:
    """One connection; used by one thread at a time. Raises sqlite3.Error and OSError."""

    def __init__(self, path: Path) -> None:
        self._db = open_wal(path, BUSY_SECONDS, "full", SCHEMA)

    def close(self) -> None:
        self._db.close()

    # -- what is to be learned ----------------------------------------------------------------------------------------------
    def note(
        self, account: str, kind: str, texts: Iterable[bytes], engines: Sequence[str], now: float
    ) -> int:
        """Have these messages learned; how many were taken (all in one transaction)."""
        assert kind in KINDS
        prepared = [(digest(text), zlib.compress(text, 1)) for text in map(with_crlf, texts)]
        with transaction(self._db):
            room = max(0, MAX_WAITING - self._count("job")) // max(1, len(engines))
            for name, packed in prepared[:room]:
                self._add(account, kind, name, packed, engines, now)
        return min(len(prepared), room)

    def note_places(self, account: str, kind: str, mailbox: str, uids: Sequence[int], now: float) -> int:
        """The same for messages that are read later."""
        with transaction(self._db):
            room = max(0, MAX_WAITING - self._count("look"))
            self._db.executemany(
                "insert into look(account, mailbox, uid, kind, at) values(?, ?, ?, ?, ?)",
                [(account, mailbox, uid, kind, now) for uid in uids[:room]],
            )
        return min(len(uids), room)

    def looks(self, limit: int, without: Collection[str] = ()) -> list[Look]:
        """The oldest; ``without`` these accounts."""
        names = tuple(without)
        query = (
            "select id, account, mailbox, uid, kind from look"
            f" where account not in ({','.join('?' * len(names))}) order by id limit ?"
        )
        return [Look(*row) for row in self._db.execute(query, (*names, limit))]

    def looked(self, look: Look, text: bytes | None, engines: Sequence[str], now: float) -> None:
        """The message was read (None: it is gone)."""
        with transaction(self._db):
            self._db.execute("delete from look where id = ?", (look.id,))
            if text is not None:
                text = with_crlf(text)
                packed = zlib.compress(text, 1)
                self._add(look.account, look.kind, digest(text), packed, engines, now)

    def _add(
        self, account: str, kind: str, name: bytes, packed: bytes, engines: Sequence[str], now: float
    ) -> None:
        wanted = [engine for engine in engines if self._matters(account, name, engine, kind)]
        for engine in engines:
            if engine not in wanted:  # an earlier, opposite lesson may still wait: it is void
                self._db.execute(
                    "delete from job where account = ? and digest = ? and engine = ?", (account, name, engine)
                )
                self._count_up(account, engine, "again")
        self._db.executemany(
            "insert or replace into job values(?, ?, ?, ?, ?, ?, 0, '')",
            [(account, name, engine, kind, now, now) for engine in wanted],
        )
        if wanted:
            self._db.execute("insert or ignore into message values(?, ?, ?)", (name, packed, now))
        else:
            self._forget_text(name)

    def _matters(self, account: str, name: bytes, engine: str, kind: str) -> bool:
        """Does it know already? (Nothing to be forgotten where nothing was learned.)"""
        return self._known(account, name, engine) != ("" if kind == NONE else kind)

    def _known(self, account: str, name: bytes, engine: str) -> str:
        query = "select kind from learned where account = ? and digest = ? and engine = ?"
        row = self._db.execute(query, (account, name, engine)).fetchone()
        return str(row[0]) if row else ""

    # -- working it off -------------------------------------------------------------------------------------------------------
    def due(self, now: float, limit: int) -> list[Job]:
        """The jobs whose time has come, the oldest first."""
        query = (
            "select account, digest, engine, kind, job.at, tries, data from job join message using(digest)"
            " where next_at <= ? order by job.at limit ?"
        )
        return [
            Job(account, engine, Lesson(name, zlib.decompress(data), kind, self._known(account, name, engine)), at, tries)
            for account, name, engine, kind, at, tries, data in self._db.execute(query, (now, limit)).fetchall()
        ]  # fmt: skip

    def done(self, results: Sequence[tuple[Job, Outcome]], now: float) -> None:
        """What became of jobs, in one transaction. A job that was replaced meanwhile stays, for its new kind."""
        with transaction(self._db):
            for job, outcome in results:
                self._done(job, outcome, now)
            self._prune()

    def _done(self, job: Job, outcome: Outcome, now: float) -> None:
        key = (job.account, job.lesson.digest, job.engine)
        age = now - job.at
        if outcome.what == FAILED and age < (ABSENT if outcome.absent else GIVE_UP):
            pause = STEPS[min(job.tries, len(STEPS) - 1)]
            self._db.execute(
                "update job set next_at = ?, tries = tries + 1, error = ?"
                " where account = ? and digest = ? and engine = ? and at = ?",
                (now + pause, outcome.reason[:300], *key, job.at),
            )
            return
        self._db.execute(
            "delete from job where account = ? and digest = ? and engine = ? and at = ? and kind = ?",
            (*key, job.at, job.lesson.kind),
        )
        self._forget_text(job.lesson.digest)
        kind = job.lesson.kind
        self._count_up(job.account, job.engine, kind if outcome.what == "learned" else outcome.what)
        if outcome.what in (FAILED, "skipped"):
            return
        self._db.execute("delete from learned where account = ? and digest = ? and engine = ?", key)
        if kind != NONE:
            self._db.execute("insert into learned values(?, ?, ?, ?, ?)", (*key, kind, now))

    def _forget_text(self, name: bytes) -> None:
        self._db.execute(
            "delete from message where digest = ? and not exists (select 1 from job where job.digest = message.digest)",
            (name,),
        )

    def forget(self, account: str) -> None:
        """The account is gone: nothing of it waits, nothing is remembered."""
        with transaction(self._db):
            for table in ("job", "look", "learned", "counter"):
                self._db.execute(f"delete from {table} where account = ?", (account,))
            self._db.execute("delete from message where digest not in (select digest from job)")

    def _prune(self) -> None:
        count = self._count("learned")
        if count > MAX_REMEMBERED:
            self._db.execute(
                "delete from learned where (account, digest, engine) in"
                " (select account, digest, engine from learned order by at limit ?)",
                (count - MAX_REMEMBERED * 4 // 5,),
            )

    def _count(self, table: str) -> int:
        return int(self._db.execute(f"select count(*) from {table}").fetchone()[0])

    def _count_up(self, account: str, engine: str, what: str) -> None:
        self._db.execute(
            "insert into counter values(?, ?, ?, 1)"
            " on conflict(account, engine, what) do update set number = number + 1",
            (account, engine, what),
        )

    # -- for people -------------------------------------------------------------------------------------------------------------
    def counters(self) -> dict[tuple[str, str], dict[str, int]]:
        """By (account, engine): how many messages were learned as ``spam`` and ``ham``, ``changed`` (learned the other way
        round), known ``again``, ``forgotten``, ``skipped`` and ``failed``."""
        out: dict[tuple[str, str], dict[str, int]] = {}
        for account, engine, what, number in self._db.execute("select * from counter order by 1, 2, 3"):
            out.setdefault((account, engine), {})[what] = int(number)
        return out

    def known(self) -> dict[tuple[str, str], dict[str, int]]:
        """By (account, engine): how many messages it knows as ``spam`` and ``ham`` now."""
        out: dict[tuple[str, str], dict[str, int]] = {}
        query = "select account, engine, kind, count(*) from learned group by 1, 2, 3"
        for account, engine, kind, number in self._db.execute(query):
            out.setdefault((account, engine), {})[kind] = int(number)
        return out

    def waiting(self, limit: int = 1000) -> list[Waiting]:
        query = "select account, engine, kind, at, next_at, tries, error from job order by at limit ?"
        return [Waiting(*row) for row in self._db.execute(query, (limit,))]

    def left(self) -> int:
        """Jobs and messages that wait."""
        return self._count("job") + self._count("look")

    def idle(self, now: float) -> bool:
        """Is there nothing to do now?"""
        (jobs,) = self._db.execute("select exists(select 1 from job where next_at <= ?)", (now,)).fetchone()
        (looks,) = self._db.execute("select exists(select 1 from look)").fetchone()
        return not jobs and not looks
