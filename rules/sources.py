"""Where the values of header, address and envelope tests come from.

Specification: RFC 5228 5.1, 5.4, 5.7, 2.7.4 (address parts); RFC 5233 (subaddresses). A ``Source`` is a small
value that can be compared: rules that look at the same source share one dispatch (``rules/merge.py``), and
because the test itself reads through the same object, merging cannot see other values than the test does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rules.bound import Bound, Texts, constants
from rules.mail import address
from rules.match import expand, link_match
from rules.view import Field, address_pairs, decode

if TYPE_CHECKING:
    from rules.context import Run
    from rules.registry import PartSpec, TestFn


class Source(Protocol):
    """Something that has values; equal sources have equal values as long as nothing edits the message."""

    def values(self, run: Run) -> Sequence[str]:
        """The values now."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class HeaderSource:
    """The decoded values of the fields of one name."""

    name: bytes

    def values(self, run: Run) -> Sequence[str]:
        """RFC 5228 5.7"""
        return run.view.values(self.name)


@dataclass(frozen=True, slots=True)
class AddressSource:
    """One part of the addresses in the fields of one name."""

    name: bytes
    part: str

    def values(self, run: Run) -> Sequence[str]:
        """RFC 5228 5.1"""
        pairs = run.view.pairs(self.name)
        return parts(run, self.part, pairs) if pairs else ()


def parts(run: Run, part: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """One part of each (local part, domain); addresses that have no such part are left out."""
    if part == "all":
        return [f"{address.quote_local(local)}@{domain}" if domain else local for local, domain in pairs]
    if part == "domain":
        return [domain for _, domain in pairs if domain]
    pairs = [pair for pair in pairs if pair != ("", "")]  # a name without an address, "<>"
    if part == "localpart":
        return [local for local, _ in pairs]
    assert run.script is not None
    spec: PartSpec = run.script.registry.parts[part]
    separator = run.setting("recipient_delimiter", "+")
    found = [spec.get(local, domain, separator) for local, domain in pairs]
    return [value for value in found if value is not None]


def field_name(text: str) -> bytes:
    """A header field's name as the view wants it."""
    return text.lower().encode("utf-8", "replace")


def names_of(texts: Texts) -> Callable[[Run], list[bytes]]:
    """The field names of a parameter, at run time."""
    known = constants(texts)
    if known is not None:
        names = [field_name(text) for text in known]
        return lambda run: names
    return lambda run: [field_name(text) for text in expand(run, texts)]


def is_plain(bound: Bound) -> bool:
    """True when no tag changes which fields are looked at or how."""
    return not any(tag.fields or tag.pick or tag.turn for tag in bound.tag_specs)


def field_reader(bound: Bound) -> Callable[[Run, Sequence[bytes]], list[Field]]:
    """The fields that a test with tags like :index and :mime looks at."""
    reader: Callable[[Run, Sequence[bytes]], list[Field]] | None = None
    picks: list[Callable[[Run, list[Field]], list[Field]]] = []
    for tag in bound.tag_specs:
        if tag.fields is not None:
            reader = tag.fields(bound)
        if tag.pick is not None:
            picks.append(tag.pick(bound))
    base = reader or (lambda run, names: run.view.fields(names))

    def read(run: Run, names: Sequence[bytes]) -> list[Field]:
        fields = base(run, names)
        for pick in picks:
            fields = pick(run, fields)
        return fields

    return read


def field_turner(bound: Bound) -> Callable[[Run, Field], list[str]]:
    """How a field becomes values: decoded, or as a tag says."""
    for tag in bound.tag_specs:
        if tag.turn is not None:
            return tag.turn(bound)
    return lambda run, field: [decode(field)]


def field_addresses(fields: Sequence[Field]) -> list[tuple[str, str]]:
    """The (local part, domain) pairs in raw fields."""
    return [pair for field in fields for pair in address_pairs(field)]


def link_sources(bound: Bound, sources: Sequence[Source]) -> TestFn:
    """A matching test over fixed sources."""
    match = link_match(bound)
    if len(sources) == 1:
        read = sources[0].values
        return lambda run: match(run, read(run))
    readers = [source.values for source in sources]

    def test(run: Run) -> bool:
        values: list[str] = []
        for read in readers:
            values.extend(read(run))
        return match(run, values)

    return test
