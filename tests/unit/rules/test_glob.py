"""``:matches`` against a slow but obvious oracle, captures, and hostile sizes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.glob import Glob


def same(text: str) -> str:
    return text


def oracle(pattern: str, text: str) -> list[str] | None:
    """Backtracking, shortest star first: by the book, exponential."""
    if not pattern:
        return None if text else []
    head, rest = pattern[0], pattern[1:]
    if head == "*":
        for length in range(len(text) + 1):
            found = oracle(rest, text[length:])
            if found is not None:
                return [text[:length], *found]
        return None
    if not text:
        return None
    if head == "?":
        found = oracle(rest, text[1:])
        return None if found is None else [text[0], *found]
    if head == "\\" and rest:
        head, rest = rest[0], rest[1:]
    return oracle(rest, text[1:]) if head == text[0] else None


@given(st.text("ab*?\\", max_size=9), st.text("ab*", max_size=10))
@settings(max_examples=1500, deadline=None)
def test_like_the_oracle(pattern: str, text: str) -> None:
    glob = Glob(pattern, same)
    places = glob.spans(text)
    expected = oracle(pattern, text)
    assert (places is None) == (expected is None)
    if places is not None and expected is not None:
        assert glob.groups(places, text) == (text, *expected)
        assert glob.literal in text


@pytest.mark.parametrize(
    ("pattern", "text", "groups"),
    [
        ("*c?e", "abcce abcde", ("abcce ab", "d")),  # Pigeonhole 0.5.19 says no
        ("* Re: *", "x Re: y Re: z", ("x", "y Re: z")),
        ("[*] *", "[a] b", ("a", "b")),
        ("\\*\\?*", "*?x", ("x",)),
        ("**", "ab", ("", "ab")),
        ("???", "abc", ("a", "b", "c")),
        ("a\\", "a\\", ()),
    ],
)
def test_captures(pattern: str, text: str, groups: tuple[str, ...]) -> None:
    glob = Glob(pattern, same)
    places = glob.spans(text)
    assert places is not None
    assert glob.groups(places, text) == (text, *groups)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*" + "a?" * 500 + "b*", "a" * 200_000),
        ("*a" * 500 + "b", "a" * 200_000),
        ("*" * 5000 + "b", "a" * 100_000),
        ("*" + "?" * 2000 + "b?b*", "ab" * 50_000 + "a"),
    ],
)
def test_no_backtracking(pattern: str, text: str) -> None:
    glob = Glob(pattern, same)
    start = time.process_time()
    glob.spans(text)
    assert time.process_time() - start < 2.0
