"""What a reader has seen of somebody else's mailbox: kept with the reader, not with the mail.

Format (documented nowhere else): an annotation of the reader's account, ``/.seen/<mailbox id>.<UIDVALIDITY>``; a line a change:
``modseq SP + or - SP UIDs``, ``+`` seen, ``-`` seen once and no more. The modseqs are the mailbox's own, given out for it
(``AccountStore.advance``), so that CONDSTORE and QRESYNC count one sequence for the reader whoever changed what.

A UID is on one line at most. Of more than MAX_LINES lines the older ones become one: their messages then have the highest modseq
of them, so a client is told of some again, and misses none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from filterd.imap import numset
from filterd.store.base import SEEN, Snapshot

MAX_LINES = 400
KEPT_LINES = 200
_NO: tuple[bool, int] = (False, 0)


def entry(mailbox_id: str, uidvalidity: int) -> str:
    return f"/.seen/{mailbox_id}.{uidvalidity}"


@dataclass(frozen=True, slots=True)
class Seen:
    """``marks``: uid -> (seen, modseq of that)."""

    marks: Mapping[int, tuple[bool, int]] = field(default_factory=dict)
    highest: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Seen:
        marks: dict[int, tuple[bool, int]] = {}
        highest = 0
        for line in (text or "").split("\n"):
            modseq, sign, uids = (line.split(" ") + ["", ""])[:3]
            if not modseq.isdigit():
                continue
            mark = (sign == "+", int(modseq))
            highest = max(highest, mark[1])
            for part in uids.split(","):
                first, _, last = part.partition(":")
                if first.isdigit():
                    marks.update(dict.fromkeys(range(int(first), int(last or first) + 1), mark))
        return cls(marks, highest)

    def render(self) -> str | None:
        lines: dict[tuple[int, bool], list[int]] = {}
        for uid, (seen, modseq) in self.marks.items():
            lines.setdefault((modseq, seen), []).append(uid)
        if len(lines) > MAX_LINES:
            lines = _merged(lines)
        shown = [
            f"{modseq} {'+' if seen else '-'} {numset.render(sorted(uids)).decode('ascii')}"
            for (modseq, seen), uids in sorted(lines.items())
        ]
        return "\n".join(shown) or None

    def changed(self, uids: Iterable[int], seen: bool, modseq: int, there: Collection[int]) -> Seen:
        """``there``: what the mailbox has; the others are forgotten."""
        marks = {uid: mark for uid, mark in self.marks.items() if uid in there}
        marks.update(dict.fromkeys(uids, (seen, modseq)))
        return Seen(marks, modseq)

    def has(self, uid: int) -> bool:
        return self.marks.get(uid, _NO)[0]

    def flags(self, uid: int, mask: int) -> int:
        """The owner's flags as the reader has them."""
        return mask | SEEN if self.marks.get(uid, _NO)[0] else mask & ~SEEN

    def modseq(self, uid: int, modseq: int) -> int:
        return max(modseq, self.marks.get(uid, _NO)[1])

    def unseen(self, snapshot: Snapshot) -> int:
        return sum(not self.has(uid) for uid in snapshot.uids)


def _merged(lines: dict[tuple[int, bool], list[int]]) -> dict[tuple[int, bool], list[int]]:
    ordered = sorted(lines)
    old, new = ordered[:-KEPT_LINES], ordered[-KEPT_LINES:]
    top = old[-1][0]
    merged = {key: lines[key] for key in new}
    for modseq, seen in old:
        merged[top, seen] = merged.get((top, seen), []) + lines[modseq, seen]
    return merged
