"""The memory of the greylist stage: one SQLite file, shared by the workers.

``greylist.db``: ``triplet(network, key, first, last, passed)``; keys are digests, no addresses are kept. Written without
fsync: what a crash loses is that some senders wait once more. One thread does all the work, so the loop never waits; a
failure is a StageFault, which lets mail through.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filterd.wal import open_wal, transaction
from pipeline.errors import StageFault
from pipeline.stages.greylist import Limits, Noted, Row, Triplets, step

BUSY_SECONDS = 2.0
PRUNE_SECONDS = 3600.0
SCHEMA = """
create table if not exists triplet(network text, key blob, first real, last real, passed integer,
  primary key(network, key)) without rowid;
create index if not exists triplet_last on triplet(last);
"""


class SqliteTriplets(Triplets):
    """One a process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._pruned = 0.0
        self._thread = ThreadPoolExecutor(1, "greylist")

    async def note(self, network: str, keys: Sequence[bytes], now: float, limits: Limits) -> Noted:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._note, network, tuple(keys), now, limits)
        except (sqlite3.Error, OSError) as error:
            raise StageFault("unavailable", f"greylist.db: {error}") from error

    def _note(self, network: str, keys: tuple[bytes, ...], now: float, limits: Limits) -> Noted:
        db = self._db = self._db or open_wal(self._path, BUSY_SECONDS, "off", SCHEMA)
        waits: list[float] = []
        with transaction(db):
            for key in keys:
                waits.append(self._one(db, network, key, now, limits))
            query = "select count(*) from triplet where network = ? and passed"
            (known,) = db.execute(query, (network,)).fetchone()
            if now - self._pruned > PRUNE_SECONDS:
                self._pruned = now
                oldest = now - max(limits.keep, limits.window)
                db.execute("delete from triplet where last < ? or (not passed and first < ?)",
                           (oldest, now - limits.window))  # fmt: skip
        return Noted(tuple(waits), int(known))

    @staticmethod
    def _one(db: sqlite3.Connection, network: str, key: bytes, now: float, limits: Limits) -> float:
        query = "select first, last, passed from triplet where network = ? and key = ?"
        found = db.execute(query, (network, key)).fetchone()
        old = Row(found[0], found[1], bool(found[2])) if found else None
        row, wait = step(old, now, limits)
        db.execute(
            "insert or replace into triplet values(?, ?, ?, ?, ?)",
            (network, key, row.first, row.last, row.passed),
        )
        return wait

    async def close(self) -> None:
        """End the thread; what is under way is done first."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        if self._db is not None:
            self._db.close()
            self._db = None
