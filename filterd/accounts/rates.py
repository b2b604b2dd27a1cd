"""How much each account has sent in the last hour: what limits a stolen password, or a script gone wild.

``rates.db``: ``sent(account, minute, messages, recipients)``, shared by the workers; a row a minute, kept for an hour. Written
without fsync: what a crash of the machine loses is a few minutes of counting, a crash of the server loses nothing. One thread
does all the work, so the loop never waits. Only what is accepted counts; a message is counted in one transaction, so that
many connections at once do not get further than one.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filterd.wal import open_wal, transaction
from pipeline.ports import Clock
from pipeline.reply import Reply

HOUR = 60  # minutes
BUSY_SECONDS = 5.0
UNKNOWN = Reply(451, "4.3.0", "Temporary failure, please try again later")
SCHEMA = """
create table if not exists sent(account text, minute integer, messages integer, recipients integer,
  primary key(account, minute)) without rowid;
"""

log = logging.getLogger("filterd.accounts")


@dataclass(frozen=True, slots=True)
class RateLimits:
    """An account's, per hour; 0 = none."""

    messages: int = 0
    recipients: int = 0


Row = tuple[int, int, int]  # minute, messages, recipients


def wait_for(
    rows: Sequence[Row], limits: RateLimits, messages: int, recipients: int, minute: int
) -> tuple[int, str]:
    """(minutes until so much more may be sent, which limit says so); (0, "") = now."""
    worst, what = 0, ""
    for limit, more, at, word in (
        (limits.messages, messages, 1, "messages"),
        (limits.recipients, recipients, 2, "recipients"),
    ):
        used = sum(row[at] for row in rows)
        if not limit or used + more <= limit:
            continue
        left = HOUR
        for row in sorted(rows):
            used -= row[at]
            if used + more <= limit:
                left = max(1, row[0] + HOUR - minute)
                break
        if left > worst:
            worst, what = left, f"{limit} {word}"
    return worst, what


class Rates:
    """One a process; nothing is opened while there are no limits."""

    def __init__(self, path: Path, clock: Clock, limits: RateLimits) -> None:
        self._path = path
        self._clock = clock
        self._limits = limits
        self._db: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def active(self) -> bool:
        return bool(self._limits.messages or self._limits.recipients)

    async def refusal(self, account: str, recipients: int = 0) -> Reply | None:
        """May ``account`` send one message more, to so many? Nothing is counted."""
        return await self._ask(lambda: self._look(account, recipients, False))

    async def take(self, account: str, recipients: int) -> Reply | None:
        """Count one message to ``recipients``, or the refusal."""
        return await self._ask(lambda: self._look(account, recipients, True))

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        if self._db is not None:
            self._db.close()
            self._db = None

    async def _ask(self, work: Callable[[], Reply | None]) -> Reply | None:
        if not self.active:
            return None
        self._thread = self._thread or ThreadPoolExecutor(1, "rates")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:  # an unlimited account would be worse than a late message
            log.error("rates.db: %s", error)
            return UNKNOWN

    def _look(self, account: str, recipients: int, count: bool) -> Reply | None:
        db = self._db = self._db or open_wal(self._path, BUSY_SECONDS, "off", SCHEMA)
        minute = int(self._clock.time() // 60)
        with transaction(db, "begin immediate" if count else "begin"):
            rows = db.execute(
                "select minute, messages, recipients from sent where account=? and minute>?",
                (account, minute - HOUR),
            ).fetchall()
            wait, what = wait_for(rows, self._limits, 1, recipients, minute)
            if count and not wait:
                db.execute("delete from sent where account=? and minute<=?", (account, minute - HOUR))
                db.execute(
                    "insert into sent values(?, ?, 1, ?) on conflict(account, minute) do update"
                    " set messages=messages+1, recipients=recipients+excluded.recipients",
                    (account, minute, recipients),
                )
        if not wait:
            return None
        log.warning("%s has sent what an hour allows: %s", account, what)
        return Reply(450, "4.7.1", f"You may send {what} an hour; please try again in {wait} min")
