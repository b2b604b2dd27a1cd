"""Every kind of TLSA record against chains of every kind, and where records are looked for."""

from __future__ import annotations

import asyncio

import pytest
from cryptography import x509

from filterd.queue import dane
from filterd.queue.dane import State
from filterd.queue.tlsdemand import Tlsa, TlsResult
from pipeline.ports import DnsAnswer, DnsStatus, Resolver
from tests.tlslab import NOW, Cert

ROOT = Cert("root", ca=True)
MIDDLE = Cert("middle", ROOT, ca=True)
LEAF = Cert("mx", MIDDLE, names=("mx.x.example",))
CHAIN = [LEAF.der, MIDDLE.der, ROOT.der]
NAMES = ("mx.x.example", "x.example")


def record(text: str) -> Tlsa:
    found = dane.parse(text)
    assert found is not None
    return found


def judged(*records: str, chain: list[bytes] | None = None, names: tuple[str, ...] = NAMES) -> TlsResult:
    found = [record(text) for text in records]
    assert all(dane.usable(one) for one in found)
    return dane.judge(dane.strongest(found), CHAIN if chain is None else chain, names, NOW).result


@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize(("usage", "owner"), [(3, LEAF), (2, MIDDLE), (2, ROOT)])
def test_every_combination_that_is_used(usage: int, owner: Cert, selector: int, matching: int) -> None:
    assert judged(owner.tlsa(usage, selector, matching)) is TlsResult.OK


@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("usage", [2, 3])
def test_another_certificate_matches_none(usage: int, selector: int, matching: int) -> None:
    other = Cert("other", ca=True)
    expected = TlsResult.FAILURE if usage == 3 else TlsResult.UNTRUSTED
    assert judged(other.tlsa(usage, selector, matching)) is expected


@pytest.mark.parametrize(
    "text",
    [
        LEAF.tlsa(0, 0, 1),
        LEAF.tlsa(1, 1, 1),
        LEAF.tlsa(3, 1, 1).replace("3 1 1", "3 2 1"),
        LEAF.tlsa(3, 1, 1).replace("3 1 1", "3 1 3"),
        LEAF.tlsa(3, 1, 1).replace("3 1 1", "255 1 1"),
        "3 1 1 abcd",
        "3 1 2 " + "ab" * 32,
        "3 0 0 abcdef",
        "3 1 0 " + LEAF.der.hex(),
        "2 0 0 " + "00" * 20_000,
    ],
    ids=range(10),  # the keys are new in each process
)
def test_records_that_say_nothing_to_a_mail_sender(text: str) -> None:
    assert not dane.usable(record(text))


@pytest.mark.parametrize(
    "text", ["", "3 1 1", "3 1 x ab", "3 1 1 xy", "3 1 1 ab cd", "-3 1 1 ab", "3 1 ¹ ab"]
)
def test_what_is_no_record(text: str) -> None:
    assert dane.parse(text) is None


def test_dane_ee_ignores_names_and_dates() -> None:
    old = Cert("whoever", names=("elsewhere.example",), start=-30, days=-1)
    assert judged(old.tlsa(3, 1, 1), chain=[old.der]) is TlsResult.OK


def test_dane_ta_does_not() -> None:
    old = Cert("mx", ROOT, names=NAMES, start=-30, days=-1)
    early = Cert("mx", ROOT, names=NAMES, start=1)
    other = Cert("mx", ROOT, names=("elsewhere.example",))
    anchor = ROOT.tlsa(2, 0, 1)
    assert judged(anchor, chain=[old.der, ROOT.der]) is TlsResult.EXPIRED
    assert judged(anchor, chain=[early.der, ROOT.der]) is TlsResult.UNTRUSTED
    assert judged(anchor, chain=[other.der, ROOT.der]) is TlsResult.MISMATCH


