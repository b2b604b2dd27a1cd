"""Edits are splices: what is not cut stays octet for octet, and nothing smuggles a line in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import edits
from pipeline.edits import Splice, apply, render_field, splice
from pipeline.verdict import HeaderEdit
from rules.mail.header import scan, unfold

MESSAGE = (
    b"Received: from a\r\n\tby b; date\r\n"
    b"X-Spam-Flag: YES\r\n"
    b"Subject: hello\r\n"
    b"x-spam-flag : no,\r\n\treally\r\n"
    b"To: a@b\r\n\r\nbody\r\nX-Spam-Flag: in the body\r\n"
)


def test_removes_whole_fields_whatever_their_case_and_fold() -> None:
    out = apply(MESSAGE, [HeaderEdit("remove", "X-SPAM-Flag")])
    assert out == (
        b"Received: from a\r\n\tby b; date\r\nSubject: hello\r\nTo: a@b\r\n\r\nbody\r\nX-Spam-Flag: in the body\r\n"
    )


def test_removes_by_content() -> None:
    out = apply(MESSAGE, [HeaderEdit("remove", "X-Spam-Flag", match="REALLY")])
    assert b"X-Spam-Flag: YES" in out and b"really" not in out


def test_adds_in_the_given_order_above_everything() -> None:
    out = apply(MESSAGE, [HeaderEdit("add", "A", "1"), HeaderEdit("add", "B", "2")])
    assert out == b"A: 1\r\nB: 2\r\n" + MESSAGE


def test_an_added_field_is_not_removed_by_the_same_call() -> None:
    out = apply(MESSAGE, [HeaderEdit("add", "X-Spam-Flag", "NO"), HeaderEdit("remove", "X-Spam-Flag")])
    assert out.startswith(b"X-Spam-Flag: NO\r\nReceived:")
    assert scan(out).get_all(b"x-spam-flag") == [b"NO"]


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "a\0b", "\r\n\r\nbody"])
def test_no_line_gets_in_by_a_value(value: str) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        apply(MESSAGE, [HeaderEdit("add", "X", value)])


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "\xe4", "a\t", "x" * 78])
def test_no_line_gets_in_by_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="not a header field name"):
        apply(MESSAGE, [HeaderEdit("add", name, "v")])


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="kind"):
        apply(MESSAGE, [HeaderEdit("change", "X", "v")])


def test_a_message_that_begins_with_a_blank_does_not_continue_our_field() -> None:
    out = apply(b" dkim=pass\r\nFrom: x\r\n\r\n", [HeaderEdit("add", "Authentication-Results", "us; none")])
    assert scan(out).get_all(b"authentication-results") == [b"us; none"]


def test_removing_the_first_field_does_not_bring_up_a_leading_blank() -> None:
    data = b"X-Spam-Flag: YES\r\n more\r\n\r\n body"
    out = apply(data, [HeaderEdit("remove", "X-Spam-Flag"), HeaderEdit("add", "A", "1")])
    assert out == b"A: 1\r\n\r\n body"


def test_long_values_fold_at_blanks_and_unfold_to_themselves() -> None:
    value = " ".join(f"word{n}" for n in range(60))
    raw = render_field("X-Long", value)
    assert all(len(line) <= 78 for line in raw.split(b"\r\n"))
    assert unfold(raw).strip() == b"X-Long: " + value.encode()


def test_a_word_longer_than_a_line_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than a line"):
        render_field("X", "y" * 1200)


def test_splices_must_not_overlap() -> None:
    with pytest.raises(ValueError, match="overlaps"):
        splice(b"abcdef", [Splice(0, 3), Splice(2, 4)])
    with pytest.raises(ValueError, match="outside"):
        splice(b"abc", [Splice(2, 9)])


def test_two_parties_want_the_same_field_gone() -> None:
    field = scan(MESSAGE).fields_named(b"x-spam-flag")[0]
    out = apply(MESSAGE, [HeaderEdit("remove", "X-Spam-Flag")], [Splice(field.start, field.end)])
    assert out.count(b"pam-") == 1


def test_nothing_to_do_gives_the_same_object() -> None:
    assert apply(MESSAGE, []) is MESSAGE
    assert apply(MESSAGE, [HeaderEdit("remove", "X-None")]) is MESSAGE


printable = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=300
)


@settings(deadline=None)
@given(value=printable)
def test_any_value_is_one_field(value: str) -> None:
    try:
        raw = render_field("X-Any", value)
    except ValueError:
        assert max(len(word.encode()) for word in value.split(" ")) > 900
        return
    block = scan(raw + b"To: x\r\n\r\n")
    assert [field.name for field in block.fields] == [b"X-Any", b"To"]
    assert block.first(b"x-any") == value.strip(" \t").encode()
    assert all(line.strip() for line in raw.split(b"\r\n")[:-1])


@settings(deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.binary(max_size=3)), max_size=6))
def test_splice_equals_replacing_from_the_end(cuts: list[tuple[int, int, bytes]]) -> None:
    data = bytes(range(50))
    pieces = [Splice(min(a, b), max(a, b), text) for a, b, text in cuts]
    try:
        out = splice(data, pieces)
    except ValueError:
        return
    expected = data
    for one in sorted(set(pieces), key=edits._place, reverse=True):
        expected = expected[: one.start] + one.text + expected[one.end :]
    assert out == expected


def test_fields_with_a_place_and_raw_fields() -> None:
    data = b"A: 1\r\nB: 2\r\nA: 3\r\n\r\nbody"
    raw = HeaderEdit("add", "X", raw=b"X:\t odd\r\n  folds\r\n", place=2)
    assert apply(data, [raw]) == data.replace(b"B:", b"X:\t odd\r\n  folds\r\nB:")
    assert apply(data, [HeaderEdit("remove", "A", place=3)]) == b"A: 1\r\nB: 2\r\n\r\nbody"
    assert apply(data, [HeaderEdit("add", "X", "y", place=9)]) == data.replace(b"3\r\n", b"3\r\nX: y\r\n")
    new = [
        HeaderEdit("remove", "B", place=2),
        HeaderEdit("add", "B", "new", place=2),
        HeaderEdit("add", "T", "top"),
    ]
    assert apply(data, new) == b"T: top\r\n" + data.replace(b"B: 2", b"B: new")


@pytest.mark.parametrize(
    "raw", [b"X: y", b"X: y\r\nEvil: 1\r\n", b"X y\r\n", b"X: \0\r\n", b"X: a\rb\r\n", b" X: y\r\n"]
)
def test_what_is_not_one_raw_field(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not one header field"):
        apply(b"A: b\r\n\r\n", [HeaderEdit("add", "X", raw=raw)])
