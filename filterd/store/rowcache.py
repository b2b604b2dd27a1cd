"""Rows of the index that somebody asked for a moment ago and their neighbours, for who asks for one message after the other.

They are a state of the mailbox that is known to be the newest one: ``Rows.modseq`` is that of the kept snapshot (``views``), and
whoever brings the snapshot forward says here which messages changed or went (``follow``). A file whose text was replaced has a
new modseq, so its row is among them. Read and written by whoever has the account for himself; on the process's ``Shelf``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filterd.store.base import Field, Snapshot

if TYPE_CHECKING:
    from filterd.store.core import Core

BLOCK = 32  # neighbours that are read together
MOST = 4  # messages asked for together that count as one after the other
MOST_CHANGES = 500  # of more it is not worth while to look which were here
MAX_OCTETS = 8 * 1024 * 1024  # of one mailbox
_OCTETS = 150  # of a row, beside its texts

Values = tuple[Field, ...]
Wanted = tuple[str, ...]


@dataclass(slots=True)
class Rows:
    """(uid, value, ...) by what was asked for and by UID."""

    uidvalidity: int
    modseq: int
    octets: int = 0
    kept: dict[Wanted, dict[int, Values]] = field(default_factory=dict)


def _rows(core: Core, snapshot: Snapshot) -> Rows | None:
    found = core.settings.shelf.get((core.account, snapshot.info.id, "rows"))
    if not isinstance(found, Rows):
        return None
    same = found.modseq == snapshot.modseq and found.uidvalidity == snapshot.info.uidvalidity
    return found if same else None


def kept_rows(core: Core, snapshot: Snapshot, uids: Sequence[int], wanted: Wanted) -> list[Values] | None:
    """``AccountStore.fields`` of the newest state; None: not all of them are here."""
    rows = _rows(core, snapshot)
    known = rows.kept.get(wanted) if rows is not None else None
    if known is None:
        return None
    try:
        return [known[uid] for uid in sorted(uids)]
    except KeyError:
        return None


def neighbours(uids: Sequence[int]) -> range | None:
    """The UIDs to read when these are asked for; None: only these."""
    if not 0 < len(uids) <= MOST:
        return None
    first, last = min(uids) // BLOCK, max(uids) // BLOCK
    return range(max(1, first * BLOCK), (last + 1) * BLOCK) if last - first <= 1 else None


def keep(core: Core, snapshot: Snapshot, wanted: Wanted, found: Iterable[Values]) -> None:
    """``found`` was read when ``snapshot`` was made, or later."""
    rows = _rows(core, snapshot)
    if rows is None or rows.octets > MAX_OCTETS:
        rows = Rows(snapshot.info.uidvalidity, snapshot.modseq)
    known = rows.kept.setdefault(wanted, {})
    for values in found:
        known[int(values[0])] = values
        rows.octets += _OCTETS + sum(len(value) for value in values if isinstance(value, (bytes, str)))
    core.settings.shelf.put((core.account, snapshot.info.id, "rows"), rows, rows.octets)


def follow(core: Core, old: Snapshot | None, new: Snapshot, moved: Sequence[int]) -> None:
    """The kept snapshot went from ``old`` to ``new``; ``moved``: the UIDs of all that changed, came or went meanwhile."""
    rows = _rows(core, old) if old is not None else None
    if rows is None:
        return  # what is there is of no state that anybody will ask for
    if len(moved) > MOST_CHANGES or old is None or old.info.uidvalidity != new.info.uidvalidity:
        rows.kept.clear()
    for known in rows.kept.values():
        for uid in moved:
            known.pop(uid, None)
    rows.modseq = new.modseq
