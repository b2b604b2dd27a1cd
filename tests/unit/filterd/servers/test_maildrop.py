from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import pytest

from filterd.servers import maildrop
from filterd.servers.maildrop import (
    AHEAD,
    FileLocks,
    SurrogateSizes,
    TooSoon,
    open_maildrop,
    read_messages,
    update,
)
from filterd.store.base import AccountStore, NewMessage
from filterd.store.durable import Dir, FlockLock, Lock, RealDisk
from filterd.store.memory import MemoryStore
from rules.mail import downgrade
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


class WatchedJobs(CountedJobs):
    """``read``: the UIDs of the messages that were read."""

    def __init__(self, messages: list[bytes]) -> None:
        super().__init__(messages)
        self.read: list[int] = []

    async def run(self, account: str, work: Callable[[AccountStore], T]) -> T:
        return await super().run(
            account, lambda store: work(cast(AccountStore, WatchedStore(store, self.read)))
        )


class WatchedStore:
    def __init__(self, store: AccountStore, seen: list[int]) -> None:
        self._store, self._seen = store, seen

    def read(self, mailbox: str, uid: int) -> bytes | None:
        self._seen.append(uid)
        return self._store.read(mailbox, uid)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.mark.parametrize(("exact", "read"), ((1000, [1, 2, 3, 4, 5, 6]), (2, [1, 3, 5, 6]), (0, [1, 3, 5])))
def test_sizes_of_surrogates(monkeypatch: pytest.MonkeyPatch, exact: int, read: list[int]) -> None:
    """What came since is looked at once; of a heap of old mail by what the index tells."""
    monkeypatch.setattr(maildrop, "EXACT_MESSAGES", exact)
    known = "Subject: ü\r\n\r\n".encode()
    odd, body = "X-Odd: ü\r\n\r\n".encode(), "Subject: a\r\n\r\nü\r\n".encode()
    texts = [known, b"Subject: a\r\n\r\n", known, odd, known, body]
    jobs = WatchedJobs(texts)
    sizes = SurrogateSizes()

    def look() -> list[int]:
        return list(asyncio.run(sizes.applied(jobs, ANN, asyncio.run(open_maildrop(jobs, ANN)))).sizes)

    wanted = [len(downgrade.surrogate(text)) for text in texts]
    if 4 not in read:
        wanted[3] = len(odd)  # RFC 6858 4
    assert look() == wanted
    assert sorted(jobs.read) == read
    jobs.read.clear()
    inbox = jobs.store.account(ANN)
    inbox.append("INBOX", [NewMessage(known)])
    assert look() == [*wanted, wanted[0]]
    inbox.set_flags("INBOX", [1, 2], "add", ["\\Deleted"])
    inbox.expunge("INBOX", [1, 2])
    assert look() == [*wanted[2:], wanted[0]]
    assert jobs.read == [7]
