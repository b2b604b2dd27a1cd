"""Dates: RFC 5322 and obsolete forms."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from rules.mail import date


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Fri, 21 Nov 1997 09:55:06 -0600", "1997-11-21T09:55:06-06:00"),
        (b"21 Nov 1997 09:55 -0600", "1997-11-21T09:55:00-06:00"),
        (b"21 Nov 97 09:55:06 GMT", "1997-11-21T09:55:06+00:00"),
        (b"21 Nov 05 09:55:06 EST", "2005-11-21T09:55:06-05:00"),
        (b"21 Nov 105 09:55:06 Z", "2005-11-21T09:55:06+00:00"),
        (
            b"Thu,\r\n 13\r\n  Feb\r\n 1969\r\n 23:32\r\n -0330 (Newfoundland Time)",
            "1969-02-13T23:32:00-03:30",
        ),
        (b"Fri, 21 Nov 1997 09(comment (nested)):   55  :  06 -0600", None),
        (b"(c (d)) Fri, 21 Nov 1997 09:55:06 (x) -0600", "1997-11-21T09:55:06-06:00"),
        (b"Tue, 1 Jul 2003 10:52:37 +0200 (CEST)", "2003-07-01T10:52:37+02:00"),
        (b"Tuesday, 1 July 2003 10:52:37 +0200", "2003-07-01T10:52:37+02:00"),
        (b"Tue, 01-Jul-2003 10:52:37 -0000", "2003-07-01T10:52:37+00:00"),
        (b"1 Jul 2003 10:52:37", "2003-07-01T10:52:37+00:00"),
        (b"1 Jul 2003 10:52:37 K", "2003-07-01T10:52:37+00:00"),
        (b"1 Jul 2003 10:52:60 +0000", "2003-07-01T10:52:59+00:00"),
        (b"1 Jul 2003 10:52:37 GMT+0200", "2003-07-01T10:52:37+02:00"),
        (b"Tue Jul  1 10:52:37 2003", "2003-07-01T10:52:37+00:00"),
        (b"Tue Jul  1 10:52:37 PDT 2003", "2003-07-01T10:52:37-07:00"),
        (b"Jul 1, 2003 10:52 PM", "2003-07-01T22:52:00+00:00"),
        (b"2003-07-01T10:52:37Z", "2003-07-01T10:52:37+00:00"),
        (b"1 Jul 2003 10:52:37 +9999", "2003-07-01T10:52:37+00:00"),
        (b"31 Feb 2003 10:52:37 +0000", None),
        (b"1 Xxx 2003 10:52:37 +0000", None),
        (b"1 Jul 0000 10:52:37 +0000", None),
        (b"1 Jul 2003 25:00:00 +0000", None),
        (b"", None),
        (b"yesterday", None),
        (b"\xff\0", None),
    ],
)
def test_parse(value: bytes, expected: str | None) -> None:
    found = date.parse(value)
    assert (found.isoformat() if found else None) == expected


def test_render() -> None:
    moment = datetime(2003, 7, 1, 10, 52, 37, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))
    assert date.render(moment) == "Tue, 01 Jul 2003 10:52:37 -0330"
    assert date.parse(date.render(moment).encode()) == moment
    assert date.render(datetime(2003, 7, 1)) == "Tue, 01 Jul 2003 00:00:00 -0000"


def test_internal_dates() -> None:
    assert date.imap_internaldate(837571465) == "17-Jul-1996 02:44:25 +0000"
    assert date.imap_internaldate(10**30) == "01-Jan-1970 00:00:00 +0000"
    assert date.parse_internaldate(b'"17-Jul-1996 02:44:25 -0700"') == datetime(
        1996, 7, 17, 9, 44, 25, tzinfo=UTC
    )
    assert date.parse_internaldate(b'" 1-Jul-1996 02:44:25 +0000"') == datetime(
        1996, 7, 1, 2, 44, 25, tzinfo=UTC
    )
    assert date.parse_internaldate(b"1-Jul-96 02:44:25 +0000") is None
