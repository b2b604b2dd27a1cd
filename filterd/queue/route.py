"""Where mail for a domain goes: smart host, or MX with fallback to the address (RFC 5321 5.1, RFC 7505 null MX).

Invariants: a failure of the DNS is never a permanent answer; a relay of ours that cannot be found is a fault of ours, so
mail waits for it. Equal preferences are taken in random order (RFC 5321 5.1), the addresses of one exchanger IPv6 and IPv4
in turn.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from filterd.queue.tlsdemand import Demand
from pipeline.dns_name import normalise
from pipeline.ports import DnsStatus, Ids, Resolver

MAX_HOSTS = 10  # mail exchangers tried for one domain
MAX_ADDRESSES = 20
SUBMISSIONS = 465  # RFC 8314: TLS from the first octet


@dataclass(frozen=True, slots=True)
class Hop:
    """One address to try. ``name`` is the exchanger's name, for TLS and for people; ``path`` a unix socket instead;
    ``ours``: a next hop of our choice, the only kind with a ``login`` and the only one that is told about clients;
    ``demand`` on TLS, None: TLS when it is offered (``tlspolicy``)."""

    name: str
    address: str
    port: int = 25
    path: str = ""
    lmtp: bool = False
    login: tuple[str, str] | None = None
    ours: bool = False
    smtps: bool = False  # TLS from the first octet
    bind: tuple[str, ...] = ()  # source addresses; none: the system's choice
    demand: Demand | None = None

    @property
    def tls_first(self) -> bool:
        return self.smtps or self.port == SUBMISSIONS


@dataclass(frozen=True, slots=True)
class NoRoute:
    """``permanent``: the domain takes no mail, or does not exist. ``text`` begins with the enhanced code."""

    permanent: bool
    text: str


@dataclass(frozen=True, slots=True)
class Relay:
    """A next hop of our choice: a smart host, or the store of a domain behind us. ``path`` is a unix socket instead of host and
    port."""

    host: str
    port: int = 25
    login: tuple[str, str] | None = None
    lmtp: bool = False
    path: str = ""
    smtps: bool = False


async def route(
    domain: str,
    resolver: Resolver,
    relay: Relay | None,
    our_names: frozenset[str],
    port: int = 25,
    ids: Ids | None = None,
) -> Sequence[Hop] | NoRoute:
    """The addresses to try, best first. ``ids`` decides between equal preferences; None: by name."""
    if relay is not None:
        return await _to_relay(relay, resolver)
    if domain.startswith("["):
        literal = _literal(domain)
        if not literal:
            return NoRoute(True, "5.1.2 the address literal is not valid")
        return _usable([Hop(domain, literal, port)], domain)
    name = normalise(domain)
    if name is None:
        return NoRoute(True, "5.1.2 the domain is not a valid name")
    answer = await resolver.query(name, "MX")
    if answer.status is DnsStatus.TEMPORARY:
        return NoRoute(False, f"4.4.3 the mail hosts of {domain} cannot be looked up: {answer.reason}")
    if answer.status is DnsStatus.NXDOMAIN:
        return NoRoute(True, f"5.1.2 the domain {domain} does not exist")
    exchangers = _sorted(answer.records, ids) if answer.status is DnsStatus.OK else []
    if answer.records and not exchangers:
        return NoRoute(True, f"5.1.10 the domain {domain} takes no mail (null MX)")
    if not exchangers:
        return await _addresses([name], resolver, port)  # RFC 5321 5.1: the implicit MX
    ours = [preference for preference, exchanger in exchangers if exchanger in our_names]
    if ours:  # RFC 5321 5.1: only better exchangers than ourselves
        exchangers = [
            (preference, exchanger) for preference, exchanger in exchangers if preference < min(ours)
        ]
        if not exchangers:
            return NoRoute(True, f"5.4.6 the mail of {domain} would come back to us")
    return await _addresses([exchanger for _, exchanger in exchangers[:MAX_HOSTS]], resolver, port)


async def _to_relay(relay: Relay, resolver: Resolver) -> Sequence[Hop] | NoRoute:
    if relay.path:
        return [Hop("localhost", "", 0, relay.path, relay.lmtp, ours=True)]
    found = await _addresses([relay.host.lower().rstrip(".")], resolver, relay.port, relay.lmtp)
    if isinstance(found, NoRoute) and found.permanent:
        return NoRoute(False, f"4.4.3 the relay {relay.host} has no address")
    if isinstance(found, NoRoute):
        return found
    return [replace(hop, login=relay.login, ours=True, smtps=relay.smtps) for hop in found]


def _sorted(records: Sequence[str], ids: Ids | None) -> list[tuple[int, str]]:
    """(preference, exchanger), without the "." of a null MX, which means nothing among others (RFC 7505 3)."""
    out = []
    for record in records:
        preference, _, name = record.partition(" ")
        name = name.strip().rstrip(".").lower()
        if preference.isascii() and preference.isdigit() and name:
            out.append((int(preference), ids.token(4) if ids else "", name))
    return [(preference, name) for preference, _, name in sorted(out)]


async def _addresses(
    names: Sequence[str], resolver: Resolver, port: int, lmtp: bool = False
) -> Sequence[Hop] | NoRoute:
    hops: list[Hop] = []
    later = ""
    for name in names:
        literal = _literal(name) or _plain(name)
        if literal:
            hops.append(Hop(name, literal, port, lmtp=lmtp))
            continue
        if name == "localhost":  # a relay on this machine needs no DNS
            hops.append(Hop(name, "127.0.0.1", port, lmtp=lmtp))
            continue
        found: list[Sequence[str]] = []
        for kind in ("AAAA", "A"):
            answer = await resolver.query(name, kind)
            if answer.status is DnsStatus.TEMPORARY:
                later = answer.reason or "time-out"
            found.append(answer.records)
        for pair in itertools.zip_longest(*found):
            hops.extend(Hop(name, address, port, lmtp=lmtp) for address in pair if address)
    if hops:
        return _usable(hops, names[0])
    if later:
        return NoRoute(False, f"4.4.3 the address of {', '.join(names)} cannot be looked up: {later}")
    return NoRoute(True, f"5.4.4 no address for {', '.join(names)}")


def _usable(hops: Sequence[Hop], name: str) -> Sequence[Hop] | NoRoute:
    """Without what is no address of a host."""
    good = [hop for hop in hops if _is_host(hop.address)]
    return good[:MAX_ADDRESSES] or NoRoute(True, f"5.4.4 no usable address for {name}")


def _is_host(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast or text == "255.255.255.255")


def _literal(domain: str) -> str:
    if not (domain.startswith("[") and domain.endswith("]")):
        return ""
    text = domain[1:-1]
    if text.lower().startswith("ipv6:"):
        return _plain(text[5:]) if ":" in text[5:] else ""
    return _plain(text)


def _plain(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
