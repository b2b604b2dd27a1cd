"""What a thread writes beside the mail: put into a queue, taken from it as it has gathered, many a transaction."""

from __future__ import annotations

import queue
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """Any thread puts, one takes."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, one: T) -> None:
        self._queue.put(one)

    def end(self) -> None:
        """Tell the one who takes that nothing more comes."""
        self._queue.put(None)

    def gathered(self, seconds: float) -> tuple[list[T], bool]:
        """Wait for the first, then ``seconds`` for more. False: it is the end."""
        batch = [self._queue.get()]
        time.sleep(seconds if batch[0] is not None else 0)
        while not self._queue.empty():
            batch.append(self._queue.get())
        return [one for one in batch if one is not None], None not in batch
