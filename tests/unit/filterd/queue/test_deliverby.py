"""A time of delivery that was asked for: told to the next host as what is left, and kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from filterd.queue import deliverby
from filterd.queue.dialogue import Conversation, Mail
from filterd.queue.ends import Ends, Result, Schedule
from filterd.queue.journal import Journal
from filterd.queue.replies import RemoteReply, features_of
from filterd.queue.rows import PutOff
from tests.queuelab import CountingIds, Lab, Mood


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
    run(lab, f"a@{lab.live(1)}", "600;N", told=1)
    assert len(lab.sink.taken) == 1
    # RFC 2852 4.1.4: this host would not tell him when it is late
    assert b"Action: relayed" in notes(lab)[0]


@pytest.mark.parametrize(
    ("by", "promised", "told"),
    [("600;N", True, 0), ("600;N", False, 1), ("600;NT", True, 1), ("600;RT", True, 1), ("600;R", True, 0),
     ("-5;nt", True, 1), ("", False, 0)],
)  # fmt: skip
@pytest.mark.parametrize("notify", ["", "NEVER", "FAILURE", "SUCCESS"])
def test_who_is_told_of_each_host_that_relays_it(
    lab: Lab, by: str, promised: bool, told: int, notify: str
) -> None:
    params = {name: value for name, value in (("BY", by), ("NOTIFY", notify)) if value}
    lab.put(lab.out("a@b.example", **params))
    schedule = Schedule("us.example", (300.0,), 86_400.0, 0.0)
    ends = Ends(schedule, lab.clock, CountingIds())
    journal = Journal(lab.queue)
    item = journal.items()[0]
    with journal.transaction():
        good = RemoteReply(250, ("2.0.0 taken",))
        ((_, _, span),) = ends.record(
            journal, Result([item], {item.recipient: good}, "mx.b.example", by_taken=promised)
        )
    assert span.evidence == {"item": item.id}  # ``explain`` goes by it
    found = [journal.body(one.body) for one in journal.items() if one.kind == "dsn"]
    wanted = 0 if notify == "NEVER" else 1 if notify == "SUCCESS" else told
    assert len(found) == wanted and all(b"Action: relayed" in text for text in found)
    journal.close()


def test_a_host_that_rests_does_not_hold_the_time_up(lab: Lab) -> None:
    journal = Journal(lab.queue)
    now = lab.clock.now

    def put(name: str, age: float, **params: str) -> None:
        with journal.transaction():
            out = lab.out(f"{name}@x.example", **params)
            journal.add([replace(out, key=name.encode())], (), now - age)

    put("plain", 10)
    put("soon", 10, BY="60;R")
    put("tell", 10, BY="+60;N")
    put("far", 10, BY="6000;R")
    put("passed", 100, BY="60;RT")
    put("passedtell", 100, BY="60;N")
    put("passedtold", 100, BY="60;N")
    with journal.transaction():
        (told,) = [one for one in journal.items() if one.recipient.startswith("passedtold")]
        journal.set_warned(told.id)
        journal.put_off(now, "x.example", (), PutOff(now + 300, "451 no", now - 1000, now - 1000))
    found = {one.recipient.partition("@")[0]: one.next_at - now for one in journal.items()}
    left = {one.recipient.partition("@")[0] for one in journal.due(now, "x.example", 10)}
    assert left == {"passed", "passedtell"}
    assert {name: round(at) for name, at in found.items() if name not in left} == {
        "plain": 300, "soon": 50, "tell": 50, "far": 300, "passedtold": 300,
    }  # fmt: skip
    journal.close()


def test_returned_in_time_while_the_host_rests(lab: Lab) -> None:
    """The queue asks a dead host only every so often: the message goes back at its time all the same."""
    lab.sink.moods["192.0.2.66"] = Mood(dead=True)
    lab.settings.update(retry=(3000.0,))

    async def story() -> None:
        async with lab.sending() as sender:
            lab.put(lab.out("first@dead.example"))
            await lab.quiet(sender)
            lab.put(lab.out("second@dead.example", BY="600;RT"))
            sender.wake()
            await lab.quiet(sender)
            await lab.later(sender, 601)
            await lab.until(lambda: len(notes(lab)) == 1)

    asyncio.run(story())
    assert b"second@dead.example" in notes(lab)[0] and b"Status: 5.4.7" in notes(lab)[0]


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


@pytest.mark.parametrize(
    ("argument", "by", "goes"),
    [("30", "30;R", True), ("31,X", "30;R", False), ("31", "30;N", True), ("", "1;R", True), ("soon", "1;R", True)],
)  # fmt: skip
def test_a_host_that_needs_longer_promises_nothing(argument: str, by: str, goes: bool) -> None:
    """RFC 2852 4.1.4.1: its fixed minimum must not be greater than what is left."""
    talk = Conversation("us.example")
    talk.features = features_of(RemoteReply(250, ("them.example", f"DELIVERBY {argument}")))
    mail = Mail("a@us.example", ["a@b.example"], b"x", [{"BY": by}])
    steps = talk.send(mail)
    if goes:
        assert f"BY={by}".encode() in next(steps).data  # type: ignore[union-attr]  # the first thing said is MAIL
    else:
        assert list(steps) == []
        assert list(mail.results.values()) == [deliverby.NO_PROMISE]


@pytest.mark.parametrize("by", ["", "x;R", "600", "600;Q", "9999999999;R"])
def test_what_is_no_time_is_none(lab: Lab, by: str) -> None:
    lab.put(lab.out("a@b.example", BY=by))
    item = lab.items()[0]
    assert deliverby.deadline(item) is None and deliverby.params_now(item, 0) is item.params
