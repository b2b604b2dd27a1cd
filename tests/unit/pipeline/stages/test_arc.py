"""The arc stage."""

from __future__ import annotations

import asyncio

from pipeline.adapters.crypto import generate
from pipeline.dkim.arc import ArcResult
from pipeline.dkim.seal import seal
from pipeline.envelope import Client, Envelope, Profile
from pipeline.registry import StageContext
from pipeline.stages.arc import ArcSettings, ArcStage
from pipeline.transaction import Transaction
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message

MESSAGE = b"From: a@good.example\r\nSubject: hi\r\n\r\nbody\r\n"


class Ports:
    def time(self) -> float:
        return 1.7e9

    def monotonic(self) -> float:
        return 0.0

    def token(self, octets: int) -> str:
        return "0" * 2 * octets


def transaction(data: bytes, auth: str = "") -> Transaction:
    envelope = Envelope("a@good.example", (), Client(ip="192.0.2.1", auth=auth), Profile.MX)
    return Transaction(Message(data), envelope, "trace", 0.0)


def test_none_pass_and_fail() -> None:
    key = generate("ed25519")
    zone = Zone()
    zone.add("s._domainkey.hop.example", "TXT", key.record())
    stage = ArcStage(ArcSettings(), StageContext(Ports(), Ports(), ZoneResolver(zone), "mx"))
    none = stage.quick(transaction(MESSAGE))
    assert none is not None
    assert (none.result, none.authres) == ("none", ())
    results = "hop.example; dmarc=pass"
    sealed = (
        seal(MESSAGE, "hop.example", "s", key, results=results, chain=ArcResult("none"), now=1.7e9) + MESSAGE
    )
    what = transaction(sealed)
    assert stage.quick(what) is None
    verdict = asyncio.run(stage.check(what))
    assert (verdict.result, verdict.summary) == ("pass", "sealed by hop.example")
    assert verdict.tags["arc.sealers"] == "hop.example"
    assert "subject" in verdict.tags["arc.signed"].split()
    assert isinstance(what.state["arc"], ArcResult)
    assert stage.quick(what) == verdict
    bad = asyncio.run(stage.check(transaction(sealed + b"x\r\n")))
    assert (bad.result, bad.tags["arc.signed"]) == ("fail", "")
    assert [one.result for one in bad.authres] == ["fail"]
    assert asyncio.run(stage.check(transaction(sealed, auth="ann"))).result == "skipped"
