"""envelope: the SMTP envelope.

Specification: RFC 5228 section 5.4; "orig_to" and "auth" after what Pigeonhole's tests use; RFC 6009 adds
parts (envelope-dsn). Complete: yes. The null path is the empty string for :all, and has no local part and no
domain to compare but the empty one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timezone
from functools import lru_cache
from typing import TYPE_CHECKING

from rules.bound import constants
from rules.errors import RunError
from rules.ext.date import zone_of
from rules.ext.envelope_dsn import DELIVER_BY, DSN_PARTS, dsn_values
from rules.match import expand, link_match
from rules.registry import Extension, Kind, Param, TestFn, TestSpec
from rules.sources import Source, is_plain, link_sources, parts
from rules.variables import Template

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

# RFC 5321 4.1.2, with UTF-8 (RFC 6531), odd dots in the local part, and a local part alone. Source routes are passed over.
_WORD = r"[^\x00-\x20\"(),:;<>@\[\\\]\x7f]++"
_LABELS = r"(?:[^\x00-\x20\"(),.:;<>@\[\\\]\x7f]++(?:\.[^\x00-\x20\"(),.:;<>@\[\\\]\x7f]++)*+|\[[!-Z^-~]*+\])"
_MAILBOX = rf'({_WORD}|"(?:[^"\\]|\\.)*+")(?:@({_LABELS}))?'
_PATH = re.compile(
    rf"(?:<(?:@{_LABELS}(?:,@{_LABELS})*+:)?{_MAILBOX}>|(?:@{_LABELS}(?:,@{_LABELS})*+:)?{_MAILBOX})"
)
_PARTS = ("from", "to", "orig_to", "auth")


@dataclass(frozen=True, slots=True)
class EnvelopeSource:
    """One part of the envelope."""

    name: str
    part: str
    zone: str | None = None

    def values(self, run: Run) -> Sequence[str]:
        """The value, as no, one or several strings."""
        return envelope_values(run, self.name, self.part, zone_of(self.zone) if self.zone else None)


def unquote(local: str) -> str:
    """A local part without its quotes."""
    if not local.startswith('"'):
        return local
    return re.sub(r"\\(.)", r"\1", local[1:-1])


@lru_cache(maxsize=256)
def _split(path: str) -> tuple[str, str] | None:
    """Local part and domain of a path; None when it is none."""
    found = _PATH.fullmatch(path)
    return None if found is None else (unquote(found[1] or found[3]), found[2] or found[4] or "")


def envelope_values(run: Run, name: str, part: str, zone: timezone | None = None) -> list[str]:
    """RFC 5228 5.4: the values of one envelope part; ``zone`` is for bytimeabsolute."""
    envelope = run.envelope
    if name == "auth":
        return [envelope.auth] if envelope.auth else []
    if name in DSN_PARTS:
        return dsn_values(run, name, zone)
    path: str | None
    if name == "from":
        path = envelope.mail_from
    elif name == "to":
        path = envelope.rcpt_to
    else:
        path = (envelope.orig_to or envelope.rcpt_to) if name == "orig_to" else None
    if path is None:
        return []
    path = path.strip()
    if path in ("", "<>"):
        # RFC 5228 5.4: the null reverse-path is compared as the empty string, whatever the address part.
        return [""] if name == "from" else []
    pair = _split(path)
    return [] if pair is None else parts(run, part, [pair])  # what is no path has no parts


def _check(checker: Checker, bound: Bound) -> None:
    for item, text in enumerate(bound.texts(0)):
        if not isinstance(text, str):
            continue
        name = text.lower()
        if name in DSN_PARTS:
            need = "envelope-deliverby" if name in DELIVER_BY else "envelope-dsn"
            if not checker.has(need):
                message = f'the envelope part "{name}" needs the capability "{need}"'
                cure = f'add "{need}" to require'
                checker.error(checker.where(bound, 0, item), "missing-require", message, cure)
            elif any(tag.group == "address part" for tag in bound.tag_specs):
                # RFC 6009 4 and 5: an address part is an error with what is no address.
                message = f'the envelope part "{name}" is no address: it has no address parts'
                checker.error(checker.where(bound, 0, item), "address-part", message, "remove the tag")
        elif name not in _PARTS:
            message = f'the envelope has no part "{text[:40]}"'
            checker.error(checker.where(bound, 0, item), "envelope-part", message, 'use "from" or "to"')


def _sources(bound: Bound) -> tuple[Source, ...] | None:
    names = constants(bound.texts(0))
    zone = bound.tag_text("zone")
    if names is None or bound.part is None or not is_plain(bound) or isinstance(zone, Template):
        return None
    return tuple(EnvelopeSource(name.lower(), bound.part.name, zone) for name in names)


def _envelope(bound: Bound) -> TestFn:
    sources = _sources(bound)
    if sources is not None:
        return link_sources(bound, sources)
    match = link_match(bound)
    names = bound.texts(0)
    assert bound.part is not None
    part = bound.part.name
    zone_text = bound.tag_text("zone")

    def test(run: Run) -> bool:
        values: list[str] = []
        zone = None if zone_text is None else zone_of(run.expand(zone_text))
        if zone_text is not None and zone is None:
            raise RunError(f'"{run.expand(zone_text)[:20]}" is not a time zone')
        for name in expand(run, names):
            if name.lower() not in (*_PARTS, *DSN_PARTS):
                raise RunError(f'envelope: there is no part "{name[:40]}"')
            values.extend(envelope_values(run, name.lower(), part, zone))
        return match(run, values)

    return test


EXTENSION = Extension(
    "envelope",
    ("envelope",),
    dialect="RFC 5228",
    tests=(
        TestSpec(
            "envelope",
            needs=("envelope",),
            params=(Param("envelope parts", Kind.STRINGS), Param("keys", Kind.STRINGS)),
            check=_check,
            link=_envelope,
            matches=True,
            part=True,
            reads=("envelope",),
            sources=_sources,
        ),
    ),
)
