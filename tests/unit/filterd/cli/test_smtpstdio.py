"""Line ends of ``sendmail -bs``; what it does with mail is in tests/e2e/test_sending_ways.py."""

from __future__ import annotations

import pytest

from filterd.cli.smtpstdio import LineEnds


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"EHLO x\nDATA\nfirst\r\n\n.\n", b"EHLO x\r\nDATA\r\nfirst\r\n\r\n.\r\n"),
        (b"EHLO x\r\nDATA\r\na\nb\r\n", b"EHLO x\r\nDATA\r\na\nb\r\n"),  # who begins with CRLF is held to it
        (b"\nQUIT\n", b"\r\nQUIT\r\n"),
        (b"", b""),
    ],
)
def test_whole_and_octet_by_octet(given: bytes, expected: bytes) -> None:
    assert LineEnds().crlf(given) == expected
    slow = LineEnds()
    assert b"".join(slow.crlf(given[at : at + 1]) for at in range(len(given))) == expected
