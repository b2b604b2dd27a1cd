"""The result of spam and virus scanners as a header field of the message tells it.

Specification: the settings ``sieve_spamtest_*`` and ``sieve_virustest_*`` of Pigeonhole, old and new spelling:
status header with an optional regular expression, status type score, strlen or text, the highest value or the
header that has it, and the texts for each value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rules.limits import DEFAULT
from rules.regexes import compile_pattern
from rules.view import View

_SCORE = re.compile(r"\s*([-+]?(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15}))\s*")


def header_value(view: View, source: str) -> str | None:
    """The value that ``Name`` or ``Name:regular expression`` finds in the first field of that name."""
    name, _, pattern = source.partition(":")
    values = view.values(name.strip().lower().encode("utf-8", "replace"))
    if not values:
        return None
    pattern = pattern.strip()
    if not pattern:
        return values[0].strip()
    compiled = compile_pattern(pattern, DEFAULT, fold=False)
    if isinstance(compiled, str):
        return None
    found = compiled.search(values[0])
    if found is None:
        return None
    groups = found.groups("")
    return groups[0] if groups else found.group(0)


def score_of(text: str) -> float | None:
    """A number as scanners write it."""
    found = _SCORE.fullmatch(text)
    return float(found[1]) if found else None


def _first(config: Mapping[str, str], *names: str) -> str:
    return next((config[name] for name in names if config.get(name)), "")


def status(view: View, config: Mapping[str, str], test: str, steps: int) -> tuple[float, float] | None:
    """(value, highest value) of ``spamtest`` or ``virustest``; None: not tested. ``steps``: text values 0 or 1 to it."""
    prefix = f"sieve_{test}_"
    source = config.get(prefix + "status_header", "")
    value = header_value(view, source) if source else None
    if value is None:
        return None
    kind = config.get(prefix + "status_type", "score").strip().lower()
    if kind == "text":
        for number in range(steps + 1):
            text = _first(config, f"{prefix}text_value/{number}", f"{prefix}text_value{number}")
            if text and text == value:
                return _step(number, steps, test)
        return None
    highest = _highest(view, config, prefix)
    if highest is None:
        return None
    if kind == "strlen":
        return float(len(value)), highest
    score = score_of(value)
    return None if score is None else (score, highest)


def _step(number: int, steps: int, test: str) -> tuple[float, float] | None:
    """The value that a text stands for, as a score that gives this value again; 0 says untested."""
    if number == 0:
        return None
    return (float(number), float(steps)) if test == "virustest" else (float(number - 1), float(steps - 1))


def _highest(view: View, config: Mapping[str, str], prefix: str) -> float | None:
    source = _first(config, prefix + "score_max_header", prefix + "max_header")
    text = header_value(view, source) if source else None
    if not source:
        text = _first(config, prefix + "score_max_value", prefix + "max_value")
    highest = score_of(text) if text else None
    return highest if highest is not None and highest > 0 else None


def virus_value(found: tuple[float, float] | None) -> int | None:
    """RFC 5235 3.3: 1 to 5 (0 is untested)."""
    if found is None:
        return None
    value, highest = found
    part = min(1.0, max(0.0, value / highest))
    return int(part * 4 + 1 + 1e-9)


__all__ = ["header_value", "score_of", "status", "virus_value"]
