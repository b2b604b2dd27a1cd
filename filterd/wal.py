"""A write-ahead log for an SQLite file that several processes may open for the first time at once.

SQLite's own wait (``timeout`` of ``connect``) does not cover the change of mode: beside a second process that changes it too,
it says "database is locked" at once, and what was to be written would be lost or answered "try later". The queue's journal and
the mailbox index have waits of their own for everything; the other databases come here.
"""

from __future__ import annotations

import sqlite3
import time

PAUSE = 0.005  # the change takes a millisecond or two


def enter_wal(db: sqlite3.Connection, seconds: float) -> None:
    """Raises sqlite3.OperationalError when the file is still locked after ``seconds``, or what else is wrong with it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            db.execute("pragma journal_mode=wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)
