"""Jobs: one at a time for an account, deliveries together, others meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from filterd.store.base import (
    AccountStore,
    NewMessage,
    NoSuchMailbox,
    OverQuota,
    SieveState,
    Stored,
    StoreError,
)
from filterd.store.jobs import AccountJobs
from filterd.store.latenotes import MANY
from filterd.store.maildir import MaildirStore
from filterd.store.memory import MemoryStore


def message(number: int) -> NewMessage:
    return NewMessage(b"Subject: %d\r\n\r\n" % number, key=b"%d" % number)


def maildir(root: Path, limit: int = 0) -> MaildirStore:
    return MaildirStore(root, "host", "crlf", lambda account: limit, SystemClock(), SystemIds())


def test_deliveries_that_wait_go_together(tmp_path: Path) -> None:
    batches: list[int] = []

    class Counting(MaildirStore):
        def account(self, account: str):  # type: ignore[no-untyped-def]  # only counts
            opened = super().account(account)
            if not hasattr(opened, "counted"):
                plain = opened.deliver_many

                def many(
                    items: Sequence[tuple[str, NewMessage, SieveState | None]],
                ) -> list[Stored | StoreError]:
                    batches.append(len(items))
                    return plain(items)

                opened.deliver_many = many  # type: ignore[method-assign]
                opened.counted = True  # type: ignore[attr-defined]
            return opened

    async def main() -> list[Stored]:
        store = Counting(tmp_path, "host", "crlf", lambda account: 0, SystemClock(), SystemIds())
        jobs = AccountJobs(store)
        gate, started = threading.Event(), threading.Event()

        def hold(account: AccountStore) -> None:
            started.set()
            gate.wait(10)

        first = asyncio.create_task(jobs.run("a@b.c", hold))
        await asyncio.to_thread(started.wait)
        many = [asyncio.create_task(jobs.deliver("a@b.c", "INBOX", message(number))) for number in range(20)]
        await asyncio.sleep(0)
        gate.set()
        await first
        found = list(await asyncio.gather(*many))
        jobs.close()
        store.close()
        return found

    stored = asyncio.run(main())
    assert [each.uid for each in stored] == list(range(1, 21))
    assert batches == [20]


def test_each_delivery_has_its_own_result(tmp_path: Path) -> None:
    async def main() -> list[object]:
        store = maildir(tmp_path, limit=2000)
        jobs = AccountJobs(store)
        results = await asyncio.gather(
            jobs.deliver("a@b.c", "INBOX", message(1)),
            jobs.deliver("a@b.c", "nowhere", message(2)),
            jobs.deliver("a@b.c", "INBOX", NewMessage(b"x" * 3000)),
            jobs.deliver("a@b.c", "INBOX", message(1)),
            jobs.deliver("../b", "INBOX", message(1)),
            jobs.run("a@b.c", lambda account: 1 // 0),
            jobs.run("a@b.c", lambda account: len(account.snapshot("INBOX").uids)),
            return_exceptions=True,
        )
        jobs.close()
        store.close()
        return list(results)

    one, two, three, four, five, six, seven = asyncio.run(main())
    assert isinstance(one, Stored)
    assert isinstance(two, NoSuchMailbox)
    assert isinstance(three, OverQuota)
    assert isinstance(four, Stored)
    assert four.duplicate
    assert isinstance(five, StoreError)
    assert isinstance(six, ZeroDivisionError)
    assert seven == 1


def test_one_job_per_account_others_beside(tmp_path: Path) -> None:
    async def main() -> None:
        store = MemoryStore(SystemClock(), SystemIds())
        jobs = AccountJobs(store, threads=4)
        inside: dict[str, int] = {}
        most: dict[str, int] = {}
        meet = threading.Barrier(2, timeout=10)

        def work(account: AccountStore) -> None:
            name = threading.current_thread().name
            assert name.startswith("store")

        def slow(who: str) -> None:
            inside[who] = inside.get(who, 0) + 1
            most[who] = max(most.get(who, 0), inside[who])
            inside[who] -= 1

        async def both(who: str) -> None:
            await asyncio.gather(*(jobs.run(who, lambda account: slow(who)) for _ in range(50)))

        await asyncio.gather(both("a@b"), both("c@d"), jobs.run("e@f", work))
        assert most == {"a@b": 1, "c@d": 1}
        await asyncio.gather(*(jobs.run(who, lambda account: meet.wait()) for who in ("a@b", "c@d")))
        jobs.close()

    asyncio.run(main())


def test_acknowledgements_are_written_at_the_end_at_least(tmp_path: Path) -> None:
    async def main() -> None:
        store = maildir(tmp_path)
        jobs = AccountJobs(store)
        await jobs.deliver("a@b.c", "INBOX", message(1))
        jobs.acknowledge("a@b.c", b"1")
        jobs.close()
        store.close()
        store = maildir(tmp_path)
        assert not store.account("a@b.c").deliver("INBOX", message(1)).duplicate
        store.close()

    asyncio.run(main())


def test_an_acknowledgement_rides_with_the_next_delivery(tmp_path: Path) -> None:
    async def main() -> None:
        store = maildir(tmp_path)
        jobs = AccountJobs(store)
        await jobs.deliver("a@b.c", "INBOX", message(1))
        jobs.acknowledge("a@b.c", b"1")
        assert not (await jobs.deliver("a@b.c", "INBOX", message(1))).duplicate
        assert (await jobs.deliver("a@b.c", "INBOX", message(1))).duplicate
        jobs.close()
        store.close()

    asyncio.run(main())


def test_few_accounts_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filterd.store.maildir.OPEN_ACCOUNTS", 3)

    async def main() -> None:
        store = maildir(tmp_path)
        jobs = AccountJobs(store)
        for number in range(10):
            await jobs.deliver(f"a{number}@b.c", "INBOX", message(1))
        await asyncio.gather(
            *(jobs.run(f"a{number}@b.c", lambda account: account.status("INBOX")) for number in range(10))
        )
        for _ in range(4):
            await jobs.run("a0@b.c", lambda account: None)
        jobs.close()
        assert len(store._open) <= 4
        store.close()

    asyncio.run(main())


@pytest.mark.parametrize("busy", [False, True])
def test_names_of_files_follow_their_flags_also_in_an_account_that_is_never_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr("filterd.store.jobs.BUSY_SECONDS", 0.2 if busy else 1e9)
    folder = tmp_path / "example.org" / "ann" / "cur"

    def fill(account: AccountStore) -> None:
        stored = account.append("INBOX", [message(number) for number in range(MANY)])
        account.set_flags("INBOX", [one.uid for one in stored], "add", ("\\Draft",))  # out of new
        account.set_flags("INBOX", [one.uid for one in stored], "add", ("\\Seen",))

    async def main() -> int:
        store = maildir(tmp_path)
        jobs = AccountJobs(store)
        await jobs.run("ann@example.org", fill)
        loop = asyncio.get_running_loop()
        ends: list[str] = []
        until = loop.time() + 20
        waiting: set[asyncio.Future[None]] = set()
        while loop.time() < until and ends.count("DS") < MANY:
            if busy:  # three at any time: the lane is never empty
                waiting |= {
                    asyncio.ensure_future(jobs.run("ann@example.org", lambda account: time.sleep(0.01)))
                    for _ in range(3 - len(waiting))
                }
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0.01)
            ends = [path.name.rpartition(":2,")[2] for path in folder.iterdir()]
        if waiting:
            await asyncio.wait(waiting)
        jobs.close()
        store.close()
        return ends.count("DS")

    assert asyncio.run(main()) == MANY
