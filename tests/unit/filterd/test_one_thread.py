"""No SQLite connection has two threads in it at once, however many ask, whatever fails, and when the asker goes away."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from filterd.accounts.database import AccountDatabase, Record
from filterd.accounts.rates import RateLimits, Rates
from filterd.explain.traces import TraceWriter
from filterd.greylist import SqliteTriplets
from filterd.learning.classifier import BayesClassifier
from filterd.learning.learner import Learner
from filterd.learning.lesson import Lesson
from filterd.ports import SystemClock, SystemIds
from filterd.quarantine.keeper import Quarantine
from filterd.queue.spool import GroupSpool
from filterd.store.acl_shares import SharesFile
from filterd.store.base import NewMessage
from filterd.store.jobs import AccountJobs
from filterd.store.maildir import MaildirStore
from pipeline.stages.greylist import Limits
from pipeline.trace import Span

MAIL = b"Message-ID: <%d@x>\r\nSubject: cheap pills\r\n\r\ntext %d\r\n"
CLOCK = SystemClock()
TIMES = 12

Ask = Callable[[int], Awaitable[object]]


class Watched(sqlite3.Connection):
    """Tells who is inside. A statement takes its time, so that others may come."""

    together: ClassVar[list[str]] = []  # what went wrong, of all connections

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # as it came
        self.inside = threading.Lock()

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if not self.inside.acquire(blocking=False):
            Watched.together.append(f"{what} in {threading.current_thread().name}")
            yield
            return
        try:
            time.sleep(0.001)
            yield
        finally:
            self.inside.release()

    def execute(self, *args: object) -> sqlite3.Cursor:  # type: ignore[override]  # as it came
        with self._alone(str(args[0])):
            return super().execute(*args)  # type: ignore[arg-type]

    def executemany(self, *args: object) -> sqlite3.Cursor:  # type: ignore[override]
        with self._alone(str(args[0])):
            return super().executemany(*args)  # type: ignore[arg-type]

    def close(self) -> None:
        with self._alone("close"):
            super().close()


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=Watched))
    Watched.together.clear()
    yield
    assert not Watched.together


async def crowd(ask: Ask) -> None:
    """Many at once; every third one does not wait for the end, and more come while it is still under way."""

    async def one(number: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.002 if number % 3 == 0 else 30.0):
                await ask(number)

    for _ in range(3):
        await asyncio.gather(*(one(number) for number in range(TIMES)))


def test_greylist(tmp_path: Path) -> None:
    async def main() -> None:
        triplets = SqliteTriplets(tmp_path / "greylist.db")
        await crowd(lambda number: triplets.note("n", [b"%d" % number], CLOCK.time(), Limits(1, 2, 3)))
        await triplets.close()

    asyncio.run(main())


def test_rates(tmp_path: Path) -> None:
    async def main() -> None:
        rates = Rates(tmp_path / "rates.db", CLOCK, RateLimits(5, 5))
        await crowd(lambda number: rates.take(f"{number % 3}@x.example", 1))
        rates.close()

    asyncio.run(main())


def test_quarantine(tmp_path: Path) -> None:
    async def main() -> None:
        quarantine = Quarantine(tmp_path, 3600.0, (), CLOCK)

        async def ask(number: int) -> None:
            quarantine.acknowledge([b"%d" % number])
            await quarantine.run(lambda database: database.rows())

        await crowd(ask)
        quarantine.close()

    asyncio.run(main())


def test_classifier(tmp_path: Path) -> None:
    async def main() -> None:
        classifier = BayesClassifier(tmp_path, b"secret", CLOCK, least=1)

        async def ask(number: int) -> None:
            text = MAIL % (number, number)
            await classifier.teach("ann@x.example", [Lesson(b"%d" % number, text, "spam")])
            await classifier.ask(["ann@x.example"], text)

        await crowd(ask)
        await classifier.close()

    asyncio.run(main())


def test_learner(tmp_path: Path) -> None:
    async def main() -> None:
        learner = Learner(tmp_path, ("builtin",), CLOCK)
        await crowd(
            lambda number: asyncio.to_thread(learner.learn, "ann@x.example", "spam", MAIL % (number, number))
        )
        learner.close()

    asyncio.run(main())


def test_shares(tmp_path: Path) -> None:
    async def main() -> None:
        shares = SharesFile(tmp_path / "shares.db")

        def ask(number: int) -> None:
            shares.note(f"{number}@x.example", ["ann@x.example"])
            shares.owners("ann@x.example")

        await crowd(lambda number: asyncio.to_thread(ask, number))
        shares.close()

    asyncio.run(main())


def test_accounts(tmp_path: Path) -> None:
    async def main() -> None:
        database = AccountDatabase(str(tmp_path / "accounts.db"), CLOCK)

        def ask(number: int) -> None:
            with contextlib.suppress(Exception):
                database.add(Record(f"{number}@x.example"))
            database.records()

        await crowd(lambda number: asyncio.to_thread(ask, number))
        database.close()

    asyncio.run(main())


def test_traces(tmp_path: Path) -> None:
    async def main() -> None:
        traces = TraceWriter(tmp_path / "traces.db", 3600.0)

        async def ask(number: int) -> None:
            traces.event(f"{number}", Span("queue", 0.0, 0.0, "", ""))

        await crowd(ask)
        traces.close()

    asyncio.run(main())


def test_queue(tmp_path: Path) -> None:
    async def main() -> None:
        spool = GroupSpool(tmp_path, CLOCK)

        async def ask(number: int) -> None:
            spool.acknowledge([b"%d" % number])
            await spool.enqueue([])

        await crowd(ask)
        spool.close()

    asyncio.run(main())


def test_mailbox_index(tmp_path: Path) -> None:
    async def main() -> None:
        store = MaildirStore(tmp_path, "h", "crlf", lambda account: 0, CLOCK, SystemIds())
        jobs = AccountJobs(store)

        async def ask(number: int) -> None:
            account = f"{number % 2}@x.example"
            await jobs.deliver(account, "INBOX", NewMessage(MAIL % (number, number), key=b"%d" % number))
            jobs.acknowledge(account, b"%d" % number)
            jobs.ready(account, lambda opened: opened.status("INBOX"))
            await jobs.run(account, lambda opened: opened.snapshot("INBOX"))

        await crowd(ask)
        jobs.close()
        store.close()

    asyncio.run(main())


def test_the_watch_sees_two_threads() -> None:
    db = sqlite3.connect(":memory:", check_same_thread=False)
    assert isinstance(db, Watched)
    with db._alone("the first"):
        thread = threading.Thread(target=db.execute, args=("select 1",), name="second")
        thread.start()
        thread.join()
    db.close()
    assert Watched.together == ["select 1 in second"]
    Watched.together.clear()
