"""What changed since a modseq: for QRESYNC, CHANGEDSINCE and VANISHED.

Specification: RFC 7162 3.1.4, 3.2.5, 3.2.6. Where the record of expunged messages does not reach back, VANISHED (EARLIER) tells
every UID that is not there: a superset, which the RFC allows (3.2.5.1).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from filterd.imap import numset
from filterd.imap.call import Call
from filterd.imap.numset import NumSet
from filterd.imap.view import View

_ROWS = 500
Ranges = list[tuple[int, int]]


def changed_uids(call: Call, view: View, since: int) -> list[int]:
    """UIDs in the view of messages that changed or came after ``since``, ascending."""
    if since >= view.snapshot.modseq:
        return []
    changes = call.store.changes(view.mailbox, since)
    if changes.complete:
        found = {uid for uid, _ in changes.appended}
        found.update(uid for uid, _, _ in changes.flags)
        return [uid for uid in sorted(found) if view.number_of(uid) and uid not in view.gone]
    return [
        row.uid
        for start in range(0, len(view.uids), _ROWS)
        for row in call.store.rows(view.mailbox, view.uids[start : start + _ROWS])
        if row.modseq > since
    ]


def vanished(call: Call, view: View, since: int, known: NumSet | None) -> bytes:
    """The expunged since then, of ``known`` (None: of all), as a sequence set; b"" when there are none."""
    changes = call.store.changes(view.mailbox, since)
    ranges = _known_ranges(known, view.snapshot.uidnext - 1)
    if changes.complete:
        lows = [low for low, _ in ranges]
        # Also those that came after ``since``: a client may name an early modseq and UIDs that it has seen later.
        gone = sorted((*changes.expunged, *changes.fleeting))
        return numset.render([uid for uid in gone if _inside(uid, lows, ranges) and not view.number_of(uid)])
    return b",".join(
        b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in _gaps(view.uids, ranges)
    )


def _known_ranges(known: NumSet | None, top: int) -> Ranges:
    if top < 1:
        return []
    if known is None:
        return [(1, top)]
    spans = []
    for first, last in known.parts:
        low, high = sorted((first or top, last or top))
        if low <= top:
            spans.append((low, min(high, top) + 1))
    return [(low, high - 1) for low, high in numset.merge(spans)]


def _inside(uid: int, lows: Sequence[int], ranges: Ranges) -> bool:
    at = bisect_right(lows, uid) - 1
    return at >= 0 and uid <= ranges[at][1]


def _gaps(uids: Sequence[int], ranges: Ranges) -> Iterable[tuple[int, int]]:
    """The parts of ``ranges`` where no UID is."""
    for low, high in ranges:
        at = low
        for uid in uids[bisect_left(uids, low) : bisect_right(uids, high)]:
            if uid > at:
                yield at, uid - 1
            at = uid + 1
        if at <= high:
            yield at, high


def write(call: Call, view: View, since: int, known: NumSet | None) -> None:
    """QRESYNC's part of SELECT: VANISHED (EARLIER), then the changed flags."""
    if since >= view.snapshot.modseq:
        return
    gone = vanished(call, view, since, known)
    if gone:
        call.write(b"* VANISHED (EARLIER) %b\r\n" % gone)
    uids = changed_uids(call, view, since)
    if known is not None:
        ranges = _known_ranges(known, view.snapshot.uidnext - 1)
        lows = [low for low, _ in ranges]
        uids = [uid for uid in uids if _inside(uid, lows, ranges)]
    style = call.session.style(uid=True)
    for start in range(0, len(uids), _ROWS):
        for row in call.store.rows(view.mailbox, uids[start : start + _ROWS]):
            call.write(style.flags(view.number_of(row.uid), row.uid, view.table[row.flags], row.modseq))
