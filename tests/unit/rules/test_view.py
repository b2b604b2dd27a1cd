"""The message as scripts see it."""

from __future__ import annotations

import random

import pytest

from rules.mail import address
from rules.view import address_pairs

_PIECES = [
    b"a", b"B.c", b"Jo Doe", b'"Doe, Jo"', b'"a\\"b"', b"<", b">", b"@", b"x.example", b"A-b.Example", b",", b", ",
    b" ", b"\t", b";", b"grp:", b"(c)", b"+", b".", b"=?utf-8?q?x?=", b"\xc3\xa4", b"a@b.c", b"<a@b.c>", b"Me <m+t@d.e>",
    b'"q"@d', b"[192.0.2.1]", b"''",
]  # fmt: skip


def test_plain_addresses_are_read_as_the_parser_reads_them() -> None:
    rng = random.Random(7)
    plain = 0
    for _ in range(4_000):
        value = b"".join(rng.choice(_PIECES) for _ in range(rng.randint(0, 9))).strip(b" \t")
        expected = [(box.local, box.domain) for box in address.parse_list(value).mailboxes]
        assert address_pairs(value) == expected, value
        plain += bool(expected)
    assert plain > 500


@pytest.mark.parametrize("count", [1, 199, 200, 201, 5_000])
def test_long_lists(count: int) -> None:
    value = b", ".join(b"u%d@d.example" % number for number in range(count))
    expected = [(box.local, box.domain) for box in address.parse_list(value).mailboxes]
    assert address_pairs(value) == expected
