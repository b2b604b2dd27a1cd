"""What the processes of one server tell each other."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from filterd import board as module
from filterd.accounts.directory import Account
from filterd.board import HEARD, HEARD_SECONDS, LIVING, Board, Desk
from filterd.net.limits import Admission, AdmissionLimits
from filterd.net.login import FLOOR, GRACE, WAITING, LoginGuard
from pipeline.envelope import Client
from tests.house import TestClock

KEY, OTHER = b"k" * 16, b"o" * 16


class Desks:
    """Desks of several processes, all of them this one."""

    def __init__(self, count: int) -> None:
        self.clock = TestClock()
        self.board = Board(count)
        self.all: list[Desk] = []
        for number in range(count):
            self.all.append(Desk(self.board, number, self.clock))
            at = number * module.DESK_SIZE
            self.board.memory[at : at + 4] = os.getpid().to_bytes(4, "little")
        self.board.memory[-4:] = count.to_bytes(4, "little")


def test_keys_live_elsewhere_until_they_are_let_go() -> None:
    one, two = Desks(2).all
    one.hold(KEY)
    one.hold(KEY)
    assert two.elsewhere(KEY) and not one.elsewhere(KEY) and not two.elsewhere(OTHER)
    one.let_go(KEY)
    assert two.elsewhere(KEY)
    one.let_go(KEY)
    one.let_go(KEY)
    assert not two.elsewhere(KEY)


def test_more_keys_than_slots_are_only_not_seen() -> None:
    one, two = Desks(2).all
    keys = [number.to_bytes(16, "big")[::-1] for number in range(1, LIVING + 10)]
    for key in keys:
        one.hold(key)
    assert two.elsewhere(keys[0]) and two.elsewhere(keys[LIVING - 1]) and not two.elsewhere(keys[-1])
    for key in keys:
        one.let_go(key)
    one.hold(keys[-1])
    assert two.elsewhere(keys[-1])


def test_what_was_heard_is_heard_by_all_for_a_while() -> None:
    desks = Desks(2)
    one, two = desks.all
    one.hear(KEY)
    now = desks.clock.now
    assert one.heard(KEY) and two.heard(KEY, now) and not two.heard(KEY, now + 1) and not two.heard(OTHER)
    for number in range(HEARD):
        one.hear((number + 1).to_bytes(16, "little"))
    assert not two.heard(KEY) and two.heard((HEARD).to_bytes(16, "little"))
    desks.clock.now += HEARD_SECONDS + 1
    assert not two.heard((HEARD).to_bytes(16, "little"))


def test_a_dead_process_is_not_believed_and_its_desk_is_taken_over(tmp_path: Path) -> None:
    board, clock = Board(2), TestClock()
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        desk = board.take(clock, tmp_path)
        desk.hold(KEY)
        desk.count("192.0.2.1", 5)
        os.write(told, b"x")
        signal.pause()
        os._exit(0)
    assert os.read(ready, 1) == b"x"
    mine = board.take(clock, tmp_path)
    assert mine.elsewhere(KEY) and mine.connections("192.0.2.1") == 5
    crowded = board.take(clock, tmp_path)  # both are taken: alone, and nothing goes wrong
    assert not crowded.elsewhere(KEY)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not mine.elsewhere(KEY) and mine.connections("192.0.2.1") == 0
    again = board.take(clock, tmp_path)
    mine.hold(OTHER)
    assert again.elsewhere(OTHER) and not mine.elsewhere(KEY)
    mine.leave()
    assert not again.elsewhere(OTHER)


def test_one_address_has_its_places_in_all_processes_together() -> None:
    doors = [Admission(AdmissionLimits(100, per_address=10), desk) for desk in Desks(3).all]
    tickets = [doors[number % 3].admit("192.0.2.1") for number in range(60)]
    held = [ticket for ticket in tickets if ticket is not None]
    assert len(held) == 10
    assert doors[0].admit("192.0.2.2") is not None and doors[1].admit(None) is not None
    held[0].release()
    assert doors[2].admit("192.0.2.1") is not None and doors[0].admit("192.0.2.1") is None
    for ticket in held:
        ticket.release()
    for number in range(9):
        assert doors[number % 3].admit("192.0.2.1") is not None


class Sleeps:
    def __init__(self) -> None:
        self.all: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.all.append(seconds)


async def check(login: str, password: str) -> Account | None:
    return Account(login) if password == "right" else None


def test_failed_log_ins_add_up_wherever_they_happen() -> None:
    desks, sleeps = Desks(2), Sleeps()
    doors = [LoginGuard(check, desks.clock, sleeps.sleep, desk) for desk in desks.all]
    client = Client("192.0.2.1", 25)

    async def attempt(number: int, password: str) -> bool:
        desks.clock.now += 1
        return await doors[number % 2].authenticate("ann", password, client, "imap") is not None

    async def story() -> None:
        for number in range(6):
            assert not await attempt(number, "wrong")
        assert sleeps.all == [LoginGuard.delay(failure) for failure in range(1, 7)] and sleeps.all[-1] > FLOOR
        assert await attempt(0, "right")  # forgiven everywhere
        sleeps.all.clear()
        for number in range(1, 1 + GRACE):
            assert not await attempt(number, "wrong")
        assert sleeps.all == [FLOOR] * GRACE
        other = Client("192.0.2.9", 25)
        assert await doors[0].authenticate("ann", "wrong", other, "imap") is None
        assert sleeps.all[-1] == FLOOR

    asyncio.run(story())


@pytest.mark.parametrize("number", [0, 1])
def test_log_ins_under_way_are_counted_together(number: int) -> None:
    desks, sleeps = Desks(2), Sleeps()
    asked: list[str] = []

    async def slow(login: str, password: str) -> Account | None:
        asked.append(login)
        await asyncio.sleep(0)
        return None

    doors = [LoginGuard(slow, desks.clock, sleeps.sleep, desk) for desk in desks.all]

    async def story() -> None:
        client = Client("192.0.2.1", 25)
        for _ in range(GRACE + 1):
            desks.clock.now += 1
            await doors[number].authenticate("ann", "wrong", client, "imap")
        asked.clear()
        await asyncio.gather(
            *(doors[at % 2].authenticate("ann", "wrong", client, "imap") for at in range(4 * WAITING))
        )
        assert len(asked) == WAITING

    asyncio.run(story())
