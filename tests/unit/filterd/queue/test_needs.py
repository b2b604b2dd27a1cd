"""REQUIRETLS asks every exchanger before it comes back; TLS-Required: No goes past what the domain has published (RFC 8689)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from filterd.queue import needs
from filterd.queue.base import Outgoing
from filterd.queue.link import Link
from filterd.queue.needs import Need, need_of
from filterd.queue.replies import RemoteReply
from filterd.queue.route import Hop
from filterd.queue.rows import TAGGED, TLS_REQUIRED
from filterd.queue.sender import Sender
from filterd.queue.tlsdemand import Demand, Level
from filterd.queue.tlspolicy import TlsPolicies
from pipeline.batv import DAY, Batv
from pipeline.reply import Reply
from pipeline.zone import Zone, ZoneResolver
from rules.mail.header import scan
from tests.queuelab import Lab, Mood, Sink

ZONE = """
x.example      MX  10 mx1.x.example
x.example      MX  20 mx2.x.example
mx1.x.example  A   192.0.2.1
mx2.x.example  A   192.0.2.2
"""
FIRST, SECOND = "192.0.2.1", "192.0.2.2"


@dataclass
class Hosts(Sink):
    """``offers``: addresses of hosts that know REQUIRETLS and prove who they are."""

    offers: set[str] = field(default_factory=set)
    levels: list[Level | None] = field(default_factory=list)

    async def first(self, hops: Sequence[Hop]) -> Link | RemoteReply:
        self.levels.append(hops[0].demand.level if hops[0].demand else None)
        for hop in hops:
            if hop.demand is not None and hop.demand.problem:
                continue
            found = await Sink.first(self, [hop])
            if isinstance(found, Link):
                if hop.address in self.offers:
                    found.talk.proven = True
                    found.talk.features["REQUIRETLS"] = ""
                return found
        return RemoteReply(451, ("4.4.1 nobody",))


class Refusing(TlsPolicies):
    """The domain has published what no host of it meets."""

    async def guard(self, domain: str, hops: Sequence[Hop], loose: bool = False) -> Sequence[Hop]:
        if loose:
            return await super().guard(domain, hops, loose)
        return [replace(hop, demand=Demand(Level.DANE, "DANE", problem="no record")) for hop in hops]


@dataclass
class Guarded(Lab):
    def sender(self) -> Sender:
        sender = super().sender()
        sender.tls = Refusing(ZoneResolver(self.zone))
        return sender


def lab_of(kind: type[Lab], folder: Path, *offers: str) -> Lab:
    return kind(folder, sink=Hosts(offers=set(offers)), zone=Zone.parse(ZONE))


def loose(lab: Lab) -> Outgoing:
    return replace(lab.out("bob@x.example"), params={TLS_REQUIRED: "no"})


def run(lab: Lab) -> None:
    async def story() -> None:
        async with lab.sending() as sender:
            await lab.quiet(sender)

    asyncio.run(story())


def test_the_second_exchanger_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(Lab, tmp_path, SECOND)
    lab.put(lab.out("bob@x.example", REQUIRETLS=""))
    closed: list[str] = []

    async def close(link: Link) -> None:
        closed.append(link.hop.name)
        link.wire.abort()

    monkeypatch.setattr(Link, "close", close)
    run(lab)
    assert lab.states() == {"sent": 1}
    assert [address for address, _, _ in lab.sink.taken] == [SECOND]
    assert "mx1.x.example" in closed  # no connection is left behind
    assert not any(lab.sink.open.values())


def test_nobody_offers_it(tmp_path: Path) -> None:
    lab = lab_of(Lab, tmp_path)
    lab.put(lab.out("bob@x.example", REQUIRETLS=""))
    run(lab)
    item = lab.items()[0]
    assert item.state == "bounced" and "5.7.30" in item.last_reply
    assert lab.sink.tried == {FIRST: 1, SECOND: 1} and not any(lab.sink.open.values())


def test_who_might_offer_it_cannot_be_reached(tmp_path: Path) -> None:
    """It waits; other mail for the domain goes."""
    lab = lab_of(Lab, tmp_path)
    lab.sink.moods[SECOND] = Mood(dead=True)
    lab.put(lab.out("bob@x.example", REQUIRETLS=""), lab.out("carl@x.example", data=b"Subject: 2\r\n\r\n"))
    run(lab)
    waits, sent = lab.items()
    assert (waits.state, sent.state) == ("queued", "sent")
    assert waits.attempts == 1 and waits.last_reply.startswith("451")


def test_a_dead_domain_rests_as_a_whole(tmp_path: Path) -> None:
    lab = lab_of(Lab, tmp_path)
    lab.sink.moods[FIRST] = lab.sink.moods[SECOND] = Mood(dead=True)
    for number in range(8):
        lab.put(lab.out(f"b{number}@x.example", data=b"Subject: %d\r\n\r\n" % number, REQUIRETLS=""))
    run(lab)
    assert lab.states() == {"queued": 8} and lab.sink.tried[FIRST] <= 3


def test_tls_required_no_goes_past_what_the_domain_says(tmp_path: Path) -> None:
    lab = lab_of(Guarded, tmp_path)
    sink = lab.sink
    assert isinstance(sink, Hosts)
    lab.put(loose(lab), lab.out("carl@x.example"))
    run(lab)
    assert [(item.recipient, item.state) for item in lab.items()] == [
        ("bob@x.example", "sent"),
        ("carl@x.example", "queued"),
    ]
    assert {Level.TRY, Level.DANE} == set(sink.levels)


def test_a_loose_connection_is_not_used_for_others(tmp_path: Path) -> None:
    """Other mail that comes while such a connection lingers opens its own."""
    lab = lab_of(Guarded, tmp_path)

    async def story() -> None:
        lab.put(loose(lab))
        async with lab.sending() as sender:
            await lab.until(lambda: bool(lab.sink.taken))
            lab.put(lab.out("carl@x.example"))
            sender.wake()
            await lab.until(lambda: any(item.attempts for item in lab.items()[1:]))

    asyncio.run(story())
    assert [recipient for _, recipient, _ in lab.sink.taken] == ["bob@x.example"]


@pytest.mark.parametrize(
    ("header", "params", "found"),
    [
        (b"TLS-Required: No\r\n", {}, "no"),
        (b"tls-required:  no \r\n", {}, "no"),
        (b"TLS-Required: yes\r\n", {}, None),
        (b"TLS-Required: No\r\nTLS-Required: No\r\n", {}, None),
        (b"TLS-Required: No\r\n", {"REQUIRETLS": ""}, None),  # RFC 8689 3: void then
        (b"Subject: x\r\n\r\nTLS-Required: No\r\n", {}, None),
    ],
)
def test_what_a_message_says(header: bytes, params: dict[str, str], found: str | None) -> None:
    assert needs.wishes(scan(header + b"\r\n"), params).get(TLS_REQUIRED) == found


def test_a_report_is_never_strict(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.put(lab.out("a@x.example", sender="", REQUIRETLS=""), lab.out("a@x.example", REQUIRETLS=""))
    assert [need_of(item) for item in lab.items()] == [Need.PLAIN, Need.STRICT]


def test_our_own_configuration_stays_in_force() -> None:
    zone = ZoneResolver(Zone.parse(ZONE))
    made = TlsPolicies(zone, "secure")
    (found,) = asyncio.run(made.guard("x.example", [Hop("mx1.x.example", FIRST)], loose=True))
    assert found.demand is not None and found.demand.level is Level.NAMED


@dataclass
class Tagging(Lab):
    def sender(self) -> Sender:
        sender = super().sender()
        sender.batv = Batv(["us.example"], [b"a secret"], self.clock)
        return sender


def test_what_is_marked_leaves_with_a_tag_of_the_day(tmp_path: Path) -> None:
    """The queue and its reports know the plain address; each try has a fresh tag."""
    lab = Tagging(tmp_path)
    name = lab.live(1)
    lab.sink.moods["198.51.100.1"] = Mood(
        rcpt={f"no@{name}": Reply(550, "5.1.1", "nobody")}, text=[Reply(451, "4.3.0", "later")]
    )
    batv = Batv(["us.example"], [b"a secret"], lab.clock)
    first = batv.sign("ann@us.example")
    marked = [replace(lab.out(f"{who}@{name}"), params={TAGGED: "1"}) for who in ("bob", "no")]
    lab.put(*marked)

    async def story() -> None:
        async with lab.sending() as sender:
            await lab.quiet(sender)
            await lab.later(sender, 2 * DAY)

    lab.settings["max_age"] = 5 * DAY
    asyncio.run(story())
    mails = [mail.partition(" ")[0] for mail in lab.sink.mails]
    assert mails == [f"<{first}>", f"<{batv.sign('ann@us.example')}>"] and mails[0] != mails[1]
    assert {item.reverse_path for item in lab.items()} == {"ann@us.example", ""}
    assert {recipient for _, recipient, _ in lab.here} == {"ann@us.example"}  # the reports
    assert not any(b"prvs=" in data for _, _, data in lab.here)


def test_what_is_not_marked_leaves_as_it_is(tmp_path: Path) -> None:
    lab = Tagging(tmp_path)
    lab.put(lab.out(f"carl@{lab.live(1)}"))
    run(lab)
    assert [mail.partition(" ")[0] for mail in lab.sink.mails] == ["<ann@us.example>"]
