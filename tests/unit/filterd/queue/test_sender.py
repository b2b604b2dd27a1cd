"""The sending process against hosts in every mood: each recipient comes to exactly one recorded end."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from filterd.queue.base import PendingStore
from filterd.queue.courier import Courier
from filterd.queue.destinations import Destination
from filterd.queue.journal import Journal
from filterd.queue.route import Relay
from filterd.queue.rows import Item
from filterd.queue.sender import STOP_SECONDS
from filterd.queue.writer import Writer
from filterd.store.base import NewMessage, StoreUnavailable
from pipeline.reply import Reply
from tests.queuelab import TEXT, Lab, Mood, spool

FULL = Reply(452, "4.2.2", "Mailbox full")
NOBODY = Reply(550, "5.1.1", "No such user")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def by_recipient(lab: Lab) -> dict[str, Item]:
    return {item.recipient: item for item in lab.items()}


def notes(lab: Lab) -> list[bytes]:
    """Notifications that came home."""
    return [data for reverse_path, _, data in lab.here if not reverse_path]


def test_sent_grouped_and_recorded(lab: Lab) -> None:
    async def story() -> None:
        domain = lab.live(1)
        lab.put(*(lab.out(f"{name}@{domain}") for name in "abc"), lab.out(f"d@{lab.live(2)}"))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert lab.states() == {"sent": 4}
    assert lab.sink.transactions[0] in (["a@d1.example", "b@d1.example", "c@d1.example"], ["d@d2.example"])
    assert sorted(r for _, r, _ in lab.sink.taken) == [
        "a@d1.example",
        "b@d1.example",
        "c@d1.example",
        "d@d2.example",
    ]
    assert all(text == TEXT for _, _, text in lab.sink.taken)
    assert lab.sink.tried["198.51.100.1"] == 1
    journal = Journal(lab.queue)
    (try_,) = journal.attempts(lab.items()[0].id)
    assert try_[1] == "d1.example [198.51.100.1]" and "> RCPT TO:<b@d1.example>" in try_[3]
    journal.close()


def test_each_recipient_its_own_end(lab: Lab) -> None:
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(rcpt={f"full@{domain}": FULL, f"no@{domain}": NOBODY})

    async def story() -> None:
        lab.put(*(lab.out(f"{name}@{domain}") for name in ("ok", "full", "no")))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            items = by_recipient(lab)
            assert [items[f"{n}@{domain}"].state for n in ("ok", "full", "no")] == [
                "sent",
                "queued",
                "bounced",
            ]
            assert items[f"full@{domain}"].next_at == lab.clock.now + 300
            await lab.until(lambda: len(notes(lab)) == 1)
            lab.sink.moods["198.51.100.1"].rcpt.clear()
            await lab.later(sender, 301)

    asyncio.run(story())
    assert lab.states() == {"sent": 3, "bounced": 1}
    assert Counter(r for _, r, _ in lab.sink.taken) == {f"ok@{domain}": 1, f"full@{domain}": 1}
    (note,) = notes(lab)
    assert b"Final-Recipient: rfc822; no@d1.example" in note and b"Status: 5.1.1" in note


@pytest.mark.parametrize("where", ["rcpt", "text", "dot"])
def test_the_connection_breaks_once(lab: Lab, where: str) -> None:
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(break_at=where, breaks=1, rcpt={f"no@{domain}": NOBODY})

    async def story() -> None:
        lab.put(lab.out(f"a@{domain}"), lab.out(f"no@{domain}"))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            reply = by_recipient(lab)[f"a@{domain}"].last_reply
            assert reply.startswith("451 4.4.2") and ("may have arrived" in reply) == (where != "rcpt")
            if where != "rcpt":  # the refusal was heard before the connection broke
                assert by_recipient(lab)[f"no@{domain}"].state == "bounced"
            await lab.later(sender, 301)

    lab.sink.mood("198.51.100.1")
    asyncio.run(story())
    assert by_recipient(lab)[f"a@{domain}"].state == "sent"
    copies = sum(recipient == f"a@{domain}" for _, recipient, _ in lab.sink.taken)
    assert copies == (2 if where == "dot" else 1)  # the window SMTP leaves open, and only that
    assert copies - 1 == lab.sink.doubtful[f"a@{domain}"]


def test_a_host_that_limits_recipients_gets_the_rest_at_once(lab: Lab) -> None:
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(per_transaction=3)

    async def story() -> None:
        lab.put(*(lab.out(f"u{n}@{domain}") for n in range(10)))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert lab.states() == {"sent": 10}
    assert [len(t) for t in lab.sink.transactions] == [3, 3, 3, 1]


def test_dead_destinations_do_not_delay_the_living(lab: Lab) -> None:
    """3 of 100 destinations are dead or half-open, with the longest queues; the others are done meanwhile."""
    lab.sink.moods["192.0.2.66"] = Mood(dead=True)
    lab.sink.moods["192.0.2.77"] = Mood(silent=True)

    async def story() -> None:
        many = [
            lab.out(f"u{n}@{place}")
            for n in range(400)
            for place in ("a.dead.example", "dead.example", "half.example")
        ]
        few = [lab.out(f"u{n}@{lab.live(k)}") for k in range(97) for n in range(3)]
        lab.put(*many, *few)
        async with lab.sending():
            await lab.until(lambda: len(lab.sink.taken) == len(few))
            await lab.until(lambda: all(i.next_at > lab.clock.now for i in lab.items() if "dead" in i.domain))

    asyncio.run(story())
    states = Counter(
        (item.state, "dead" in item.domain or item.domain == "half.example") for item in lab.items()
    )
    assert states == {("sent", False): 97 * 3, ("queued", True): 1200}
    # its connections time out one after the other, not once a message
    assert lab.sink.tried["192.0.2.66"] < 30
    assert all("no answer in time" in item.last_reply for item in lab.items() if "dead" in item.domain)


def test_a_destination_rests_and_the_operator_wakes_it(lab: Lab) -> None:
    domain = lab.live(1)
    mood = lab.sink.moods["198.51.100.1"] = Mood(dead=True)

    async def story() -> None:
        lab.put(lab.out(f"a@{domain}"))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            tried = lab.sink.tried["198.51.100.1"]
            lab.put(lab.out(f"b@{domain}"))  # new mail for a host that is down waits without a try of its own
            await lab.later(sender, 10)
            item = by_recipient(lab)[f"b@{domain}"]
            assert (
                lab.sink.tried["198.51.100.1"] == tried and item.attempts == 0 and "4.4.1" in item.last_reply
            )
            mood.dead = False
            journal = Journal(lab.queue)
            with journal.transaction():
                assert journal.steer("retry", lab.clock.now) == 2
            journal.close()
            from filterd.queue.bell import RETRY, Bell

            bell = Bell(lab.queue)
            bell.ring(RETRY)
            bell.close()
            await lab.until(lambda: lab.states() == {"sent": 2})

    asyncio.run(story())


def test_mail_that_comes_while_a_place_rests_counts_no_try(lab: Lab) -> None:
    """A message that arrives at the moment its destination is put off waits like the others: nobody tried it."""
    domain = lab.live(1)
    arriving = [f"{number}@{domain}" for number in range(3)]

    def arrive() -> None:
        """In the queue's thread, right after each transaction of the courier."""
        if arriving:
            lab.put(lab.out(arriving.pop()))

    async def story() -> None:
        lab.put(lab.out(f"first@{domain}"))
        queue = Writer(lab.queue, lab.clock, "test", arrive)
        office = lab.sender()._open_office(queue)
        place = Destination(f"@{domain}", domain)
        assert place.unreachable(lab.clock.now, "451 4.4.1 no answer", 300)
        while arriving:
            place.active = 1
            await Courier(office, place).run()
        await asyncio.to_thread(queue.close)

    asyncio.run(story())
    lab.traces.close()
    assert len(lab.items()) == 4
    assert {(item.state, item.attempts) for item in lab.items()} == {("queued", 0)}
    assert not lab.sink.tried


