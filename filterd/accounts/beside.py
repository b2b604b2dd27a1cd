"""Looking an address up from a loop, where the look-up may have to wait for a disk (``.forward`` files)."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from filterd.accounts.directory import Directory, Resolution

THREADS = 8


@dataclass(slots=True)
class Lookups:
    """One a worker. Its threads are its own: a disk that does not answer holds up nothing but other look-ups."""

    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="lookups")
    )

    async def lookup(self, directory: Directory, address: str) -> Resolution:
        """As ``Directory.lookup``, which bounds what it waits for; in a thread when it may wait at all."""
        if not directory.waits:
            return directory.lookup(address)
        return await asyncio.get_running_loop().run_in_executor(self._pool, directory.lookup, address)

    def close(self) -> None:
        """What runs is let go to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
