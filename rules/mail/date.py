"""Dates of message headers, and IMAP's internal dates.

Specification: RFC 5322 3.3, 4.3 (obsolete years and zones), 3501/9051 date-time. Complete: yes.

Reading also takes what real mail has: no weekday, no seconds, dashes, asctime's order, comments, fractions, a missing
zone. The result always knows its zone; "-0000" and unknown zones are UTC.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Final

from rules.mail import limits

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTH: Final[Mapping[bytes, int]] = MappingProxyType(
    {name.lower().encode("ascii"): number for number, name in enumerate(MONTHS, 1)}
)
# RFC 5322 4.3; the single military letters are all taken as -0000 (they were specified wrongly in RFC 822).
_ZONES: Final[Mapping[bytes, int]] = MappingProxyType(
    {
        b"ut": 0, b"utc": 0, b"gmt": 0, b"z": 0,
        b"est": -300, b"edt": -240, b"cst": -360, b"cdt": -300, b"mst": -420, b"mdt": -360, b"pst": -480, b"pdt": -420,
        b"wet": 0, b"west": 60, b"bst": 60, b"cet": 60, b"met": 60, b"mez": 60, b"cest": 120, b"mest": 120,
        b"mesz": 120, b"eet": 120, b"eest": 180, b"msk": 180, b"jst": 540, b"kst": 540, b"hkt": 480,
        b"akst": -540, b"akdt": -480, b"hst": -600, b"ast": -240, b"adt": -180, b"nst": -210, b"ndt": -150,
        b"aest": 600, b"aedt": 660, b"acst": 570, b"awst": 480, b"nzst": 720, b"nzdt": 780, b"sast": 120,
    }
)  # fmt: skip
_CLOCK: Final = rb"(\d{1,2})[:.](\d{1,2})(?:[:.](\d{1,2}))?(?:[.,]\d{1,9})?\s*([AaPp][Mm]\b)?"
_ZONE: Final = rb"\s*(?:(?:GMT|UTC?)?([+-])\s*(\d{1,2}):?(\d{2})\b|([A-Za-z]{1,5})\b)?"
_NORMAL: Final = re.compile(
    rb"\s*(?:[^\W\d_]{1,12}\.?\s*,?\s*)?(\d{1,2})[\s-]*([A-Za-z]{3})[a-z]{0,6}[.\s,-]*(\d{2,4})[,\s]+"
    + _CLOCK
    + _ZONE
)
# asctime and its neighbours: Wed Jun  9 12:34:56 [zone] 2021; June 9, 2021 12:34
_MONTH_FIRST: Final = re.compile(
    rb"\s*(?:[A-Za-z]{3,9},?\s+)?([A-Za-z]{3})[a-z]{0,6}\.?\s+(\d{1,2}),?\s+(?:(\d{4}),?\s+)?"
    + _CLOCK + _ZONE + rb"(?:\s*(\d{4})\b)?"
)  # fmt: skip
_ISO: Final = re.compile(rb"\s*(\d{4})-(\d{1,2})-(\d{1,2})[T\s]+" + _CLOCK + _ZONE)
_COMMENT: Final = re.compile(rb"\((?:[^()\\]|\\.)*+\)")
_INTERNAL: Final = re.compile(
    rb'"?\s?(\d{1,2})-([A-Za-z]{3})-(\d{4}) (\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})"?'
)


def parse(value: bytes) -> datetime | None:
    """The moment that a Date field names, with its zone; None when it names none."""
    value = value[: limits.DATE_OCTETS]
    found = _NORMAL.match(value)
    if found is None and b"(" in value:
        for _ in range(4):  # comments inside comments, a few levels
            value = _COMMENT.sub(b" ", value)
        found = _NORMAL.match(value)
    if found is not None:
        day, month, year, *rest = found.groups()
        return _build(_year(year), _MONTH.get(month.lower(), 0), int(day), rest)
    found = _MONTH_FIRST.match(value)
    if found is not None:
        month, day, early, *rest, late = found.groups()
        if early or late:
            return _build(int(early or late), _MONTH.get(month.lower(), 0), int(day), rest)
        return None
    found = _ISO.match(value)
    if found is not None:
        year, number, day, *rest = found.groups()
        return _build(int(year), int(number), int(day), rest)
    return None


def _year(digits: bytes) -> int:
    """RFC 5322 4.3: 00-49 are 2000-2049, 50-99 and three digits count from 1900."""
    year = int(digits)
    if len(digits) == 2:
        return year + (2000 if year < 50 else 1900)
    return year + 1900 if len(digits) == 3 else year


def _build(year: int, month: int, day: int, rest: list[bytes | None]) -> datetime | None:
    hour_text, minute_text, second_text, half, sign, zone_hour, zone_minute, zone_name = rest
    hour = int(hour_text or 0)
    if half is not None:
        hour = hour % 12 + (12 if half.lower() == b"pm" else 0)
    offset = 0
    if sign is not None:
        offset = int(zone_hour or 0) * 60 + int(zone_minute or 0)
        if sign == b"-":
            offset = -offset
    elif zone_name is not None:
        offset = _ZONES.get(zone_name.lower(), 0)
    zone = timezone(timedelta(minutes=offset)) if offset and abs(offset) < 1440 else UTC
    try:
        # A leap second (60) is the last second that datetime knows.
        return datetime(
            year, month, day, hour, int(minute_text or 0), min(int(second_text or 0), 59), tzinfo=zone
        )
    except ValueError:
        return None


def _offset(moment: datetime) -> str:
    delta = moment.utcoffset()
    if delta is None:
        return "-0000"  # RFC 5322 3.3: the zone is not known
    minutes = int(delta.total_seconds()) // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"


def render(moment: datetime) -> str:
    """RFC 5322 date-time; a moment without zone is written as UTC with -0000."""
    return (
        f"{DAYS[moment.weekday()]}, {moment.day:02d} {MONTHS[moment.month - 1]} {moment.year:04d} "
        f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d} {_offset(moment)}"
    )


def imap_internaldate(ts: int) -> str:
    """IMAP date-time of Unix seconds, in UTC, without the quotes: `17-Jul-1996 02:44:25 +0000`."""
    try:
        moment = datetime.fromtimestamp(ts, UTC)
    except (ValueError, OverflowError, OSError):
        moment = datetime.fromtimestamp(0, UTC)
    return (
        f"{moment.day:02d}-{MONTHS[moment.month - 1]}-{moment.year:04d} "
        f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d} +0000"
    )


def parse_internaldate(value: bytes) -> datetime | None:
    """The moment of an IMAP date-time (APPEND), with or without its quotes; None when malformed."""
    found = _INTERNAL.fullmatch(value.strip())
    if found is None:
        return None
    day, month, year, hour, minute, second, sign, zone_hour, zone_minute = found.groups()
    return _build(
        int(year),
        _MONTH.get(month.lower(), 0),
        int(day),
        [hour, minute, second, None, sign, zone_hour, zone_minute, None],
    )
