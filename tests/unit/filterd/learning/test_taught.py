"""The number that changes when something was learned, by whichever process."""

from __future__ import annotations

from pathlib import Path

from filterd.learning.journal import FOLDER, Journal, journal_path
from filterd.learning.taught import LOOK_SECONDS, Taught
from tests.house import TestClock


def test_each_lesson_changes_it(tmp_path: Path) -> None:
    clock = TestClock()
    taught = Taught(tmp_path, clock)
    seen = [taught()]
    (tmp_path / FOLDER).mkdir()
    for number in range(3):
        journal = Journal(journal_path(tmp_path))  # another process
        journal.note("ann@x.example", "spam", [b"Subject: %d\r\n\r\n" % number], ["spamd"], 1.0)
        assert taught() == seen[-1], "a look in a second"
        clock.now += LOOK_SECONDS
        seen.append(taught())
        clock.now += LOOK_SECONDS
        assert taught() == seen[-1], "nothing happened"
        journal.close()
        clock.now += LOOK_SECONDS
        seen.append(taught())
    assert len(set(seen[::2])) == 4
