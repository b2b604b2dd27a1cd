"""What is a DNS name."""

from __future__ import annotations

import pytest

from pipeline.dns_name import normalise, reverse_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Example.ORG.", "example.org"),
        ("_dmarc.example.org", "_dmarc.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("", None),
        (".", None),
        ("a..b", None),
        (".a", None),
        ("a" * 63 + ".b", "a" * 63 + ".b"),
        ("a" * 64 + ".b", None),
        (".".join(["a" * 60] * 5), None),
        ("\udc80.example", None),
    ],
)
def test_normalise(name: str, expected: str | None) -> None:
    assert normalise(name) == expected


def test_reverse_name() -> None:
    assert reverse_name("192.0.2.1") == "1.2.0.192.in-addr.arpa"
    assert reverse_name("2001:db8::1").endswith("8.b.d.0.1.0.0.2.ip6.arpa")
