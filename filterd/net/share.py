"""How the workers share connections: each tells the others how many it has, and leaves a new one to who has fewer.

All workers wait on the same listening socket and the kernel wakes them all; without this, whoever is quickest takes a whole
burst, and one core works while the other rests (ten SMTP connections of one client: 40 % of the messages a second).

The table is shared memory that the parent makes before it forks: one count for each listener and worker, written by that worker
alone. It is a hint, never a lock: a worker that is dead or busy keeps nobody out, who has more only waits ``PATIENCE`` first.
"""

from __future__ import annotations

import mmap

PATIENCE = 0.002  # seconds that a new connection is left to a worker with fewer
COUNT = 4  # octets of a count


class Share:
    """One worker's view of one listener. ``enter`` and ``leave`` keep its count."""

    __slots__ = ("_counted", "_counts", "_own")

    def __init__(self, counts: memoryview, own: int) -> None:
        self._counts = counts
        self._own = own
        self._counted = True
        counts[own] = 0  # what a process of this place held before us went with it

    def enter(self) -> None:
        if self._counted:
            self._counts[self._own] += 1

    def leave(self) -> None:
        if self._counted and self._counts[self._own] > 0:
            self._counts[self._own] -= 1

    def close(self) -> None:
        """We accept no more: the count belongs to the next process in this place."""
        self._counted = False

    @property
    def others_first(self) -> bool:
        """Has another worker fewer connections?"""
        return min(self._counts) < self._counts[self._own]


class ShareTable:
    """Made by the parent, before the first fork."""

    def __init__(self, listeners: int, workers: int) -> None:
        self._workers = workers
        self._memory = mmap.mmap(-1, max(1, listeners * workers) * COUNT)
        self._counts = memoryview(self._memory).cast("i")

    def share(self, listener: int, worker: int) -> Share:
        at = listener * self._workers
        return Share(self._counts[at : at + self._workers], worker)
