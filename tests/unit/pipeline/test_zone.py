"""The zone file form and the resolver over it."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.ports import DnsStatus
from pipeline.zone import Zone, ZoneError, ZoneResolver

TEXT = """
; a comment
$TTL 120
example.org          TXT    "v=spf1 " "ip4:192.0.2.1 -all"
example.org.         MX     10 Mail.Example.ORG.
mail.example.org  60 IN A   192.0.2.1
*.wild.example       A      192.0.2.7
there.wild.example   TXT    x
slow.example         TIMEOUT
slow.example         TXT    fine
half.example         TXT    SERVFAIL
half.example         A      192.0.2.8
one.example          CNAME  two.example
two.example          CNAME  mail.example.org
loop.example         CNAME  LOOP.example
1.2.0.192.in-addr.arpa PTR  mail.example.org.
"""


@pytest.mark.parametrize(
    ("name", "rdtype", "status", "records"),
    [
        ("EXAMPLE.org.", "TXT", DnsStatus.OK, ("v=spf1 ip4:192.0.2.1 -all",)),
        ("example.org", "MX", DnsStatus.OK, ("10 mail.example.org",)),
        ("mail.example.org", "A", DnsStatus.OK, ("192.0.2.1",)),
        ("mail.example.org", "AAAA", DnsStatus.NODATA, ()),
        ("org", "A", DnsStatus.NODATA, ()),  # an empty non-terminal exists
        ("nothing.example.org", "A", DnsStatus.NXDOMAIN, ()),
        ("a.b.wild.example", "A", DnsStatus.OK, ("192.0.2.7",)),
        (
            "there.wild.example",
            "A",
            DnsStatus.NODATA,
            (),
        ),  # a name that exists is not covered by the wild card
        ("slow.example", "A", DnsStatus.TEMPORARY, ()),
        ("slow.example", "TXT", DnsStatus.OK, ("fine",)),
        ("half.example", "TXT", DnsStatus.TEMPORARY, ()),
        ("half.example", "A", DnsStatus.OK, ("192.0.2.8",)),
        ("one.example", "A", DnsStatus.OK, ("192.0.2.1",)),
        ("loop.example", "A", DnsStatus.NODATA, ()),
        ("1.2.0.192.in-addr.arpa", "PTR", DnsStatus.OK, ("mail.example.org",)),
        ("a..b", "A", DnsStatus.NXDOMAIN, ()),
        ("x" * 64 + ".example", "A", DnsStatus.NXDOMAIN, ()),
    ],
)
def test_lookup(name: str, rdtype: str, status: DnsStatus, records: tuple[str, ...]) -> None:
    answer = Zone.parse(TEXT).lookup(name, rdtype)
    assert (answer.status, answer.records) == (status, records)


def test_a_bad_line_is_named() -> None:
    with pytest.raises(ZoneError, match="line 2"):
        Zone.parse("a.example A 192.0.2.1\nb.example MX ten mail.example")
    with pytest.raises(ZoneError, match="line 1"):
        Zone.parse("lonely")


def test_resolver_counts_what_it_was_asked() -> None:
    resolver = ZoneResolver(Zone.parse(TEXT))
    assert resolver.cached("mail.example.org", "A") is None
    asyncio.run(resolver.query("mail.example.org", "A"))
    asyncio.run(resolver.query("mail.example.org", "A"))
    assert resolver.asked == [("mail.example.org", "A")]
    assert resolver.cached("mail.example.org", "A") is not None
