"""TTLs, negative TTLs, the bound."""

from __future__ import annotations

import pytest

from pipeline.dns_cache import FAILURE_TTL, NEGATIVE_TTL_MAX, TTL_MAX, DnsCache
from pipeline.ports import DnsAnswer, DnsStatus


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("status", "ttl", "life"),
    [
        (DnsStatus.OK, 30, 30),
        (DnsStatus.OK, 10**9, TTL_MAX),
        (DnsStatus.NXDOMAIN, 20, 20),
        (DnsStatus.NODATA, 10**9, NEGATIVE_TTL_MAX),
        (DnsStatus.TEMPORARY, 0, FAILURE_TTL),
    ],
)
def test_life(status: DnsStatus, ttl: int, life: int) -> None:
    clock = Clock()
    cache = DnsCache(clock)
    answer = DnsAnswer(status, ttl=ttl)
    cache.put(("a", "A"), answer)
    clock.now = life - 0.001
    assert cache.get(("a", "A")) is answer
    clock.now = life
    assert cache.get(("a", "A")) is None


def test_zero_ttl_is_not_kept_and_ends_an_older_one() -> None:
    cache = DnsCache(Clock())
    cache.put(("a", "A"), DnsAnswer(DnsStatus.OK, ("1",), ttl=60))
    cache.put(("a", "A"), DnsAnswer(DnsStatus.OK, ("2",), ttl=0))
    assert cache.get(("a", "A")) is None


@pytest.mark.parametrize(
    ("status", "ttl", "life"),
    [
        (DnsStatus.OK, 0, 1),
        (DnsStatus.NXDOMAIN, 0, 1),
        (DnsStatus.OK, 30, 30),
        (DnsStatus.TEMPORARY, 0, FAILURE_TTL),
    ],
)
def test_the_least_time(status: DnsStatus, ttl: int, life: int) -> None:
    clock = Clock()
    cache = DnsCache(clock, least=1.0)
    answer = DnsAnswer(status, ttl=ttl)
    cache.put(("a", "A"), answer)
    clock.now = life - 0.001
    assert cache.get(("a", "A")) is answer
    clock.now = life
    assert cache.get(("a", "A")) is None


def test_the_least_recently_used_goes() -> None:
    cache = DnsCache(Clock(), limit=2)
    for name in "abc":
        cache.put((name, "A"), DnsAnswer(DnsStatus.OK, ttl=60))
        cache.get(("a", "A"))
    assert [name for name in "abc" if cache.get((name, "A"))] == ["a", "c"]
    assert len(cache) == 2


def test_large_answers_do_not_fill_the_memory() -> None:
    cache = DnsCache(Clock(), octets=100_000)
    for at in range(50):
        cache.put((f"n{at}", "TXT"), DnsAnswer(DnsStatus.OK, ("x" * 30_000,), ttl=60))
    assert len(cache) == 3
    cache.put(("huge", "TXT"), DnsAnswer(DnsStatus.OK, ("x" * 200_000,), ttl=60))
    assert len(cache) == 0
    cache.put(("n1", "TXT"), DnsAnswer(DnsStatus.OK, ("x",), ttl=60))
    cache.put(("n1", "TXT"), DnsAnswer(DnsStatus.OK, ("y",), ttl=60))
    answer = cache.get(("n1", "TXT"))
    assert answer is not None
    assert answer.records == ("y",)
