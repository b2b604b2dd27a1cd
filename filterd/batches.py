"""What a thread writes beside the mail: put into a queue, taken from it as it has gathered, many a transaction."""

from __future__ import annotations

import queue
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """Any thread puts, one takes."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._ended = threading.Event()

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, one: T) -> None:
        self._queue.put(one)

    def end(self) -> None:
        """Tell the one who takes that nothing more comes."""
        self._queue.put(None)
        self._ended.set()

    def gathered(self, seconds: float) -> tuple[list[T], bool]:
        """Wait for the first, then ``seconds`` for more, no longer than to the end. False: it is the end."""
        batch = [self._queue.get()]
        if batch[0] is not None:
            self._ended.wait(seconds)
        while not self._queue.empty():
            batch.append(self._queue.get())
        going = None not in batch
        if not going:
            self._ended.clear()
        return [one for one in batch if one is not None], going
