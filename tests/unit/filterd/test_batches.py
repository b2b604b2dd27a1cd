"""What gathers in a queue: nothing is lost at the end, and the end is not waited for."""

from __future__ import annotations

import threading

from filterd.batches import Waiting


def test_the_end_cuts_the_gathering_short_and_loses_nothing() -> None:
    waiting: Waiting[int] = Waiting()
    for _ in range(2):  # it can be begun again
        seen: list[tuple[list[int], bool]] = []
        waiting.put(1)
        taker = threading.Thread(target=lambda seen=seen: seen.append(waiting.gathered(60)))
        taker.start()
        waiting.put(2)
        waiting.end()
        taker.join(timeout=30)
        assert not taker.is_alive() and seen == [([1, 2], False)]


def test_what_comes_meanwhile_is_taken_together() -> None:
    waiting: Waiting[int] = Waiting()
    waiting.put(1)
    waiting.put(2)
    assert waiting.gathered(0) == ([1, 2], True)
    assert len(waiting) == 0
