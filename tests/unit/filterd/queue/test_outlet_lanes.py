"""What waits for a program or a file has a lane of its own: no mail server gets it, no slow program holds up others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from filterd.accounts.outlets import Outlet
from filterd.outlets import queued
from filterd.queue.base import Outgoing
from filterd.queue.journal import Journal
from filterd.queue.replies import RemoteReply
from filterd.queue.routing import Routes, Rule, is_outlet, is_route, plain
from filterd.queue.rows import Item
from filterd.queue.steering import Choice
from tests.queuelab import Lab

TAKEN = RemoteReply(250, ("2.0.0 done",))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def out(lab: Lab, outlet: Outlet, **params: str) -> Outgoing:
    return queued(outlet, lab.out("robot@us.example", sender="ann@far.example", **params))


def test_lanes() -> None:
    for outlet in (Outlet("take", ("x",)), Outlet(path="/srv/a/"), Outlet(path="/dev/null")):
        assert is_outlet(outlet.lane) and not is_route(outlet.lane)
    assert not is_outlet("x.example") and not is_outlet("") and not is_outlet("=0123:x.example")


def run(
    lab: Lab, answers: dict[str, list[RemoteReply]], done: int, *pauses: float
) -> list[tuple[str, bytes]]:
    given: list[tuple[str, bytes]] = []

    async def outlets(item: Item, data: bytes) -> tuple[RemoteReply, str]:
        await asyncio.sleep(0)
        given.append((item.domain, data))
        replies = answers.get(item.domain, [TAKEN])
        return (replies.pop(0) if len(replies) > 1 else replies[0]), f"{item.domain} (told)"

    lab.outlets = outlets

    async def story() -> None:
        async with lab.sending() as sender:
            await lab.quiet(sender)
            for pause in pauses:
                await lab.later(sender, pause)
            await lab.until(lambda: len(given) == done)
            await lab.quiet(sender)

    asyncio.run(story())
    return given


def test_given_once_and_ended(lab: Lab) -> None:
    lab.put(out(lab, Outlet("take")), out(lab, Outlet(path="/srv/a")))
    given = run(lab, {}, 2)
    assert sorted(lane for lane, _ in given) == ["/srv/a", "|take"]
    assert lab.states() == {"sent": 2} and not lab.sink.taken and not lab.here


def test_later_and_then_taken(lab: Lab) -> None:
    lab.put(out(lab, Outlet("take")))
    assert len(run(lab, {"|take": [RemoteReply(451, ("4.3.0 not now",)), TAKEN]}, 2, 301)) == 2
    assert lab.states() == {"sent": 1}
    journal = Journal(lab.queue)
    tries = journal.attempts(journal.items(("sent",))[0].id)
    journal.close()
    assert [(host, reply) for _, host, reply, _ in tries] == [
        ("|take (told)", "451 4.3.0 not now"),
        ("|take (told)", "250 2.0.0 done"),
    ]


def test_refused_is_told_without_names(lab: Lab) -> None:
    lab.put(out(lab, Outlet("take", ("secret",)), NOTIFY="FAILURE"))
    lab.zone.add("far.example", "A", "198.51.100.9")
    run(lab, {"|take": [RemoteReply(550, ("5.1.1 the program for this address does not take it",))]}, 1)
    ((_, recipient, report),) = lab.sink.taken
    assert recipient == "ann@far.example" and b"Status: 5.1.1" in report and b"robot@us.example" in report
    assert b"|take" not in report and b"secret" not in report and b"Remote-MTA" not in report


def test_success_is_told_as_delivered(lab: Lab) -> None:
    lab.put(out(lab, Outlet(path="/srv/a"), NOTIFY="SUCCESS"))
    lab.zone.add("far.example", "A", "198.51.100.9")
    run(lab, {}, 1)
    ((_, _, report),) = lab.sink.taken
    assert b"Action: delivered" in report and b"/srv/a" not in report


def test_where_they_are_not_allowed_any_more_it_waits(lab: Lab) -> None:
    lab.put(out(lab, Outlet("take")))

    async def story() -> None:
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    (item,) = lab.items()
    assert item.state == "queued" and "4.3.5" in item.last_reply


def test_routes_and_the_operator_leave_them_alone(lab: Lab) -> None:
    lab.put(out(lab, Outlet("take")), lab.out("x@far.example"))
    journal = Journal(lab.queue)
    routes = Routes((Rule(recipients=()),))
    with journal.transaction():
        assert journal.relane(routes.lane, True) == 1 and journal.relane(plain, True) == 1
        assert journal.reroute(0.0, Choice(), "smtp://hop.example", plain) == 1
    assert sorted(item.domain for item in journal.items()) == ["!smtp://hop.example", "|take"]
    assert [item.domain for item in journal.due(1e12, None, 10, ("us.example",))] == []
    assert [item.domain for item in journal.due(1e12, "|take", 10)] == ["|take"]
    with journal.transaction():
        assert journal.steer("hold", 0.0, domain="us.example") == 1
    journal.close()


def test_a_retry_of_the_client_adds_nothing(lab: Lab) -> None:
    one = out(lab, Outlet("take"))
    assert lab.put(one) == lab.put(replace(one)) and len(lab.items()) == 1
    run(lab, {}, 1)
    lab.put(one)  # its reply was lost, and it is done meanwhile
    assert run(lab, {}, 0) == [] and lab.states() == {"sent": 1}


def test_a_server_that_ends_begins_no_further_program(lab: Lab) -> None:
    """It would be cut off, and run a second time by the next one."""
    lab.settings["per_destination"] = 1
    lab.put(*(out(lab, Outlet("take")) for _ in range(5)))
    given: list[str] = []
    stopping = asyncio.Event()

    async def outlets(item: Item, data: bytes) -> tuple[RemoteReply, str]:
        given.append(item.id)
        await stopping.wait()
        return TAKEN, ""

    lab.outlets = outlets

    async def story() -> None:
        async with lab.sending() as sender:
            await lab.until(lambda: bool(given))
            ended = asyncio.create_task(lab.until(lambda: sender._office.stopping))
            ended.add_done_callback(lambda _: stopping.set())

    asyncio.run(story())
    assert len(given) == 1 and lab.states() == {"sent": 1, "queued": 4}
