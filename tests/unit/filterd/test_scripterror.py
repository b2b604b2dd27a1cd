"""One fault of one script has one key, whatever text came with it."""

from __future__ import annotations

from filterd import scripterror
from rules.actions import Place


def test_a_place_decides_not_the_text_a_stranger_chose() -> None:
    first = scripterror.key("digest", 'not an address: "a b"', Place("main", 3))
    assert first == scripterror.key("digest", 'not an address: "c d"', Place("main", 3, 9))
    assert first != scripterror.key("digest", 'not an address: "a b"', Place("main", 4))
    assert first != scripterror.key("digest", 'not an address: "a b"', Place("before", 3))
    assert first != scripterror.key("other", 'not an address: "a b"', Place("main", 3))


def test_without_a_place_the_text_decides() -> None:
    assert scripterror.key("digest", "time is up", None) == scripterror.key("digest", "time is up", None)
    assert scripterror.key("digest", "time is up", None) != scripterror.key("digest", "too many steps", None)
