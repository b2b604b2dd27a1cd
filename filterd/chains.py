"""Which scripts run for a message to an account, and where they run, so that nobody's script holds up the loop (HOUSE item 17).

* **Looking.** A chain is kept with the stamps of its files. While its account was looked at a moment ago (its directory entries
  are in memory), a few ``stat`` on the loop tell that nothing changed. Anything else (first time, changed, long ago) is read
  and compiled in the pool, once for all messages that wait for it.
* **Running.** The first run of a chain builds the tables of its rules (300 ms for 10,000), so it happens in the pool, and so does
  the second, which shows what it costs. Later ones run on the loop as long as they are cheap: 20 rules cost 0.05 ms, a hop to a
  thread costs more than that. Scripts that read files while they run (``include``), walk the parts of a message or look into a
  large body, and those that were slow, run in the pool.
  Runs on the loop that took long on average, or one that took very long, send their chain to the pool; there its thread's CPU
time is measured, and a chain that is cheap comes back.

Measured on two busy cores: 20 rules 0.05 ms, 10,000 merged ``:contains`` 0.02, 200 ``:regex`` 0.02, 20 body tests of 211 KB 0.7 to
2.1, 500 rules that cannot be merged 2.4 to 9.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from filterd.scripts import ScriptService, Sources
from rules.compiler import CompiledScript

T = TypeVar("T")

THREADS = 2
FIRST_RUNS = 2
WARM_SECONDS = 60.0  # so long after a look the directory entries are taken to be in memory
LARGE = 256 * 1024  # octets of a message whose body is not looked into on the loop
SLOW = 0.005  # seconds on average that are too long for the loop
MUCH = 0.05  # seconds that are too long even once; less may be another process's doing
CHEAP = 0.002  # below this on average a chain may come back
WEIGHT = 0.25  # of the last run in the average
MAX_CHAINS = 512
WALKERS = frozenset({"include", "foreverypart", "mime", "extracttext"})


@dataclass(slots=True)
class Chain:
    """``scripts`` in order; ``error``: why one of them cannot be used."""

    scripts: list[CompiledScript]
    error: str | None
    sources: Sources
    looked: float = 0.0
    can_reject: bool = False
    walks: bool = False
    body: bool = False
    runs: int = 0
    slow: bool = False
    cost: float = 0.0  # seconds of CPU, average
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # of the first runs: the tables are built once

    def light(self, size: int) -> bool:
        """May it run on the loop over a message of ``size`` octets?"""
        return self.runs >= FIRST_RUNS and not (self.slow or self.walks) and not (self.body and size > LARGE)

    def took(self, seconds: float) -> None:
        """A run is over; on the loop these are seconds of the clock, which cost less to ask."""
        self.runs += 1
        if self.runs < FIRST_RUNS:
            return  # this one built the tables
        if self.runs == FIRST_RUNS:
            self.cost = seconds
        self.cost += WEIGHT * (seconds - self.cost)
        if self.cost > SLOW or seconds > MUCH:
            self.slow, self.cost = True, max(self.cost, SLOW)
        elif self.cost < CHEAP:
            self.slow = False

    @classmethod
    def of(cls, scripts: list[CompiledScript], error: str | None, sources: Sources) -> Chain:
        return cls(
            scripts,
            error,
            sources,
            can_reject=any(script.can_reject for script in scripts),
            walks=any(script.uses & WALKERS for script in scripts),
            body=any(script.needs_body for script in scripts),
        )


@dataclass(slots=True)
class Chains:
    """One a worker; its methods are called on the loop."""

    service: ScriptService
    _chains: dict[str, Chain] = field(default_factory=dict)
    _flights: dict[str, asyncio.Future[Chain]] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="sieve")
    )

    async def ready(self, account: str) -> Chain:
        """The chain of the account as it is now."""
        loop = asyncio.get_running_loop()
        while True:
            known = self._chains.get(account)
            if known is not None and loop.time() - known.looked < WARM_SECONDS:
                if self.service.unchanged(account, known.sources):
                    known.looked = loop.time()
                    return known
                del self._chains[account]
            flight = self._flights.get(account)
            # Who joins a flight looks again: it may have begun before a change. One that is over and still listed (its
            # callback is due) must not be joined: waiting for it would not give way to that callback, for ever.
            if flight is None or flight.done():
                return await self._load(account)
            await asyncio.shield(flight)

    async def run(self, chain: Chain, size: int, work: Callable[[], T]) -> T:
        """``work`` runs the chain over a message of ``size`` octets."""
        if chain.light(size):
            began = time.perf_counter()
            result = work()
            chain.took(time.perf_counter() - began)
            return result
        loop = asyncio.get_running_loop()
        if chain.runs >= FIRST_RUNS:
            return await loop.run_in_executor(self._pool, _timed, chain, work)
        async with chain.turn:
            return await loop.run_in_executor(self._pool, _timed, chain, work)

    def close(self) -> None:
        """What runs is let go to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _load(self, account: str) -> Chain:
        loop = asyncio.get_running_loop()
        flight = loop.run_in_executor(self._pool, self._read, account, self._chains.get(account))
        self._flights[account] = flight
        flight.add_done_callback(lambda _: self._landed(account, flight))
        chain = await asyncio.shield(flight)
        if len(self._chains) >= MAX_CHAINS:
            self._chains.clear()
        chain.looked = loop.time()
        self._chains[account] = chain
        return chain

    def _landed(self, account: str, flight: asyncio.Future[Chain]) -> None:
        if self._flights.get(account) is flight:
            del self._flights[account]

    def _read(self, account: str, known: Chain | None) -> Chain:
        """In the pool."""
        sources = self.service.sources(account)
        if known is not None and known.sources == sources:
            return known
        return Chain.of(*self.service.compiled(account, sources), sources)


def _timed(chain: Chain, work: Callable[[], T]) -> T:
    began = time.thread_time()
    result = work()
    chain.took(time.thread_time() - began)
    return result
