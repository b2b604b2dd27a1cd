"""The open ``foreverypart`` loops of a run (RFC 5703 section 3), as plain values.

Apart from ``rules/ext/foreverypart.py`` because the run holds them, and ``include`` and the interpreter end
those of a script that was left. Offsets are those of the message when the outermost loop began.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.mail.mime import Part


@dataclass(slots=True)
class Replacement:
    """What stands in the place of a part: whole lines, header and body; ``data`` has the message's line ends."""

    part: Part
    data: bytes


@dataclass(slots=True)
class Loop:
    """One loop: the parts to come, the current one, and what was replaced so far (shared by nested loops)."""

    bound: Bound
    root: Part  # the message's, when the outermost loop began
    walk: Iterator[Part]
    replaced: list[Replacement]
    part: Part | None = None

    def advance(self) -> Part | None:
        """Goes to the next part that still exists; None at the end."""
        for part in self.walk:
            if not self.gone(part):
                self.part = part
                return part
        self.part = None
        return None

    def gone(self, part: Part) -> bool:
        """Was it taken away with a part around it (or replaced itself)?"""
        return any(one.part.start <= part.start and part.end <= one.part.end for one in self.replaced)