def test_too_many_connections_make_fewer(lab: Lab) -> None:
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(connections=2)

    async def story() -> None:
        lab.put(*(lab.out(f"u{n}@{domain}", data=TEXT + b"%d\r\n" % n) for n in range(200)))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert lab.states() == {"sent": 200}
    assert lab.sink.most["198.51.100.1"] == 2


def test_421_ends_the_connection_not_the_message(lab: Lab) -> None:
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(text=[Reply(421, "4.3.2", "shutting down")])

    async def story() -> None:
        lab.put(lab.out(f"a@{domain}"), lab.out(f"b@{domain}", data=TEXT + b"two\r\n"))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            assert lab.states() == {"sent": 1, "queued": 1}
            await lab.later(sender, 301)

    asyncio.run(story())
    assert lab.states() == {"sent": 2} and len(lab.sink.taken) == 2


def test_a_host_that_says_nothing_does_not_hold_up_the_end(lab: Lab) -> None:
    """No mail is on its way there yet: the courier gives it back untried, at once."""
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(silent=True)

    async def story() -> None:
        lab.put(lab.out(f"a@{domain}"))
        async with lab.sending():
            await lab.until(lambda: lab.sink.tried["198.51.100.1"] == 1)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < STOP_SECONDS

    asyncio.run(story())
    assert [(item.state, item.attempts) for item in lab.items()] == [("queued", 0)]


