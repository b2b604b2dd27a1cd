"""date and currentdate.

Specification: RFC 5260 sections 4 and 5. Complete: yes. The local zone is that of the host's clock. A field
without a readable date has no value. ``:index`` and ``:last`` may stand before or behind the zone tags.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

from rules.bound import Text
from rules.errors import RunError
from rules.mail import date
from rules.match import link_match
from rules.registry import Extension, Kind, Param, TagSpec, TestFn, TestSpec
from rules.sources import Source, field_name, field_reader, is_plain
from rules.variables import Template

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.view import Field

_ZONE = re.compile(r"([+-])([0-9]{2})([0-9]{2})")
_WORDS = "year month day date julian hour minute second time iso8601 std11 zone weekday"
_PARTS = frozenset(_WORDS.split(" "))


def zone_of(text: str) -> timezone | None:
    """RFC 5260 4.1: +hhmm or -hhmm."""
    found = _ZONE.fullmatch(text)
    if found is None or int(found[3]) > 59 or int(found[2]) > 23:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-offset if found[1] == "-" else offset)


def date_part(moment: datetime, part: str) -> str:
    """RFC 5260 4.2: one part of a moment, in the moment's own zone."""
    offset = moment.utcoffset() or timedelta()
    minutes = int(offset.total_seconds() // 60)
    sign = "-" if minutes < 0 else "+"
    hours, rest = divmod(abs(minutes), 60)
    match part:
        case "year":
            return f"{moment.year:04d}"
        case "month":
            return f"{moment.month:02d}"
        case "day":
            return f"{moment.day:02d}"
        case "date":
            return f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"
        case "julian":
            return str(moment.toordinal() - 678576)
        case "hour":
            return f"{moment.hour:02d}"
        case "minute":
            return f"{moment.minute:02d}"
        case "second":
            return f"{moment.second:02d}"
        case "time":
            return f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d}"
        case "iso8601":
            zone = "Z" if minutes == 0 else f"{sign}{hours:02d}:{rest:02d}"
            return f"{date_part(moment, 'date')}T{date_part(moment, 'time')}{zone}"
        case "std11":
            return date.render(moment)
        case "zone":
            return f"{sign}{hours:02d}{rest:02d}"
        case _:
            return str(moment.isoweekday() % 7)


def moment_of(field: Field) -> datetime | None:
    """The date of a field; in fields like Received it stands behind the last semicolon."""
    if b";" in field:
        found = date.parse(field.rpartition(b";")[2])
        if found is not None:
            return found
    return date.parse(field)


def _check(checker: Checker, bound: Bound) -> None:
    part = bound.text(len(bound.args) - 2)
    if isinstance(part, str) and part.lower() not in _PARTS:
        message = f'"{part[:40]}" is not a part of a date'
        cure = "one of " + " ".join(sorted(_PARTS))
        checker.error(checker.where(bound, len(bound.args) - 2), "date-part", message, cure)
    check_zone(checker, bound)


def check_zone(checker: Checker, bound: Bound) -> None:
    """An error when the constant argument of :zone is no time zone."""
    zone = bound.tag_text("zone")
    if isinstance(zone, str) and zone_of(zone) is None:
        message = f'"{zone[:20]}" is not a time zone'
        checker.error(checker.where_tag(bound, "zone"), "time-zone", message, 'write "+hhmm" or "-hhmm"')


def _shift(bound: Bound) -> _Shift:
    return _Shift(bound.tag_text("zone"), bound.has("originalzone"))


class _Shift:
    """Moves a moment into the zone that a test asks for."""

    def __init__(self, zone: Text | None, original: bool) -> None:
        self._zone = zone
        self._original = original

    def __call__(self, run: Run, moment: datetime) -> datetime:
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if self._original:
            return moment
        try:
            if self._zone is None:
                return moment.astimezone(run.now().tzinfo)
            text = run.expand(self._zone)
            zone = zone_of(text)
            if zone is None:
                raise RunError(f'"{text[:20]}" is not a time zone')
            return moment.astimezone(zone)
        except OverflowError:  # the first or last day that can be told
            return moment


def _part(run: Run, text: Text) -> str:
    part = run.expand(text).lower()
    if part not in _PARTS:
        raise RunError(f'"{part[:40]}" is not a part of a date')
    return part


@dataclass(frozen=True, slots=True)
class DateSource:
    """One part of a field's date, or (name None) of the current one."""

    name: bytes | None
    part: str
    zone: str | None
    original: bool

    def values(self, run: Run) -> Sequence[str]:
        """RFC 5260 4 and 5"""
        moment: datetime | None
        if self.name is None:
            moment = run.now()
        else:
            fields = run.view.fields((self.name,))
            moment = moment_of(fields[0]) if fields else None
        if moment is None:
            return ()
        return (date_part(_Shift(self.zone, self.original)(run, moment), self.part),)


def _sources(bound: Bound) -> tuple[Source, ...] | None:
    name = bound.text(0) if bound.name == "date" else None
    part, zone = bound.text(len(bound.args) - 2), bound.tag_text("zone")
    if not isinstance(part, str) or not is_plain(bound):
        return None
    if isinstance(name, Template) or isinstance(zone, Template):
        return None
    field = None if name is None else field_name(name)
    return (DateSource(field, part.lower(), zone, bound.has("originalzone")),)


def _date(bound: Bound) -> TestFn:
    match = link_match(bound)
    shift = _shift(bound)
    name, wanted = bound.text(0), bound.text(1)
    read = field_reader(bound)
    plain = is_plain(bound)

    def test(run: Run) -> bool:
        fields = read(run, [field_name(run.expand(name))])
        part = _part(run, wanted)
        moments = [
            moment for field in (fields[:1] if plain else fields) if (moment := moment_of(field)) is not None
        ]
        return match(run, [date_part(shift(run, moment), part) for moment in moments])

    return test


def _currentdate(bound: Bound) -> TestFn:
    match = link_match(bound)
    shift = _shift(bound)
    wanted = bound.text(0)

    def test(run: Run) -> bool:
        return match(run, [date_part(shift(run, run.now()), _part(run, wanted))])

    return test


_NEEDS = ("date",)
_PART = Param("date part", Kind.STRING)
_KEYS = Param("keys", Kind.STRINGS)

EXTENSION = Extension(
    "date",
    _NEEDS,
    dialect="RFC 5260",
    tests=(
        TestSpec(
            "date",
            _NEEDS,
            (Param("header name", Kind.STRING), _PART, _KEYS),
            check=_check,
            link=_date,
            matches=True,
            reads=("header",),
            sources=_sources,
        ),
        TestSpec(
            "currentdate",
            _NEEDS,
            (_PART, _KEYS),
            check=_check,
            link=_currentdate,
            matches=True,
            sources=_sources,
        ),
    ),
    tags=(
        TagSpec("zone", ("date", "currentdate"), kind=Kind.STRING, group="time zone"),
        TagSpec("originalzone", ("date",), group="time zone"),
    ),
)
