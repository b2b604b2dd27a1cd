"""Answers that are remembered, and copies that wait for the first one's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipeline.spam.memory import Mail, Memory, Remembered
from tests.house import TestClock

SECONDS, PATIENCE = 600.0, 30.0


def fits(answer: int, exact: bool) -> bool:
    return answer > 9 or (answer > 0 and exact)


class Bench:
    """A memory of numbers, and an engine that answers when it is told to."""

    def __init__(self, patience: float = PATIENCE, limit: int = 100) -> None:
        self.clock = TestClock()
        self.taught = 0
        self.memory: Memory[int] = Memory(self.clock, SECONDS, patience, fits, lambda: self.taught, limit)
        self.answers: list[asyncio.Future[int]] = []

    def ask(self, about: str, key: bytes = b"k") -> asyncio.Task[Remembered[int]]:
        async def question() -> int:
            self.answers.append(asyncio.get_running_loop().create_future())
            return await self.answers[-1]

        return asyncio.ensure_future(self.memory.ask(Mail(key, about[1:].encode(), about), question))

    def recall(self, key: bytes, exact: bytes = b"") -> Remembered[int] | None:
        return self.memory.recall(Mail(key, exact, "R"))

    async def known(self, about: str, answer: int, key: bytes = b"k") -> None:
        task = self.ask(about, key)
        await settle()
        self.answers[-1].set_result(answer)
        assert (await task).answer == answer


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(_run(story))


async def _run(story: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(20):
        await story()


def test_a_copy_is_not_asked_about() -> None:
    async def story() -> None:
        bench = Bench()
        assert bench.recall(b"k") is None
        await bench.known("A", 7)
        bench.clock.now += 35
        found = await bench.ask("B")
        assert (found.answer, found.mail.trace_id, bench.clock.now - found.at) == (7, "A", 35) and len(
            bench.answers
        ) == 1
        assert bench.recall(b"other") is None

    run(story)


def test_the_time_runs_from_the_question_and_is_not_renewed() -> None:
    async def story() -> None:
        bench = Bench()
        await bench.known("A", 7)
        for _ in range(3):
            bench.clock.now += SECONDS / 3 - 0.1
            assert bench.recall(b"k") is not None
        bench.clock.now += 0.5
        assert bench.recall(b"k") is None

    run(story)


def test_an_answer_that_is_not_for_others() -> None:
    async def story() -> None:
        bench = Bench()
        first, second, third = bench.ask("A"), bench.ask("B"), bench.ask("C")
        await settle()
        assert len(bench.answers) == 1
        bench.answers[0].set_result(-1)
        await settle()
        assert len(bench.answers) == 3 and bench.recall(b"k") is None
        for answer in bench.answers[1:]:
            answer.set_result(-2)
        told = [await task for task in (first, second, third)]
        assert [(one.answer, one.mail.trace_id) for one in told] == [(-1, "A"), (-2, "B"), (-2, "C")]

    run(story)


def test_those_used_longest_ago_go_first() -> None:
    async def story() -> None:
        bench = Bench(limit=3)
        for number in range(3):
            await bench.known("A", 1, b"%d" % number)
        bench.recall(b"0")
        await bench.known("A", 1, b"3")
        assert [number for number in range(4) if bench.recall(b"%d" % number)] == [0, 2, 3]

    run(story)


def test_copies_in_flight_wait_for_the_first() -> None:
    async def story() -> None:
        bench = Bench()
        tasks = [bench.ask(name) for name in "ABCDE"]
        other = bench.ask("F", b"other")
        await settle()
        assert len(bench.answers) == 2, "one question a mail"
        tasks[3].cancel()  # its client went away: the others are not concerned
        await settle()
        bench.answers[0].set_result(7)
        bench.answers[1].set_result(8)
        told = [await task for at, task in enumerate(tasks) if at != 3]
        assert {(one.answer, one.mail.trace_id) for one in told} == {(7, "A")} and (await other).answer == 8
        assert tasks[3].cancelled() and len(bench.answers) == 2

    run(story)


def test_when_the_first_goes_away_one_of_the_others_asks() -> None:
    async def story() -> None:
        bench = Bench()
        tasks = [bench.ask(name) for name in "ABC"]
        await settle()
        tasks[0].cancel()
        await settle()
        assert tasks[0].cancelled() and len(bench.answers) == 2
        bench.answers[1].set_result(7)
        assert [(await task).mail.trace_id for task in tasks[1:]] == ["B", "B"]

    run(story)


def test_when_the_first_fails_the_others_ask_themselves() -> None:
    async def story() -> None:
        bench = Bench()
        tasks = [bench.ask(name) for name in "ABC"]
        await settle()
        bench.answers[0].set_exception(OSError("gone"))
        await settle()
        assert len(bench.answers) == 3
        with pytest.raises(OSError, match="gone"):
            await tasks[0]
        bench.answers[1].set_result(7)
        bench.answers[2].set_exception(OSError("gone again"))
        assert (await tasks[1]).mail.trace_id == "B"
        with pytest.raises(OSError, match="again"):
            await tasks[2]
        found = bench.recall(b"k")
        assert found is not None and found.mail.trace_id == "B", "who asked next is remembered"

    run(story)


def test_nobody_waits_for_ever() -> None:
    async def story() -> None:
        bench = Bench(patience=0.01)
        first, second = bench.ask("A"), bench.ask("B")
        while len(bench.answers) < 2:
            await asyncio.sleep(0.001)
        bench.answers[1].set_result(7)
        assert (await second).mail.trace_id == "B" and not first.done()
        bench.answers[0].set_result(8)
        assert (await first).answer == 8

    run(story)


def test_a_lesson_makes_everything_forgotten() -> None:
    async def story() -> None:
        bench = Bench()
        await bench.known("A", 7)
        bench.taught += 1
        assert bench.recall(b"k") is None
        task = bench.ask("B")
        await settle()
        bench.taught += 1  # while the engine thinks: it may have judged before
        assert bench.recall(b"other") is None
        bench.answers[-1].set_result(7)
        assert (await task).mail.trace_id == "B" and bench.recall(b"k") is None
        task = bench.ask("C")
        await settle()
        bench.taught += 1
        bench.answers[-1].set_result(7)
        await task
        assert bench.recall(b"k") is None

    run(story)


def test_what_is_only_alike_needs_more() -> None:
    async def story() -> None:
        bench = Bench()
        await bench.known("A", 7)
        found = bench.recall(b"k")
        assert found is not None and bench.recall(b"k", b"other") is None
        await bench.known("Bother", 10)
        assert bench.recall(b"k") is not None and bench.recall(b"k", b"third") is not None
        bench = Bench()
        first, same, alike = bench.ask("A"), bench.ask("B"), bench.ask("Cother")
        await settle()
        bench.answers[0].set_result(7)
        await settle()
        assert len(bench.answers) == 2, "the third asks itself"
        bench.answers[1].set_result(8)
        assert [(await task).answer for task in (first, same, alike)] == [7, 7, 8]

    run(story)
