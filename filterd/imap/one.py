"""One message after the other, asked for in the same words: what clients do that show mail or fetch what is new.

The words are read once (``Memo``, the session keeps it); of the commands after it only the number is. When a message's whole text
is asked for, with at most its UID, flags and size, and nothing else is to be told, the answer is put together here, on the loop:
half the work of the general way (``fetch``), which answers everything else and is what this must agree with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.imap import columns as col
from filterd.imap.call import Call
from filterd.imap.columns import Column
from filterd.imap.fetch import Plan
from filterd.imap.numset import MAX_NUMBER
from filterd.store.base import SEEN, AccountStore

if TYPE_CHECKING:
    from filterd.imap.cmd.fetch import Modifiers

_HEAD = re.compile(rb"[^ ]+ (UID )?FETCH ([1-9][0-9]{0,9}) ", re.I)
_TOLD = frozenset((col.UID, col.FLAGS, col.SIZE))
_DONE = b")\r\n%b OK FETCH completed\r\n"


@dataclass(frozen=True, slots=True)
class Memo:
    """``words``: what stood behind the set of messages. ``whole``: how the whole text is told, to FETCH and to UID FETCH; None:
    more is asked for than that."""

    words: bytes
    plan: Plan
    modifiers: Modifiers
    whole: tuple[Whole, Whole] | None

    @staticmethod
    def of(words: bytes, plan: Plan, modifiers: Modifiers) -> Memo:
        whole = None
        if len(plan.texts) == 1 and plan.texts[0].whole and _TOLD.issuperset(plan.columns):
            others = [column for column in plan.columns if column is not col.UID]
            label = plan.texts[0].label
            whole = Whole.of(plan.columns, label, plan.seen), Whole.of([col.UID, *others], label, plan.seen)
        return Memo(words, plan, modifiers, whole)


@dataclass(frozen=True, slots=True)
class Whole:
    """``line``: for the number, a value of each of ``columns`` and the octets of the text."""

    line: bytes
    columns: tuple[Column, ...]
    seen: bool

    @staticmethod
    def of(columns: Sequence[Column], label: bytes, seen: bool) -> Whole:
        items = [column.format for column in columns] + [label.replace(b"%", b"%%") + b" {%d}\r\n"]
        return Whole(b"* %d FETCH (" + b" ".join(items), tuple(columns), seen)

    def tell(self, call: Call, number: int, store: AccountStore) -> list[bytes] | None:
        """The answer; None: there is more to it. May raise NotReady."""
        session, view = call.session, call.view
        if not view.still(store):
            return None
        if call.uid:
            uid, number = number, view.number_of(number)
        else:
            uid = view.uids[number - 1] if number <= len(view.uids) else 0
        if not uid or not number:
            return None
        mask = view.flags[number - 1]
        if self.seen and not mask & SEEN and not view.read_only:
            return None
        text = store.read(view.mailbox, uid)
        if text is None:
            return None
        if b"\0" in text:
            text = text.replace(b"\0", b"\x80")
        session.body_cache = None
        size = len(text)
        values = [
            uid if column is col.UID else size if column is col.SIZE else view.table[mask]
            for column in self.columns
        ]
        return [self.line % (number, *values, size), text, _DONE % call.tag]


def number_in(text: bytes, words: bytes) -> tuple[bool, int] | None:
    """(UID, number) of a FETCH of one message in these words."""
    head = _HEAD.match(text)
    if head is None or head.end() + len(words) != len(text):
        return None
    number = int(head[2])
    return (head[1] is not None, number) if number <= MAX_NUMBER else None
