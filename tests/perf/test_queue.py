"""What the queue costs: group commit beside SQLite alone on the same disk at the same moment, and the processor's share.

PROTOTYPES section 6: ten producers, 8.2 KB texts, 9,800 messages/s and 0.08 ms of CPU each on an idle machine. The disk's
share depends on who else uses it, so the rate is compared with bare SQLite writing groups of five, the prototype's mean.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path

import pytest

from filterd.ports import SystemClock
from filterd.queue.base import Outgoing
from filterd.queue.spool import GroupSpool

MESSAGES = 3_000
PRODUCERS = 10
GROUP = 5
SHARE = 0.5  # of bare SQLite's rate
CPU_SECONDS = 0.00025  # a message; measured 0.08-0.12 ms
BODY = os.urandom(4_100).hex().encode()


def bare(directory: Path) -> float:
    """Messages a second of SQLite with nothing around it."""
    db = sqlite3.connect(directory / "bare.db", isolation_level=None)
    for pragma in ("page_size=8192", "journal_mode=wal", "synchronous=full"):
        db.execute(f"pragma {pragma}")
    db.execute("create table body(id integer primary key, data blob)")
    started = time.perf_counter()
    for _ in range(MESSAGES // GROUP):
        db.execute("begin immediate")
        for _ in range(GROUP):
            db.execute("insert into body(data) values(?)", (BODY,))
        db.execute("commit")
    db.close()
    return MESSAGES / (time.perf_counter() - started)


def ours(directory: Path) -> tuple[float, float]:
    """(messages a second, CPU seconds a message) with acknowledgements riding along."""

    async def produce(door: GroupSpool, number: int) -> None:
        for n in range(MESSAGES // PRODUCERS):
            key = b"%d-%d" % (number, n)
            text = BODY + key
            await door.enqueue(
                [Outgoing(key, "a@us.example", f"u{n}@d{n % 100}.example", text, "submission")]
            )
            door.acknowledge([key])

    async def story() -> tuple[float, float]:
        door = GroupSpool(directory / "queue", SystemClock())
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(produce(door, number) for number in range(PRODUCERS)))
        result = MESSAGES / (time.perf_counter() - started), (time.process_time() - cpu) / MESSAGES
        await asyncio.to_thread(door.close)
        return result

    return asyncio.run(story())


@pytest.mark.perf
@pytest.mark.slow
def test_group_commit(tmp_path: Path) -> None:
    alone = bare(tmp_path)
    rate, cpu = ours(tmp_path)
    print(
        f"{os.cpu_count()} cores: {rate:.0f}/s, {cpu * 1e3:.3f} ms CPU a message; SQLite alone {alone:.0f}/s"
    )
    assert cpu < CPU_SECONDS
    assert rate > SHARE * alone
