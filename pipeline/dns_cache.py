"""A bounded cache of DNS answers with their time to live.

Specification: RFC 1035 3.2.1 (TTL), RFC 2308 (negative answers; section 7: failures at most five minutes).
Invariant: never more than ``limit`` entries nor ``octets`` of records (a hostile zone sends 64 KB a name); the least
recently used goes first. An entry is never given out after
its time. Time is ``Clock.monotonic()``: a stepped wall clock does not age anything.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pipeline.ports import Clock, DnsAnswer, DnsStatus

TTL_MAX = 86_400  # seconds; RFC 8767 4: cap absurd lives
NEGATIVE_TTL_MAX = 3_600  # RFC 2308 5: one to three hours
OCTETS = 32 << 20
ENTRY_COST = 300  # octets an entry costs beside its records, about
FAILURE_TTL = 5  # RFC 2308 7.1 allows 300; short, so that a recovered server is seen soon


@dataclass(slots=True)
class CacheStatistics:
    hits: int = 0
    misses: int = 0


class DnsCache:
    """Answers by (lower-case name, type). ``least``: seconds that every one lives, whatever its TTL.

    A zone with a TTL of 0 would otherwise be asked several times for each message of a stream from one sender.
    """

    def __init__(self, clock: Clock, limit: int = 20_000, octets: int = OCTETS, least: float = 0.0) -> None:
        self._least = least
        self._now = clock.monotonic
        self._limit = limit
        self._octets = octets
        self._used = 0
        self._entries: OrderedDict[tuple[str, str], tuple[float, DnsAnswer]] = OrderedDict()
        self.statistics = CacheStatistics()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: tuple[str, str]) -> DnsAnswer | None:
        """The answer while it lives, else None."""
        entry = self._entries.get(key)
        if entry is None:
            self.statistics.misses += 1
            return None
        if entry[0] <= self._now():
            self._drop(key)
            self.statistics.misses += 1
            return None
        self._entries.move_to_end(key)
        self.statistics.hits += 1
        return entry[1]

    def put(self, key: tuple[str, str], answer: DnsAnswer) -> None:
        """Keep an answer for its (capped) time to live; one with no life is not kept."""
        life: float
        if answer.status is DnsStatus.TEMPORARY:
            life = FAILURE_TTL
        elif answer.status is DnsStatus.OK:
            life = min(answer.ttl, TTL_MAX)
        else:
            life = min(answer.ttl, NEGATIVE_TTL_MAX)
        self._drop(key)
        life = max(life, self._least)
        if life <= 0:
            return
        self._entries[key] = (self._now() + life, answer)
        self._used += _cost(answer)
        while len(self._entries) > self._limit or self._used > self._octets:
            _, (_, oldest) = self._entries.popitem(last=False)
            self._used -= _cost(oldest)

    def clear(self) -> None:
        self._entries.clear()
        self._used = 0

    def _drop(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._used -= _cost(entry[1])


def _cost(answer: DnsAnswer) -> int:
    return ENTRY_COST + sum(map(len, answer.records))
