"""What `filterd check` says."""

from __future__ import annotations

import asyncio

from pipeline import checks
from pipeline.adapters.crypto import generate
from pipeline.adapters.dkimpy import sign
from pipeline.registry import StageContext
from pipeline.zone import Zone, ZoneResolver

MESSAGE = b"From: a@good.example\r\nSubject: hi\r\n\r\nbody\r\n"
SENDER = checks.Sender("192.0.2.9", "mx.good.example", "bounce@good.example")


class Ports:
    def time(self) -> float:
        return 4e9

    def monotonic(self) -> float:
        return 0.0

    def token(self, octets: int) -> str:
        return "0" * 2 * octets


KEY = generate("ed25519")
ZONE = Zone.parse(
    """
    good.example TXT "v=spf1 ip4:192.0.2.1 -all exp=why.good.example"
    why.good.example TXT "ask us"
    _dmarc.good.example TXT "v=DMARC1; p=reject"
    """
)
ZONE.add("s._domainkey.good.example", "TXT", KEY.record())


def context() -> StageContext:
    return StageContext(Ports(), Ports(), ZoneResolver(ZONE), "mx.our.example")


def test_spf() -> None:
    report = asyncio.run(checks.spf(context(), SENDER))
    assert report.result == "fail"
    assert report.header == (
        "Authentication-Results: mx.our.example; "
        "spf=fail (good.example does not allow 192.0.2.9) smtp.mailfrom=bounce@good.example; "
        "spf=none smtp.helo=mx.good.example"
    )
    assert report.lines[-1] == "the domain explains: ask us"


def test_dkim_of_a_file_with_lf() -> None:
    signed = (sign(MESSAGE, "good.example", "s", KEY) + MESSAGE).replace(b"\r\n", b"\n")
    report = asyncio.run(checks.dkim(context(), signed))
    assert report.result == "pass"
    assert report.header.startswith(
        "Authentication-Results: mx.our.example; dkim=pass (256-bit key) header.d=good.example header.s=s "
    )
    assert asyncio.run(checks.dkim(context(), MESSAGE)).header.endswith("; dkim=none")


def test_dmarc_and_arc() -> None:
    signed = sign(MESSAGE, "good.example", "s", KEY) + MESSAGE
    report = asyncio.run(checks.dmarc(context(), signed, SENDER))
    assert report.result == "pass"
    assert report.header.endswith("; dmarc=pass (p=reject dis=none) header.from=good.example")
    assert asyncio.run(checks.dmarc(context(), MESSAGE, SENDER)).result == "fail"
    assert asyncio.run(checks.dmarc(context(), signed, checks.Sender())).result == "pass"
    assert asyncio.run(checks.arc(context(), MESSAGE)).result == "none"
