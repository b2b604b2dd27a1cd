"""Which lines begin a message in an mbox."""

from __future__ import annotations

import calendar

import pytest

from filterd.store.mbox_format import from_date

AT = calendar.timegm((2023, 11, 14, 10, 0, 0))


@pytest.mark.parametrize(
    ("line", "at"),
    [
        ("From a@b.example Tue Nov 14 10:00:00 2023", AT),
        ("From a@b.example  Tue Nov 14 10:00 2023", AT),
        ("From - Tue Nov 14 10:00:00 2023", AT),
        ("From 17123@xxx Tue Nov 14 10:00:00 +0100 2023", AT - 3600),
        ("From a@b.example Tue Nov 14 10:00:00 2023 -0500", AT + 5 * 3600),
        ("From a@b.example Tue Nov 14 10:00:00 2023 remote from x", AT),
        ("From a@b.example Tue, 14 Nov 2023 10:00:00 +0100", AT - 3600),
        ("From a@b.example Tue, 14 Nov 2023 10:00 GMT", AT),
        ("From a@b.example", None),
        ("From the start of a line", None),
        ("From a@b.example Tue, 14 Nov 2023 we meet", None),
        ("From a@b.example Tue, 44 Nov 2023 10:00:00 +0000", None),
        ("From a@b.example Tue, 14 Nix 2023 10:00:00 +0000", None),
    ],
)
def test_a_good_from_line(line: str, at: int | None) -> None:
    assert from_date(line.encode()) == at
    assert from_date(line.encode() + b"\r") == at
