"""vnd.filterd.attachment: what is attached to a message.

    attachment [COMPARATOR] [MATCH-TYPE] [:name / :type] <keys: string-list>
    attachment_size [:total] (:over / :under) <limit: number>

An attachment is a part that is no multipart and whose Content-Disposition is "attachment", or that has a file
name, or that is neither text nor an alternative form of it; parts of an attached message are not looked into.
``attachment`` has a value for each: its file name (decoded; empty when it has none), with :type its media type
("application/pdf"); :count counts attachments. ``attachment_size`` is true when any attachment, decoded, is
larger or smaller (with :total: when all together are; none at all are 0 octets). Complete: yes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rules.context import StateKey
from rules.mail.mime import Part
from rules.registry import Extension, Kind, Param, TagSpec, TestFn, TestSpec
from rules.sources import Source, link_sources

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_FOUND: StateKey[dict[int, list[Part]]] = StateKey("attachment", dict)


def _parts(root: Part, most: int) -> Iterator[tuple[Part, bool]]:
    """(part, is it in a multipart/alternative?), without what is inside attached messages."""
    stack = [(root, False)]
    while stack and most > 0:
        part, alternative = stack.pop()
        most -= 1
        yield part, alternative
        if part.is_multipart:
            inside = part.subtype in ("alternative", "related")
            stack.extend((child, inside) for child in reversed(part.children))


def _is_attachment(part: Part, alternative: bool) -> bool:
    if part.is_multipart:
        return False
    disposition = part.disposition()
    if disposition is not None and disposition.value == "attachment":
        return True
    if part.filename():
        return disposition is None or disposition.value != "inline" or part.ctype != "image"
    return part.ctype != "text" and not alternative


def attachments(run: Run) -> list[Part]:
    """The attachments of the message as it is now, in order."""
    found = run.get(_FOUND)
    version = run.view.version
    if version not in found:
        parts = _parts(run.view.message.root, run.limits.mime_parts)
        found[version] = [part for part, alternative in parts if _is_attachment(part, alternative)]
    return found[version]


@dataclass(frozen=True, slots=True)
class AttachmentSource:
    """Names or types of the attachments."""

    types: bool
    slow = True  # the whole message is taken apart

    def values(self, run: Run) -> Sequence[str]:
        """One for each attachment."""
        if self.types:
            return [f"{part.ctype}/{part.subtype}" for part in attachments(run)]
        return [part.filename() or "" for part in attachments(run)]


def _sources(bound: Bound) -> tuple[Source, ...]:
    return (AttachmentSource(bound.has("type")),)


def _attachment(bound: Bound) -> TestFn:
    return link_sources(bound, _sources(bound))


def _check_size(checker: Checker, bound: Bound) -> None:
    if not bound.has("over") and not bound.has("under"):
        message = '"attachment_size" needs :over or :under'
        checker.error(bound.node.pos, "arguments", message, "write attachment_size :over 10M")


def _size(bound: Bound) -> TestFn:
    over, total = bound.tag_number("over"), bound.has("total")
    limit = (bound.tag_number("under") or 0) if over is None else over

    def test(run: Run) -> bool:
        sizes = [len(part.decoded()) for part in attachments(run)]
        if total:
            sizes = [sum(sizes)]
        run.seen, run.key = ", ".join(map(str, sizes[:8])), f":{'under' if over is None else 'over'} {limit}"
        return any(size < limit if over is None else size > limit for size in sizes)

    return test


_NEEDS = ("vnd.filterd.attachment",)
_SIZE = ("attachment_size",)

EXTENSION = Extension(
    "attachment",
    _NEEDS,
    dialect="filterd",
    tests=(
        TestSpec(
            "attachment",
            _NEEDS,
            (Param("keys", Kind.STRINGS),),
            link=_attachment,
            matches=True,
            reads=("body",),
            sources=_sources,
        ),
        TestSpec("attachment_size", _NEEDS, check=_check_size, link=_size, reads=("body",)),
    ),
    tags=(
        TagSpec("name", ("attachment",), _NEEDS, group="what is looked at"),
        TagSpec("type", ("attachment",), _NEEDS, group="what is looked at"),
        TagSpec("over", _SIZE, _NEEDS, Kind.NUMBER, group="limit"),
        TagSpec("under", _SIZE, _NEEDS, Kind.NUMBER, group="limit"),
        TagSpec("total", _SIZE, _NEEDS),
    ),
)
