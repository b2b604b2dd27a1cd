"""Comparators: folding and order."""

from __future__ import annotations

from itertools import chain

import pytest

from rules import comparator


def test_ascii_casemap_leaves_other_letters() -> None:
    assert comparator.ascii_casemap("aÄä") == "AÄä"
    assert comparator.ascii_casemap("straße") == "STRAßE"


@pytest.mark.parametrize(
    ("one", "other"),
    [("Café", "CAFÉ"), ("Ǆ", "ǆ"), ("ΟΔΟΣ", "οδοσ"), ("é", "e\u0301"), ("Ａ", "a")],
)
def test_unicode_casemap(one: str, other: str) -> None:
    assert comparator.unicode_casemap(one) == comparator.unicode_casemap(other)


def test_unicode_casemap_is_simple() -> None:
    assert comparator.unicode_casemap("ß") != comparator.unicode_casemap(
        "ss"
    )  # RFC 5051: simple mappings only


def test_numeric() -> None:
    order = comparator.numeric_order
    assert order("5 apples") == order("0005")
    assert order("10") > order("9")
    assert order("") == order("x") > order("9" * 100)
    assert order("9" * 5000) > order("9" * 4000)
    assert comparator.numeric_normal("007x") == "7"
    assert comparator.numeric_normal("000") == "0"


def test_what_is_equal_under_unicode_casemap_is_found_as_the_same() -> None:
    ranges = (
        (0, 0x3400),
        (0xA000, 0xAC10),
        (0xF900, 0x12000),
        (0x16E00, 0x17000),
        (0x1D400, 0x1F200),
        (0x2F800, 0x2FA20),
    )
    for code in chain.from_iterable(
        range(*each) for each in ranges
    ):  # without ideographs: they have one form
        char = chr(code)
        found = comparator.search_form(char)
        assert (
            comparator.search_form(comparator.unicode_casemap(char)) == found == comparator.search_form(found)
        ), hex(code)
        assert comparator.search_form(char.casefold()) == found, hex(code)
    assert comparator.search_form("STRASSE") == comparator.search_form("Straße")
