"""What an account may send in an hour."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.accounts.rates import RateLimits, Rates, wait_for
from pipeline.envelope import Profile
from pipeline.reply import Reply
from pipeline.verdict import Disposition, Verdict
from tests.house import DOMAIN, House

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House()
    with contextlib.closing(Rates(tmp_path / "rates.db", made.clock, RateLimits(3, 5))) as rates:
        made.reception.rates = rates
        yield made


def send(house: House, *recipients: str, sender: str = ANN) -> list[int]:
    got = asyncio.run(house.send(*recipients, sender=sender, login=sender, profile=Profile.SUBMISSION))
    return [reply.code for reply in got]


def test_how_long_to_wait() -> None:
    rows = [(10, 1, 4), (20, 2, 1)]
    assert wait_for(rows, RateLimits(), 1, 100, 30) == (0, "")
    assert wait_for(rows, RateLimits(4, 6), 1, 1, 30) == (0, "")
    assert wait_for(rows, RateLimits(3, 0), 1, 1, 30) == (40, "3 messages")  # the first leaves at minute 70
    assert wait_for(rows, RateLimits(0, 5), 1, 5, 30) == (50, "5 recipients")
    assert wait_for([], RateLimits(0, 5), 1, 6, 30) == (60, "5 recipients")  # never


def test_messages_of_an_account(house: House) -> None:
    assert [send(house, "x@away.example") for _ in range(3)] == [[250]] * 3
    assert send(house, "x@away.example") == [450]
    assert send(house, "x@away.example", sender=BOB) == [250]  # of his own
    house.clock.now += 3660
    assert send(house, "x@away.example") == [250]


def test_the_refusal_says_what_and_when(house: House) -> None:
    for _ in range(3):
        send(house, "x@away.example")
    (reply,) = asyncio.run(house.send("x@away.example", sender=ANN, login=ANN, profile=Profile.SUBMISSION))
    assert reply.enhanced_code == "4.7.1" and "3 messages an hour" in reply.text and "60 min" in reply.text


def test_recipients_are_refused_one_by_one(house: House) -> None:
    codes = send(house, *(f"u{n}@away.example" for n in range(7)))
    assert codes == [450, 450, 250]
    assert len(house.spool.outgoing) == 5


def test_mail_from_outside_and_what_was_refused_do_not_count(tmp_path: Path) -> None:
    virus = Verdict("clamav", Disposition.TEMPFAIL, reply=Reply(451, "4.7.1", "later"))
    house = House(virus)
    house.reception._departure.runner = house.reception._incoming
    with contextlib.closing(Rates(tmp_path / "rates.db", house.clock, RateLimits(1, 0))) as rates:
        house.reception.rates = rates
        assert [send(house, "x@away.example") for _ in range(3)] == [[451]] * 3
        assert asyncio.run(rates.refusal(ANN)) is None


def test_workers_share_the_count(tmp_path: Path) -> None:
    house = House()
    limits = RateLimits(10, 0)

    async def many() -> list[Reply | None]:
        workers = [Rates(tmp_path / "rates.db", house.clock, limits) for _ in range(3)]
        try:
            return await asyncio.gather(*(workers[n % 3].take(ANN, 1) for n in range(30)))
        finally:
            for worker in workers:
                worker.close()

    got = asyncio.run(many())
    assert sum(reply is None for reply in got) == 10


def test_a_count_that_cannot_be_kept_is_no_licence(tmp_path: Path) -> None:
    (tmp_path / "rates.db").mkdir()
    with contextlib.closing(Rates(tmp_path / "rates.db", House().clock, RateLimits(1, 0))) as rates:
        reply = asyncio.run(rates.refusal(ANN))
        assert reply is not None and reply.code == 451