# -- time ------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_delay_warning_then_expiry_each_told_once(lab: Lab) -> None:
    lab.sink.moods["192.0.2.66"] = Mood(dead=True)

    async def story() -> None:
        lab.put(lab.out("x@dead.example"), lab.out("quiet@dead.example", NOTIFY="NEVER"))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            for _ in range(110):
                if lab.states()["queued"] == 0:
                    break
                await lab.later(sender, 901)
            await lab.until(lambda: len(notes(lab)) == 2)

    asyncio.run(story())
    items = by_recipient(lab)
    assert items["x@dead.example"].state == items["quiet@dead.example"].state == "expired"
    assert lab.clock.now - items["x@dead.example"].created < 86_400 + 1000
    delayed, failed = notes(lab)
    assert b"Action: delayed" in delayed and b"Will-Retry-Until: " in delayed
    assert b"Action: failed" in failed and b"Status: 4.4.1" in failed and b"given up now" in failed


def test_expiry_is_not_put_off_to_the_next_pause(lab: Lab) -> None:
    lab.settings.update(retry=(300.0, 80_000.0), warn_after=0.0)
    lab.sink.moods["192.0.2.66"] = Mood(dead=True)

    async def story() -> None:
        lab.put(lab.out("x@dead.example"))
        async with lab.sending() as sender:
            await lab.quiet(sender)
            await lab.later(sender, 7000)
            (item,) = lab.items()
            assert item.next_at == item.created + 86_400

    asyncio.run(story())


# -- notifications -----------------------------------------------------------------------------------------------
def test_nothing_answers_the_null_reverse_path_or_our_own_mail(lab: Lab) -> None:
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(rcpt={"*": NOBODY})

    async def story() -> None:
        lab.put(
            lab.out(f"a@{domain}", sender=""),
            lab.out(f"b@{domain}", kind="dsn"),
            lab.out(f"c@{domain}", kind="vacation"),
            lab.out(f"d@{domain}", NOTIFY="NEVER"),
            lab.out(f"e@{domain}", NOTIFY="SUCCESS,DELAY"),
        )
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert lab.states() == {"bounced": 5} and not lab.here


