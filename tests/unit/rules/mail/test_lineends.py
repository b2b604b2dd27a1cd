"""Whole messages at once: the same answers as a walk octet by octet."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from rules.mail.lineends import as_lf, dot_line, dots_doubled, only_crlf
from tests.cost import cpu

BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
texts = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a", b"..", b"\r\n."])).map(b"".join)


@given(texts)
def test_bare_line_ends_are_seen(data: bytes) -> None:
    pure = BARE.search(data) is None
    assert only_crlf(data) == pure
    assert as_lf(data) == (data.replace(b"\r\n", b"\n") if pure else None)


def test_bare_line_ends_where_large_texts_are_cut() -> None:
    for end in (b"\r\n", b"\n", b"\r", b"\n\r\n", b"\r\r\n", b"\r\n\r\n"):
        for before in range((1 << 20) - 4, (1 << 20) + 2):
            for behind in (b"", b"a", b"a" * (1 << 20)):
                data = b"a" * before + end + behind
                assert only_crlf(data) == (BARE.search(end) is None), (end, before, len(behind))


@given(texts, st.integers(0, 6))
def test_lines_that_begin_with_a_dot(data: bytes, start: int) -> None:
    assert dot_line(data, start) == data.find(b"\r\n.", start)
    whole = b"\r\n" + data
    assert b"\r\n" + dots_doubled(data) == whole.replace(b"\r\n.", b"\r\n..")


def test_hostile_texts_cost_no_more_than_others() -> None:
    for data in (
        b"\r" * 1_000_000,
        b"\n" * 1_000_000,
        b"\r\n" * 500_000,
        b"\r\n." * 330_000,
        b"\n\r" * 500_000,
    ):
        only_crlf(data)
        assert cpu(lambda data=data: (only_crlf(data), dot_line(data), dots_doubled(data))) < 0.5