@pytest.mark.parametrize(
    ("presented", "good"),
    [
        (("x.example",), True),
        (("*.x.example",), True),
        (("MX.X.example",), True),
        (("*.example",), False),
        (("m*.x.example",), False),
        (("*",), False),
        (("a.mx.x.example",), False),
        ((), True),  # the common name counts when there is no other (RFC 7672 3.2.2)
    ],
)
def test_names_of_dane_ta(presented: tuple[str, ...], good: bool) -> None:
    leaf = Cert("mx.x.example", ROOT, names=presented)
    found = judged(ROOT.tlsa(2, 1, 1), chain=[leaf.der, ROOT.der])
    assert found is (TlsResult.OK if good else TlsResult.MISMATCH)


def test_an_anchor_need_not_be_sent_when_it_is_published_whole() -> None:
    assert judged(ROOT.tlsa(2, 0, 0), chain=CHAIN[:2]) is TlsResult.OK
    assert judged(ROOT.tlsa(2, 0, 1), chain=CHAIN[:2]) is TlsResult.UNTRUSTED


def test_the_order_of_the_chain_does_not_matter_and_strangers_in_it_neither() -> None:
    stranger = Cert("stranger", ca=True)
    assert judged(ROOT.tlsa(2, 0, 1), chain=[LEAF.der, stranger.der, ROOT.der, MIDDLE.der]) is TlsResult.OK


def test_a_leaf_is_no_trust_anchor() -> None:
    own = Cert("mx.x.example", names=NAMES, ca=True)
    assert judged(own.tlsa(2, 0, 1), chain=[own.der]) is TlsResult.UNTRUSTED


def test_an_anchor_that_is_only_shown_signs_nothing() -> None:
    """The anchor is public: showing it beside a chain of one's own proves nothing."""
    forged_root = Cert("root", ca=True, key_name="forger")
    leaf = Cert("mx", forged_root, names=NAMES)
    assert judged(ROOT.tlsa(2, 0, 1), chain=[leaf.der, forged_root.der, ROOT.der]) is TlsResult.UNTRUSTED


@pytest.mark.parametrize(
    "middle",
    [
        Cert("middle", ROOT, ca=False),
        Cert("middle", ROOT, ca=True, constrained=False),
        Cert("middle", ROOT, ca=True, days=-0.5),
        Cert("middle", ROOT, ca=True, server=False),
        Cert(
            "middle",
            ROOT,
            ca=True,
            extra=[(x509.NameConstraints([x509.DNSName("other.example")], None), True)],
        ),
        Cert(
            "middle",
            ROOT,
            ca=True,
            extra=[
                (
                    x509.KeyUsage(True, False, False, False, False, False, False, False, False),
                    True,
                )
            ],
        ),
    ],
)
def test_what_may_not_issue(middle: Cert) -> None:
    leaf = Cert("mx", middle, names=NAMES)
    assert judged(ROOT.tlsa(2, 0, 1), chain=[leaf.der, middle.der, ROOT.der]) is not TlsResult.OK


def test_the_length_of_a_path_is_obeyed() -> None:
    root = Cert("short", ca=True, path_length=0)
    middle = Cert("middle", root, ca=True)
    leaf, direct = Cert("mx", middle, names=NAMES), Cert("mx", root, names=NAMES)
    assert judged(root.tlsa(2, 0, 1), chain=[direct.der, root.der]) is TlsResult.OK
    assert judged(root.tlsa(2, 0, 1), chain=[leaf.der, middle.der, root.der]) is TlsResult.UNTRUSTED


def test_a_tangle_of_certificates_costs_little() -> None:
    """Nine authorities of one name and key issue each other: a million paths, none to the anchor."""
    tangle = [Cert("knot", ca=True, days=30 + at) for at in range(9)]
    leaf = Cert("mx", tangle[0], names=NAMES)
    found = dane.judge([record(ROOT.tlsa(2, 0, 1))], [leaf.der, *(one.der for one in tangle)], NAMES, NOW)
    assert found.result is TlsResult.UNTRUSTED and "tangled" in found.text


def test_garbage_for_a_certificate() -> None:
    for chain in ([], [b""], [b"garbage"], [LEAF.der, b"garbage"]):
        found = dane.judge([record(ROOT.tlsa(2, 0, 1)), record(ROOT.tlsa(3, 1, 1))], chain, NAMES, NOW)
        assert found.result is not TlsResult.OK


