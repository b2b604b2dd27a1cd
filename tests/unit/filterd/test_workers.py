"""What the parent says of an ended child (the rest needs real processes: tests/e2e/test_ready.py, test_process.py)."""

from __future__ import annotations

import signal

import pytest

from filterd.workers import ending_of


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "0"),
        (3 << 8, "3"),
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGSEGV | 0x80, "SIGSEGV"),
        (40, "of signal 40"),
    ],
)
def test_an_ending_is_an_exit_code_or_a_signal(status: int, words: str) -> None:
    assert ending_of(status) == words
