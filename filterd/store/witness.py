"""Whether the index is the one that we left: ``index.db.seen`` beside it says which files it consisted of.

The index may lose its newest commits without a new boot: somebody puts an older copy back, or removes the ``-wal`` file after the
processes were killed. What was given out in those commits (UIDs, modseqs) must not be given out again, so that the account then
goes on as after a power failure: all mailboxes are healed and numbering continues at the reserved marks.

One line: inode, size and time of last change (ctime, nanoseconds) of the database, inode of its ``-wal`` file.

* While the index is open somewhere the ``-wal`` file is there: the line names it, and size and time of the database say nothing.
* Who closes it last takes the ``-wal`` file away (SQLite): the line ends in 0, and the database must be as it was left.

A line that is absent, or cut short by a crash, claims nothing. One that could not be brought up to date (killed just then, disk
full, stopped between the two) costs a healing for nothing, and so does chown or chmod. A ``-wal`` file that was cut short in place
is not noticed: the files are looked at by name only, as closing a descriptor of them would drop SQLite's locks.
"""

from __future__ import annotations

import contextlib
import os
import time

SUFFIX = ".seen"
_LINE = b"%020d %020d %020d %020d\n"  # as long as the one it replaces: no block is given back and taken again
PAUSES = (0.001, 0.01, 0.1)  # somebody else is between his closing and his line; on a busy machine for long


def intact(path: str) -> bool:
    """Asked before the database is opened: are its files those of the last opening or closing?"""
    for pause in PAUSES:
        if _agrees(path):
            return True
        time.sleep(pause)
    return _agrees(path)


def _agrees(path: str) -> bool:
    try:
        with open(path + SUFFIX, "rb") as file:
            said = [int(word) for word in file.read(200).split()]
    except (OSError, ValueError):
        return True
    found = _found(path)
    if len(said) != 4 or not found:
        return True
    return said == found if said[3] == 0 else (said[0], said[3]) == (found[0], found[3])


def note(path: str) -> None:
    """Behind an opening, and behind a closing: what is there now. A closing that leaves the ``-wal`` file was not the last one."""
    found = _found(path)
    if not found:
        return
    with contextlib.suppress(OSError):
        file = os.open(path + SUFFIX, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, _LINE % tuple(found), 0)
        finally:
            os.close(file)


def _found(path: str) -> list[int]:
    """Empty: there is no database."""
    try:
        database = os.stat(path)
    except OSError:
        return []
    try:
        journal = os.stat(f"{path}-wal").st_ino
    except OSError:
        journal = 0
    return [database.st_ino, database.st_size, database.st_ctime_ns, journal]
