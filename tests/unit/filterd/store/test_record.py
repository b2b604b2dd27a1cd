"""Line ends: what is on disk, what is read, what is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.store.record import CRLF_FORM, LF_FORM, MIXED_FORM, form_of, render, to_crlf, to_disk


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (b"", CRLF_FORM),
        (b"a\r\nb\r\n", CRLF_FORM),
        (b"a\nb\n", LF_FORM),
        (b"a\r\nb\n", MIXED_FORM),
        (b"a\rb\n", LF_FORM),
    ],
)
def test_forms(data: bytes, form: int) -> None:
    assert form_of(data) == form


@given(
    st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"\0"])).map(b"".join),
    st.sampled_from(["crlf", "lf"]),
)
def test_what_is_written_is_read_back(raw: bytes, newline: str) -> None:
    text = to_crlf(raw)
    assert form_of(text) == CRLF_FORM
    octets, form = to_disk(text, newline)
    assert form == form_of(octets)
    assert to_crlf(octets) == text


def test_sizes_are_virtual_and_the_id_is_of_the_content() -> None:
    record = render(b"Subject: x\r\n\r\nbody")
    assert (record.size, record.header_size) == (18, 14)
    assert record.email_id == render(b"Subject: x\r\n\r\nbody").email_id
    assert record.email_id != render(b"Subject: x\r\n\r\nbodY").email_id
