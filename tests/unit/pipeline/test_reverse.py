"""A reverse name counts only when it leads back."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.reverse import verified_name
from pipeline.zone import Zone, ZoneResolver

ZONE = Zone.parse(
    """
7.100.51.198.in-addr.arpa PTR liar.example.net
7.100.51.198.in-addr.arpa PTR mx.example.net
liar.example.net A 192.0.2.1
mx.example.net A 198.51.100.7
8.100.51.198.in-addr.arpa PTR liar.example.net
9.100.51.198.in-addr.arpa TIMEOUT
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR six.example.net
six.example.net AAAA 2001:db8:0::1
"""
)


@pytest.mark.parametrize(
    ("ip", "name"),
    [
        ("198.51.100.7", "mx.example.net"),
        ("::ffff:198.51.100.7", "mx.example.net"),
        ("198.51.100.8", ""),
        ("198.51.100.9", ""),
        ("192.0.2.200", ""),
        ("2001:db8::1", "six.example.net"),
        ("nonsense", ""),
    ],
)
def test_names(ip: str, name: str) -> None:
    assert asyncio.run(verified_name(ZoneResolver(ZONE), ip)) == name
