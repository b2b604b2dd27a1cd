"""Tag lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dkim.tags import FIELD_LIMIT, TAG_LIMIT, parse


def test_values_and_spans() -> None:
    data = b" v = 1;a=\r\n rsa-sha256 ; b= AB\r\n\tCD ;x=;"
    tags = parse(data)
    assert tags.error == ""
    assert dict(tags.values) == {b"v": b"1", b"a": b"rsa-sha256", b"b": b"AB\r\n\tCD", b"x": b""}
    assert tags.first == b"v"
    start, end = tags.spans[b"b"]
    assert data[:start] + data[end:] == b" v = 1;a=\r\n rsa-sha256 ; b=;x=;"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b";",
        b"a",
        b"a=1;;b=2",
        b"=1",
        b"1a=2",
        b"a b=1",
        b"a=1;a=2",
        b"a=\0",
        b"a=1\rb",
        b"a=1\nb",
        b"a=1\r\nb=2",
        b"a=" + b"x" * FIELD_LIMIT,
        b";".join(b"a%d=1" % at for at in range(TAG_LIMIT + 1)),
    ],
)
def test_what_is_no_tag_list(data: bytes) -> None:
    tags = parse(data)
    assert tags.error
    assert not tags.values


@given(st.binary(max_size=200))
def test_never_raises(data: bytes) -> None:
    tags = parse(data)
    assert bool(tags.error) != bool(tags.values)


@given(
    st.lists(st.sampled_from([b"a", b"=", b";", b" ", b"\r\n ", b"v", b"1", b"_", b"\xc3\xa9"]), max_size=40)
)
def test_spans_are_the_values(parts: list[bytes]) -> None:
    data = b"".join(parts)
    tags = parse(data)
    for name, (start, end) in tags.spans.items():
        assert data[start:end].strip(b" \t\r\n") == tags.values[name]
        assert data[:start].rstrip().endswith(b"=")
