"""The memory of the greylist in SQLite."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from filterd.greylist import SqliteTriplets
from pipeline.errors import StageFault
from pipeline.stages.greylist import Limits, MemoryTriplets, Noted, Triplets

LIMITS = Limits(300, 1000, 10_000)
TRIES = [
    ("192.0.2.0/24", b"a", 0),
    ("192.0.2.0/24", b"b", 10),
    ("192.0.2.0/24", b"a", 290),
    ("192.0.2.0/24", b"a", 310),
    ("198.51.100.0/24", b"a", 320),
    ("192.0.2.0/24", b"b", 900),
    ("192.0.2.0/24", b"a", 9_000),
    ("192.0.2.0/24", b"b", 20_000),
]


async def play(triplets: Triplets) -> list[Noted]:
    out = [await triplets.note(network, [key], now, LIMITS) for network, key, now in TRIES]
    await triplets.close()
    return out


def test_it_does_what_the_memory_does(tmp_path: Path) -> None:
    ours = asyncio.run(play(SqliteTriplets(tmp_path / "greylist.db")))
    assert [one.waits for one in ours] == [one.waits for one in asyncio.run(play(MemoryTriplets()))]
    assert [one.known for one in ours[:6]] == [0, 0, 0, 1, 0, 2]


def test_two_processes_share_it_and_it_outlives_them(tmp_path: Path) -> None:
    async def go() -> tuple[Noted, Noted]:
        first, second = SqliteTriplets(tmp_path / "g.db"), SqliteTriplets(tmp_path / "g.db")
        await first.note("n", [b"a", b"b"], 0, LIMITS)
        one = await second.note("n", [b"a"], 300, LIMITS)
        await first.close()
        await second.close()
        third = SqliteTriplets(tmp_path / "g.db")
        two = await third.note("n", [b"b"], 400, LIMITS)
        await third.close()
        return one, two

    one, two = asyncio.run(go())
    assert (one.waits, one.known) == ((0.0,), 1)
    assert (two.waits, two.known) == ((0.0,), 2)


def test_a_broken_file_is_a_fault_of_the_stage(tmp_path: Path) -> None:
    (tmp_path / "g.db").write_bytes(b"this is no database" * 100)

    async def go() -> None:
        triplets = SqliteTriplets(tmp_path / "g.db")
        try:
            await triplets.note("n", [b"a"], 0, LIMITS)
        finally:
            await triplets.close()

    with pytest.raises(StageFault):
        asyncio.run(go())
