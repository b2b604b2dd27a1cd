"""`filterd explain`: where the message is now when it left by the queue, and what is said when nothing is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.cli.explain import QUEUED_PLACE, _unknown, _way
from filterd.config.load import parse
from pipeline.trace import Span


def span(result: str, summary: str) -> Span:
    return Span("send", 0.0, 0.0, result, summary)


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([], "in the queue for far@b.example; filterd queue why D216"),
        ([("waits", "far@b.example: 451 no")], "in the queue for far@b.example; filterd queue why D216"),
        (
            [("waits", "far@b.example: 451 no"), ("sent", "far@b.example at mx: 250 ok")],
            "handed over for far@b.example",
        ),
        (
            [("expired", "far@b.example: 451 no"), ("sent", "SRS0=x@a.example at here: 250 ok")],
            "given up for far@b.example; its sender was told",
        ),
        ([("bounced", "far@b.example at mx: 550 no")], "given up for far@b.example; its sender was told"),
        (
            [("sent", "nofar@b.example at mx: 250 ok")],
            "in the queue for far@b.example; filterd queue why D216",
        ),
    ],
)
def test_what_left_has_a_now(events: list[tuple[str, str]], told: str) -> None:
    assert _way("far@b.example", "D216", [span(*one) for one in events]) == told


def test_two_copies_for_one_address_are_two_ways() -> None:
    sent, refused = (
        Span("send", 0.0, 0.0, result, "far@b.example at mx: 250", {"item": item})
        for result, item in (("sent", "D216"), ("bounced", "D217"))
    )
    assert _way("far@b.example", "D216", [sent, refused]) == "handed over for far@b.example"
    assert "given up" in _way("far@b.example", "D217", [refused, sent])
    assert "filterd queue why D218" in _way("far@b.example", "D218", [sent, refused])


def test_the_places_of_the_trace_are_understood() -> None:
    match = QUEUED_PLACE.match("queued for far@b.example (D216WGCE6SGG)")
    assert match is not None and (match["address"], match["id"]) == ("far@b.example", "D216WGCE6SGG")


def test_nothing_known_says_why_that_may_be(tmp_path: Path) -> None:
    config = parse(
        '[server]\nhostname = "m.example"\n[[domain]]\nname = "a.example"\n[pipeline]\nkeep_traces = "5d"\n'
    )
    text = _unknown("last from x", config)
    assert "“last from x”" in text and "5d" in text and "filterd route ADDRESS" in text
