"""A time of delivery that was asked for: told to the next host as what is left, and kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from filterd.queue import deliverby
from filterd.queue.dialogue import Conversation, Mail
from filterd.queue.replies import RemoteReply, features_of
from tests.queuelab import Lab, Mood


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def notes(lab: Lab) -> list[bytes]:
    return [text for _, _, text in lab.here]


def run(lab: Lab, recipient: str, by: str, *pauses: float, told: int) -> None:
    async def story() -> None:
        lab.put(lab.out(recipient, BY=by))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            for pause in pauses:
                await lab.later(sender, pause)
            await lab.until(lambda: len(notes(lab)) == told)

    asyncio.run(story())


def test_who_wants_it_back_gets_it_where_nobody_promises(lab: Lab) -> None:
    run(lab, f"a@{lab.live(1)}", "600;R", told=1)
    assert not lab.sink.taken and lab.states()["bounced"] == 1
    assert b"Action: failed" in notes(lab)[0] and b"Status: 5.3.3" in notes(lab)[0]


def test_who_wants_to_be_told_is_served_everywhere(lab: Lab) -> None:
    run(lab, f"a@{lab.live(1)}", "600;N", told=0)
    assert len(lab.sink.taken) == 1


def test_returned_when_the_time_has_passed(lab: Lab) -> None:
    lab.sink.moods["192.0.2.66"] = Mood(dead=True)
    lab.settings.update(retry=(300.0, 80_000.0))
    run(lab, "x@dead.example", "600;RT", 301, 301, told=1)
    assert lab.items()[0].state == "expired"
    assert b"Action: failed" in notes(lab)[0] and b"Status: 5.4.7" in notes(lab)[0]


def test_told_once_when_the_time_has_passed(lab: Lab) -> None:
    lab.sink.moods["192.0.2.66"] = Mood(dead=True)
    lab.settings.update(retry=(300.0,), warn_after=0.0)
    run(lab, "x@dead.example", "600;N", 301, 301, 301, told=1)
    assert lab.items()[0].state == "queued" and b"Action: delayed" in notes(lab)[0]


def test_the_next_host_hears_what_is_left(lab: Lab) -> None:
    lab.put(lab.out("a@b.example", BY="600;RT"))
    item = lab.items()[0]
    params = deliverby.params_now(item, item.created + 100)
    assert params["BY"] == "500;RT"
    assert deliverby.params_now(item, item.created + 700)["BY"] == "-100;RT"
    talk = Conversation("us.example")
    talk.features = features_of(RemoteReply(250, ("them.example", "DELIVERBY 30")))
    steps = talk.send(Mail("a@us.example", ["a@b.example"], b"x", [params]))
    assert b"BY=500;RT" in next(steps).data  # type: ignore[union-attr]  # the first thing said is MAIL


@pytest.mark.parametrize("by", ["", "x;R", "600", "600;Q", "9999999999;R"])
def test_what_is_no_time_is_none(lab: Lab, by: str) -> None:
    lab.put(lab.out("a@b.example", BY=by))
    item = lab.items()[0]
    assert deliverby.deadline(item) is None and deliverby.params_now(item, 0) is item.params