def test_a_bounce_that_cannot_be_delivered_ends_quietly(lab: Lab) -> None:
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(rcpt={"*": NOBODY})

    async def story() -> None:
        lab.put(lab.out(f"a@{domain}", sender=f"gone@{lab.live(1)}"))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert lab.states() == {"bounced": 2}
    assert lab.sink.mails[-1] == "<>"


def test_success_is_reported_when_the_next_host_will_not(lab: Lab) -> None:
    async def story() -> None:
        lab.put(
            lab.out(f"a@{lab.live(1)}", NOTIFY="SUCCESS"), lab.out("bob@us.example", NOTIFY="SUCCESS,FAILURE")
        )
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    (note,) = notes(lab)  # d1 speaks DSN and reports itself
    assert b"Action: delivered" in note and b"Status: 2.0.0" in note


def test_mail_for_our_own_people(lab: Lab) -> None:
    lab.answers["full@us.example"] = FULL
    lab.answers["no@us.example"] = NOBODY

    async def story() -> None:
        lab.put(*(lab.out(f"{name}@us.example", sender=f"x@{lab.live(1)}") for name in ("bob", "full", "no")))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    items = by_recipient(lab)
    assert [items[f"{n}@us.example"].state for n in ("bob", "full", "no")] == ["sent", "queued", "bounced"]
    assert [recipient for _, recipient, _ in lab.sink.taken] == ["x@d1.example"]


# -- routes ------------------------------------------------------------------------------------------------------
def test_everything_through_the_relay_in_one_transaction(lab: Lab) -> None:
    lab.settings["relay"] = Relay("192.0.2.1", 2525)

    async def story() -> None:
        lab.put(*(lab.out(f"u@d{n}.example") for n in range(8)), lab.out("bob@us.example"))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert lab.states() == {"sent": 9} and [len(t) for t in lab.sink.transactions] == [8]
    assert [recipient for _, recipient, _ in lab.here] == ["bob@us.example"]
    assert lab.sink.tried == {"192.0.2.1": 1}


def test_a_relay_that_is_gone_never_bounces(lab: Lab) -> None:
    lab.settings["relay"] = Relay("relay.nowhere.example", 25)

    async def story() -> None:
        lab.put(*(lab.out(f"u@d{n}.example") for n in range(3)))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert lab.states() == {"queued": 3}


def test_lmtp_relay_answers_for_each(lab: Lab) -> None:
    lab.settings["relay"] = Relay("", 0, lmtp=True, path="/run/lmtp")
    lab.sink.moods[""] = Mood(lmtp=True, rcpt={"no@x.example": NOBODY})

    async def story() -> None:
        lab.put(*(lab.out(f"{n}@x.example") for n in ("a", "no", "b")))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    assert {r: i.state for r, i in by_recipient(lab).items() if i.kind != "dsn"} == {
        "a@x.example": "sent", "no@x.example": "bounced", "b@x.example": "sent",
    }  # fmt: skip


def test_domains_without_a_way(lab: Lab) -> None:
    async def story() -> None:
        lab.put(*(lab.out(f"u@{d}") for d in ("null.example", "missing.example", "later.example")))
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())
    items = by_recipient(lab)
    assert items["u@null.example"].state == items["u@missing.example"].state == "bounced"
    assert items["u@later.example"].state == "queued" and "4.4.3" in items["u@later.example"].last_reply


# -- the operator --------------------------------------------------------------------------------------------------
def test_held_bounced_and_dropped(lab: Lab) -> None:
    domain = lab.live(1)

    async def story() -> None:
        held, back, gone = lab.put(*(lab.out(f"{n}@{domain}") for n in ("held", "back", "gone")))
        journal = Journal(lab.queue)
        with journal.transaction():
            assert [
                journal.steer(a, lab.clock.now, name=n)
                for a, n in (("hold", held), ("bounce", back), ("drop", gone))
            ] == [1, 1, 1]
        async with lab.sending() as sender:
            await lab.quiet(sender)
            assert not lab.sink.taken and lab.states()["held"] == 1
            with journal.transaction():
                journal.steer("release", lab.clock.now, name=held)
            sender.wake()
            await lab.until(lambda: lab.states() == {"sent": 2, "bounced": 1, "dropped": 1})
        journal.close()

    asyncio.run(story())
    assert [r for _, r, _ in lab.sink.taken] == [f"held@{domain}"]
    assert b"returned by the postmaster" in notes(lab)[0]


