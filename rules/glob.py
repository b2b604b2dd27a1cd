"""``:matches`` patterns, linear in the text, with what each wildcard stood for.

Specification: RFC 5228 section 2.7.1 (``*``, ``?``, backslash), RFC 5229 section 3.2: wildcards match as
little as possible, from left to right. The pattern is cut at its stars into segments: the first is anchored
at the start, the last at the end, each inner one is put at its leftmost place behind the one before. Leftmost
is both right (if any placement exists, this one does) and the shortest for each star in turn, so nothing is
ever tried twice: no backtracking.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rules.errors import RunError

_SMALL = 1 << 20  # text times segment: below this a plain search is quick enough
_SEGMENT_SIZE = 4096  # characters of one segment that has question marks in it
_HOLE = None
_PIECE = re.compile(r"[*?]|[^*?]+")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
# Characters that lost their backslash stand aside in the private use plane while the pattern is taken apart.
_ASIDE = {"*": "\U0010fff0", "?": "\U0010fff1"}
_UNESCAPE = {ord(aside): char for char, aside in _ASIDE.items()}


def _join_escapes(pattern: str) -> str:
    if "\\" not in pattern:
        return pattern
    return _ESCAPED.sub(lambda found: _ASIDE.get(found[1], found[1]), pattern)


class Segment:
    """A stretch of pattern without stars: literal pieces, and holes (question marks, None) between them."""

    __slots__ = ("best", "holes", "length", "pieces", "text")

    def __init__(self, items: list[str | None]) -> None:
        pieces: list[tuple[int, str]] = []
        holes: list[int] = []
        length = 0
        for item in items:
            if item is None:
                holes.append(length)
                length += 1
            else:
                pieces.append((length, item))
                length += len(item)
        self.length = length
        self.holes = tuple(holes)
        self.pieces = tuple(pieces)
        self.text = pieces[0][1] if pieces and not holes else ""
        self.best = pieces[0] if len(pieces) == 1 else max(pieces, key=_length, default=(0, ""))

    def at(self, text: str, start: int) -> bool:
        """Does the segment stand at this place?"""
        if start < 0 or start + self.length > len(text):
            return False
        return all(text.startswith(piece, start + offset) for offset, piece in self.pieces)

    def find(self, text: str, start: int, end: int) -> int:
        """The leftmost place in text[start:end], or -1."""
        if not self.holes:
            return text.find(self.text, start, end)
        if start + self.length > end:
            return -1
        offset, piece = self.best
        if not piece:
            return start
        if (end - start) * self.length > _SMALL:
            return self._shift_and(text, start, end)
        last = end - self.length + offset + len(piece)
        place = text.find(piece, start + offset, last)
        while place >= 0:
            if self.at(text, place - offset):
                return place - offset
            place = text.find(piece, place + 1, last)
        return -1

    def _shift_and(self, text: str, start: int, end: int) -> int:
        """Bit-parallel search: one step a character, whatever the text and the pattern are."""
        if self.length > _SEGMENT_SIZE:
            raise RunError("a :matches pattern with ? is too long for this text")
        holes = sum(1 << index for index in self.holes)
        masks: dict[str, int] = {}
        for offset, piece in self.pieces:
            for index, char in enumerate(piece, offset):
                masks[char] = masks.get(char, holes) | 1 << index
        goal = 1 << (self.length - 1)
        state = 0
        for place in range(start, end):
            state = (state << 1 | 1) & masks.get(text[place], holes)
            if state & goal:
                return place - self.length + 1
        return -1


def _length(piece: tuple[int, str]) -> int:
    return len(piece[1])


class Glob:
    """A compiled pattern. ``normal`` is the comparator's folding, applied to the literals after backslashes are gone."""

    __slots__ = ("literal", "segments", "source", "wild")

    def __init__(self, pattern: str, normal: Callable[[str], str]) -> None:
        self.source = pattern
        segments: list[list[str | None]] = [[]]
        wild = False
        escaped = "\\" in pattern
        for piece in _PIECE.findall(_join_escapes(pattern)):
            if piece == "*":
                segments.append([])
                wild = True
            elif piece == "?":
                segments[-1].append(_HOLE)
                wild = True
            else:
                segments[-1].append(normal(piece.translate(_UNESCAPE) if escaped else piece))
        self.wild = wild
        self.segments = tuple(map(Segment, segments))
        self.literal = max((segment.best[1] for segment in self.segments), key=len)  # every match contains it

    @property
    def is_infix(self) -> bool:
        """Does it only ask whether the literal is in the text?"""
        segments = self.segments
        return len(segments) == 3 and not (segments[0].length or segments[2].length or segments[1].holes)

    def spans(self, text: str) -> list[int] | None:
        """Where the segments stand in the (folded) text; None when the pattern does not match."""
        segments = self.segments
        first, end = segments[0], len(text)
        if not first.at(text, 0):
            return None
        if len(segments) == 1:
            return [0] if first.length == end else None
        last = segments[-1]
        tail = end - last.length
        if tail < first.length or not last.at(text, tail):
            return None
        places = [0]
        position = first.length
        for segment in segments[1:-1]:
            place = segment.find(text, position, tail)
            if place < 0:
                return None
            places.append(place)
            position = place + segment.length
        places.append(tail)
        return places

    def groups(self, places: list[int], text: str) -> tuple[str, ...]:
        """What the wildcards stood for, left to right, after the whole text as number 0."""
        out = [text]
        position = 0
        for number, (segment, place) in enumerate(zip(self.segments, places, strict=True)):
            if number:
                out.append(text[position:place])
            out.extend(text[place + hole] for hole in segment.holes)
            position = place + segment.length
        return tuple(out)
