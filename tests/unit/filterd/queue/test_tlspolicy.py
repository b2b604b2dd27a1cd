"""Which demand each hop gets, and that the sender asks for it; REQUIRETLS on its way through the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from filterd.config.load import parse
from filterd.queue.advice import advice
from filterd.queue.link import Link
from filterd.queue.mtasts import StsCache
from filterd.queue.replies import RemoteReply
from filterd.queue.route import Hop
from filterd.queue.sender import Sender
from filterd.queue.tlsdemand import Demand, Level, TlsResult
from filterd.queue.tlspolicy import TlsPolicies, Wish
from filterd.transport import wishes_of
from pipeline.zone import Zone, ZoneResolver
from tests.queuelab import HandClock, Lab, Sink

GOOD = "3 1 1 " + "ab" * 32
STS = "version: STSv1\nmode: enforce\nmx: mx.x.example\nmax_age: 1000\n"


def policies(
    tmp_path: Path,
    word: str = "dane",
    wishes: dict[str, Wish] | None = None,
    sts: str = "",
    authentic: bool = False,
    tlsa: str = "",
) -> TlsPolicies:
    zone = Zone({"x.example": [("MX", "10 mx.x.example")], "mx.x.example": [("A", "192.0.2.1")]})
    zone.authentic = authentic
    if tlsa:
        zone.add("_25._tcp.mx.x.example", "TLSA", tlsa)
    if sts:
        zone.add("_mta-sts.x.example", "TXT", '"v=STSv1; id=1"')
        zone.add("mta-sts.x.example", "A", "192.0.2.1")

    def fetch(domain: str, addresses: Sequence[str]) -> str:
        return sts

    resolver = ZoneResolver(zone)
    cache = StsCache(tmp_path / "mtasts.db", resolver, HandClock(), fetch)
    return TlsPolicies(resolver, word, wishes or {}, cache)


def demand(made: TlsPolicies, hop: Hop | None = None, domain: str = "x.example") -> Demand | None:
    (found,) = asyncio.run(made.guard(domain, [hop or Hop("mx.x.example", "192.0.2.1")]))
    return found.demand


@pytest.mark.parametrize(
    ("given", "level", "kind"),
    [
        ({}, Level.TRY, "no-policy-found"),
        ({"tlsa": GOOD}, Level.TRY, "no-policy-found"),
        ({"tlsa": GOOD, "authentic": True}, Level.DANE, "tlsa"),
        ({"tlsa": "0 0 1 " + "ab" * 32, "authentic": True}, Level.ENCRYPT, "tlsa"),
        ({"sts": STS}, Level.NAMED, "sts"),
        ({"sts": STS.replace("enforce", "none")}, Level.TRY, "no-policy-found"),
        ({"sts": "nonsense"}, Level.TRY, "sts"),
        ({"sts": STS, "tlsa": GOOD, "authentic": True}, Level.DANE, "tlsa"),
        ({"word": "secure"}, Level.NAMED, "no-policy-found"),
        ({"word": "secure", "tlsa": GOOD, "authentic": True}, Level.DANE, "tlsa"),
        ({"word": "secure", "sts": STS}, Level.NAMED, "sts"),
        ({"word": "opportunistic", "tlsa": GOOD, "authentic": True}, Level.TRY, None),
        ({"word": "none", "sts": STS}, Level.NEVER, None),
    ],
)
def test_demands(tmp_path: Path, given: dict[str, object], level: Level, kind: str | None) -> None:
    found = demand(policies(tmp_path, **given))  # type: ignore[arg-type]  # its parameters
    assert found is not None and found.level is level and not found.problem
    assert (found.policy.kind if found.policy else None) == kind


def test_hosts_that_must_not_be_used(tmp_path: Path) -> None:
    broken = demand(policies(tmp_path, tlsa="SERVFAIL", authentic=True))
    assert broken is not None and broken.must and broken.result is TlsResult.DNSSEC_INVALID
    other = demand(policies(tmp_path, sts=STS.replace("mx.x", "mx.y")))
    assert other is not None and other.must and "does not name" in other.problem
    testing = demand(
        policies(tmp_path / "other", sts=STS.replace("mx.x", "mx.y").replace("enforce", "testing"))
    )
    assert testing is not None and not testing.must and not testing.problem


def test_the_operators_words(tmp_path: Path) -> None:
    made = policies(
        tmp_path,
        wishes={".x.example": Wish("none"), "a.x.example": Wish("secure"), "y.example": Wish("none")},
    )
    words = {
        name: made.wish(name).word
        for name in ("x.example", "b.x.example", "c.b.x.example", "A.X.example", "sub.y.example")
    }
    assert list(words.values()) == ["dane", "none", "none", "secure", "dane"]


def test_hops_of_our_own_choice(tmp_path: Path) -> None:
    store = Hop("localhost", "", 0, "/run/lmtp", True, ours=True)
    near = Hop("relay.example", "127.0.0.1", ours=True)
    far = Hop("mx.x.example", "192.0.2.1", ours=True)  # documentation addresses count as private
    assert demand(policies(tmp_path, "secure"), store) is None
    assert demand(policies(tmp_path, "secure"), near) is None
    assert demand(policies(tmp_path, tlsa=GOOD, authentic=True), far) is None
    public = Hop("mx.x.example", "9.9.9.9", ours=True)
    found = demand(policies(tmp_path, tlsa=GOOD, authentic=True), public, "other.example")
    assert found is not None and found.level is Level.DANE and found.policy is None
    named = demand(policies(tmp_path, wishes={"relay.example": Wish("secure")}), near)
    assert named is not None and named.level is Level.NAMED and named.names == ("relay.example",)


def test_an_address_literal_has_no_policy(tmp_path: Path) -> None:
    found = demand(policies(tmp_path), Hop("[192.0.2.1]", "192.0.2.1"), "[192.0.2.1]")
    assert found is not None and found.level is Level.TRY


def test_the_configuration() -> None:
    config = parse(
        '[server]\nhostname = "us.example"\n[[domain]]\nname = "us.example"\n[queue]\ntls = "opportunistic"\n'
        '[[queue.tls_policy]]\ndomain = ".Partner.example"\n[[queue.tls_policy]]\ndomain = "b.example"\ntls = "secure"\n'
        'names = [".Out.example"]\n'
    )
    assert config.queue.tls == "opportunistic" and not config.queue.tls_reports
    assert wishes_of(config) == {
        ".partner.example": Wish("secure"),
        "b.example": Wish("secure", (".out.example",)),
    }


@dataclass
class Watching(Sink):
    """Keeps the demands that it is given."""

    demands: list[Demand | None] = field(default_factory=list)

    async def first(self, hops: Sequence[Hop]) -> Link | RemoteReply:
        self.demands += [hop.demand for hop in hops]
        return await super().first(hops)


@dataclass
class Guarded(Lab):
    """With policies of TLS."""

    def sender(self) -> Sender:
        sender = super().sender()
        sender.tls = policies(self.directory, "secure")
        return sender


def test_the_sender_asks_for_the_demands(tmp_path: Path) -> None:
    sink = Watching()
    lab = Guarded(tmp_path, sink=sink)
    name = lab.live(7)
    lab.put(lab.out(f"bob@{name}"))

    async def go() -> None:
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(go())
    assert [one.level if one else None for one in sink.demands] == [Level.NAMED]
    assert lab.states() == {"sent": 1}


def test_mail_that_requires_tls_comes_back(tmp_path: Path) -> None:
    """The hosts of the laboratory prove nothing: 5.7.30, and a notification that carries the wish on (RFC 8689 5)."""
    lab = Lab(tmp_path)
    name = lab.live(8)
    lab.put(lab.out(f"bob@{name}", sender=f"ann@{lab.live(9)}", REQUIRETLS="", RET="FULL"))

    async def go() -> None:
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(go())
    first, report = sorted(lab.items(), key=lambda item: item.number)
    assert first.state == "bounced" and "5.7.30" in first.last_reply
    assert "REQUIRETLS" in advice(first.last_reply)
    assert (report.state, report.kind, "REQUIRETLS" in report.params) == ("sent", "dsn", True)
    ((_, _, text),) = lab.sink.taken
    assert b"text/rfc822-headers" in text and b"\r\nbody\r\n" not in text
