"""RFC 5260 section 6."""

from __future__ import annotations

from collections.abc import Callable

import pytest

MAIL = b"A: one@x\r\nB: two@x\r\nA: three@x\r\nTo: a@x, b@x\r\nTo: c@x\r\n\r\n"


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('header :index 1 "a" "one@x"', True),
        ('header :index 2 "a" "one@x"', False),
        ('header :index 1 :last "a" "three@x"', True),
        ('header :index 3 ["a", "b"] "two@x"', True),  # counted in the order of the names
        ('address :index 1 "to" "b@x"', True),
        ('address :index 1 "to" "c@x"', False),
        ('address :index 1 :last "to" "c@x"', True),
        ('header :index 9 "a" ""', False),
        ('header :index 18446744073709551615 "a" ""', False),
    ],
)
def test_index(holds: Callable[..., bool], test: str, expected: bool) -> None:
    assert holds(test, "index", MAIL) is expected
