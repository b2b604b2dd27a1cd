"""The counts of one owner: one SQLite file (WAL, synchronous=FULL).

``learning/bayes/DOMAIN/USER.db``, ``learning/bayes/shared.db`` for everybody. ``total(id=0, spam, ham)`` counts messages;
``token(id, spam, ham, day)``: how many messages of each kind a token was in, and the day it was learned last (days since the
epoch); ``seen(digest, spam, day)``: what was learned, so that nothing counts twice and a change of mind takes back what it
added. Invariants: counts and ``seen`` change in one transaction; both tables are bounded, what is rare and old goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from filterd.learning.lesson import AGAIN, CHANGED, FORGOTTEN, LEARNED, NONE, SPAM
from filterd.wal import open_wal, transaction
from pipeline.spam.bayes import Counts

MAX_TOKENS: Final = 400_000
MAX_SEEN: Final = 100_000
BUSY_SECONDS: Final = 5.0
BLOCK: Final = 900  # variables of one statement
FULL: Final = 0.8  # of the limit, after old tokens went
SCHEMA = """
create table if not exists total(id integer primary key, spam integer, ham integer);
create table if not exists token(id integer primary key, spam integer, ham integer, day integer);
create table if not exists seen(digest blob primary key, spam integer, day integer) without rowid;
insert or ignore into total values(0, 0, 0);
"""
ADD = """insert into token values(?1, ?2, ?3, ?4)
on conflict(id) do update set spam = max(0, spam + ?2), ham = max(0, ham + ?3), day = max(day, ?4)"""


class Table:
    """One connection; used by one thread at a time. Raises sqlite3.Error and OSError."""

    def __init__(self, path: Path, max_tokens: int = MAX_TOKENS, max_seen: int = MAX_SEEN) -> None:
        self._max_tokens, self._max_seen = max_tokens, max_seen
        self._db = open_wal(path, BUSY_SECONDS, "full", SCHEMA)

    def close(self) -> None:
        self._db.close()

    def counts(self, tokens: Sequence[int]) -> Counts:
        """What is known of these tokens."""
        spam, ham = self.totals()
        if not spam and not ham:
            return Counts()
        found: dict[int, tuple[int, int]] = {}
        for at in range(0, len(tokens), BLOCK):
            block = tokens[at : at + BLOCK]
            marks = ",".join("?" * len(block))
            for token, in_spam, in_ham in self._db.execute(
                f"select id, spam, ham from token where id in ({marks})", block
            ):
                found[token] = (in_spam, in_ham)
        return Counts(spam, ham, found)

    def totals(self) -> tuple[int, int]:
        """Messages learned: (spam, ham)."""
        spam, ham = self._db.execute("select spam, ham from total").fetchone()
        return int(spam), int(ham)

    def size(self) -> int:
        """Tokens in the table."""
        return int(self._db.execute("select count(*) from token").fetchone()[0])

    def learn(self, items: Iterable[tuple[bytes, str, Sequence[int]]], day: int) -> list[str]:
        """Take (digest, kind, tokens) in, all in one transaction; what became of each."""
        with transaction(self._db):
            out = [self._one(digest, kind, tokens, day) for digest, kind, tokens in items]
            self._shrink()
        return out

    def _one(self, digest: bytes, kind: str, tokens: Sequence[int], day: int) -> str:
        row = self._db.execute("select spam from seen where digest = ?", (digest,)).fetchone()
        before = None if row is None else bool(row[0])
        wanted = None if kind == NONE else kind == SPAM
        if before == wanted:
            return AGAIN
        if before is not None:
            self._add(tokens, before, -1, day)
            self._db.execute("delete from seen where digest = ?", (digest,))
        if wanted is None:
            return FORGOTTEN
        self._add(tokens, wanted, 1, day)
        self._db.execute("insert into seen values(?, ?, ?)", (digest, int(wanted), day))
        return LEARNED if before is None else CHANGED

    def _add(self, tokens: Sequence[int], spam: bool, number: int, day: int) -> None:
        pair = (number, 0) if spam else (0, number)
        self._db.executemany(ADD, [(token, *pair, day) for token in tokens])
        self._db.execute("update total set spam = max(0, spam + ?), ham = max(0, ham + ?)", pair)
        if number < 0:
            for at in range(0, len(tokens), BLOCK):
                block = tokens[at : at + BLOCK]
                marks = ",".join("?" * len(block))
                self._db.execute(f"delete from token where id in ({marks}) and spam <= 0 and ham <= 0", block)

    def _shrink(self) -> None:
        """Over the limit: tokens seen once go before others, those learned long ago before recent ones."""
        count = self.size()
        if count > self._max_tokens:
            self._db.execute(
                "delete from token where id in (select id from token order by (spam + ham > 1), day limit ?)",
                (count - int(self._max_tokens * FULL),),
            )
        (seen,) = self._db.execute("select count(*) from seen").fetchone()
        if seen > self._max_seen:
            self._db.execute(
                "delete from seen where digest in (select digest from seen order by day limit ?)",
                (seen - int(self._max_seen * FULL),),
            )
