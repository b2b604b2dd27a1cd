"""The copy in Sent of what goes out by submission (accounts.save_sent)."""

import asyncio
from dataclasses import replace

import pytest

from filterd.reception import SessionState
from filterd.store.base import SEEN
from pipeline.envelope import Profile
from tests.house import DOMAIN, House

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
TEXT = b"From: ann@here.example\r\nBcc: x@away.example\r\nUser-Agent: odd\r\nMessage-ID: <9@here.example>\r\n\r\nHi\r\n"


@pytest.fixture
def house() -> House:
    made = House()
    made.delivery._settings = replace(made.delivery._settings, save_sent=True)
    return made


def send(
    house: House, *recipients: str, data: bytes = TEXT, profile: Profile = Profile.SUBMISSION
) -> list[int]:
    login = ANN if profile is Profile.SUBMISSION else ""
    return [
        r.code
        for r in asyncio.run(house.send(*recipients, sender=ANN, data=data, profile=profile, login=login))
    ]


def sent(house: House, mailbox: str = "Sent") -> list[bytes]:
    store = house.store.account(ANN)
    return house.box("ann", mailbox) if any(info.name == mailbox for info in store.mailboxes()) else []


def test_one_copy_read_and_without_bcc(house: House) -> None:
    assert send(house, "x@away.example", BOB, "y@away.example") == [250]
    (copy,) = sent(house)
    assert copy.endswith(b"\r\n\r\nHi\r\n") and b"Bcc" not in copy
    store = house.store.account(ANN)
    info = next(info for info in store.mailboxes() if info.name == "Sent")
    assert info.special_use == "\\Sent"
    assert list(store.snapshot("Sent").flags) == [SEEN]


def test_the_mailbox_that_is_marked_is_taken(house: House) -> None:
    house.store.account(ANN).create("Gesendet", "\\Sent")
    send(house, "x@away.example")
    assert len(sent(house, "Gesendet")) == 1 and not sent(house)


def test_a_retry_after_a_lost_reply_leaves_one_and_a_second_message_two(house: House) -> None:
    send(house, "x@away.example")  # the connection is cut before the reply is seen to have arrived
    send(house, "x@away.example")
    assert len(sent(house)) == 1

    async def acknowledged() -> None:
        session = await house.session(Profile.SUBMISSION, ANN)
        for _ in range(2):
            await house.send("x@away.example", sender=ANN, data=TEXT + b"2\r\n", session=session)
            house.reception.acknowledged(session)
        assert isinstance(session.state, SessionState)

    asyncio.run(acknowledged())
    assert len(sent(house)) == 3


def test_only_what_leaves_by_submission_and_was_taken(house: House) -> None:
    assert send(house, BOB, profile=Profile.MX) == [250]
    house.spool.broken = True
    assert send(house, "x@away.example") == [451]
    assert not sent(house)


def test_a_copy_that_cannot_be_kept_does_not_stop_the_mail(house: House) -> None:
    house.jobs.broken.add(ANN)
    assert send(house, "x@away.example") == [250]
    assert len(house.spool.outgoing) == 1
    assert any(span.stage == "save-sent" for span in house.traces.all[-1].spans)


def test_off_unless_asked_for() -> None:
    house = House()
    send(house, "x@away.example")
    assert not sent(house)
