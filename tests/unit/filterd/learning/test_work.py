"""From the journal to the engines: every lesson once, whatever fails and whenever it stops."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from filterd.learning import work
from filterd.learning.classifier import BayesClassifier
from filterd.learning.journal import Job, Journal, journal_path
from filterd.learning.learner import Learner
from filterd.learning.lesson import Lesson, Outcome
from filterd.learning.work import APART_SECONDS, BATCH, Work
from filterd.store.base import StoreUnavailable
from pipeline.ports import Clock

T = TypeVar("T")


class Now(Clock):
    at = 1_000_000.0

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Daemon:
    """An engine that is down as long as ``down`` says so."""

    name = "spamd"
    max_size = 1 << 20

    def __init__(self) -> None:
        self.down = True
        self.heard: list[tuple[str, str, str]] = []

    async def teach(self, account: str, lessons: Sequence[Lesson]) -> list[Outcome]:
        if self.down:
            return [Outcome("failed", "down")] * len(lessons)
        self.heard += [(account, lesson.kind, lesson.before) for lesson in lessons]
        return [Outcome("changed" if lesson.before else "learned") for lesson in lessons]

    async def close(self) -> None:
        """Nothing to close."""


def mail(n: int, words: str) -> bytes:
    return f"Message-ID: <{n}@x>\r\nFrom: a@x.example\r\nSubject: {words}\r\n\r\n{words} {n}\r\n".encode()


def classifier(folder: Path, clock: Clock) -> BayesClassifier:
    return BayesClassifier(folder / "bayes", b"secret", clock, least=3)


def test_a_daemon_that_is_down_does_not_keep_the_other_waiting(tmp_path: Path) -> None:
    clock, daemon = Now(), Daemon()
    learner = Learner(tmp_path, ("spamd", "builtin"), clock)
    for n in range(4):
        assert learner.learn("ann@x.example", "spam", mail(n, "cheap pills online winner")).startswith(
            "learned"
        )
        learner.learn("ann@x.example", "ham", mail(n + 10, "garden plans for our meeting"))
    learner.close()

    async def main() -> None:
        builtin = classifier(tmp_path, clock)
        work = Work(tmp_path, [daemon, builtin], clock)
        while await work.step():
            pass
        asked = [mail(99, "cheap pills winner"), mail(98, "our garden meeting")]
        spam, ham = [(await builtin.ask(["ann@x.example"], one))[0].probability for one in asked]
        assert spam is not None and ham is not None and spam > 0.9 and ham < 0.1
        (stranger,) = await builtin.ask(["bob@x.example"], asked[0])
        assert stranger.probability is None
        assert builtin.knows("ann@x.example") and not builtin.knows("bob@x.example")
        assert daemon.heard == []
        daemon.down, clock.at = False, clock.at + 60
        while await work.step():
            pass
        await work.close()

    asyncio.run(main())
    assert len(daemon.heard) == 8 and {kind for _, kind, _ in daemon.heard} == {"spam", "ham"}
    journal = Journal(journal_path(tmp_path))
    assert journal.left() == 0
    assert journal.known()["ann@x.example", "builtin"] == {"spam": 4, "ham": 4}
    journal.close()


def three(folder: Path) -> list[Daemon]:
    """Engines that all have the same lesson before them."""
    names = ("one", "two", "three")
    learner = Learner(folder, names, Now())
    learner.learn("ann@x.example", "spam", mail(1, "cheap pills"))
    learner.close()
    daemons = [Daemon() for _ in names]
    for daemon, name in zip(daemons, names, strict=True):
        daemon.name, daemon.down = name, False
    return daemons


class Slow(Journal):
    """A journal that notices when two threads are in it."""

    inside = 0
    together = 0

    def done(self, results: Sequence[tuple[Job, Outcome]], now: float) -> None:
        Slow.inside += 1
        Slow.together = max(Slow.together, Slow.inside)
        time.sleep(0.02)
        super().done(results, now)
        Slow.inside -= 1


def test_engines_that_end_together_write_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "Journal", Slow)
    clock, daemons = Now(), three(tmp_path)

    async def main() -> None:
        every = Work(tmp_path, daemons, clock)
        while await every.step():
            pass
        await every.close()

    asyncio.run(main())
    assert [len(daemon.heard) for daemon in daemons] == [1, 1, 1] and Slow.together == 1


class Failing(Journal):
    """The disk is full for one engine's lessons; who is inside meanwhile is noticed."""

    inside = together = 0
    full = True

    def idle(self, now: float) -> bool:
        return self._counted(lambda: super(Failing, self).idle(now))

    def done(self, results: Sequence[tuple[Job, Outcome]], now: float) -> None:
        if results[0][0].engine == "one" and Failing.full:
            Failing.full = False
            raise sqlite3.OperationalError("database or disk is full")
        self._counted(lambda: super(Failing, self).done(results, now))

    def _counted(self, work: Callable[[], T]) -> T:
        Failing.inside += 1
        Failing.together = max(Failing.together, Failing.inside)
        time.sleep(0.02)
        try:
            return work()
        finally:
            Failing.inside -= 1


def test_a_round_that_fails_leaves_nobody_at_work_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "Journal", Failing)
    clock, daemons = Now(), three(tmp_path)

    async def main() -> None:
        every = Work(tmp_path, daemons, clock)
        with pytest.raises(sqlite3.OperationalError):
            await every.step()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not others  # the right to work was given back: another process may have it now
        while await every.step():
            pass
        await every.close()

    asyncio.run(main())
    assert Failing.together == 1
    assert [len(daemon.heard) for daemon in daemons] == [2, 1, 1]  # the one whose end was not written down


