"""Flags and file names."""

from __future__ import annotations

import pytest

from filterd.store import flags as fl
from filterd.store.base import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN, LimitReached


@pytest.mark.parametrize(
    ("mask", "info"),
    [
        (0, ":2,"),
        (SEEN, ":2,S"),
        (SEEN | ANSWERED | FLAGGED | DELETED | DRAFT, ":2,DFRST"),
        (SEEN | 32 | 128, ":2,Sac"),
    ],
)
def test_letters_there_and_back(mask: int, info: str) -> None:
    assert fl.info_of(mask) == info
    assert fl.mask_of_letters(info[3:]) == (mask, "")


def test_unknown_letters_stay() -> None:
    assert fl.mask_of_letters("PSd!", keywords=2) == (SEEN, "Pd")
    assert fl.info_of(FLAGGED, "Pd") == ":2,FPd"
    assert fl.info_of(1 << 40) == ":2,"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a:2,S", ("a", "S")),
        ("a", ("a", "")),
        ("a:2,", ("a", "")),
        ("a:1,x", ("a:1,x", "")),
        ("a:2,S:2,F", ("a:2,S", "F")),
    ],
)
def test_split(name: str, parts: tuple[str, str]) -> None:
    assert fl.split_name(name) == parts


def test_names_and_masks() -> None:
    mask, words = fl.mask_of(["\\seen", "One", "two", "ONE", "\\Recent"], ("zero",))
    assert words == ("zero", "One", "two")
    assert fl.names_of(mask, words) == ("\\Seen", "One", "two")
    assert fl.translate(mask, words, ("TWO",)) == (SEEN | 64 | 32, ("TWO", "One"))
    assert fl.mask_of(["new"], words, create=False) == (0, words)
    with pytest.raises(LimitReached):
        fl.mask_of(["x" * 101], ())
