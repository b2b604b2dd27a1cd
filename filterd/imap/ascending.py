"""UIDs as arrays that ascend: what went from one state of a mailbox to the next, and both states in one.

A mailbox of a hundred thousand loses one message at a time: what lies before and behind it is compared and copied as octets,
never looked at one by one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

Uids = Sequence[int]


def missing(old: array[int], new: array[int]) -> set[int]:
    """What of ``old`` is not in ``new``."""
    before, after = memoryview(old.tobytes()), memoryview(new.tobytes())
    head = _alike(before, after, old.itemsize)
    tail = min(len(old), len(new)) - head
    while tail and before[-tail * old.itemsize :] != after[-tail * old.itemsize :]:
        tail //= 2
    lost = set(old[head : len(old) - tail])
    lost.difference_update(new[head : len(new) - tail])
    return lost


def _alike(one: memoryview, other: memoryview, size: int) -> int:
    """So many items of ``size`` octets are the same from the beginning on."""
    low, high = 0, min(len(one), len(other)) // size
    while low < high:
        middle = (low + high + 1) // 2
        if one[low * size : middle * size] == other[low * size : middle * size]:
            low = middle
        else:
            high = middle - 1
    return low


def joined(uids: array[int], flags: array[int], more: Uids, theirs: Uids) -> tuple[array[int], array[int]]:
    """The arrays with the UIDs ``more`` (ascending) and their flags put in; who is there already stays as he is."""
    all_uids, all_flags = array(uids.typecode), array(flags.typecode)
    at = 0
    for uid, mask in zip(more, theirs, strict=True):
        place = bisect_left(uids, uid, at)
        if place > at:
            all_uids += uids[at:place]
            all_flags += flags[at:place]
            at = place
        if place == len(uids) or uids[place] != uid:
            all_uids.append(uid)
            all_flags.append(mask)
    all_uids += uids[at:]
    all_flags += flags[at:]
    return all_uids, all_flags


def flags_of(uids: array[int], flags: array[int], some: Uids) -> list[int]:
    """Of some UIDs (ascending); 0 for one that is not there."""
    found = []
    at = 0
    for uid in some:
        at = bisect_left(uids, uid, at)
        found.append(flags[at] if at < len(uids) and uids[at] == uid else 0)
    return found
