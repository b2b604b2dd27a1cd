"""ARC: chains of our own making, broken in every way; dkimpy as the second verifier."""

from __future__ import annotations

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.crypto import PrivateKey, generate
from pipeline.dkim.arc import ArcResult, ArcSet, ArcVerification
from pipeline.dkim.seal import seal
from pipeline.zone import Zone
from rules.mail.header import scan
from tests.cost import cpu

NOW = 1_700_000_000.0
MESSAGE = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=x.example\r\n"
    b"From: Ann <ann@example.org>\r\nTo: b@example.net\r\nSubject: x\r\n\r\nHello  there \r\n\r\n"
)


def zone(key: PrivateKey) -> Zone:
    made = Zone()
    made.add("s._domainkey.hop.example", "TXT", key.record())
    made.add("slow._domainkey.hop.example", "TIMEOUT")
    return made


def verify(message: bytes, answers: Zone) -> ArcResult:
    block = scan(message)
    chain = ArcVerification(block, NOW)
    for name in chain.wanted():
        chain.give(name, answers.lookup(name, "TXT"))
    if chain.needs_body():
        chain.feed(message[block.body_start :])
    return chain.result()


def hop(message: bytes, key: PrivateKey, results: str = "hop.example; spf=pass; dmarc=pass") -> bytes:
    chain = verify(message, zone(key))
    return seal(message, "hop.example", "s", key, results=results, chain=chain, now=NOW) + message


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_chain_grows(kind: str) -> None:
    key = generate(kind)
    answers = zone(key)
    message = MESSAGE
    assert verify(message, answers).result == "none"
    for count in range(1, 6):
        message = hop(message, key)
        result = verify(message, answers)
        assert (result.result, result.reason, len(result.sets)) == ("pass", "", count)
        assert [one.status for one in result.sets] == ["none", *["pass"] * (count - 1)]
        assert result.sets[0].says("dmarc", "pass")
        assert b"from" in result.headers
        assert b"dkim-signature" in result.headers
        if kind == "rsa":
            text = key.record().encode()
            oracle = dkim.ARC(message).verify(dnsfunc=lambda name, timeout=5, text=text: text)
            assert oracle[0] == dkim.CV_Pass


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate("ed25519")


@pytest.fixture(scope="module")
def three(key: PrivateKey) -> bytes:
    message = MESSAGE
    for _ in range(3):
        message = hop(message, key)
    return message


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"Hello", b"hello", "body changed"),
        (b"Ann", b"Eve", "Message-Signature does not verify"),
        (b"dmarc=pass", b"dmarc=fail", "Seal"),
        (b"cv=none", b"cv=pass", "cv=pass"),
        (b"cv=pass", b"cv=none", "cv=none"),
        (b"cv=pass", b"cv=fail", "had failed"),
        (b"cv=pass", b"cv=maybe", "cv= is not"),
        (b"ARC-Seal: i=2", b"X-Seal: i=2", "not complete"),
        (b"ARC-Seal: i=3", b"ARC-Seal: i=2", "two ARC-Seal"),
        (b"ARC-Seal: i=3", b"ARC-Seal: i=51", "out of range"),
        (b"ARC-Seal: i=3", b"ARC-Seal: i=0", "out of range"),
        (b"ARC-Seal: i=3", b"ARC-Seal: h=from; i=3", "has h="),
        (b"ARC-Authentication-Results: i=3;", b"ARC-Authentication-Results: i=3", "without i="),
        (b"ARC-Message-Signature: i=3", b"ARC-Message-Signature: i=x", "not a number"),
    ],
)
def test_a_broken_chain_fails(three: bytes, key: PrivateKey, old: bytes, new: bytes, why: str) -> None:
    assert old in three
    result = verify(three.replace(old, new, 1), zone(key))
    assert result.result == "fail"
    assert why in result.reason


def test_dns_failure_and_no_key(three: bytes, key: PrivateKey) -> None:
    slow = Zone()
    slow.add("s._domainkey.hop.example", "SERVFAIL")
    assert verify(three, slow).result == "temperror"
    assert verify(three, Zone()).result == "fail"


def test_a_failed_chain_is_sealed_once(three: bytes, key: PrivateKey) -> None:
    broken = three.replace(b"Hello", b"hello")
    sealed = hop(broken, key)
    assert b"ARC-Seal: i=4; a=ed25519-sha256; cv=fail;" in sealed
    assert hop(sealed, key) == sealed
    assert "had failed" in verify(sealed, zone(key)).reason


