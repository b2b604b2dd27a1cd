"""Has anything been learned since? For what remembers the engines' answers (``pipeline.spam.memory``).

Who teaches is another process (the sender, or a command), so the file of the journal is looked at: each lesson is written there
when it is taken and again when it was given. A look costs some microseconds, and is taken once in LOOK_SECONDS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from filterd.learning.journal import journal_path
from pipeline.ports import Clock

LOOK_SECONDS: Final = 1.0


class Taught:
    """A number that changes with every lesson, at most LOOK_SECONDS late."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        path = journal_path(data_dir)
        self._paths = (path, path.with_name(path.name + "-wal"))
        self._clock = clock
        self._look_at = clock.monotonic()
        self._seen: tuple[tuple[int, int] | None, ...] = ()
        self._number = 0

    def __call__(self) -> int:
        now = self._clock.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            seen = tuple(map(_state, self._paths))
            if seen != self._seen:
                self._seen = seen
                self._number += 1
        return self._number


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