def test_held_while_it_is_being_tried_stays_held(lab: Lab) -> None:
    domain = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(rcpt={"*": FULL})
    journal = Journal(lab.queue)

    async def story() -> None:
        (name,) = lab.put(lab.out(f"a@{domain}"))
        first = lab.sink.first

        async def meanwhile(hops: object) -> object:
            with journal.transaction():
                journal.steer("hold", lab.clock.now, name=name)
            return await first(hops)  # type: ignore[arg-type]  # passed on

        lab.sink.first = meanwhile  # type: ignore[method-assign,assignment]  # the operator acts while we connect
        async with lab.sending() as sender:
            await lab.until(lambda: lab.items()[0].attempts == 1)
            await lab.later(sender, 10_000)

    asyncio.run(story())
    assert lab.states() == {"held": 1}
    journal.close()


# -- stores that were not finished ---------------------------------------------------------------------------------
def test_unfinished_stores_are_rolled_forward(lab: Lab) -> None:
    lab.store_faults += [StoreUnavailable("busy"), RuntimeError("a bug")]

    async def story() -> None:
        journal = Journal(lab.queue)
        with journal.transaction():
            stores = [
                PendingStore("ann@us.example", f"Box{n}", NewMessage(b"x" * 10, key=b"k%d" % n))
                for n in range(3)
            ]
            names = journal.add((), stores, lab.clock.now).stores
            assert len(set(names)) == 3
        async with lab.sending() as sender:
            await lab.quiet(sender)
            assert not lab.stored  # the worker still has them for itself
            await lab.later(sender, 31)
            await lab.until(lambda: len(lab.stored) == 1)
            await lab.later(sender, 301)
            await lab.until(lambda: len(lab.stored) == 3)
            await lab.until(lambda: journal.agenda().store_at is None)
        journal.close()

    asyncio.run(story())
    assert sorted(p.mailbox for p in lab.stored) == ["Box0", "Box1", "Box2"]
    assert all(p.message.date == int(lab.clock.now) - 332 for p in lab.stored)


# -- processes ---------------------------------------------------------------------------------------------------
def test_a_second_sender_waits_for_the_first(lab: Lab) -> None:
    async def story() -> None:
        async with lab.sending() as sender:
            await lab.quiet(sender)
            second, stop = lab.sender(), asyncio.Event()
            waiting = asyncio.create_task(second.run(stop))
            lab.put(lab.out(f"a@{lab.live(1)}"))
            sender.wake()
            await lab.until(lambda: lab.states() == {"sent": 1})
            assert not waiting.done()
            stop.set()
            await waiting

    asyncio.run(story())


def test_the_spool_wakes_the_sender(lab: Lab) -> None:
    async def story() -> None:
        async with lab.sending() as sender:
            await lab.quiet(sender)
            door = spool(lab)
            await door.enqueue([lab.out(f"a@{lab.live(1)}")])
            await lab.until(lambda: lab.states() == {"sent": 1}, seconds=5)
            await asyncio.to_thread(door.close)

    asyncio.run(story())


def test_a_lost_text_still_comes_to_an_end(lab: Lab) -> None:
    async def story() -> None:
        lab.put(lab.out(f"a@{lab.live(1)}", data=TEXT + b"x" * 100_000))
        for path in lab.queue.glob("body-*"):
            path.unlink()
        async with lab.sending() as sender:
            await lab.quiet(sender)
            assert "cannot be read" in lab.items()[0].last_reply
            await lab.later(sender, 86_401)

    asyncio.run(story())
    assert lab.items()[0].state == "expired" and len(notes(lab)) == 1