def test_what_the_results_say() -> None:
    one = ArcSet(
        1, "d", "s", "none", 'mx; spf=pass (dmarc=pass); dkim=fail reason="; dmarc=pass"; Arc=Pass x=y'
    )
    assert one.says("spf", "pass")
    assert one.says("arc", "pass")
    assert not one.says("dmarc", "pass")


@pytest.mark.parametrize(
    "results",
    [
        r'mx; spf=none smtp.mailfrom="\"x; dmarc=pass ; y\"@evil.example"',
        r'mx; spf=none smtp.mailfrom="\"x\\\"; dmarc=pass ; y\"@evil.example"',
        "mx; spf=none (says (x) ; dmarc=pass ;)",
        r"mx; spf=none (domain of x\) ; dmarc=pass ;)",
        'mx; spf=none reason="never closed ; dmarc=pass ;',
        "mx; spf=none (never (closed) ; dmarc=pass ;",
        "dmarc=pass ; spf=none",
    ],
)
def test_what_a_stranger_put_into_the_results_is_not_said_by_the_sealer(results: str) -> None:
    """The first is what we write ourselves of MAIL FROM:<"x; dmarc=pass ; y"@evil.example>."""
    assert not ArcSet(1, "d", "s", "none", results).says("dmarc", "pass")
    assert ArcSet(1, "d", "s", "none", "mx 1; " + 'a="; b" (c (d)) ;dmarc=pass (e)').says("dmarc", "pass")


def test_comments_may_stand_around_the_instance(three: bytes, key: PrivateKey) -> None:
    """RFC 8617 4.2.1: instance = [CFWS] "i" [CFWS] "=" [CFWS] value."""
    head = b"ARC-Authentication-Results: i=3;"
    odd = b"ARC-Authentication-Results: (a (b)) i (c)\r\n = (;) 3 ;"
    assert head in three
    result = verify(three.replace(head, odd, 1), zone(key))
    assert "does not verify" in result.reason  # it was signed otherwise, but it was read
    assert len(result.sets) == 3
    given_up = seal(
        three.replace(head, odd, 1), "hop.example", "s", key, results="mx; none", chain=result, now=NOW
    )
    assert b"ARC-Seal: i=4;" in given_up


def test_fifty_sets_and_not_one_more(key: PrivateKey) -> None:
    message = MESSAGE
    for _ in range(50):
        message = hop(message, key)
    assert (verify(message, zone(key)).result, len(verify(message, zone(key)).sets)) == ("pass", 50)
    assert hop(message, key) == message
    newest = message[: message.index(b"ARC-Seal: i=49")].replace(b"i=50;", b"i=51;")
    assert verify(newest + message, zone(key)).reason == "more than 50 ARC sets"
    middle = message.replace(b"i=25; a=ed25519-sha256; cv=pass", b"i=25; a=ed25519-sha256; cv=fail")
    assert verify(middle, zone(key)).reason == "the seal 25 says that the chain had failed"
    assert hop(middle, key) == middle


def test_hostile_chains_cost_little() -> None:
    many = b"".join(
        b"ARC-Seal: i=%d; cv=none; a=rsa-sha256; d=e.org; s=s; b=AA==\r\n" % at for at in range(5000)
    )
    large = b"ARC-Authentication-Results: i=1; " + b"x " * 500_000 + b"\r\n"
    blanks = b"ARC-Authentication-Results: i" + b" \t" * 7_000 + b"x\r\n"
    hostile = [head + MESSAGE for head in (many, large, blanks)]
    assert [verify(one, Zone()).result for one in hostile] == ["fail"] * 3
    assert cpu(lambda: [verify(one, Zone()) for one in hostile]) < 0.3


@given(
    st.lists(
        st.sampled_from(
            [
                b"ARC-Seal:",
                b"ARC-Message-Signature:",
                b"ARC-Authentication-Results:",
                b"i=1;",
                b"i=2;",
                b"cv=none;",
                b"a=rsa-sha256;",
                b"d=e.org;",
                b"s=s;",
                b"b=AA==;",
                b"bh=AA==;",
                b"h=a;",
                b"\r\n",
                b"=",
                b"\xff",
            ]
        ),
        max_size=40,
    )
)
def test_never_raises(parts: list[bytes]) -> None:
    assert verify(b" ".join(parts) + b"\r\n" + MESSAGE, Zone()).result in (
        "none",
        "fail",
        "temperror",
        "pass",
    )
