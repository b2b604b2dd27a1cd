"""Does the client's address have a name that leads back to it (forward-confirmed reverse DNS, iprev)?

Specification: RFC 8601 2.7.3 and 3. Sans-IO: ``evaluate`` reads answers that are there and names those that are missing.
Invariants: at most NAMES names are tried; a DNS failure is temperror, never fail.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.dns_name import normalise
from pipeline.ports import DnsAnswer, DnsStatus, Resolver

NAMES = 5  # PTR records that are tried
ROUNDS = 3
Known = Callable[[str, str], DnsAnswer | None]
Question = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Iprev:
    """``result``: pass, fail, temperror or permerror (no name is published for the address). ``name``: the verified one, or the
    first unverified one when there is any."""

    result: str
    name: str = ""


def evaluate(ip: str, known: Known) -> Iprev | list[Question]:
    """The result, or the look-ups that are still needed for it."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return Iprev("permerror")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    pointer = known(address.reverse_pointer, "PTR")
    if pointer is None:
        return [(address.reverse_pointer, "PTR")]
    if pointer.status is DnsStatus.TEMPORARY:
        return Iprev("temperror")
    names = [name for record in pointer.records[:NAMES] if (name := normalise(record)) is not None]
    if not names:
        return Iprev("permerror")
    rdtype = "A" if address.version == 4 else "AAAA"
    answers = {name: known(name, rdtype) for name in names}
    for name, answer in answers.items():
        if answer is not None and any(_same(record, address) for record in answer.records):
            return Iprev("pass", name)
    missing = [(name, rdtype) for name, answer in answers.items() if answer is None]
    if missing:
        return missing
    unsure = any(one is not None and one.status is DnsStatus.TEMPORARY for one in answers.values())
    return Iprev("temperror" if unsure else "fail", names[0])


async def look(resolver: Resolver, ip: str) -> Iprev:
    """Ask until there is a result. The resolver keeps the time limit of each look-up."""
    answers: dict[Question, DnsAnswer] = {}
    for _ in range(ROUNDS):
        found = evaluate(ip, lambda name, rdtype: answers.get((name, rdtype)))
        if isinstance(found, Iprev):
            return found
        for question in found:
            answers[question] = await resolver.query(*question)
    return Iprev("temperror")


def _same(record: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return ipaddress.ip_address(record) == address
    except ValueError:
        return False
