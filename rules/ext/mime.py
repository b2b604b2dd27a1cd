"""mime: the tags :mime, :anychild, :type, :subtype, :contenttype and :param of header, address and exists.

Specification: RFC 5703 section 4. Complete: yes. :mime looks at the header of the current part (in a
foreverypart loop) or of the message, :anychild also at all parts inside it. Fields that are neither
Content-Type nor Content-Disposition have a blank :type; with :count the fields that could be parsed are counted
(:type and its like), or the parameters that were found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rules.ext.foreverypart import current_part
from rules.mail import mime, params
from rules.match import expand
from rules.registry import Extension, Kind, TagSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run
    from rules.mail.header import HeaderBlock
    from rules.view import Field


class PartField(bytes):
    """A field's value that knows the lower-case name of its field."""

    name: bytes = b""


def _named(block: HeaderBlock, name: bytes) -> list[Field]:
    out: list[Field] = []
    for value in block.get_all(name):
        field = PartField(value)
        field.name = name
        out.append(field)
    return out


def _blocks(run: Run, children: bool) -> list[HeaderBlock]:
    """The headers to look at, in the order of the parts."""
    part = current_part(run)
    top = part is None or (part.start == 0 and part.header.start == 0)
    if part is None:
        if not children:
            return [run.view.header]
        part = run.view.message.root
    walk = islice(mime.walk(part), run.limits.mime_parts) if children else iter([part])
    blocks = [one.header for one in walk]
    if top:  # an edited header is the message's own
        blocks[0] = run.view.header
    return blocks


def _fields(bound: Bound) -> Callable[[Run, Sequence[bytes]], list[Field]]:
    children = bound.has("anychild")

    def read(run: Run, names: Sequence[bytes]) -> list[Field]:
        blocks = _blocks(run, children)
        return [field for name in names for block in blocks for field in _named(block, name)]

    return read


def _kind(name: bytes, value: str, option: str) -> str:
    """RFC 5703 4.1: what the field has as its type, subtype or content type."""
    if name == b"content-disposition":
        return "" if option == "subtype" else value
    if name != b"content-type":
        return ""
    main, _, sub = value.partition("/")
    return {"type": main, "subtype": sub}.get(option, value)


def _turn_kind(option: str) -> Callable[[Bound], Callable[[Run, Field], list[str]]]:
    def turn(bound: Bound) -> Callable[[Run, Field], list[str]]:
        counts = bound.match is not None and bound.match.name == "count"

        def values(run: Run, field: Field) -> list[str]:
            name = field.name if isinstance(field, PartField) else b""
            found = params.parse(field)
            if name == b"content-type" and "/" not in found.value:
                return []  # it could not be parsed
            value = _kind(name, found.value, option)
            return [value] if value or not counts else []

        return values

    return turn


def _turn_param(bound: Bound) -> Callable[[Run, Field], list[str]]:
    names = bound.tag_texts("param") or ()

    def values(run: Run, field: Field) -> list[str]:
        given = params.parse(field).params
        return [given[name.lower()] for name in expand(run, names) if name.lower() in given]

    return values


_NEEDS = ("mime",)
_ON = ("header", "address", "exists")
_HEADER = ("header",)
_OPTION = "MIME option"

EXTENSION = Extension(
    "mime",
    _NEEDS,
    dialect="RFC 5703",
    tags=(
        TagSpec("mime", _ON, _NEEDS, fields=_fields),
        TagSpec("anychild", _ON, _NEEDS, requires=("mime",)),
        TagSpec("type", _HEADER, _NEEDS, group=_OPTION, requires=("mime",), turn=_turn_kind("type")),
        TagSpec("subtype", _HEADER, _NEEDS, group=_OPTION, requires=("mime",), turn=_turn_kind("subtype")),
        TagSpec(
            "contenttype", _HEADER, _NEEDS, group=_OPTION, requires=("mime",), turn=_turn_kind("contenttype")
        ),
        TagSpec("param", _HEADER, _NEEDS, Kind.STRINGS, group=_OPTION, requires=("mime",), turn=_turn_param),
    ),
)
