"""Forward-confirmed reverse names."""

from __future__ import annotations

import asyncio

import pytest

from pipeline import iprev
from pipeline.zone import Zone, ZoneResolver

ZONE = Zone.parse(
    """
    1.2.0.192.in-addr.arpa PTR liar.example
    1.2.0.192.in-addr.arpa PTR mx.good.example
    mx.good.example A 192.0.2.1
    liar.example A 192.0.2.9
    2.2.0.192.in-addr.arpa PTR liar.example
    3.2.0.192.in-addr.arpa TIMEOUT
    4.2.0.192.in-addr.arpa PTR slow.example
    slow.example TIMEOUT
    6.2.0.192.in-addr.arpa PTR mx6.good.example
    mx6.good.example AAAA 2001:db8::6
    """
)
ZONE.add("6." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa", "PTR", "mx6.good.example")


@pytest.mark.parametrize(
    ("ip", "result", "name"),
    [
        ("192.0.2.1", "pass", "mx.good.example"),
        ("::ffff:192.0.2.1", "pass", "mx.good.example"),
        ("192.0.2.2", "fail", "liar.example"),
        ("192.0.2.3", "temperror", ""),
        ("192.0.2.4", "temperror", ""),
        ("192.0.2.5", "permerror", ""),
        ("192.0.2.6", "fail", "mx6.good.example"),
        ("2001:db8::6", "pass", "mx6.good.example"),
        ("2001:db8::7", "permerror", ""),
        ("nonsense", "permerror", ""),
    ],
)
def test_results(ip: str, result: str, name: str) -> None:
    found = asyncio.run(iprev.look(ZoneResolver(ZONE), ip))
    assert found.result == result
    assert not name or found.name == name
    assert iprev.evaluate(ip, ZONE.lookup) == found


def test_what_is_missing_is_named() -> None:
    assert iprev.evaluate("192.0.2.1", lambda *_: None) == [("1.2.0.192.in-addr.arpa", "PTR")]
