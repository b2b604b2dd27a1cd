"""Making many new files last at once: for imports and exports, where a sync a file would take hours.

The file system commits what many threads ask for together, so the waiting is shared. Nothing is believed earlier than with
one sync after the other: ``publish`` comes after all of a batch are on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from filterd.store.durable import Disk, NewFile

BATCH = 128  # open descriptors
THREADS = 16


def sync_all(disk: Disk, files: Sequence[NewFile]) -> None:
    """Durable on return. Raises what the first failed one raised."""
    if len(files) < 3:
        for file in files:
            disk.sync(file)
        return
    with ThreadPoolExecutor(min(THREADS, len(files)), thread_name_prefix="sync") as pool:
        for _ in pool.map(disk.sync, files):
            pass
