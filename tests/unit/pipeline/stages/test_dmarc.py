"""The dmarc stage: what is done, and what softens it."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.adapters.pyspf import SpfResult
from pipeline.dkim.arc import ArcResult, ArcSet
from pipeline.dkim.verify import SignatureResult
from pipeline.dmarc import Observation
from pipeline.envelope import Client, Envelope, Profile
from pipeline.registry import StageContext
from pipeline.stages.dmarc import DmarcSettings, DmarcStage
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message

ZONE = Zone.parse(
    """
    _dmarc.bank.example TXT "v=DMARC1; p=reject; np=reject; sp=none"
    www.bank.example A 192.0.2.1
    _dmarc.shop.example TXT "v=DMARC1; p=quarantine"
    _dmarc.open.example TXT "v=DMARC1; p=none"
    _dmarc.half.example TXT "v=DMARC1; p=reject; pct=0"
    _dmarc.try.example TXT "v=DMARC1; p=reject; t=y"
    _dmarc.slow.example TIMEOUT
    _dmarc.tenant.bank.example TXT "v=DMARC1; p=none; psd=n"
    """
)
CLIENT = Client(ip="192.0.2.9", helo="mx.example", name="out.forward.example")


class Ports:
    def time(self) -> float:
        return 1e9

    def monotonic(self) -> float:
        return 0.0

    def token(self, octets: int) -> str:
        return "0" * 2 * octets


def run(
    domain: str,
    settings: DmarcSettings | None = None,
    client: Client = CLIENT,
    header: bytes = b"",
    **state: object,
) -> Verdict:
    stage = DmarcStage(settings or DmarcSettings(), StageContext(Ports(), Ports(), ZoneResolver(ZONE), "mx"))
    message = Message(b"From: a@" + domain.encode() + b"\r\n" + header + b"\r\n\r\n")
    what = Transaction(message, Envelope("x@y.example", (), client, Profile.MX), "trace", 0.0)
    what.state.update(state)
    verdict = asyncio.run(stage.check(what))
    again = stage.quick(what)
    assert again is None or again == verdict
    return verdict


def done(verdict: Verdict) -> tuple[str, Disposition, str]:
    return verdict.result, verdict.disposition, verdict.tags.get("dmarc.disposition", "")


@pytest.mark.parametrize(
    ("domain", "settings", "disposition", "said"),
    [
        ("bank.example", DmarcSettings(), Disposition.REJECT, "reject"),
        ("bank.example", DmarcSettings(reject="junk"), Disposition.QUARANTINE, "quarantine"),
        ("bank.example", DmarcSettings(reject="note"), Disposition.CONTINUE, "none"),
        ("www.bank.example", DmarcSettings(), Disposition.CONTINUE, "none"),  # sp=
        ("nowhere.bank.example", DmarcSettings(), Disposition.REJECT, "reject"),  # np=
        ("shop.example", DmarcSettings(), Disposition.QUARANTINE, "quarantine"),
        ("shop.example", DmarcSettings(quarantine="note"), Disposition.CONTINUE, "none"),
        ("open.example", DmarcSettings(), Disposition.CONTINUE, "none"),
        ("half.example", DmarcSettings(), Disposition.QUARANTINE, "quarantine"),
    ],
)
def test_a_failure(domain: str, settings: DmarcSettings, disposition: Disposition, said: str) -> None:
    verdict = run(domain, settings)
    assert done(verdict) == ("fail", disposition, said)
    (result,) = verdict.authres
    assert (result.method, result.result, result.properties) == ("dmarc", "fail", (("header.from", domain),))
    assert f"dis={said}" in result.comment
    if disposition is Disposition.REJECT:
        assert verdict.reply is not None
        assert (verdict.reply.code, verdict.reply.enhanced_code) == (550, "5.7.26")


def test_what_was_softened_and_which_policy_was_applied_is_said() -> None:
    softened = run("try.example")
    assert done(softened)[1] is Disposition.QUARANTINE
    assert softened.tags["dmarc.override"] == "policy_test_mode"
    assert run("half.example").tags["dmarc.override"] == "sampled_out"
    assert run("nowhere.bank.example").authres[0].comment == "p=reject dis=reject"  # np=, not sp=
    assert run("www.bank.example").authres[0].comment == "p=none dis=none"


def test_a_pass_by_either() -> None:
    spf = SpfResult("pass", "mailfrom", "bounce.bank.example")
    dkim = [SignatureResult("fail", domain="bank.example"), SignatureResult("pass", domain="bank.example")]
    assert run("bank.example", spf=spf).summary == "SPF vouches for bank.example"
    assert run("bank.example", dkim=dkim).summary == "DKIM vouches for bank.example"
    assert run("bank.example", dkim=dkim, spf=spf).summary == "SPF and DKIM vouch for bank.example"
    assert run("bank.example", spf=SpfResult("pass", "mailfrom", "other.example")).result == "fail"


def test_lists_are_at_most_junk() -> None:
    signed = [SignatureResult("pass", domain="lists.example")]
    assert (
        done(run("bank.example", header=b"List-Id: <l.lists.example>\r\n", dkim=signed))[1]
        is Disposition.QUARANTINE
    )
    assert done(run("bank.example", header=b"List-Id: <l.lists.example>\r\n"))[1] is Disposition.REJECT
    assert done(run("bank.example", dkim=signed))[1] is Disposition.REJECT
    other = [SignatureResult("pass", domain="other.example")]
    header = b"List-Id: Some list <l.lists.example>\r\n"
    assert done(run("bank.example", header=header, dkim=other))[1] is Disposition.REJECT
    covering = [SignatureResult("pass", domain="other.example", headers=(b"from", b"list-id"))]
    assert done(run("bank.example", header=header, dkim=covering))[1] is Disposition.QUARANTINE
    assert done(run("bank.example", header=header * 2, dkim=covering))[1] is Disposition.REJECT


def test_what_aggregate_reports_hear() -> None:
    heard: list[Observation] = []
    context = StageContext(Ports(), Ports(), ZoneResolver(ZONE), "mx")
    stage = DmarcStage(DmarcSettings(), context, heard.append)
    for domain, client in (
        ("bank.example", CLIENT),
        ("none.example", CLIENT),  # no record
        ("slow.example", CLIENT),
        ("bank.example", Client(ip="192.0.2.9", facts_trusted=False)),
    ):
        message = Message(b"From: a@" + domain.encode() + b"\r\n\r\n\r\n")
        what = Transaction(message, Envelope("x@Y.example", (), client, Profile.MX), "trace", 0.0)
        what.state["spf"] = SpfResult("softfail", "mailfrom", "y.example")
        asyncio.run(stage.check(what))
    (one,) = heard
    assert (one.outcome.domain, one.disposition, one.ip, one.envelope_from) == (
        "bank.example",
        "reject",
        "192.0.2.9",
        "y.example",
    )
    assert [(i.method, i.result, i.note) for i in one.identifiers] == [("spf", "softfail", "mailfrom")]


@pytest.mark.parametrize(
    ("results", "sealer", "disposition"),
    [
        ("mx; dmarc=pass", "forward.example", Disposition.CONTINUE),
        ("mx; dmarc=fail", "forward.example", Disposition.QUARANTINE),
        ("mx; dmarc=pass", "evil.example", Disposition.REJECT),
    ],
)
def test_trusted_sealers(results: str, sealer: str, disposition: Disposition) -> None:
    settings = DmarcSettings(trusted_sealers=("forward.example",))
    chain = ArcResult("pass", "", (ArcSet(1, sealer, "s", "none", results),))
    assert run("bank.example", settings, arc=chain).disposition is disposition
    broken = ArcResult("fail", "x", chain.sets)
    assert run("bank.example", settings, arc=broken).disposition is Disposition.REJECT


def test_a_seal_below_an_untrusted_one_is_not_believed() -> None:
    settings = DmarcSettings(trusted_sealers=("forward.example",))
    sets = (
        ArcSet(1, "forward.example", "s", "none", "mx; dmarc=pass"),
        ArcSet(2, "evil.example", "s", "pass", "mx; dmarc=pass"),
    )
    assert run("bank.example", settings, arc=ArcResult("pass", "", sets)).disposition is Disposition.REJECT


def test_exempt() -> None:
    settings = DmarcSettings(exempt=("forward.example",))
    verdict = run("bank.example", settings)
    assert done(verdict) == ("fail", Disposition.CONTINUE, "none")
    assert verdict.tags["dmarc.override"] == "trusted_forwarder"
    assert run("bank.example", settings, Client(ip="192.0.2.1")).disposition is Disposition.REJECT


def test_unknown_clients_can_only_pass() -> None:
    for client in (Client(ip=None), Client(ip="192.0.2.1", facts_trusted=False)):
        assert done(run("bank.example", client=client))[:2] == ("none", Disposition.CONTINUE)
        signed = [SignatureResult("pass", domain="bank.example")]
        assert run("bank.example", client=client, dkim=signed).result == "pass"
    assert run("bank.example", client=Client(ip="192.0.2.1", auth="ann")).result == "skipped"


@pytest.mark.parametrize(
    ("settings", "disposition"),
    [
        (DmarcSettings(), Disposition.QUARANTINE),
        (DmarcSettings(malformed_from="note"), Disposition.CONTINUE),
        (DmarcSettings(malformed_from="reject"), Disposition.REJECT),
    ],
)
def test_malformed_from(settings: DmarcSettings, disposition: Disposition) -> None:
    verdict = run("bank.example", settings, header=b"From: b@open.example\r\n")
    assert (verdict.result, verdict.disposition, verdict.summary) == (
        "permerror",
        disposition,
        "2 From fields",
    )


def test_the_strictest_of_several_authors_counts() -> None:
    spf = SpfResult("pass", "mailfrom", "open.example")
    verdict = run("open.example, b@bank.example", spf=spf)
    assert (verdict.disposition, verdict.tags["dmarc.domain"]) == (Disposition.REJECT, "bank.example")


def test_dns_failure() -> None:
    assert done(run("slow.example"))[:2] == ("temperror", Disposition.CONTINUE)
    verdict = run("slow.example", DmarcSettings(temperror="defer"))
    assert verdict.disposition is Disposition.TEMPFAIL
    assert verdict.reply is not None
    assert verdict.reply.code == 451


def test_without_from_or_from_our_own_machines_nothing_is_junk() -> None:
    def ask(message: bytes, client: Client = CLIENT) -> Verdict:
        stage = DmarcStage(DmarcSettings(), StageContext(Ports(), Ports(), ZoneResolver(ZONE), "mx"))
        what = Transaction(Message(message), Envelope("x@y.example", (), client, Profile.MX), "trace", 0.0)
        return asyncio.run(stage.check(what))

    assert done(ask(b"Subject: x\r\n\r\n")) == ("permerror", Disposition.CONTINUE, "")
    assert done(ask(b"From: root\r\n\r\n")) == ("permerror", Disposition.QUARANTINE, "")
    assert done(ask(b"From: root\r\n\r\n", Client(ip=None))) == ("permerror", Disposition.CONTINUE, "")


@pytest.mark.parametrize(
    ("discovery", "signer", "result"),
    [
        ("list", "tenant.bank.example", "pass"),
        ("tree", "tenant.bank.example", "fail"),
        ("tree", "www.bank.example", "pass"),
    ],
)
def test_who_has_an_organisation_of_his_own_vouches_for_nobody_above(
    discovery: str, signer: str, result: str
) -> None:
    passed = [SignatureResult("pass", domain=signer)]
    assert run("bank.example", DmarcSettings(discovery=discovery), dkim=passed).result == result
