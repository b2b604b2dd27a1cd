"""Sequence sets: parsed once, resolved against sorted arrays by bisection, never expanded.

Specification: RFC 9051 section 9 (sequence-set), RFC 5182 (``$``). ``1:4294967295`` costs two bisections.
Positions are 0-based indexes into the session's uid array; numbers and UIDs are 1-based.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

STAR = 0
MAX_NUMBER = 0xFFFFFFFF

_PART = re.compile(rb"(\*|[1-9][0-9]{0,9})(?::(\*|[1-9][0-9]{0,9}))?\Z")


@dataclass(frozen=True, slots=True)
class NumSet:
    """``parts`` as (first, last), ``*`` is 0. ``saved`` stands for ``$``, the saved search result."""

    parts: tuple[tuple[int, int], ...]
    saved: bool = False

    @staticmethod
    def parse(text: bytes, limit: int) -> NumSet | None:
        """None when ``text`` is no sequence set or has more than ``limit`` parts."""
        if text == b"$":
            return NumSet((), True)
        if text.count(b",") >= limit:
            return None
        parts: list[tuple[int, int]] = []
        for piece in text.split(b","):
            match = _PART.match(piece)
            if match is None:
                return None
            low = _number(match[1])
            high = _number(match[2]) if match[2] else low
            if low > MAX_NUMBER or high > MAX_NUMBER:
                return None
            parts.append((low, high))
        return NumSet(tuple(parts))

    def spans_of_numbers(self, count: int) -> Spans:
        """Positions of these message sequence numbers in a mailbox of ``count``; what is beyond is left out."""
        spans = []
        for first, last in self.parts:
            low, high = first or count, last or count
            if low > high:
                low, high = high, low
            low = max(low, 1)
            high = min(high, count)
            if low <= high:
                spans.append((low - 1, high))
        return merge(spans)

    def beyond(self, count: int) -> bool:
        """Does any part lie wholly beyond ``count`` (RFC 9051 9: answered BAD)?

        ``1:*`` in an empty mailbox names nobody and is no error: clients ask so before they know that it is empty.
        """
        if count == 0:
            return any(first != STAR and last != STAR for first, last in self.parts)
        return any(min(first or count, last or count) > count for first, last in self.parts)

    def spans_of_uids(self, uids: Sequence[int]) -> Spans:
        """Positions of these UIDs in the ascending ``uids``; ``*`` is the last one even when below the range's start."""
        spans = []
        top = uids[-1] if uids else 0
        for first, last in self.parts:
            low, high = first or top, last or top
            if low > high:
                low, high = high, low
            start = bisect_left(uids, low)
            end = bisect_right(uids, high, start)
            if start < end:
                spans.append((start, end))
        return merge(spans)


Spans = list[tuple[int, int]]


def _number(text: bytes) -> int:
    return STAR if text == b"*" else int(text)


def merge(spans: Spans) -> Spans:
    """Half-open spans, ascending and disjoint."""
    if len(spans) < 2:
        return spans
    spans.sort()
    merged = [spans[0]]
    for start, end in spans[1:]:
        if start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def positions(spans: Spans) -> Iterator[int]:
    for start, end in spans:
        yield from range(start, end)


def size(spans: Spans) -> int:
    return sum(end - start for start, end in spans)


def pick(values: array[int], spans: Spans) -> array[int]:
    """The values at these positions; the very same array when that is all of them."""
    if len(spans) == 1:
        start, end = spans[0]
        return values if start == 0 and end == len(values) else values[start:end]
    found = array(values.typecode)
    for start, end in spans:
        found.extend(values[start:end])
    return found


def render(numbers: Iterable[int]) -> bytes:
    """Numbers as a sequence set, in the order given, ascending neighbours joined: 1:3,7."""
    runs: list[bytes] = []
    first = last = -1
    for number in numbers:
        if number == last + 1:
            last = number
            continue
        if last >= 0:
            runs.append(_run(first, last))
        first = last = number
    if last >= 0:
        runs.append(_run(first, last))
    return b",".join(runs)


def _run(first: int, last: int) -> bytes:
    return b"%d" % first if first == last else b"%d:%d" % (first, last)
