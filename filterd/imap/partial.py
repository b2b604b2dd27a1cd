"""PARTIAL: a window of a result, from its start or, with negative numbers, from its end. Specification: RFC 9394. Complete."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from filterd.imap.errors import Bad
from filterd.imap.parse import Parser

_RANGE = re.compile(rb"(-?)([1-9][0-9]{0,9}):(-?)([1-9][0-9]{0,9})")


@dataclass(frozen=True, slots=True)
class Partial:
    """``first``..``last`` are 1-based; ``backward``: counted from the end."""

    first: int
    last: int
    backward: bool
    text: bytes

    @staticmethod
    def parse(p: Parser) -> Partial:
        found = _RANGE.match(p.text, p.at)
        if found is None or found[1] != found[3]:
            raise Bad("Invalid partial range")
        p.at = found.end()
        first, last = sorted((int(found[2]), int(found[4])))
        return Partial(first, last, bool(found[1]), found[0])

    def cut(self, values: Sequence[int]) -> Sequence[int]:
        """Of ascending ``values``."""
        if not self.backward:
            return values[self.first - 1 : self.last]
        end = len(values) - self.first + 1
        return values[max(end - (self.last - self.first + 1), 0) : end] if end > 0 else values[:0]
