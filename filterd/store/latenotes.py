"""Notes in the index of rows whose file names do not say their flags yet (``laternames`` does the work)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from filterd.store.index import Index

MANY = 256  # messages of one change; of fewer the names change first
_NOTE, _NOTE_END = "names ", "names!"  # keys in ``meta``: all that begin with the first

Note = tuple[int, int, int]  # mailbox, first and last UID


@dataclass(slots=True)
class LateNotes:
    """Of one open account: knows whether there are any without asking each time."""

    asked: Index | None = None  # this one was asked
    some: bool = False
    stuck: bool = False  # the directory takes no new names: not again before the account is opened again

    def due(self, index: Index | None) -> bool:
        if index is not None and index is not self.asked:
            self.asked, self.some = index, self.first(index) is not None
        return self.some and index is not None and not self.stuck

    def put(self, index: Index, mailbox: int, uids: Sequence[int]) -> None:
        """These (ascending) are late. Inside the transaction."""
        index.set_meta(f"{_NOTE}{mailbox} {uids[0]} {uids[-1]}", "")
        self.asked, self.some = index, True

    def first(self, index: Index) -> Note | None:
        found = index.query(
            "select key from meta where key>=? and key<? order by key limit 1", (_NOTE, _NOTE_END)
        )
        for (key,) in found:
            mailbox, first, last = map(int, str(key).removeprefix(_NOTE).split())
            return mailbox, first, last
        self.some = False
        return None

    def shorten(self, index: Index, note: Note, done: int) -> None:
        """It is settled up to the UID ``done``."""
        mailbox, first, last = note
        with index.transaction():
            index.execute("delete from meta where key=?", (f"{_NOTE}{mailbox} {first} {last}",))
            if done < last:
                index.set_meta(f"{_NOTE}{mailbox} {done + 1} {last}", "")
