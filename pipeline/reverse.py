"""The client's verified reverse name (iprev, RFC 8601 3): a PTR record whose name leads back to the address.

Never raises, never waits longer than ``seconds``: "" means that there is none, or that the DNS did not say in time.
"""

from __future__ import annotations

import asyncio
import ipaddress

from pipeline.ports import DnsStatus, Resolver

NAMES = 5  # PTR records that are tried


async def verified_name(resolver: Resolver, ip: str, seconds: float = 3.0) -> str:
    """The first of the address' names that has the address; lower case, without the final dot."""
    try:
        address = ipaddress.ip_address(ip.split("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    try:
        async with asyncio.timeout(seconds):
            return await _look(resolver, address)
    except TimeoutError:
        return ""


async def _look(resolver: Resolver, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    answer = await resolver.query(address.reverse_pointer, "PTR")
    if answer.status is not DnsStatus.OK:
        return ""
    for name in answer.records[:NAMES]:
        forward = await resolver.query(name, "A" if address.version == 4 else "AAAA")
        if any(_same(record, address) for record in forward.records):
            return name
    return ""


def _same(record: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return ipaddress.ip_address(record) == address
    except ValueError:
        return False
