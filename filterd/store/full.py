"""Is the disk full? Read from the chain of an error, whoever raised it in between: its sender is told so (452)."""

from __future__ import annotations

import errno
import sqlite3

DEPTH = 10  # of a chain


def disk_full(error: BaseException) -> bool:
    """Did a full disk, or a user's full share of it, cause ``error``?"""
    found: BaseException | None = error
    for _ in range(DEPTH):
        if found is None:
            return False
        if isinstance(found, OSError) and found.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(found, sqlite3.Error) and getattr(found, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            return True
        found = found.__cause__ or found.__context__
    return False
