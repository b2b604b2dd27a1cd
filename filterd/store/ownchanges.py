"""Our own changes of flags and removals, kept until the snapshot has followed: it need not ask the index what we just wrote.

A chain is what happened to one mailbox between two modseqs, all of it: a change that is not ours (another process, a foreign
program, mail that came) has taken a modseq that the chain does not have, and the index is asked as ever (``views``).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from filterd.store.base import Snapshot

MOST = 200_000  # changes in a chain
MAILBOXES = 8

Arrays = tuple["array[int]", "array[int]"]  # UIDs, their flags


@dataclass(slots=True)
class _Chain:
    before: int
    after: int
    count: int = 0
    changes: list[tuple[array[int], array[int] | None]] = field(default_factory=list)  # no flags: they went


class OwnChanges:
    """Of one open account. Not for two threads at once."""

    __slots__ = ("_chains",)

    def __init__(self) -> None:
        self._chains: dict[int, _Chain] = {}

    def note(
        self, mailbox: int, before: int, after: int, uids: Sequence[int], masks: Sequence[int] | None
    ) -> None:
        """These (ascending) got these flags, or went (None); it took the mailbox from one modseq to the next."""
        chain = self._chains.pop(mailbox, None)
        if chain is None or chain.after != before or chain.count + len(uids) > MOST:
            chain = _Chain(before, before)
        chain.changes.append((array("I", uids), None if masks is None else array("Q", masks)))
        chain.count += len(uids)
        chain.after = after
        self._chains[mailbox] = chain
        if len(self._chains) > MAILBOXES:
            del self._chains[next(iter(self._chains))]

    def forward(self, mailbox: int, modseq: int, snapshot: Snapshot) -> tuple[list[int], Arrays] | None:
        """(UIDs that changed or went, the arrays of ``snapshot`` as they are at ``modseq``); None: ask the index."""
        chain = self._chains.pop(mailbox, None)
        if chain is None or not chain.before <= snapshot.modseq <= chain.after == modseq:
            return None
        if chain.before != snapshot.modseq and any(masks is None for _, masks in chain.changes):
            return None  # of what went the snapshot may know already
        arrays = snapshot.uids, snapshot.flags[:]
        moved: list[int] = []
        for uids, masks in chain.changes:
            after = _flagged(arrays, uids, masks) if masks is not None else _without(arrays, uids)
            if after is None:
                return None
            arrays = after
            moved += uids
        return moved, arrays


def _flagged(arrays: Arrays, changed: array[int], masks: array[int]) -> Arrays | None:
    """Changes the flags in place; None: not all of them are there."""
    uids, flags = arrays
    at = bisect_left(uids, changed[0])
    if uids[at : at + len(changed)] == changed:
        flags[at : at + len(changed)] = masks
        return arrays
    for uid, mask in zip(changed, masks, strict=True):
        at = bisect_left(uids, uid, at)
        if at == len(uids) or uids[at] != uid:
            return None
        flags[at] = mask
    return arrays


def _without(arrays: Arrays, gone: array[int]) -> Arrays | None:
    """New arrays: those of a snapshot are never changed. None: not all of them were there."""
    uids, flags = arrays
    at = bisect_left(uids, gone[0])
    if uids[at : at + len(gone)] == gone:
        return uids[:at] + uids[at + len(gone) :], flags[:at] + flags[at + len(gone) :]
    dead = frozenset(gone)
    left = [(uid, mask) for uid, mask in zip(uids, flags, strict=True) if uid not in dead]
    if len(left) + len(gone) != len(uids):
        return None
    return array("I", [uid for uid, _ in left]), array("Q", [mask for _, mask in left])
