from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.proto.lines import LineFault, LineReader


def lines_of(data: bytes, cuts: list[int], cap: int = 20) -> list[bytes | LineFault]:
    reader = LineReader(cap)
    out: list[bytes | LineFault] = []
    bounds = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(bounds):
        reader.feed(data[start:end])
        while (line := reader.next_line()) is not None:
            out.append(line)
    return out


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a", []),
        (b"a\r", []),
        (b"a\r\n", [b"a"]),
        (b"\r\n\r\n", [b"", b""]),
        (b"a\n", [LineFault.BARE_LF]),
        (b"\n", [LineFault.BARE_LF]),
        (b"a\nb\r\n", [LineFault.BARE_LF, b"b"]),
        (b"a\rb\r\n", [LineFault.BARE_CR]),
        (b"a\r\r\n", [LineFault.BARE_CR]),
        (b"a\0b\r\nc\r\n", [LineFault.NUL, b"c"]),
        (b"x" * 18 + b"\r\n", [b"x" * 18]),
        (b"x" * 19 + b"\r\nb\r\n", [LineFault.TOO_LONG, b"b"]),
        (b"x" * 500 + b"\r\nb\r\n", [LineFault.TOO_LONG, b"b"]),
        (b"x" * 500 + b"\nb\r\n", [LineFault.BARE_LF, b"b"]),
    ],
)
def test_lines_whole_and_octet_by_octet(data: bytes, expected: list[bytes | LineFault]) -> None:
    assert lines_of(data, []) == expected
    assert lines_of(data, list(range(len(data)))) == expected


@given(
    st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"\0", b"x" * 9, b"x" * 30]), max_size=30).map(
        b"".join
    ),
    st.lists(st.integers(0, 300), max_size=20),
)
def test_where_chunks_are_cut_does_not_matter(data: bytes, cuts: list[int]) -> None:
    assert lines_of(data, cuts) == lines_of(data, [])


def test_an_endless_line_is_not_stored() -> None:
    reader = LineReader(100)
    for _ in range(100):
        reader.feed(b"x" * 1000)
        assert reader.next_line() is None
        assert len(reader) <= 1100
    assert reader.dropped > 90_000


def test_counted_octets_and_push_back() -> None:
    reader = LineReader(100)
    reader.feed(b"one\r\nabc\ndefrest")
    assert reader.next_line() == b"one"
    assert reader.take(4) == b"abc\n"
    assert reader.take(0) == b""
    assert reader.drain() == b"defrest"
    reader.push_back(b"rest")
    reader.feed(b"\r\n")
    assert reader.next_line() == b"rest"
    reader.feed(b"secret")
    reader.clear()
    reader.feed(b"b\r\n")
    assert reader.next_line() == b"b"
