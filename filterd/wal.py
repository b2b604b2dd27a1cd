"""A write-ahead log for an SQLite file that several processes may open for the first time at once.

SQLite's own wait (``timeout`` of ``connect``) does not cover the change of mode: beside a second process that changes it too,
it says "database is locked" at once, and what was to be written would be lost or answered "try later". The queue's journal and
the mailbox index have waits of their own for everything; the other databases come here.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filterd.store.durable import RealDisk, make_dirs

PAUSE = 0.005  # the change takes a millisecond or two


def open_wal(path: Path, seconds: float, synchronous: str, schema: str) -> sqlite3.Connection:
    """A connection for one thread at a time, each statement its own transaction; folder (0700) and file are made when missing.

    ``seconds``: how long to wait for others. ``synchronous``: ``full``, or ``off`` where a crash of the machine may take the
    last seconds. Raises sqlite3.Error, OSError.
    """
    make_dirs(RealDisk(), str(path.parent))  # SQLite syncs the names of its files, not that of the folder
    db = sqlite3.connect(path, timeout=seconds, isolation_level=None, check_same_thread=False)
    enter_wal(db, seconds)
    db.execute(f"pragma synchronous={synchronous}")
    db.executescript(schema)
    return db


@contextmanager
def transaction(db: sqlite3.Connection, begin: str = "begin immediate") -> Iterator[None]:
    """All of what is done inside, or nothing. ``begin`` alone, for what may only read, takes the right to write when it writes."""
    db.execute(begin)
    try:
        yield
        db.execute("commit")
    except BaseException:
        if db.in_transaction:  # some errors end it themselves
            db.execute("rollback")
        raise


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
