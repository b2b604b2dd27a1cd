"""Answers that are asked for again and again, ready to be sent: FLAGS, sizes and dates of all messages (HOUSE item 20).

Clients ask for the flags of a whole mailbox each time they open it, and little of it has changed since. The lines are kept in
blocks of BLOCK messages, with what they were made of: numbers follow from the place of the block, and the UIDs, masks, sizes and
dates beside it are compared before it is used again. So a block is never out of date: a change of one message makes one block
anew, whoever made it, and an EXPUNGE those behind it.

One for a process, within a bound for all its mailboxes: the longest unused block goes first.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from filterd.imap.numset import Spans
from filterd.store.shelf import Key, Shelf

BLOCK = 1_000
LINES_OCTETS = 32 * 1024 * 1024
MOST = (
    200_000  # messages of a mailbox: of a larger one each block would be put out before it is asked for again
)

Columns = tuple["array[int]", ...]


@dataclass(frozen=True, slots=True)
class _Kept:
    """``text`` was made of these; ``names`` are those of the flags."""

    names: tuple[str, ...]
    made_of: Columns
    text: bytes


class Lines:
    """May be used by many threads."""

    __slots__ = ("_shelf",)

    def __init__(self, limit: int = LINES_OCTETS) -> None:
        self._shelf = Shelf(limit)

    def get(self, key: Key, names: tuple[str, ...], made_of: Columns) -> bytes | None:
        """The text of a block, if this is what it was made of. ``key``: whose, of which mailbox, which lines from where on."""
        kept = self._shelf.get(key)
        same = isinstance(kept, _Kept) and kept.made_of == made_of and kept.names == names
        return kept.text if isinstance(kept, _Kept) and same else None

    def put(self, key: Key, names: tuple[str, ...], made_of: Columns, text: bytes) -> None:
        octets = len(text) + sum([column.itemsize * len(column) for column in made_of])
        self._shelf.put(key, _Kept(names, made_of, text), octets)


def cut(spans: Spans, count: int) -> Iterator[tuple[Spans, bool]]:
    """Positions, BLOCK at most together, and whether they are a whole block of a mailbox of ``count`` messages. What lies
    scattered is gathered."""
    gathered: Spans = []
    room = BLOCK
    for start, last in spans:
        while start < last:
            block = start - start % BLOCK
            end = min(block + BLOCK, last)
            whole = start == block and end == min(block + BLOCK, count)
            if gathered and (whole or end - start > room):
                yield gathered, False
                gathered, room = [], BLOCK
            if whole:
                yield [(start, end)], True
            else:
                gathered.append((start, end))
                room -= end - start
            start = end
    if gathered:
        yield gathered, False
