"""Many rows of the index in one statement: sets of UIDs as ranges, copies as shifted ranges, one change of many names.

A statement a row costs SQLite three times its work on rows that lie beside each other (a prepared statement is begun and ended,
and in Python its values are packed), and clients mark, copy and remove what lies together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filterd.store.index import HotRow

IN_LIST = 500  # UIDs in one statement
LONG_RUN = 50
MOST_WAYS = 16  # flags that messages had before one change of them

SqlInt = int | str


def cold_id(mbox: int, uid: int) -> int:
    return mbox << 32 | uid


@dataclass(frozen=True, slots=True)
class Key:
    """How the rows of some UIDs are found."""

    where: str
    order: str
    bound: tuple[int, ...]
    shift: int

    @staticmethod
    def hot(mailbox_id: int, also: str = "") -> Key:
        """``also``: a condition without values, and its "and"."""
        return Key(f"{also}mbox=? and uid", "uid", (mailbox_id,), 0)

    @staticmethod
    def cold(mailbox_id: int) -> Key:
        return Key("id", "id", (), mailbox_id << 32)

    def among(self, uids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Exactly the rows of these: the condition and its values."""
        if uids[-1] - uids[0] + 1 == len(uids):
            return f"{self.where} between ? and ?", (*self.bound, uids[0] + self.shift, uids[-1] + self.shift)
        marks = ", ".join("?" * len(uids))
        return f"{self.where} in ({marks})", (*self.bound, *[uid + self.shift for uid in uids])


def runs(uids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Ascending UIDs in blocks for ``Key.among``: without gaps while they are long, else IN_LIST together."""
    start = 0
    while start < len(uids):
        end = start + 1
        while end < len(uids) and uids[end] - uids[start] == end - start:
            end += 1
        yield uids[start : (end if end - start >= LONG_RUN else start + IN_LIST)]
        start = end if end - start >= LONG_RUN else start + IN_LIST


def shifts(copies: Sequence[tuple[HotRow, HotRow]]) -> list[tuple[int, int, int]]:
    """(what to add, first, last) of runs whose copies' cold ids are just as far from theirs."""
    found: list[tuple[int, int, int]] = []
    add = first = last = 0
    for source, copy in copies:
        here = cold_id(source.mbox, source.uid)
        there = cold_id(copy.mbox, copy.uid)
        if found and here == last + 1 and there - here == add:
            last = here
            found[-1] = add, first, last
        else:
            add, first, last = there - here, here, here
            found.append((add, first, last))
    return found


@dataclass(slots=True)
class Ways:
    """What one change makes of flags and of the ends of names, by the flags that a message had.

    ``ends``: flags -> the end its name has and the end it gets. False ``plain``: messages of the same flags had different ends
    (letters of other programs), or there are too many: then each row is told its name. ``named`` False: names stay as they are.
    """

    modseq: int
    masks: dict[int, int]
    ends: dict[int, tuple[str, str]] = field(default_factory=dict)
    plain: bool = True
    named: bool = True

    def keep_names(self) -> None:
        """Change flags and nothing else."""
        self.named = False
        self.ends = dict.fromkeys(self.masks, ("", ""))
        self.plain = len(self.ends) <= MOST_WAYS

    def note(self, flags: int, old: str, new: str) -> None:
        if self.ends.setdefault(flags, (old, new)) != (old, new) or len(self.ends) > MOST_WAYS:
            self.plain = False

    def statement(self) -> tuple[str, list[SqlInt]]:
        """The update without its condition."""
        pick = " ".join(["when ? then ?"] * len(self.ends))
        masks = [value for flags in self.ends for value in (flags, self.masks[flags])]
        if not self.named:
            return f"update hot set modseq=?, flags = case flags {pick} end", [self.modseq, *masks]
        cut = [value for flags, (old, _) in self.ends.items() for value in (flags, len(old))]
        add: list[SqlInt] = [value for flags, (_, new) in self.ends.items() for value in (flags, new)]
        text = (
            f"update hot set modseq=?, fresh=0, flags = case flags {pick} end,"
            f" name = substr(name, 1, length(name) - case flags {pick} end) || case flags {pick} end"
        )
        return text, [self.modseq, *masks, *cut, *add]

    def counted(self, before: Sequence[int], bit: int) -> int:
        """How many messages more have ``bit`` than ``before``, the flags of all that were changed."""
        many = Counter(before)
        return sum([((self.masks[old] & bit != 0) - (old & bit != 0)) * n for old, n in many.items()])
