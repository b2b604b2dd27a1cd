"""Where mail for a domain goes: smart host, or MX with fallback to the address (RFC 5321 5.1, RFC 7505 null MX)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.ports import DnsStatus, Resolver

MAX_HOSTS = 10  # mail exchangers tried for one domain
MAX_ADDRESSES = 20


@dataclass(frozen=True, slots=True)
class Hop:
    """One address to try. ``name`` is the exchanger's name, for TLS and for people."""

    name: str
    address: str
    port: int = 25


@dataclass(frozen=True, slots=True)
class NoRoute:
    """``permanent``: the domain takes no mail, or does not exist. ``text`` begins with the enhanced code."""

    permanent: bool
    text: str


@dataclass(frozen=True, slots=True)
class Relay:
    """A smart host: everything goes there."""

    host: str
    port: int = 25
    login: tuple[str, str] | None = None


async def route(
    domain: str, resolver: Resolver, relay: Relay | None, our_names: frozenset[str], port: int = 25
) -> Sequence[Hop] | NoRoute:
    """The addresses to try, best first."""
    if relay is not None:
        return await _addresses([relay.host], resolver, relay.port)
    literal = _literal(domain)
    if literal:
        return [Hop(domain, literal, port)]
    ascii_domain = _ascii(domain)
    if not ascii_domain:
        return NoRoute(True, "5.1.2 the domain is not a valid name")
    answer = await resolver.query(ascii_domain, "MX")
    if answer.status is DnsStatus.TEMPORARY:
        return NoRoute(False, f"4.4.3 the mail hosts of {domain} cannot be looked up: {answer.reason}")
    if answer.status is DnsStatus.NXDOMAIN:
        return NoRoute(True, f"5.1.2 the domain {domain} does not exist")
    exchangers = _sorted(answer.records) if answer.status is DnsStatus.OK else []
    if exchangers == [(0, "")] or (exchangers and all(not name for _, name in exchangers)):
        return NoRoute(True, f"5.1.10 the domain {domain} takes no mail (null MX)")
    if not exchangers:
        return await _addresses([ascii_domain], resolver, port)  # RFC 5321 5.1: the implicit MX
    ours = [preference for preference, name in exchangers if name in our_names]
    if ours:  # RFC 5321 5.1: only better exchangers than ourselves
        exchangers = [(preference, name) for preference, name in exchangers if preference < min(ours)]
        if not exchangers:
            return NoRoute(True, f"5.4.6 the mail of {domain} would come back to us")
    return await _addresses([name for _, name in exchangers[:MAX_HOSTS]], resolver, port)


def _sorted(records: Sequence[str]) -> list[tuple[int, str]]:
    out = []
    for record in records:
        preference, _, name = record.partition(" ")
        if preference.isdigit():
            out.append((int(preference), name.strip().rstrip(".").lower()))
    return sorted(out)


async def _addresses(names: Sequence[str], resolver: Resolver, port: int) -> Sequence[Hop] | NoRoute:
    hops: list[Hop] = []
    later = ""
    for name in names:
        literal = _literal(name) or _plain(name)
        if literal:
            hops.append(Hop(name, literal, port))
            continue
        if name == "localhost":  # a relay on this machine needs no DNS
            hops.append(Hop(name, "127.0.0.1", port))
            continue
        for kind in ("AAAA", "A"):
            answer = await resolver.query(name, kind)
            if answer.status is DnsStatus.TEMPORARY:
                later = answer.reason or "time-out"
            hops.extend(Hop(name, address, port) for address in answer.records)
    if hops:
        return hops[:MAX_ADDRESSES]
    if later:
        return NoRoute(False, f"4.4.3 the address of {', '.join(names)} cannot be looked up: {later}")
    return NoRoute(True, f"5.4.4 no address for {', '.join(names)}")


def _literal(domain: str) -> str:
    if not (domain.startswith("[") and domain.endswith("]")):
        return ""
    text = domain[1:-1]
    return _plain(text[5:] if text.lower().startswith("ipv6:") else text)


def _plain(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _ascii(domain: str) -> str:
    try:
        return (
            domain.encode("idna").decode().lower().rstrip(".")
            if not domain.isascii()
            else domain.lower().rstrip(".")
        )
    except UnicodeError:
        return ""
