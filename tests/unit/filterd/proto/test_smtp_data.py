from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.proto.smtp_data import DotReader, Text

pieces = st.lists(
    st.sampled_from([b"\r\n", b".", b"..", b"\r", b"\n", b"x", b"\r\n.\r\n", b"\r\n..\r\n", b"text"]),
    max_size=40,
)


def read(data: bytes, cuts: list[int], limit: int = 1000) -> tuple[bytes, bool, bool, int, bytes] | None:
    reader = DotReader(limit)
    bounds = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(bounds):
        rest = reader.feed(data[start:end])
        if rest is not None:
            text = reader.text
            size = text.size
            return text.finish(), text.bare, text.too_big, size, rest + data[end:]
    return None


def slow(data: bytes) -> tuple[bytes, bool, bytes] | None:
    """The same by RFC 5321 4.5.2, line by line."""
    out, at, bare = b"", 0, False
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        line = data[at:end]
        at = end + 2
        if line == b".":
            return out, bare, data[at:]
        bare = bare or b"\r" in line or b"\n" in line
        out += (line[1:] if line.startswith(b".") else line) + b"\r\n"


@settings(max_examples=400)
@given(pieces.map(b"".join), st.lists(st.integers(0, 120), max_size=12))
def test_against_the_plain_reading_of_the_rfc(data: bytes, cuts: list[int]) -> None:
    data += b"\r\n.\r\nQUIT\r\n"
    expected = slow(data)
    assert expected is not None
    for where in (cuts, [], list(range(len(data)))):
        got = read(data, where)
        assert got is not None
        text, bare, too_big, size, rest = got
        assert not too_big
        assert bare == expected[1]
        assert rest == expected[2]
        assert text == (b"" if bare else expected[0])
        assert bare or size == len(expected[0])


def test_the_empty_text() -> None:
    assert read(b".\r\nNOOP\r\n", []) == (b"", False, False, 0, b"NOOP\r\n")


def test_nothing_is_kept_above_the_limit() -> None:
    reader = DotReader(1000)
    for _ in range(1000):
        assert reader.feed(b"x" * 998 + b"\r\n") is None
    assert reader.feed(b".\r\n") == b""
    assert reader.text.too_big
    assert reader.text.received == 1_000_003
    assert reader.text.finish() == b""


def test_size_counts_neither_dots_nor_end() -> None:
    assert read(b"..\r\n.\r\n", [], limit=3) == (b".\r\n", False, False, 3, b"")
    got = read(b"...\r\n.\r\n", [], limit=3)
    assert got is not None and got[2]


@given(pieces.map(b"".join), st.lists(st.integers(0, 120), max_size=12))
def test_raw_octets_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    text = Text(10_000)
    bounds = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(bounds):
        text.add_raw(data[start:end])
    bare = b"\r" in data.replace(b"\r\n", b"") or b"\n" in data.replace(b"\r\n", b"")
    whole = text.finish()
    assert text.bare == bare
    if not bare:
        assert whole == (data if data.endswith(b"\r\n") or not data else data + b"\r\n")
