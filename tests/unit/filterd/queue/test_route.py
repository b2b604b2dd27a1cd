"""Where mail goes, from a zone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from filterd.queue.route import Hop, NoRoute, Relay, route
from pipeline.zone import Zone, ZoneResolver
from tests.queuelab import CountingIds

ZONE = """
one.example          MX 10 mx1.one.example
one.example          MX 20 mx2.one.example
one.example          MX 5  us.example
mx1.one.example      A 192.0.2.1
mx1.one.example      A 192.0.2.2
mx1.one.example      AAAA 2001:db8::1
mx2.one.example      A 192.0.2.3
better.example       MX 10 mx2.one.example
better.example       MX 20 us.example
better.example       MX 30 mx1.one.example
plain.example        A 192.0.2.9
null.example         MX 0 .
mixed.example        MX 0 .
mixed.example        MX 10 mx2.one.example
alias.example        CNAME better.example
slow.example         TIMEOUT
halfslow.example     MX 10 slow.example
halfslow2.example    MX 10 slow.example
halfslow2.example    MX 20 mx2.one.example
hollow.example       MX 10 nowhere.example
odd.example          MX 10 zero.example
zero.example         A 0.0.0.0
empty.example        TXT hello
xn--bcher-kva.example A 192.0.2.7
us.example           A 192.0.2.100
same.example         MX 10 s1.same.example
same.example         MX 10 s2.same.example
s1.same.example      A 192.0.2.41
s2.same.example      A 192.0.2.42
"""


def way(domain: str, relay: Relay | None = None, ids: CountingIds | None = None) -> Sequence[Hop] | NoRoute:
    resolver = ZoneResolver(Zone.parse(ZONE))
    return asyncio.run(route(domain, resolver, relay, frozenset({"us.example"}), ids=ids))


def addresses(found: Sequence[Hop] | NoRoute) -> list[str]:
    assert not isinstance(found, NoRoute), found
    return [hop.address for hop in found]


def test_preference_and_both_address_families() -> None:
    found = way("better.example")
    assert addresses(found) == ["192.0.2.3"]
    assert addresses(way("mixed.example")) == ["192.0.2.3"]
    assert addresses(way("alias.example")) == ["192.0.2.3"]
    assert addresses(way("PLAIN.example.")) == ["192.0.2.9"]


def test_equal_preferences_take_turns() -> None:
    orders = {tuple(addresses(way("same.example", ids=Shuffled(n)))) for n in range(2)}
    assert orders == {("192.0.2.41", "192.0.2.42"), ("192.0.2.42", "192.0.2.41")}


class Shuffled(CountingIds):
    def __init__(self, parity: int) -> None:
        super().__init__()
        self.parity = parity

    def token(self, octets: int) -> str:
        self.last += 1
        return str((self.last + self.parity) % 2)


def test_addresses_of_one_host_ipv6_and_ipv4_in_turn() -> None:
    resolver = ZoneResolver(Zone.parse(ZONE))
    found = asyncio.run(route("one.example", resolver, None, frozenset()))
    assert addresses(found) == ["192.0.2.100", "2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest.mark.parametrize(
    ("domain", "permanent", "code"),
    [
        ("one.example", True, "5.4.6"),  # we are the best exchanger, and do not know the domain
        ("null.example", True, "5.1.10"),
        ("missing.example", True, "5.1.2"),
        ("empty.example", True, "5.4.4"),
        ("hollow.example", True, "5.4.4"),
        ("odd.example", True, "5.4.4"),
        ("slow.example", False, "4.4.3"),
        ("halfslow.example", False, "4.4.3"),
        ("", True, "5.1.2"),
        ("a..b", True, "5.1.2"),
        ("x" * 64 + ".example", True, "5.1.2"),
        ("[999.1.1.1]", True, "5.1.2"),
        ("[IPv6:192.0.2.1]", True, "5.1.2"),
        ("[224.0.0.1]", True, "5.4.4"),
    ],
)
def test_no_way(domain: str, permanent: bool, code: str) -> None:
    found = way(domain)
    assert isinstance(found, NoRoute) and found.permanent == permanent and found.text.startswith(code + " ")


def test_one_exchanger_of_two_can_be_looked_up() -> None:
    assert addresses(way("halfslow2.example")) == ["192.0.2.3"]


def test_literals_and_international_names() -> None:
    assert way("[192.0.2.5]") == [Hop("[192.0.2.5]", "192.0.2.5")]
    assert addresses(way("[IPv6:2001:DB8::5]")) == ["2001:db8::5"]
    assert addresses(way("bücher.example")) == ["192.0.2.7"]


def test_relays() -> None:
    assert way("x.example", Relay("192.0.2.8", 587)) == [Hop("192.0.2.8", "192.0.2.8", 587, ours=True)]
    assert way("x.example", Relay("localhost", 2525)) == [Hop("localhost", "127.0.0.1", 2525, ours=True)]
    assert way("x.example", Relay("::1", 25)) == [Hop("::1", "::1", 25, ours=True)]
    assert way("x.example", Relay("plain.example", 25)) == [Hop("plain.example", "192.0.2.9", 25, ours=True)]
    assert way("x.example", Relay("", 0, lmtp=True, path="/run/x")) == [
        Hop("localhost", "", 0, "/run/x", True, ours=True)
    ]
    for missing in ("nowhere.example", "slow.example"):
        found = way("x.example", Relay(missing))
        assert isinstance(found, NoRoute) and not found.permanent


def test_a_next_hop_of_our_choice_keeps_its_way_of_speaking_and_its_login() -> None:
    (hop,) = way("any.example", Relay("192.0.2.50", 24, lmtp=True))  # type: ignore[misc]  # a sequence of hops
    assert (hop.address, hop.port, hop.lmtp, hop.login) == ("192.0.2.50", 24, True, None)
    (hop,) = way("any.example", Relay("localhost", 0, None, True, "/run/lmtp"))  # type: ignore[misc]  # the same
    assert (hop.path, hop.lmtp) == ("/run/lmtp", True)
    found = way("any.example", Relay("plain.example", 587, ("ann", "secret")))
    assert not isinstance(found, NoRoute) and all(hop.login == ("ann", "secret") for hop in found)
    assert all(hop.login is None and not hop.ours for hop in way("better.example"))  # type: ignore[union-attr]  # there is a way