def test_of_two_digests_the_stronger_counts() -> None:
    """RFC 7671 9: who published SHA-512 too is not to be attacked by SHA-256."""
    strong, weak = ROOT.tlsa(3, 1, 2), LEAF.tlsa(3, 1, 1)
    assert judged(weak) is TlsResult.OK
    assert judged(strong, weak) is TlsResult.FAILURE
    assert judged(strong, LEAF.tlsa(3, 0, 1)) is TlsResult.OK  # another selector


class Secure(Resolver):
    """Answers from a table: (name, type) -> (records, authentic); None: the look-up fails."""

    def __init__(self, table: dict[tuple[str, str], tuple[tuple[str, ...], bool] | None]) -> None:
        self.table = table
        self.asked: list[tuple[str, str]] = []

    async def query(self, name: str, rdtype: str) -> DnsAnswer:
        self.asked.append((name, rdtype))
        found = self.table.get((name, rdtype), ((), True))
        if found is None:
            return DnsAnswer(DnsStatus.TEMPORARY, reason="SERVFAIL")
        records, authentic = found
        return DnsAnswer(DnsStatus.OK if records else DnsStatus.NODATA, records, authentic)

    def cached(self, name: str, rdtype: str) -> DnsAnswer | None:
        return None


def looked_up(table: dict[tuple[str, str], tuple[tuple[str, ...], bool] | None]) -> dane.Found:
    return asyncio.run(dane.lookup(Secure(table), "mx.x.example", 25))


GOOD = LEAF.tlsa(3, 1, 1)
HERE = ("_25._tcp.mx.x.example", "TLSA")
ADDRESS = ("mx.x.example", "A")


@pytest.mark.parametrize(
    ("records", "authentic", "state"),
    [
        ((GOOD,), True, State.USABLE),
        ((GOOD, "0 0 1 abcd"), True, State.USABLE),
        ((GOOD,), False, State.ABSENT),
        ((), True, State.ABSENT),
        ((LEAF.tlsa(1, 1, 1), "3 9 9 00"), True, State.UNUSABLE),
        (("nonsense",), True, State.UNUSABLE),
    ],
)
def test_what_a_look_up_finds(records: tuple[str, ...], authentic: bool, state: State) -> None:
    found = looked_up({ADDRESS: (("192.0.2.1",), True), HERE: (records, authentic)})
    assert (found.state, found.base) == (state, "mx.x.example")


def test_a_failed_look_up_is_not_the_absence_of_records() -> None:
    assert looked_up({ADDRESS: (("192.0.2.1",), True), HERE: None}).state is State.BROKEN


def test_nothing_is_asked_below_an_insecure_address() -> None:
    """RFC 7672 2.2.2: such zones often fail for TLSA, and mail would stop for nothing."""
    resolver = Secure({ADDRESS: (("192.0.2.1",), False), HERE: None})
    assert asyncio.run(dane.lookup(resolver, "mx.x.example", 25)).state is State.ABSENT
    assert HERE not in resolver.asked


def test_aliases() -> None:
    """RFC 7672 2.1.3, 2.2.2: first where secure CNAMEs lead, then the name itself."""
    alias = {("mx.x.example", "CNAME"): (("real.y.example",), True)}
    there = ("_25._tcp.real.y.example", "TLSA")
    target = {("real.y.example", "A"): (("192.0.2.1",), True)}
    assert looked_up({**alias, **target, there: ((GOOD,), True)}).base == "real.y.example"
    assert looked_up({**alias, **target, HERE: ((GOOD,), True)}).base == "mx.x.example"
    insecure = {("real.y.example", "A"): (("192.0.2.1",), False)}
    assert looked_up({**alias, **insecure, HERE: ((GOOD,), True)}).state is State.USABLE
    assert looked_up({**alias, **insecure, there: ((GOOD,), True)}).state is State.ABSENT
    unsigned = {("mx.x.example", "CNAME"): (("real.y.example",), False)}
    assert looked_up({**unsigned, **insecure, HERE: ((GOOD,), True)}).state is State.ABSENT
    loop = {("mx.x.example", "CNAME"): (("mx.x.example",), True)}
    assert looked_up({**loop, HERE: ((GOOD,), True)}).state is State.ABSENT
