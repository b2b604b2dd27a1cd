"""What a change leaves for the account's idle time: rendered rows of messages that went, and the checkpoint of the index.

Nobody waits for either (``jobs`` calls ``step`` when no other work has come for a moment): the rendered rows of a removed message
are asked for by nobody, and a checkpoint waits for the disk twice. SQLite itself still checkpoints when the log grows long
(``index.CHECKPOINT_PAGES``), and rows that a killed process has left are found in ``meta`` when the index is opened again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filterd.store.core import Core

ROWS = 1000  # changed here since the last checkpoint


def due(core: Core) -> bool:
    index = core.opened_index
    return index is not None and (index.leftovers or index.changes() >= ROWS)


def step(core: Core) -> None:
    """One portion, some milliseconds of the writer's lock; or the checkpoint, without it."""
    if core.index.leftovers:
        with core.locked(), core.index.transaction():
            core.index.sweep()
    else:
        core.index.checkpoint()
