"""spamtest, spamtestplus, virustest: what the spam and virus stages found.

Specification: RFC 5235. Complete: yes. The host gives (score, threshold): a score at or above the threshold
is 10 (100 %), at or below zero 1 (0 %). An untested mail is "0" and has :count 0; tested ones have :count 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rules.match import link_match
from rules.registry import Extension, Kind, Param, TagSpec, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run
    from rules.sources import Source


def fraction(status: tuple[float, float]) -> float:
    """How spammy, from 0 to 1."""
    score, threshold = status
    if not (math.isfinite(score) and math.isfinite(threshold)):
        return 0.0 if not score > 0 else 1.0
    if threshold <= 0:
        return 1.0 if score >= threshold else 0.0
    return min(1.0, max(0.0, score / threshold))


def spam_value(status: tuple[float, float] | None, percent: bool) -> str:
    """RFC 5235 3.2: the normalised result."""
    if status is None:
        return "0"
    part = fraction(status)
    return str(math.floor(part * 100 + 1e-9)) if percent else str(1 + math.floor(part * 9 + 1e-9))


@dataclass(frozen=True, slots=True)
class StatusSource:
    """The outcome of the spam or virus stages."""

    test: str
    percent: bool = False

    def values(self, run: Run) -> Sequence[str]:
        """RFC 5235 3.2, 4.2"""
        if self.test == "spamtest":
            return (spam_value(run.host.spam_status(), self.percent),)
        status = run.host.virus_status()
        return ("0" if status is None or not 0 <= status <= 5 else str(status),)


def _sources(bound: Bound) -> tuple[Source, ...] | None:
    if bound.match is None or bound.match.whole:
        return None  # :count tells an untested message from a tested one
    return (StatusSource(bound.name, bound.has("percent")),)


def _spamtest(bound: Bound) -> TestFn:
    match = link_match(bound)
    percent = bound.has("percent")
    counts = bound.match is not None and bound.match.name == "count"

    def test(run: Run) -> bool:
        status = run.host.spam_status()
        if counts and status is None:
            return match(run, [])
        return match(run, [spam_value(status, percent)])

    return test


def _virustest(bound: Bound) -> TestFn:
    match = link_match(bound)
    counts = bound.match is not None and bound.match.name == "count"

    def test(run: Run) -> bool:
        status = run.host.virus_status()
        if status is None or not 0 <= status <= 5:
            return match(run, [] if counts else ["0"])
        return match(run, [str(status)])

    return test


_VALUE = (Param("value", Kind.STRING),)

EXTENSION = Extension(
    "spamtest",
    ("spamtest", "spamtestplus", "virustest"),
    dialect="RFC 5235",
    implies=(("spamtestplus", "spamtest"),),
    tests=(
        TestSpec(
            "spamtest", ("spamtest", "spamtestplus"), _VALUE, link=_spamtest, matches=True, sources=_sources
        ),
        TestSpec("virustest", ("virustest",), _VALUE, link=_virustest, matches=True, sources=_sources),
    ),
    tags=(TagSpec("percent", ("spamtest",), ("spamtestplus",)),),
)
