from __future__ import annotations

import asyncio

from filterd.accounts.directory import Account
from filterd.net.login import CEILING, FLOOR, FORGIVE, WAITING, LoginGuard
from pipeline.envelope import Client


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def check(login: str, password: str) -> Account | None:
    return Account(login) if password == "secret" else None


def guard() -> tuple[LoginGuard, Time]:
    time = Time()
    return LoginGuard(check, time, time.sleep), time


def try_in(guard: LoginGuard, password: str, ip: str = "192.0.2.1") -> Account | None:
    return asyncio.run(guard.authenticate("ann", password, Client(ip=ip), "imap"))


def test_good_log_ins_do_not_wait() -> None:
    logins, time = guard()
    assert try_in(logins, "secret") == Account("ann")
    assert time.slept == []


def test_failures_cost_more_and_more_up_to_a_ceiling() -> None:
    logins, time = guard()
    for _ in range(9):
        assert try_in(logins, "wrong") is None
    assert time.slept[:5] == [FLOOR, FLOOR, 2 * FLOOR, 4 * FLOOR, 8 * FLOOR]
    assert time.slept[-1] == CEILING


def test_another_network_is_not_delayed() -> None:
    logins, time = guard()
    for _ in range(9):
        try_in(logins, "wrong")
    time.slept.clear()
    assert try_in(logins, "wrong", "198.51.100.1") is None
    assert time.slept == [FLOOR]


def test_success_and_time_forgive() -> None:
    logins, time = guard()
    for _ in range(5):
        try_in(logins, "wrong")
    assert try_in(logins, "secret") is not None
    time.slept.clear()
    try_in(logins, "wrong")
    assert time.slept == [FLOOR]
    for _ in range(5):
        try_in(logins, "wrong")
    time.now += FORGIVE + 1
    time.slept.clear()
    try_in(logins, "wrong")
    assert time.slept == [FLOOR]


def test_a_slow_check_counts_towards_the_delay() -> None:
    time = Time()

    async def slow(login: str, password: str) -> Account | None:
        time.now += 0.4
        return None

    try_in(LoginGuard(slow, time, time.sleep), "x")
    assert abs(time.slept[0] - (FLOOR - 0.4)) < 1e-6


def test_a_burst_of_a_network_that_failed_does_not_reach_the_directory() -> None:
    assert _burst(failures=0) == 50
    assert _burst(failures=5) == WAITING


def _burst(failures: int) -> int:
    asked: list[str] = []

    async def body() -> None:
        gate = asyncio.Event()

        async def waiting(login: str, password: str) -> Account | None:
            asked.append(login)
            await gate.wait()
            return None

        async def no_sleep(seconds: float) -> None:
            return

        logins = LoginGuard(waiting, Time(), no_sleep)
        gate.set()
        for _ in range(failures):
            await logins.authenticate("u", "x", Client(ip="192.0.2.1"), "imap")
        gate.clear()
        asked.clear()
        tasks = [
            asyncio.create_task(logins.authenticate(f"u{n}", "x", Client(ip="192.0.2.1"), "imap"))
            for n in range(50)
        ]
        await asyncio.sleep(0)
        gate.set()
        assert set(await asyncio.gather(*tasks)) == {None}

    asyncio.run(body())
    return len(asked)
