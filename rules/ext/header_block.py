"""vnd.filterd.header-block: the whole header as one text, as procmail's conditions see it.

    header_block [COMPARATOR] [MATCH-TYPE] [:decoded] <keys: string-list>

The one value is all fields in order, unfolded, one a line (LF between them, none at the end), as they came;
with :decoded each field's encoded words are decoded. In a :regex ``(?m)`` makes ``^`` and ``$`` stand at lines.
Complete: yes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rules.mail import charset
from rules.mail.header import unfold
from rules.registry import Extension, Kind, Param, TagSpec, TestFn, TestSpec
from rules.sources import Source, link_sources
from rules.view import decode

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run


@dataclass(frozen=True, slots=True)
class BlockSource:
    """The header as one text."""

    decoded: bool

    def values(self, run: Run) -> Sequence[str]:
        """One string, cut at the limit for bodies."""
        block = run.view.header
        lines: list[str] = []
        for field in block.fields:
            name = charset.lenient(bytes(field.name))
            value = unfold(block.value(field)).strip(b" \t\r\n")
            lines.append(f"{name}: {decode(value) if self.decoded else charset.lenient(value)}")
        return ("\n".join(lines)[: run.limits.body_text],)


def _sources(bound: Bound) -> tuple[Source, ...]:
    return (BlockSource(bound.has("decoded")),)


def _header_block(bound: Bound) -> TestFn:
    return link_sources(bound, _sources(bound))


_NEEDS = ("vnd.filterd.header-block",)

EXTENSION = Extension(
    "header_block",
    _NEEDS,
    dialect="filterd",
    tests=(
        TestSpec(
            "header_block",
            _NEEDS,
            (Param("keys", Kind.STRINGS),),
            link=_header_block,
            matches=True,
            reads=("header",),
            sources=_sources,
        ),
    ),
    tags=(TagSpec("decoded", ("header_block",), _NEEDS),),
)
