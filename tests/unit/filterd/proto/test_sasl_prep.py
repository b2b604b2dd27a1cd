"""SASLprep: the examples of RFC 4013 3, and directions."""

import pytest

from filterd.proto.sasl_prep import Unprepared, saslprep


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("jo\u0308e", "jöe"),
        ("", ""),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_prepared(text: str, done: str) -> None:
    assert saslprep(text) == done


@pytest.mark.parametrize(
    "text", ["\u0007", "\u06271", "a\u0627b\u0627", "\ud800", "\ufffd", "\ue000", "\u200e"]
)
def test_prohibited(text: str) -> None:
    with pytest.raises(Unprepared):
        saslprep(text)


def test_unassigned_code_points_are_for_queries_only() -> None:
    assert saslprep("\u0221") == "\u0221"
    with pytest.raises(Unprepared):
        saslprep("\u0221", stored=True)
