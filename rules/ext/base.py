"""The tests of the base language: header, address, exists, size; the match types and comparators everybody has.

Specification: RFC 5228 sections 2.7, 5.1, 5.6, 5.7, 5.9; comparators 2.7.3. Complete: yes. Choices:
``address`` is refused for fields that hold no addresses (5.1: "MUST restrict"); values of ``exists`` may be
any name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rules import comparator
from rules.bound import constants
from rules.mail.address import quote_local
from rules.match import (
    enter_contains,
    enter_is,
    enter_matches,
    indexable_keys,
    indexable_patterns,
    link_contains,
    link_is,
    link_match,
    link_matches,
)
from rules.registry import (
    ComparatorSpec,
    Extension,
    Kind,
    MatchSpec,
    Param,
    PartSpec,
    TagSpec,
    TestFn,
    TestSpec,
)
from rules.sources import (
    AddressSource,
    HeaderSource,
    Source,
    field_addresses,
    field_name,
    field_reader,
    field_turner,
    is_plain,
    link_sources,
    names_of,
    parts,
)

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.formula import Atom

_FIELD_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322 3.6.8
_HOLD_ADDRESSES = (
    "from to cc bcc sender reply-to resent-from resent-to resent-cc resent-bcc resent-sender resent-reply-to "
    "return-path delivered-to envelope-to x-envelope-to x-envelope-from x-original-to x-delivered-to "
    "x-forwarded-to x-rcpt-to x-sender x-google-original-from x-original-from errors-to "
    "disposition-notification-to return-receipt-to mail-followup-to mail-reply-to mail-copies-to "
    "abuse-reports-to x-abuse-reports-to x-report-abuse-to x-complaints-to apparently-to original-recipient "
    "final-recipient x-failed-recipients approved list-owner x-beenthere x-loop"
)
ADDRESS_FIELDS = frozenset(_HOLD_ADDRESSES.split(" "))


def check_field_names(checker: Checker, bound: Bound, index: int) -> None:
    """A warning for each constant that cannot be a header field's name: no message has such a field."""
    for item, text in enumerate(bound.texts(index)):
        if isinstance(text, str) and not _FIELD_NAME.fullmatch(text):
            message = f'"{text[:60]}" cannot be the name of a header field: none is found'
            cure = (
                "leave out the colon"
                if text.endswith(":")
                else "use printable ASCII without blanks and colons"
            )
            checker.warn(checker.where(bound, index, item), "header-name", message, cure)


def _check_header(checker: Checker, bound: Bound) -> None:
    check_field_names(checker, bound, 0)


def _check_address(checker: Checker, bound: Bound) -> None:
    check_field_names(checker, bound, 0)
    if not is_plain(bound) and any(tag.fields for tag in bound.tag_specs):
        return  # parts of MIME have other fields
    for item, text in enumerate(bound.texts(0)):
        if isinstance(text, str) and _FIELD_NAME.fullmatch(text) and text.lower() not in ADDRESS_FIELDS:
            message = f'the header field "{text[:60]}" holds no addresses'
            checker.error(checker.where(bound, 0, item), "address-header", message, "use the test header")


def _header_sources(bound: Bound) -> tuple[Source, ...] | None:
    names = constants(bound.texts(0))
    if names is None or not is_plain(bound):
        return None
    return tuple(HeaderSource(name.lower().encode("utf-8", "replace")) for name in names)


def _header(bound: Bound) -> TestFn:
    sources = _header_sources(bound)
    if sources is not None:
        return link_sources(bound, sources)
    match = link_match(bound)
    names = names_of(bound.texts(0))
    if is_plain(bound):
        return lambda run: match(run, [value for name in names(run) for value in run.view.values(name)])
    read, turn = field_reader(bound), field_turner(bound)
    return lambda run: match(run, [value for field in read(run, names(run)) for value in turn(run, field)])


def _address_sources(bound: Bound) -> tuple[Source, ...] | None:
    names = constants(bound.texts(0))
    if names is None or not is_plain(bound) or bound.part is None:
        return None
    return tuple(AddressSource(field_name(name), bound.part.name) for name in names)


