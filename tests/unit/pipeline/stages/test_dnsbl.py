"""The dnsbl stage."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.envelope import Client, Envelope, Profile
from pipeline.errors import PipelineError
from pipeline.registry import StageContext
from pipeline.stages.dnsbl import DnsblSettings, DnsblStage, parse_list
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message

ZONE = Zone.parse(
    """
    9.2.0.192.zen.example A 127.0.0.4
    9.2.0.192.other.example A 127.0.0.2
    9.2.0.192.two.example A 127.0.0.2
    9.2.0.192.two.example A 127.0.0.10
    9.2.0.192.refusing.example A 127.255.255.254
    9.2.0.192.wrong.example A 192.0.2.80
    9.2.0.192.slow.example TIMEOUT
    spammer.test.dbl.example A 127.0.1.2
    """
)
ZONE.add("9." + "0." * 23 + "8.b.d.0.1.0.0.2.zen.example", "A", "127.0.0.4")


class Ports:
    def time(self) -> float:
        return 1e9

    def monotonic(self) -> float:
        return 0.0

    def token(self, octets: int) -> str:
        return "0" * 2 * octets


def run(
    settings: DnsblSettings, ip: str | None = "192.0.2.9", mail_from: str = "a@x.test", **client: str
) -> Verdict:
    stage = DnsblStage(settings, StageContext(Ports(), Ports(), ZoneResolver(ZONE), "mx"))
    who = Client(ip=ip, helo=client.get("helo", "h.test"), auth=client.get("auth", ""))
    what = Transaction(Message(b"\r\n"), Envelope(mail_from, (), who, Profile.MX), "trace", 0.0)
    verdict = asyncio.run(stage.check(what))
    assert stage.quick(what) in (verdict, None)
    return verdict


@pytest.mark.parametrize(
    ("lists", "score", "names"),
    [
        (("zen.example",), "1", "zen.example"),
        (("zen.example=2.5", "other.example=1"), "3.5", "zen.example other.example"),
        (("zen.example=2:127.0.0.2-3,127.0.0.9",), "0", ""),
        (("zen.example=2:127.0.0.2-127.0.0.11",), "2", "zen.example"),
        (("refusing.example", "wrong.example", "slow.example", "absent.example"), "0", ""),
        (("domain:dbl.example",), "0", ""),
        (("two.example=3:127.0.0.2", "two.example=1:127.0.0.10"), "4", "two.example"),
        (
            ("two.example=3:127.0.0.2", "two.example=1:127.0.0.11", "zen.example"),
            "4",
            "two.example zen.example",
        ),
    ],
)
def test_scores(lists: tuple[str, ...], score: str, names: str) -> None:
    verdict = run(DnsblSettings(lists=lists))
    assert (verdict.tags["dnsbl.score"], verdict.tags["dnsbl.lists"]) == (score, names)


def test_domains_and_ipv6() -> None:
    lists = DnsblSettings(lists=("domain:dbl.example=2",))
    assert run(lists, mail_from="a@mail.spammer.test").tags["dnsbl.score"] == "2"
    assert run(lists, mail_from="", helo="www.spammer.test").tags["dnsbl.score"] == "2"
    assert run(DnsblSettings(lists=("zen.example",)), "2001:db8::9").tags["dnsbl.score"] == "1"
    assert run(DnsblSettings(lists=("zen.example",)), "::ffff:192.0.2.9").tags["dnsbl.score"] == "1"


@pytest.mark.parametrize(
    "helo", ["[192.0.2.9]", "192.0.2.9", "[IPv6:2001:db8::9]", "localhost", "a b.test", "x.test/"]
)
def test_no_list_of_domains_is_asked_for_what_is_no_domain(helo: str) -> None:
    stage_zone = ZoneResolver(ZONE)
    stage = DnsblStage(
        DnsblSettings(lists=("domain:dbl.example",)), StageContext(Ports(), Ports(), stage_zone, "mx")
    )
    who = Client(ip="192.0.2.9", helo=helo)
    what = Transaction(Message(b"\r\n"), Envelope("", (), who, Profile.MX), "trace", 0.0)
    asyncio.run(stage.check(what))
    assert stage_zone.asked == []


@pytest.mark.parametrize("code", ["127.255.255.252", "127.255.255.255", "127.0.0.1", "127.0.1.255"])
def test_a_list_that_refuses_to_answer_lists_nobody(code: str) -> None:
    assert not parse_list("z.example").counts(code)
    assert parse_list(f"z.example=1:{code}").counts(code) != code.startswith("127.255.")


def test_what_is_done() -> None:
    lists = ("zen.example=2", "other.example=3")
    assert run(DnsblSettings(lists=lists, junk_at=0)).disposition is Disposition.CONTINUE
    assert run(DnsblSettings(lists=lists)).disposition is Disposition.QUARANTINE
    refused = run(DnsblSettings(lists=lists, reject_at=5))
    assert refused.disposition is Disposition.REJECT
    assert refused.reply is not None
    assert refused.reply.text.endswith("zen.example, other.example")


def test_a_list_that_cannot_be_asked_is_named() -> None:
    verdict = run(DnsblSettings(lists=("slow.example", "refusing.example")))
    assert verdict.result == "clean"
    assert "timeout" in verdict.evidence["slow.example"]
    assert "127.255.255.254" in verdict.evidence["refusing.example"]


def test_who_is_not_asked_for() -> None:
    settings = DnsblSettings(lists=("zen.example",))
    assert run(DnsblSettings()).summary == "no lists configured"
    assert run(settings, ip=None).result == "none"
    assert run(settings, ip="127.0.0.1").summary == "exempt network"
    assert run(settings, ip="::ffff:127.0.0.1").summary == "exempt network"
    assert run(settings, auth="ann").summary == "authenticated"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zen",
        "a..b",
        "zen.example=x",
        "zen.example=1:127.0.0.300",
        "zen.example=1:x",
        "z.example=1:127.0.0.2-300",
        "z.example=1:127.0.0.9-2",
    ],
)
def test_bad_lists(text: str) -> None:
    with pytest.raises(PipelineError):
        parse_list(text)
