"""The quarantine of one process: the database behind one thread, so that the loop never waits.

The file is made when something is held for the first time; a server that never holds anything has none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from filterd.quarantine.base import Hold, Keeper, Kept
from filterd.quarantine.database import QuarantineDatabase, database_path
from filterd.store.base import StoreError
from pipeline.ports import Clock

log = logging.getLogger("filterd.quarantine")
T = TypeVar("T")


class Quarantine(Keeper):
    """``junk``: stages whose held mail goes to the Junk folder instead. ``keep``: seconds."""

    def __init__(self, data_dir: Path, keep: float, junk: Collection[str], clock: Clock) -> None:
        self._path = database_path(data_dir)
        self._keep = keep
        self._junk = frozenset(junk)
        self._clock = clock
        self._database: QuarantineDatabase | None = None
        self._thread = ThreadPoolExecutor(1, "quarantine")

    def takes(self, stage: str) -> bool:
        return stage not in self._junk

    def exists(self) -> bool:
        return self._database is not None or self._path.exists()

    async def run(self, work: Callable[[QuarantineDatabase], T]) -> T:
        """Do this in the thread. Raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[QuarantineDatabase], T]) -> T:
        if self._database is None:
            self._database = QuarantineDatabase(self._path)
        return work(self._database)

    async def put(self, hold: Hold) -> Kept:
        now = self._clock.time()
        return await self.run(lambda database: database.put(hold, now, self._keep))

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        """Nobody waits for it: what a crash loses is that an equal message of the same day counts as a retry."""
        self._thread.submit(self._acknowledge, tuple(keys))

    def _acknowledge(self, keys: tuple[bytes, ...]) -> None:
        try:
            self._work(lambda database: database.acknowledge(keys))
        except StoreError as error:
            log.warning("acknowledgement not written: %s", error)

    def close(self) -> None:
        """What is under way is done first."""
        self._thread.shutdown()
        if self._database is not None:
            self._database.close()
            self._database = None
