"""The greylist stage."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.errors import PipelineError
from pipeline.registry import StageContext
from pipeline.stages.greylist import (
    GreylistSettings,
    GreylistStage,
    Limits,
    Row,
    network_of,
    step,
    triplets,
)
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message

TEXT = Message(b"From: a@x.test\r\n\r\nhi\r\n")
EMPTY = Message(b"")
LIMITS = Limits(300, 1000, 10_000)


class Ports:
    def __init__(self) -> None:
        self.now = 1e9

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def token(self, octets: int) -> str:
        return "0" * 2 * octets


class Rig:
    def __init__(self, **settings: object) -> None:
        self.clock = Ports()
        context = StageContext(self.clock, Ports(), ZoneResolver(Zone()), "mx")
        self.stage = GreylistStage(GreylistSettings(enabled=True, **settings), context)  # type: ignore[arg-type]

    def ask(
        self,
        sender: str = "a@x.test",
        to: str = "ann@here.test",
        ip: str | None = "192.0.2.9",
        message: Message = EMPTY,
        **client: object,
    ) -> Verdict:
        who = Client(ip=ip, **client)  # type: ignore[arg-type]
        envelope = Envelope(sender, (Recipient(to),), who, Profile.MX)
        return asyncio.run(self.stage.check(Transaction(message, envelope, "trace", 0.0)))


def test_a_new_sender_waits_and_then_passes() -> None:
    rig = Rig()
    first = rig.ask()
    assert first.disposition is Disposition.TEMPFAIL
    assert first.reply is not None
    assert (first.reply.code, first.reply.enhanced_code) == (451, "4.7.1")
    rig.clock.now += 200
    assert rig.ask().result == "wait"
    rig.clock.now += 101
    assert rig.ask(ip="192.0.2.200").result == "pass"  # a neighbour of the first host
    assert rig.ask(message=TEXT).result == "pass"
    assert rig.ask(to="bob@here.test").result == "wait"
    assert rig.ask(ip="198.51.100.1").result == "wait"


def test_a_network_that_proved_itself_is_not_asked_any_more() -> None:
    rig = Rig(auto_exempt=2)
    for to in ("ann", "bob"):
        rig.ask(to=to)
        rig.clock.now += 301
        rig.ask(to=to)
    assert rig.ask(to="new").result == "exempt"


def test_who_is_not_asked() -> None:
    rig = Rig()
    assert rig.ask(auth="ann@here.test").result == "skipped"
    assert rig.ask(ip="127.0.0.1").result == "skipped"
    assert rig.ask(ip=None).result == rig.ask(facts_trusted=False).result == "none"
    assert rig.ask(sender="").result == "none"  # a call-back at RCPT
    assert rig.ask(sender="", message=TEXT).result == "wait"
    off = GreylistStage(GreylistSettings(), StageContext(Ports(), Ports(), ZoneResolver(Zone()), "mx"))
    what = Transaction(TEXT, Envelope("a@x", (), Client(ip="192.0.2.1"), Profile.MX), "t", 0.0)
    assert asyncio.run(off.check(what)).result == "skipped"
    with pytest.raises(PipelineError):
        Rig(exempt=("moo",))


def test_steps() -> None:
    row, wait = step(None, 0, LIMITS)
    assert (row, wait) == (Row(0, 0), 300)
    assert step(row, 299, LIMITS) == (Row(0, 299), 1)
    passed, wait = step(row, 300, LIMITS)
    assert (passed, wait) == (Row(0, 300, True), 0)
    assert step(row, 1001, LIMITS) == (Row(1001, 1001), 300)  # came too late
    assert step(passed, 10_300, LIMITS)[1] == 0
    assert step(passed, 10_301, LIMITS)[1] == 300  # not heard of for too long
    assert step(Row(500, 500), 100, LIMITS)[1] == 300  # the clock was put back


def test_what_varies_in_a_sender_is_left_out() -> None:
    def key(sender: str) -> bytes:
        return triplets(Envelope(sender, (Recipient("a@b"),), Client(), Profile.MX))[0]

    assert key("bounce-12345-ann=here@list.test") == key("bounce-99-ann=here@list.test")
    assert key("prvs=1234abcdef=ann@x.test") == key("ann@x.test") == key("Ann+tag@x.test")
    assert key("ann@x.test") != key("bob@x.test") != key("bob@y.test")
    assert network_of("2001:db8:1:2:3::4") == "2001:db8:1:2::/64"
    assert network_of("::ffff:192.0.2.77") == "192.0.2.0/24"
