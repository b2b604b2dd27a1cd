"""The dkim stage: what it says of several signatures, from the cache and not."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.adapters.crypto import PrivateKey, generate
from pipeline.adapters.dkimpy import sign
from pipeline.dkim.verify import SignatureResult
from pipeline.envelope import Client, Envelope, Profile
from pipeline.registry import StageContext
from pipeline.stages.dkim import INLINE, DkimSettings, DkimStage
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message

MESSAGE = b"From: a@good.example\r\nSubject: hi\r\n\r\nbody\r\n"


class Ports:
    def time(self) -> float:
        return 4e9  # after whatever the signatures say

    def monotonic(self) -> float:
        return 0.0

    def token(self, octets: int) -> str:
        return "0" * 2 * octets


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate("ed25519")


@pytest.fixture
def zone(key: PrivateKey) -> Zone:
    zone = Zone()
    zone.add("s1._domainkey.good.example", "TXT", key.record())
    zone.add("s1._domainkey.list.example", "TXT", key.record() + "; t=y")
    zone.add("s1._domainkey.slow.example", "TIMEOUT")
    return zone


def stage(zone: Zone, settings: DkimSettings | None = None, warm: bool = False) -> DkimStage:
    context = StageContext(Ports(), Ports(), ZoneResolver(zone, warm), "mx.our.example")
    return DkimStage(settings or DkimSettings(), context)


def transaction(data: bytes, auth: str = "") -> Transaction:
    envelope = Envelope("a@good.example", (), Client(ip="192.0.2.1", auth=auth), Profile.MX)
    return Transaction(Message(data), envelope, "trace", 0.0)


def test_not_signed(zone: Zone) -> None:
    verdict = stage(zone).quick(transaction(MESSAGE))
    assert verdict is not None
    assert (verdict.result, verdict.summary, verdict.tags["dkim.pass"]) == ("none", "not signed", "")
    assert [one.result for one in verdict.authres] == ["none"]


def test_authenticated_is_skipped(zone: Zone) -> None:
    verdict = asyncio.run(stage(zone).check(transaction(MESSAGE, auth="ann")))
    assert (verdict.result, verdict.summary) == ("skipped", "authenticated")


def test_several_signatures(zone: Zone, key: PrivateKey) -> None:
    fields = [sign(MESSAGE, domain, "s1", key) for domain in ("good.example", "list.example", "slow.example")]
    what = transaction(b"".join(fields) + MESSAGE)
    one = stage(zone)
    assert one.quick(what) is None
    verdict = asyncio.run(one.check(what))
    assert (verdict.result, verdict.disposition) == ("pass", Disposition.CONTINUE)
    assert verdict.summary == "signed by good.example (selector s1), list.example (selector s1)"
    assert [answer.result for answer in verdict.authres] == ["pass", "pass", "temperror"]
    assert dict(verdict.authres[0].properties) == {
        "header.d": "good.example",
        "header.s": "s1",
        "header.a": "ed25519-sha256",
        "header.b": dict(verdict.authres[0].properties)["header.b"],
    }
    assert verdict.tags["dkim.pass"] == "good.example list.example"
    assert verdict.tags["dkim.signed"] == "date from subject to"
    assert "test mode" in verdict.evidence["signature 2"]
    state = what.state["dkim"]
    assert isinstance(state, list)
    assert all(isinstance(result, SignatureResult) for result in state)
    assert one.quick(what) == verdict


def test_a_changed_body(zone: Zone, key: PrivateKey) -> None:
    what = transaction(sign(MESSAGE, "good.example", "s1", key) + MESSAGE + b"more\r\n")
    verdict = stage(zone, warm=True).quick(what)
    assert verdict is not None
    assert verdict.result == "fail"
    assert verdict.summary == "body changed after signing: good.example (selector s1)"
    assert verdict.tags["dkim.pass"] == ""


def test_large_bodies_give_others_a_turn(zone: Zone, key: PrivateKey) -> None:
    message = MESSAGE + b"0123456789abcdef \r\n" * (3 * INLINE // 19)
    what = transaction(sign(message, "good.example", "s1", key) + message)
    one = stage(zone, warm=True)
    assert one.quick(what) is None

    async def story() -> int:
        turns = 0
        task = asyncio.create_task(one.check(what))
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await task).result == "pass"
        return turns

    assert asyncio.run(story()) >= 3


def test_short_keys_can_be_refused() -> None:
    key = generate("rsa", 1024)
    zone = Zone()
    zone.add("s1._domainkey.good.example", "TXT", key.record())
    what = transaction(sign(MESSAGE, "good.example", "s1", key) + MESSAGE)
    for bits, result in ((1024, "pass"), (2048, "policy")):
        verdict = stage(zone, DkimSettings(min_rsa_bits=bits), warm=True).quick(what)
        assert verdict is not None
        assert verdict.result == result
