"""What leaves is signed and sealed without holding the loop when it is large, and once whatever the number of recipients."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from filterd.outgoing import HARD_FIELDS, HARD_LINES, HARD_OCTETS, LARGE, aside
from pipeline.adapters import dkimpy
from pipeline.adapters.crypto import PrivateKey, generate
from pipeline.envelope import Client, Envelope, Profile
from pipeline.transaction import Transaction
from rules.mail.message import Message
from tests.house import DOMAIN, House

HEAD = b"From: Ann <ann@here.example>\r\nTo: x@away.example\r\nSubject: large\r\n\r\n"
ANN = f"ann@{DOMAIN}"
FAR = "x@far.example"


def text(octets: int) -> bytes:
    line = b"0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n"
    return HEAD + line * (octets // len(line))


def transaction() -> Transaction:
    return Transaction(Message(b""), Envelope("", (), Client(), Profile.SUBMISSION), "t", 0.0)


class Pen:
    """Signs, and notes in which threads."""

    def __init__(self, house: House) -> None:
        self.threads: list[threading.Thread] = []
        departure = house.delivery._departure
        departure.sign = self.sign
        departure.seal = lambda work, message, passed: self.sign(message, passed)

    def sign(self, message: bytes, domain: str) -> bytes:
        self.threads.append(threading.current_thread())
        return b"X-Signed: yes\r\n"

    @property
    def aside(self) -> list[bool]:
        return [one is not threading.main_thread() for one in self.threads]


@pytest.mark.parametrize(("octets", "thread"), [(1000, False), (2 * LARGE, True)])
def test_a_submission_is_signed_once_for_all(octets: int, thread: bool) -> None:
    house = House()
    pen = Pen(house)
    (reply,) = asyncio.run(
        house.send(
            FAR,
            "y@far.example",
            "z@far.example",
            sender=ANN,
            data=text(octets),
            profile=Profile.SUBMISSION,
            login=ANN,
        )
    )
    assert reply.code == 250 and len(house.spool.outgoing) == 3
    assert pen.aside == [thread]
    assert len({id(one.data) for one in house.spool.outgoing}) == 1
    assert house.spool.outgoing[0].data.startswith(b"X-Signed: yes\r\n")


@pytest.mark.parametrize(("octets", "thread"), [(1000, False), (2 * LARGE, True)])
@pytest.mark.parametrize(
    ("script", "count"),
    [
        (f'redirect "{FAR}"; redirect :copy "y@far.example";', 2),
        ('require "ereject"; ereject "no";', 0),
        ('require "vacation"; vacation "away";', 1),
    ],
)
def test_what_a_script_sends(script: str, count: int, octets: int, thread: bool) -> None:
    house = House()
    pen = Pen(house)
    house.script("ann", ('require "copy"; ' if ":copy" in script else "") + script)
    data = text(octets).replace(b"x@away.example", ANN.encode())
    asyncio.run(house.send(ANN, sender="far@away.example", data=data))
    assert len(house.spool.outgoing) == count
    assert pen.aside == [thread] * count


def test_the_copies_of_a_large_message_are_made_one_after_the_other() -> None:
    busy, most = 0, 0

    def make() -> int:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        time.sleep(0.002)
        busy -= 1
        return busy

    async def run() -> None:
        work = transaction()
        await asyncio.gather(*(aside(work, LARGE + 1, make) for _ in range(8)))

    asyncio.run(run())
    assert most == 1


async def watched(make: Callable[[], object]) -> tuple[float, float]:
    """(seconds that ``make`` took, longest time that the loop was held meanwhile)."""
    times: list[float] = []
    over = asyncio.Event()

    async def tick() -> None:
        while not over.is_set():
            times.append(time.perf_counter())
            await asyncio.sleep(0.001)

    ticker = asyncio.ensure_future(tick())
    await asyncio.sleep(0)
    began = time.perf_counter()
    await aside(transaction(), 30_000_000, make)
    took = time.perf_counter() - began
    over.set()
    await ticker
    times.append(time.perf_counter())
    return took, max(later - earlier for earlier, later in pairwise(times))


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate("rsa", 2048)


def test_the_loop_is_not_held_while_30_megabytes_are_signed(key: PrivateKey) -> None:
    """Held for the whole of it, the gap would be what it took, or more. The best of three: the machine may be busy."""
    data = text(30_000_000)
    parts = []
    for _ in range(3):
        took, gap = asyncio.run(watched(lambda: dkimpy.sign(data, "here.example", "s", key)))
        parts.append(gap / took)
        print(f"signed in {took * 1000:.0f} ms, the loop was held for {gap * 1000:.0f}")
    assert min(parts) < 0.5, parts


@pytest.mark.parametrize(
    ("data", "beside"),
    [
        (b"Subject: x\r\n\r\n" + b"--\r\n" * HARD_LINES, False),
        (b"Subject: x\r\n\r\n\r\n" + b"--\r\n" * (HARD_LINES + 1), True),
        (b"a: b\r\n" * (HARD_FIELDS + 1) + b"\r\n", True),
        (b"To: " + b"x" * HARD_OCTETS + b"\r\n\r\n", True),
    ],
)
def test_what_is_hard_to_read_is_read_in_a_thread(data: bytes, beside: bool) -> None:
    work = Transaction(Message(data), Envelope("a@b.example", (), Client(), Profile.MX), "T", 0.0)
    made = asyncio.run(aside(work, len(data), threading.get_ident))
    assert (made != threading.get_ident()) is beside
