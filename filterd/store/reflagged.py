"""Our own changes of flags, kept until the mailbox's snapshot has followed them: it need not ask the index what we just wrote.

A chain is what happened to one mailbox between two modseqs, all of it: a change that is not ours (another process, a foreign
program, mail that came or went) has taken a modseq that the chain does not have, and the index is asked as ever (``views``).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from filterd.store.base import Snapshot

MOST = 200_000  # changes in a chain
MAILBOXES = 8


@dataclass(slots=True)
class _Chain:
    before: int
    after: int
    count: int = 0
    changes: list[tuple[array[int], array[int]]] = field(default_factory=list)  # UIDs, their flags


class Reflagged:
    """Of one open account. Not for two threads at once."""

    __slots__ = ("_chains",)

    def __init__(self) -> None:
        self._chains: dict[int, _Chain] = {}

    def note(self, mailbox: int, before: int, after: int, changed: Sequence[tuple[int, int, int]]) -> None:
        """``changed`` (UID, flags, modseq; ascending) took the mailbox from one modseq to the next."""
        chain = self._chains.pop(mailbox, None)
        if chain is None or chain.after != before or chain.count + len(changed) > MOST:
            chain = _Chain(before, before)
        uids, masks, _ = zip(*changed, strict=True)
        chain.changes.append((array("I", uids), array("Q", masks)))
        chain.count += len(uids)
        chain.after = after
        self._chains[mailbox] = chain
        if len(self._chains) > MAILBOXES:
            del self._chains[next(iter(self._chains))]

    def forward(
        self, mailbox: int, modseq: int, snapshot: Snapshot
    ) -> tuple[Sequence[int], array[int]] | None:
        """(UIDs that changed, the flags at ``modseq``) of the messages of ``snapshot``; None: ask the index."""
        chain = self._chains.pop(mailbox, None)
        if chain is None or not chain.before <= snapshot.modseq <= chain.after == modseq:
            return None
        all_uids, flags = snapshot.uids, snapshot.flags[:]
        moved: list[int] = []
        for uids, masks in chain.changes:
            at = bisect_left(all_uids, uids[0])
            if all_uids[at : at + len(uids)] == uids:
                flags[at : at + len(uids)] = masks
            else:
                for uid, mask in zip(uids, masks, strict=True):
                    at = bisect_left(all_uids, uid)
                    if at == len(all_uids) or all_uids[at] != uid:
                        return None
                    flags[at] = mask
            moved += uids
        return moved, flags