def _address(bound: Bound) -> TestFn:
    sources = _address_sources(bound)
    if sources is not None:
        return link_sources(bound, sources)
    match = link_match(bound)
    names = names_of(bound.texts(0))
    read = field_reader(bound)
    assert bound.part is not None
    part = bound.part.name
    any_field = any(tag.fields for tag in bound.tag_specs)  # parts of MIME have other fields

    def test(run: Run) -> bool:
        wanted = [
            name for name in names(run) if any_field or name.decode("utf-8", "replace") in ADDRESS_FIELDS
        ]
        return match(run, parts(run, part, field_addresses(read(run, wanted))))

    return test


def _exists(bound: Bound) -> TestFn:
    names = names_of(bound.texts(0))
    plain = is_plain(bound)
    read = field_reader(bound)

    def test(run: Run) -> bool:
        for name in names(run):
            found = run.view.exists(name) if plain else bool(read(run, [name]))
            if not found:
                run.seen, run.key = "", name.decode("utf-8", "replace")
                return False
        run.seen = run.key = b", ".join(names(run)[:8]).decode("utf-8", "replace")
        return True

    return test


def _exists_atoms(bound: Bound) -> tuple[Atom, ...] | None:
    names = constants(bound.texts(0))
    if names is None or not is_plain(bound):
        return None

    def atom(name: bytes) -> Atom:
        return lambda tables, owner: tables.names().add(name, owner)

    return tuple(atom(field_name(name)) for name in names)


def _check_size(checker: Checker, bound: Bound) -> None:
    if not bound.has("over") and not bound.has("under"):
        checker.error(bound.node.pos, "arguments", '"size" needs :over or :under', "write size :over 1M")


def _size(bound: Bound) -> TestFn:
    over = bound.tag_number("over")
    under = bound.tag_number("under")
    limit = over if over is not None else under or 0
    key = f":{'over' if over is not None else 'under'} {limit}"

    def test(run: Run) -> bool:
        size = run.view.size
        run.seen, run.key = str(size), key
        return size > limit if over is not None else size < limit

    return test


def _size_atoms(bound: Bound) -> tuple[Atom, ...]:
    over = bound.tag_number("over")
    limit = bound.tag_number("under") or 0 if over is None else over
    return (lambda tables, owner: tables.sizes().add(limit, over is not None, owner),)


_NAMES = Param("header names", Kind.STRINGS)
_KEYS = Param("keys", Kind.STRINGS)

EXTENSION = Extension(
    "base",
    ("comparator-i;octet", "comparator-i;ascii-casemap"),
    dialect="RFC 5228",
    tests=(
        TestSpec(
            "header",
            params=(_NAMES, _KEYS),
            check=_check_header,
            link=_header,
            matches=True,
            reads=("header",),
            sources=_header_sources,
        ),
        TestSpec(
            "address",
            params=(_NAMES, _KEYS),
            check=_check_address,
            link=_address,
            matches=True,
            part=True,
            reads=("header",),
            sources=_address_sources,
        ),
        TestSpec(
            "exists",
            params=(_NAMES,),
            check=_check_header,
            link=_exists,
            reads=("header",),
            atoms=_exists_atoms,
        ),
        TestSpec("size", check=_check_size, link=_size, reads=("size",), atoms=_size_atoms),
    ),
    tags=(
        TagSpec("over", ("size",), kind=Kind.NUMBER, group="size limit"),
        TagSpec("under", ("size",), kind=Kind.NUMBER, group="size limit"),
    ),
    matches=(
        MatchSpec("is", link_is, enter=enter_is, indexable=indexable_keys),
        MatchSpec("contains", link_contains, substring=True, enter=enter_contains, indexable=indexable_keys),
        MatchSpec(
            "matches",
            link_matches,
            substring=True,
            captures=True,
            enter=enter_matches,
            indexable=indexable_patterns,
        ),
    ),
    comparators=(
        ComparatorSpec("i;octet", normal=comparator.octet, order=comparator.octet),
        ComparatorSpec("i;ascii-casemap", normal=comparator.ascii_casemap, order=comparator.ascii_casemap),
    ),
    parts=(
        PartSpec(
            "all", lambda local, domain, separator: f"{quote_local(local)}@{domain}" if domain else local
        ),
        PartSpec("localpart", lambda local, domain, separator: local),
        PartSpec("domain", lambda local, domain, separator: domain or None),
    ),
)
