"""Look-ups that wait have threads of their own."""

from __future__ import annotations

import asyncio
import threading

from filterd.accounts.beside import THREADS, Lookups
from filterd.accounts.directory import Resolution, Unknown
from tests.house import People


class Slow(People):
    """A disk that does not answer before ``gate`` is open."""

    waits = True

    def __init__(self) -> None:
        self.gate = threading.Event()

    def lookup(self, address: str) -> Resolution:
        assert threading.current_thread().name.startswith("lookups")
        self.gate.wait(30)
        return Unknown()


def test_slow_ones_hold_up_nobody_else() -> None:
    async def play() -> list[Resolution]:
        lookups, slow = Lookups(), Slow()
        tasks = [asyncio.ensure_future(lookups.lookup(slow, "a@b.example")) for _ in range(3 * THREADS)]
        await asyncio.sleep(0)
        await asyncio.to_thread(slow.gate.set)  # the threads that everybody uses are free
        found = await asyncio.gather(*tasks)
        lookups.close()
        return found

    assert asyncio.run(play()) == [Unknown()] * 3 * THREADS