class Faulty(Daemon):
    """An engine with a mistake in it."""

    async def teach(self, account: str, lessons: Sequence[Lesson]) -> list[Outcome]:
        raise KeyError("a mistake")


class Mailboxes:
    """Messages of several accounts; of some none can be read now."""

    def __init__(self, *failing: str) -> None:
        self.failing: dict[str, Exception | None] = {
            name: StoreUnavailable("the disk is gone") for name in failing
        }
        self.asked: list[str] = []

    async def read(self, account: str, mailbox: str, uid: int) -> bytes | None:
        self.asked.append(account)
        failure = self.failing.get(account)
        if failure is not None:
            raise failure
        return mail(uid, f"cheap pills of {account}")


@pytest.mark.parametrize(
    "failure",
    [StoreUnavailable("away"), OSError(5, "Input/output error"), sqlite3.OperationalError("locked")],
)
def test_an_account_that_cannot_be_read_keeps_nobody_waiting(tmp_path: Path, failure: Exception) -> None:
    clock, daemon, boxes = Now(), Daemon(), Mailboxes("ann")
    boxes.failing["ann"] = failure
    daemon.down = False
    journal = Journal(journal_path(tmp_path))
    journal.note_places(
        "ann", "spam", "Junk", list(range(1, BATCH + 11)), clock.time()
    )  # more than a batch, the oldest
    journal.note_places("bob", "spam", "Junk", [1, 2], clock.time())

    async def main() -> None:
        work = Work(tmp_path, [daemon], clock, boxes)
        await work.step()
        await work.step()
        assert {account for account, _, _ in daemon.heard} == {"bob"} and len(daemon.heard) == 2
        assert boxes.asked.count("ann") == 1  # left alone for a while
        assert len(journal.looks(200)) == BATCH + 10
        boxes.failing.clear()
        clock.at += APART_SECONDS + 1
        while journal.left():
            await work.step()
        assert len(daemon.heard) == BATCH + 12
        await work.close()

    asyncio.run(main())
    journal.close()


def test_a_mistake_in_one_engine_puts_its_lessons_off_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    clock = Now()
    learner = Learner(tmp_path, ("spamd", "builtin"), clock)
    learner.learn("ann@x.example", "spam", mail(1, "cheap pills"))
    learner.close()

    async def main() -> None:
        work = Work(tmp_path, [Faulty(), classifier(tmp_path, clock)], clock)
        while await work.step():
            pass
        await work.close()

    asyncio.run(main())
    journal = Journal(journal_path(tmp_path))
    (waits,) = journal.waiting()
    assert (waits.engine, waits.tries) == ("spamd", 1) and waits.next_at > clock.at
    assert journal.known() == {("ann@x.example", "builtin"): {"spam": 1}}
    journal.close()


def test_a_daemon_that_hangs_does_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    clock = Now()
    learner = Learner(tmp_path, ("spamd",), clock)
    learner.learn("ann@x.example", "spam", mail(1, "cheap pills"))
    learner.close()

    class Hanging(Daemon):
        async def teach(self, account: str, lessons: Sequence[Lesson]) -> list[Outcome]:
            begun.set()
            await asyncio.Event().wait()
            return []

    async def main() -> None:
        stop = asyncio.Event()
        running = asyncio.ensure_future(Work(tmp_path, [Hanging()], clock).run(stop))
        await begun.wait()
        stop.set()
        async with asyncio.timeout(20):
            await running

    begun = asyncio.Event()
    asyncio.run(main())
    journal = Journal(journal_path(tmp_path))
    assert journal.left() == 1, "the lesson is given later"
    journal.close()


def test_a_crash_between_teaching_and_writing_it_down_teaches_once(tmp_path: Path) -> None:
    clock = Now()
    learner = Learner(tmp_path, ("builtin",), clock)
    learner.learn("ann@x.example", "spam", mail(1, "cheap pills"))
    learner.close()

    async def main() -> list[Outcome]:
        builtin = classifier(tmp_path, clock)
        journal = Journal(journal_path(tmp_path))
        (job,) = journal.due(clock.time(), 10)
        await builtin.teach(job.account, [job.lesson])  # and killed here
        journal.close()
        work = Work(tmp_path, [builtin], clock)
        await work.step()
        again = await classifier(tmp_path, clock).teach(job.account, [job.lesson])
        await work.close()
        return again

    assert asyncio.run(main()) == [Outcome("again")]


def test_what_others_teach_counts_only_where_it_is_shared(tmp_path: Path) -> None:
    clock = Now()

    async def main(shared: bool) -> float | None:
        root = tmp_path / str(shared)
        one = BayesClassifier(root, b"secret", clock, least=2, shared=shared)
        for n in range(3):
            lessons = [Lesson(b"s%d" % n, mail(n, "cheap pills winner"), "spam"),
                       Lesson(b"h%d" % n, mail(n, "garden meeting plans"), "ham")]  # fmt: skip
            await one.teach("ann@x.example", lessons)
        (opinion,) = await one.ask(["bob@x.example"], mail(9, "cheap pills"))
        await one.close()
        return opinion.probability

    assert asyncio.run(main(shared=False)) is None
    assert (asyncio.run(main(shared=True)) or 0) > 0.9
