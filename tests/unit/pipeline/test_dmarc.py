"""DMARC: records, discovery, alignment, policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dmarc import (
    WALK,
    Authenticated,
    Discovery,
    Outcome,
    Record,
    author_domains,
    evaluate,
    parse,
    policy_for,
    sampled,
)
from pipeline.zone import Zone
from rules.mail.message import Message


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("v=DMARC1; p=reject", "reject"),
        ("v=DMARC1;p=Quarantine;", "quarantine"),
        ("v = DMARC1 ; p = none ; x=unknown; nonsense", "none"),
        ("v=DMARC1; sp=reject; p=none", "none"),
        ("v=DMARC1; rua=mailto:a@b.example", "none"),
        ("v=DMARC1; p=maybe; rua=mailto:a@b.example", "none"),
        ("v=DMARC1; p=reject; p=none", "reject"),
        ("v=DMARC1; p=reject; sp=maybe; rua=mailto:a@b.example", "none"),
        ("v=DMARC1; p=reject; sp=; np=None", "reject"),
    ],
)
def test_records(text: str, policy: str) -> None:
    record = parse(text, "d.example")
    assert record is not None
    assert record.policy == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=DMARC2; p=none",
        "p=none; v=DMARC1",
        "v=dmarc1; p=none",
        "v=DMARC12; p=none",
        "v=DMARC1; p=maybe",
        "v=DMARC1; p=reject; sp=maybe",
        "v=DMARC1; p=reject; np=; sp=nothing",
        "v=DMARC1; p=none;" + "x" * 5000,
    ],
)
def test_no_records(text: str) -> None:
    assert parse(text, "d.example") is None


def test_all_tags() -> None:
    text = "v=DMARC1; p=none; sp=quarantine; np=reject; adkim=s; aspf=S; pct=42; t=y; psd=n; fo=1; "
    text += "rua=mailto:a@b.example!10m, https://x; ruf=mailto:c@d.example"
    assert parse(text, "d.example") == Record(
        "d.example",
        "none",
        "quarantine",
        "reject",
        True,
        True,
        42,
        True,
        "n",
        ("mailto:a@b.example!10m",),
        ("mailto:c@d.example",),
        text,
        "1",
    )
    assert parse("v=DMARC1; p=none; pct=-1; adkim=x", "d") == Record(
        "d", text="v=DMARC1; p=none; pct=-1; adkim=x"
    )


def find(domain: str, zone: Zone, tree: bool = False) -> tuple[Discovery, list[str]]:
    found = Discovery(domain, tree)
    asked = []
    while not found.done:
        asked.append(found.name)
        found.give(zone.lookup(found.name, "TXT"))
    return found, asked


ZONE = Zone.parse(
    """
    _dmarc.example.co.uk TXT "v=DMARC1; p=reject; sp=none"
    _dmarc.own.example.co.uk TXT "v=DMARC1; p=quarantine"
    _dmarc.two.example TXT "v=DMARC1; p=reject"
    _dmarc.two.example TXT "v=DMARC1; p=none"
    _dmarc.mixed.example TXT "v=spf1 -all"
    _dmarc.mixed.example TXT "v=DMARC1; p=reject"
    _dmarc.slow.example TIMEOUT
    _dmarc.bank TXT "v=DMARC1; p=reject; psd=y"
    _dmarc.b.a.bank TXT "v=DMARC1; p=none; psd=n"
    """
)


@pytest.mark.parametrize(
    ("domain", "at", "asked"),
    [
        ("example.co.uk", "example.co.uk", 1),
        ("a.b.example.co.uk", "example.co.uk", 2),
        ("own.example.co.uk", "own.example.co.uk", 1),
        ("two.example", None, 1),
        ("mixed.example", "mixed.example", 1),
        ("nothing.example", None, 1),
    ],
)
def test_discovery_by_the_list(domain: str, at: str | None, asked: int) -> None:
    found, names = find(domain, ZONE)
    assert (found.record.domain if found.record else None) == at
    assert len(names) == asked


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (["v=DMARC1; p=none", "v=DMARC1; p=reject"], "2 DMARC records"),
        (["v=DMARC1; p=maybe"], "the DMARC record is broken"),
        (["v=DMARC1; p=none; sp=maybe", "v=spf1 -all"], "the DMARC record is broken"),
        (["v=DMARC1; adkim=s"], "the DMARC record has no p="),
        (["v=DMARC1"], "the DMARC record has no p="),
    ],
)
def test_what_is_published_in_vain_is_no_reason_to_ask_the_organisation(
    records: list[str], reason: str
) -> None:
    """RFC 7489 6.6.3 steps 3, 5, 6: DMARC processing is not applied."""
    zone = Zone()
    zone.add("_dmarc.example.org", "TXT", "v=DMARC1; p=reject")
    for text in records:
        zone.add("_dmarc.sub.example.org", "TXT", text)
    outcome = judge("sub.example.org", Authenticated("spf", "fail", "sub.example.org"), zone=zone)
    assert (outcome.result, outcome.policy, outcome.reason) == ("none", "none", reason)
    up, asked = find("sub.example.org", zone, tree=True)  # RFC 9989 4.10: discarded, and the walk goes on
    assert len(asked) == 3
    assert up.organisation == "example.org"


def test_discovery_up_the_tree() -> None:
    found, names = find("x.own.example.co.uk", ZONE, tree=True)
    assert found.record is not None
    assert (
        found.record.domain == "example.co.uk"
    )  # RFC 9989 4.10.1: the author's own, else the organisation's
    assert found.organisation == "example.co.uk"
    assert names[-1] == "_dmarc.uk"
    own, _ = find("own.example.co.uk", ZONE, tree=True)
    assert (own.record and own.record.domain, own.organisation) == ("own.example.co.uk", "example.co.uk")
    psd, _ = find("mail.a.bank", ZONE, tree=True)
    assert (psd.record and psd.record.domain, psd.organisation) == ("bank", "a.bank")
    stop, names = find("c.b.a.bank", ZONE, tree=True)
    assert (stop.organisation, names) == ("b.a.bank", ["_dmarc.c.b.a.bank", "_dmarc.b.a.bank"])
    assert len(find(".".join("abcdefghijklmnop"), ZONE, tree=True)[1]) == WALK


def test_a_public_suffix_speaks_for_its_own_mail_and_for_those_without_a_record() -> None:
    zone = Zone.parse(
        """
        _dmarc.bank TXT "v=DMARC1; p=reject; psd=y; sp=quarantine"
        _dmarc.x.b.bank TXT "v=DMARC1; p=none"
        """
    )
    own, names = find("bank", zone, tree=True)
    assert (own.record and own.record.domain, own.organisation, names) == ("bank", "bank", ["_dmarc.bank"])
    below, _ = find(
        "y.x.b.bank", zone, tree=True
    )  # what lies between is neither the author's nor the organisation's
    assert (below.record and below.record.domain, below.organisation) == ("bank", "b.bank")


@pytest.mark.parametrize(
    ("record", "identifier", "result"),
    [
        ("", "a.cust.host.example", "pass"),
        ("_dmarc.cust.host.example TXT v=DMARC1; p=none", "a.cust.host.example", "pass"),
        ("_dmarc.cust.host.example TXT v=DMARC1; p=none; psd=n", "a.cust.host.example", "fail"),
        ("_dmarc.cust.host.example TXT v=DMARC1; p=none; psd=n", "cust.host.example", "fail"),
        ("_dmarc.cust.host.example TXT v=DMARC1; p=none; psd=y", "a.cust.host.example", "fail"),
        ("_dmarc.cust.host.example TXT v=DMARC1; p=none; psd=n", "host.example", "pass"),
        ("_dmarc.cust.host.example SERVFAIL", "a.cust.host.example", "pass"),
    ],
)
def test_a_part_of_the_tree_may_be_an_organisation_of_its_own(
    record: str, identifier: str, result: str
) -> None:
    zone = Zone.parse(f"_dmarc.host.example TXT v=DMARC1; p=reject\n{record}\n")
    found, _ = find("host.example", zone, tree=True)
    identifiers = [Authenticated("dkim", "pass", identifier)]
    for one in found.branches(identifiers):
        found.give_branch(one, [zone.lookup(name, "TXT") for name in found.branch(one)])
    assert evaluate(found, identifiers).result == result


def judge(domain: str, *identifiers: Authenticated, zone: Zone = ZONE) -> Outcome:
    return evaluate(find(domain, zone)[0], identifiers)


@pytest.mark.parametrize(
    ("record", "method", "domain", "result"),
    [
        ("", "spf", "example.org", "pass"),
        ("", "spf", "bounce.example.org", "pass"),
        ("", "dkim", "Mail.Example.Org", "pass"),
        ("", "dkim", "notexample.org", "fail"),
        ("", "dkim", "org", "fail"),
        ("", "spf", "", "fail"),
        ("aspf=s", "spf", "bounce.example.org", "fail"),
        ("aspf=s", "spf", "example.org", "pass"),
        ("aspf=s", "dkim", "mail.example.org", "pass"),
        ("adkim=s", "dkim", "mail.example.org", "fail"),
    ],
)
def test_alignment(record: str, method: str, domain: str, result: str) -> None:
    zone = Zone()
    zone.add("_dmarc.example.org", "TXT", "v=DMARC1; p=reject; " + record)
    assert judge("example.org", Authenticated(method, "pass", domain), zone=zone).result == result


def test_nobody_is_aligned_with_a_public_suffix() -> None:
    zone = Zone.parse('_dmarc.co.uk TXT "v=DMARC1; p=reject"')
    assert judge("co.uk", Authenticated("spf", "pass", "evil.co.uk"), zone=zone).result == "fail"


def test_results() -> None:
    spf = Authenticated("spf", "fail", "example.co.uk")
    assert judge("example.co.uk", spf).policy == "reject"
    assert judge("a.example.co.uk", spf).policy == "none"
    assert judge("nothing.example", spf).result == "none"
    assert judge("slow.example", spf).result == "temperror"
    unsure = Authenticated("dkim", "temperror", "example.co.uk")
    assert judge("example.co.uk", spf, unsure).result == "temperror"
    assert judge("example.co.uk", unsure, Authenticated("spf", "pass", "example.co.uk")).result == "pass"
    both = judge(
        "example.co.uk",
        Authenticated("dkim", "pass", "example.co.uk"),
        Authenticated("spf", "pass", "example.co.uk"),
    )
    assert (both.spf_aligned, both.dkim_aligned) == (True, True)


def test_np_sp_pct_t() -> None:
    record = parse("v=DMARC1; p=reject; sp=quarantine; np=none; pct=50", "example.org")
    assert record is not None
    assert policy_for(record, "example.org") == "reject"
    assert policy_for(record, "a.example.org") == "quarantine"
    assert policy_for(record, "a.example.org", exists=False) == "none"
    assert [sampled(record, "reject", chance) for chance in (0, 49, 50, 99)] == [
        "reject",
        "reject",
        "quarantine",
        "quarantine",
    ]
    testing = parse("v=DMARC1; p=quarantine; t=y", "example.org")
    assert testing is not None
    assert sampled(testing, "quarantine", 0) == "none"
    assert sampled(testing, "none", 99) == "none"


@pytest.mark.parametrize(
    ("fields", "domains", "problem"),
    [
        (b"From: a@Example.ORG\r\n", ("example.org",), ""),
        (b"From: a@x.example, b@x.example\r\n", ("x.example",), ""),
        (b"From: a@x.example, b@y.example\r\n", ("x.example", "y.example"), ""),
        (b"From: =?utf-8?q?a=40evil.example?= <b@x.example>\r\n", ("x.example",), ""),
        ("From: a@bücher.example\r\n".encode(), ("xn--bcher-kva.example",), ""),
        (b"From: a@x.example\r\nFrom: b@x.example\r\n", (), "2 From fields"),
        (b"To: x\r\n", (), "no From field"),
        (b"From: \r\n", (), "From has no address"),
        (b"From: nobody\r\n", (), "From has no domain"),
        (b"From: a@[192.0.2.1]\r\n", (), None),
        (
            b"From: " + b", ".join(b"a@d%d.example" % at for at in range(50)) + b"\r\n",
            (),
            "From has 50 domains",
        ),
    ],
)
def test_author_domains(fields: bytes, domains: tuple[str, ...], problem: str | None) -> None:
    found = author_domains(Message(fields + b"\r\n"))
    if problem is not None:
        assert found == (domains, problem)


@given(st.text(max_size=120))
def test_parsing_never_raises(text: str) -> None:
    record = parse("v=DMARC1;" + text, "d.example")
    assert record is None or record.policy in ("none", "quarantine", "reject")
