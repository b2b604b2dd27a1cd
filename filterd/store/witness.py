"""Whether the index is the one that we left: ``index.seen`` beside it says which files it consisted of.

The index may lose its newest commits without a new boot: somebody puts an older copy back, or removes the ``-wal`` file after the
processes were killed. What was given out in those commits (UIDs, modseqs) must not be given out again, so that the account then
goes on as after a power failure: all mailboxes are healed and numbering continues at the reserved marks.

One line: inode, size and mtime of the database (nanoseconds), inode of its ``-wal`` file.

* While the index is open somewhere the ``-wal`` file is there: the line names it, and size and mtime of the database say nothing.
* Who closes it last takes the ``-wal`` file away (SQLite): the line ends in 0, and the database must be as it was left.

Nothing is promised for a line that is absent or half written: no line is no claim. A line that was not brought up to date (killed
just then, disk full, two processes at the same moment) costs one healing too many, never one too few.
"""

from __future__ import annotations

import contextlib
import os

SUFFIX = ".seen"


def _found(path: str) -> tuple[int, int, int, int] | None:
    """None: there is no database."""
    try:
        database = os.stat(path)
    except FileNotFoundError:
        return None
    try:
        journal = os.stat(f"{path}-wal").st_ino
    except FileNotFoundError:
        journal = 0
    return database.st_ino, database.st_size, database.st_mtime_ns, journal


def intact(path: str) -> bool:
    """Asked before the database is opened: are its files those of the last opening or closing?"""
    try:
        with open(_place(path), "rb") as file:
            said = tuple(int(word) for word in file.read(200).split())
    except (FileNotFoundError, ValueError):
        return True
    found = _found(path)
    if len(said) != 4 or found is None:
        return True
    return said == found if said[3] == 0 else (said[0], said[3]) == (found[0], found[3])


def note(path: str) -> None:
    """Behind the opening, and behind a closing: what is there now. A closing that leaves the ``-wal`` file was not the last."""
    found = _found(path)
    if found is not None:
        with contextlib.suppress(OSError), open(_place(path), "wb") as file:
            file.write(b"%d %d %d %d\n" % found)


def _place(path: str) -> str:
    return path.removesuffix(".db") + SUFFIX
