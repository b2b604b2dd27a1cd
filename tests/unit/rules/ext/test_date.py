"""RFC 5260: parts of dates, zones, index."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from rules.simplehost import SimpleHost

MAIL = (
    b"Received: from a; Mon, 2 Jan 2006 15:04:05 -0700\r\nReceived: from b; Tue, 3 Jan 2006 00:00:00 +0000\r\n"
    b"Date: Sat, 31 Dec 2005 23:30:00 +0530\r\nSubject: none\r\n\r\n"
)
HOST = SimpleHost(moment=datetime(2026, 3, 1, 7, 5, 9, tzinfo=timezone(timedelta(hours=1))))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("year", "2005"),
        ("month", "12"),
        ("day", "31"),
        ("date", "2005-12-31"),
        ("julian", "53735"),
        ("hour", "23"),
        ("minute", "30"),
        ("second", "00"),
        ("time", "23:30:00"),
        ("iso8601", "2005-12-31T23:30:00+05:30"),
        ("std11", "Sat, 31 Dec 2005 23:30:00 +0530"),
        ("zone", "+0530"),
        ("weekday", "6"),
    ],
)
def test_parts(holds: Callable[..., bool], part: str, value: str) -> None:
    assert holds(f'date :originalzone "date" "{part}" "{value}"', "date", MAIL, HOST)


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('date "date" "hour" "19"', True),  # the local zone is +0100
        ('date :zone "-0800" "date" "hour" "10"', True),
        ('date :zone "+0000" "date" "iso8601" "2005-12-31T18:00:00Z"', True),
        ('date :zone "-0000" "date" "zone" "+0000"', True),
        ('date :originalzone "received" "zone" "-0700"', True),
        ('date :index 2 :originalzone "received" "day" "03"', True),
        ('date :originalzone :index 1 :last "received" "day" "03"', True),
        ('date :index 3 "received" "year" "2006"', False),
        ('date "subject" "year" ""', False),
        ('date "none" "year" ""', False),
        ('date :value "ge" "date" "date" "2005-12-31"', True),
        ('date :count "eq" "date" "year" "1"', True),
        ('currentdate "iso8601" "2026-03-01T07:05:09+01:00"', True),
        ('currentdate :zone "+0000" "hour" "06"', True),
        ('currentdate :is "weekday" "0"', True),
    ],
)
def test_tests(holds: Callable[..., bool], test: str, expected: bool) -> None:
    assert holds(test, "date index relational", MAIL, HOST) is expected


def test_edges_of_the_calendar(holds: Callable[..., bool]) -> None:
    mail = b"Date: 1 Jan 0001 00:00:00 +1200\r\n\r\n"
    assert holds('anyof (date :zone "-1200" "date" "year" "9999", true)', "date", mail, HOST)
