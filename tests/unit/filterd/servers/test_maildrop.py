from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from filterd.servers.maildrop import AHEAD, FileLocks, TooSoon, open_maildrop, read_messages, update
from filterd.store.base import AccountStore, NewMessage
from filterd.store.durable import Dir, FlockLock, Lock, RealDisk
from filterd.store.memory import MemoryStore
from tests.doors import CountingIds, FixedClock

T = TypeVar("T")
ANN = "ann@example.org"


class MovingClock(FixedClock):
    """``now`` may be set."""

    now = 1_700_000_000.0

    def time(self) -> float:
        return self.now


class CountedJobs:
    def __init__(self, messages: list[bytes]) -> None:
        self.store = MemoryStore(FixedClock(), CountingIds())
        if messages:
            self.store.account(ANN).append("INBOX", [NewMessage(data) for data in messages])
        self.count = 0

    async def run(self, account: str, work: Callable[[AccountStore], T]) -> T:
        self.count += 1
        return work(self.store.account(account))

    def ready(self, account: str, work: Callable[[AccountStore], T]) -> T | None:
        return None


def test_one_lock_per_account_across_descriptors(tmp_path: Path) -> None:
    async def body() -> None:
        first, second = FileLocks(RealDisk(), str(tmp_path)), FileLocks(RealDisk(), str(tmp_path))
        release = await first.acquire(ANN)
        assert release is not None
        assert await second.acquire(ANN) is None
        assert await first.acquire(ANN) is None
        other = await second.acquire("../../etc/passwd")
        assert other is not None
        release()
        again = await second.acquire(ANN)
        assert again is not None
        again()
        other()

    asyncio.run(body())
    assert all(path.name.startswith("pop3-") for path in tmp_path.iterdir())


def test_the_delay_counts_from_the_last_log_in_that_was_let_in(tmp_path: Path) -> None:
    """Across processes: each has its own ``FileLocks``; a log-in that was refused does not prolong it."""
    clock = MovingClock()

    async def outcome(seconds: float) -> str:
        clock.now += seconds
        try:
            release = await FileLocks(RealDisk(), str(tmp_path), clock, 10).acquire(ANN)
        except TooSoon:
            return "too soon"
        if release is None:
            return "in use"
        release()
        return "in"

    async def body() -> list[str]:
        return [await outcome(seconds) for seconds in (0, 9, 0.5, 0.6, 3, 10, -3600, 5)]

    found = asyncio.run(body())
    assert found == ["in", "too soon", "too soon", "in", "too soon", "in", "in", "too soon"]
    assert asyncio.run(FileLocks(RealDisk(), str(tmp_path), clock).acquire(ANN)) is not None


def test_a_large_maildrop_is_opened_in_blocks() -> None:
    jobs = CountedJobs([b"Subject: x\r\n\r\n"] * 2500)
    drop = asyncio.run(open_maildrop(jobs, ANN))
    assert (len(drop.uids), sum(drop.sizes)) == (2500, 2500 * 14)
    assert jobs.count == 4
    assert len({drop.uidl(number) for number in range(1, 2501)}) == 2500
    assert all(len(drop.uidl(number)) <= 70 for number in (1, 2500))


def test_reading_ahead_is_bounded() -> None:
    jobs = CountedJobs([b"x" * (AHEAD // 3) + b"\r\n"] * 10)
    texts = asyncio.run(read_messages(jobs, ANN, range(1, 11)))
    assert len(texts) == 3
    assert asyncio.run(read_messages(jobs, ANN, [99])) == [None]


def test_update_removes_and_marks() -> None:
    jobs = CountedJobs([b"Subject: x\r\n\r\n"] * 3)
    assert asyncio.run(update(jobs, ANN, [1, 3], [2, 3]))
    view = jobs.store.account(ANN).snapshot("INBOX")
    assert (list(view.uids), list(view.flags)) == ([2], [1])
    assert asyncio.run(update(jobs, ANN, [1], []))  # already gone: nothing was left behind


def test_a_full_disk_keeps_nobody_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who logs in may make room; and the lock is not lost."""

    class FullLock(FlockLock):
        def set_note(self, note: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    class FullDisk(RealDisk):
        def open_lock(self, at: Dir, name: str) -> Lock:
            return FullLock(os.open(name, os.O_RDWR | os.O_CREAT, 0o600, dir_fd=at.fd), name)

    async def body() -> None:
        locks = FileLocks(FullDisk(), str(tmp_path), MovingClock(), 10)
        release = await locks.acquire(ANN)
        assert release is not None
        release()
        assert await locks.acquire(ANN) is not None

    asyncio.run(body())
    assert "cannot be noted" in caplog.text
