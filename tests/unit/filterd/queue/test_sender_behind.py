"""Domains whose store is behind us, and messages that are not to leave before their time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from filterd.queue.journal import Journal
from filterd.queue.route import Relay
from filterd.queue.rows import FORWARD
from pipeline.reply import Reply
from tests.queuelab import START, Lab, Mood

HOUR = 3600.0


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_each_domain_has_its_next_hop_and_only_it(lab: Lab) -> None:
    """One domain behind us by LMTP, all else to the smart host, our own people here."""
    full = Reply(452, "4.2.2", "Mailbox full")
    lab.sink.moods["198.51.100.24"] = Mood(lmtp=True, rcpt={"full@behind.example": full})
    lab.settings["relay"] = Relay("198.51.100.99", 25)
    lab.settings["relays"] = {"behind.example": Relay("198.51.100.24", 24, lmtp=True)}

    async def story() -> None:
        lab.put(
            lab.out("a@behind.example", kind="relay"),
            lab.out("full@behind.example", kind="relay"),
            lab.out("c@elsewhere.example"),
            lab.out("bob@us.example"),
        )
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert sorted((hop, to) for hop, to, _ in lab.sink.taken) == [
        ("198.51.100.24", "a@behind.example"),
        ("198.51.100.99", "c@elsewhere.example"),
    ]
    assert [to for _, to, _ in lab.here] == ["bob@us.example"]
    assert lab.states() == {"sent": 3, "queued": 1}


def test_a_store_behind_us_that_is_down_keeps_its_mail_waiting_and_nothing_else(lab: Lab) -> None:
    lab.sink.moods["198.51.100.24"] = Mood(lmtp=True, dead=True)
    lab.settings["relay"] = Relay("198.51.100.99", 25)
    lab.settings["relays"] = {"behind.example": Relay("198.51.100.24", 24, lmtp=True)}

    async def story() -> None:
        lab.put(lab.out("a@behind.example", kind="relay"), lab.out("c@elsewhere.example"))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            assert lab.states() == {"queued": 1, "sent": 1}
            lab.sink.moods["198.51.100.24"].dead = False
            await lab.later(sender, HOUR)

    asyncio.run(story())
    assert lab.states() == {"sent": 2}


def test_a_bounce_names_no_path_of_ours(lab: Lab) -> None:
    lab.sink.moods[""] = Mood(lmtp=True, rcpt={"no@behind.example": Reply(550, "5.1.1", "No such user")})
    lab.settings["relay"] = Relay("198.51.100.99", 25)
    lab.settings["relays"] = {"behind.example": Relay("", 0, lmtp=True, path="/run/store/lmtp")}

    async def story() -> None:
        lab.put(lab.out("no@behind.example", "x@elsewhere.example", kind="relay"))
        async with lab.sending() as sender:
            await lab.until(lambda: bool(lab.sink.taken))
            await lab.quiet(sender)

    asyncio.run(story())
    ((_, to, text),) = lab.sink.taken
    assert to == "x@elsewhere.example" and b"Status: 5.1.1\r\n" in text
    assert b"/run" not in text and b"Remote-MTA" not in text


def test_messages_of_different_clients_do_not_share_a_transaction(lab: Lab) -> None:
    lab.settings["relays"] = {"behind.example": Relay("198.51.100.24", 25)}
    facts = [json.dumps({"ADDR": f"203.0.113.{n}"}) for n in (1, 1, 2)]

    async def story() -> None:
        lab.put(
            *(replace(lab.out(f"p{n}@behind.example"), params={FORWARD: one}) for n, one in enumerate(facts))
        )
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert sorted(map(len, lab.sink.transactions)) == [1, 2]


def test_only_a_next_hop_of_ours_hears_of_the_client(lab: Lab) -> None:
    """Any server may offer XFORWARD; a stranger is told nothing."""
    lab.settings["relays"] = {"behind.example": Relay("198.51.100.24", 25)}
    stranger = lab.live(1)
    said: dict[str, str] = {}

    async def story() -> None:
        facts = {FORWARD: json.dumps({"ADDR": "203.0.113.1"})}
        lab.put(*(replace(lab.out(to), params=facts) for to in ("a@behind.example", f"b@{stranger}")))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    lab.sink.forwarders = True
    asyncio.run(story())
    with contextlib.closing(Journal(lab.queue)) as journal:
        for item in lab.items():
            said[item.domain] = journal.attempts(item.id)[0][3]
    assert "> XFORWARD ADDR=203.0.113.1" in said["behind.example"] and "XFORWARD ADDR" not in said[stranger]
    assert lab.states() == {"sent": 2}


def test_not_before_its_time_and_its_age_counts_from_then(lab: Lab) -> None:
    until = START + 100 * HOUR  # longer than max_age
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(text=[Reply(451, "4.3.0", "later")])

    async def story() -> None:
        lab.put(replace(lab.out(f"a@{domain}"), hold_until=until))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            await lab.later(sender, 99 * HOUR)
            assert not lab.sink.tried
            with contextlib.closing(Journal(lab.queue)) as journal, journal.transaction():
                assert journal.steer("retry", lab.clock.now) == 1  # "all" does not mean this one
                assert journal.steer("hold", lab.clock.now) == 1
                assert journal.steer("release", lab.clock.now) == 1
            await lab.later(sender, 1.0)
            assert not lab.sink.tried
            await lab.later(sender, HOUR)
            assert lab.sink.tried.total() == 1  # refused for now, and not given up as too old
            assert lab.states() == {"queued": 1} and not lab.here
            await lab.later(sender, HOUR)

    asyncio.run(story())
    assert lab.states() == {"sent": 1}


def test_the_operator_may_send_one_before_its_time(lab: Lab) -> None:
    domain = lab.live(1)

    async def story() -> None:
        (name,) = lab.put(replace(lab.out(f"a@{domain}"), hold_until=START + HOUR))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            with contextlib.closing(Journal(lab.queue)) as journal, journal.transaction():
                journal.steer("retry", lab.clock.now, name=name)
            await lab.later(sender, 1.0)

    asyncio.run(story())
    assert lab.states() == {"sent": 1}


def test_what_is_quarantined_waits_for_the_operator(lab: Lab) -> None:
    domain = lab.live(1)

    async def story() -> None:
        lab.put(replace(lab.out(f"a@{domain}"), held="quarantined by clamav: Eicar"))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            await lab.later(sender, 1000 * HOUR)
            assert not lab.sink.tried
            (item,) = lab.items()
            assert (item.state, item.last_reply) == ("held", "quarantined by clamav: Eicar")
            with contextlib.closing(Journal(lab.queue)) as journal, journal.transaction():
                journal.steer("release", lab.clock.now)
            await lab.later(sender, 1.0)

    asyncio.run(story())
    assert lab.states() == {"sent": 1}
