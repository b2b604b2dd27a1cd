"""What a change leaves for the account's idle time: names of files, rendered rows of messages that went, and the checkpoint.

Nobody waits for them (``jobs`` calls ``step`` when no other work has come for a moment): the rendered rows of a removed message
are asked for by nobody, and a checkpoint waits for the disk twice. SQLite itself still checkpoints when the log grows long
(``index.CHECKPOINT_PAGES``), and rows that a killed process has left are found in ``meta`` when the index is opened again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.store import laternames

if TYPE_CHECKING:
    from filterd.store.core import Core

ROWS = 1000  # changed here since the last checkpoint


def due(core: Core) -> bool:
    index = core.opened_index
    return index is not None and (core.late.due(index) or index.leftovers or index.changes() >= ROWS)


def step(core: Core, seconds: float) -> None:
    """One portion, some milliseconds of the writer's lock (names: many in turn); or the checkpoint, without it."""
    if core.late.due(core.opened_index):
        laternames.step(core, seconds)
    elif core.index.leftovers:
        with core.locked(), core.index.transaction():
            core.index.sweep()
    else:
        core.index.checkpoint()
