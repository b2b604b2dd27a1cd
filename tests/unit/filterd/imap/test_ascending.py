"""What went, and both states in one: as sets and dictionaries would say it."""

from __future__ import annotations

import random
import time
from array import array

import pytest

from filterd.imap.ascending import flags_of, joined, missing


@pytest.mark.parametrize("seed", range(5))
def test_as_sets_and_dictionaries_say_it(seed: int) -> None:
    pick = random.Random(seed)
    for _ in range(300):
        old = sorted(pick.sample(range(1, 80), pick.randrange(40)))
        flags = [pick.randrange(64) for _ in old]
        share = pick.choice([0.0, 0.05, 0.5, 1.0])
        new = [uid for uid in old if pick.random() >= share]
        come = sorted(pick.sample(range(80, 90), pick.randrange(4))) if pick.random() < 0.3 else []
        gone = missing(array("I", old), array("I", new + come))
        assert gone == set(old) - set(new)
        back = sorted({*gone, *pick.sample(range(1, 90), 2)})
        known = dict(zip(old, flags, strict=True))
        kept = flags_of(array("I", old), array("Q", flags), back)
        assert kept == [known.get(uid, 0) for uid in back]
        masks = [7 * uid for uid in new]
        whole = dict(zip(back, kept, strict=True)) | dict(zip(new, masks, strict=True))
        found = joined(array("I", new), array("Q", masks), back, kept)
        assert dict(zip(*found, strict=True)) == whole
        assert list(found[0]) == sorted(whole)


def test_one_message_of_very_many_costs_nothing_like_all() -> None:
    old = array("I", range(1, 300_001))
    new = old[:150_000] + old[150_001:]
    flags = array("Q", [0]) * len(new)
    started = time.thread_time()
    for _ in range(5):
        gone = sorted(missing(old, new))
        joined(new, flags, gone, [1])
    assert gone == [150_001]
    assert time.thread_time() - started < 0.1  # all of them: half a second
