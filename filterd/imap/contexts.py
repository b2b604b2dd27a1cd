"""Results of SEARCH and SORT that are kept current: RETURN (UPDATE).

Specification: RFC 5267 4.3 (ADDTO, REMOVEFROM, NOUPDATE). Complete; RETURN (CONTEXT) is a hint that is not needed. A result
is known by the tag of its command and lives until CANCELUPDATE or until the mailbox is closed. Each change looks at the changed
messages alone. A search by message numbers or ``$`` is not kept: those mean another thing later.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

from filterd.imap import numset
from filterd.imap.call import Call
from filterd.imap.names import astring
from filterd.imap.search import Searcher
from filterd.imap.search_keys import And, Key, Not, Numbers, Or
from filterd.imap.view import View
from filterd.imap.watching import Result

T = TypeVar("T")
Values = dict[int, list[int | str]]  # uid -> what it is sorted by
ValuesOf = Callable[[Call, Sequence[int]], Generator[None, None, Values]]  # of messages at these positions
Order = Callable[[Sequence[int], Values], list[int]]  # uids, sorted
_MOST = 8  # results kept at once
_MOST_SORTED = 20_000  # messages in a sorted one: their values are kept


def numbered(key: Key) -> bool:
    """Does it name messages by number, or ``$``?"""
    match key:
        case Numbers(chosen, uid):
            return chosen.saved or not uid
        case Not(inner):
            return numbered(inner)
        case And(keys) | Or(keys):
            return any(map(numbered, keys))
    return False


def finish(steps: Generator[None, None, T]) -> T:
    """All steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def keep(call: Call, key: Key, places: Sequence[int]) -> None:
    """Keep the result of a SEARCH: these positions."""
    uids = call.view.uids
    _add(call, key, lambda: Searched(call, key, {uids[place] for place in places}))


def keep_sorted(call: Call, key: Key, places: Sequence[int], values_of: ValuesOf, order: Order) -> None:
    """Keep the result of a SORT: these positions, in that order."""
    uids = call.view.uids
    if len(places) > _MOST_SORTED:
        _refuse(call)
        return
    values = finish(values_of(call, sorted(places)))
    _add(call, key, lambda: Sorted(call, key, [uids[place] for place in places], values, values_of, order))


def _add(call: Call, key: Key, make: Callable[[], Result]) -> None:
    results = call.session.watching().results
    if len(results) >= _MOST or numbered(key) or any(result.tag == call.tag for result in results):
        _refuse(call)
    else:
        results.append(make())


def _refuse(call: Call) -> None:
    call.write(b"* NO [NOUPDATE %b] This result is not kept current\r\n" % astring(call.tag))


class Searched:
    """A set: positions are told as 0."""

    def __init__(self, call: Call, key: Key, found: set[int]) -> None:
        self.tag = call.tag
        self._uid = call.uid or call.session.uidonly
        self._key = key
        self._found = found

    def without(self, view: View, uids: Sequence[int]) -> Iterator[bytes]:
        gone = [uid for uid in uids if uid in self._found]
        self._found.difference_update(gone)
        yield from self._tell(view, b"REMOVEFROM", gone)

    def again(self, call: Call, uids: Sequence[int]) -> Iterator[bytes]:
        now = set(matching(call, self._key, uids))
        gone = [uid for uid in uids if uid in self._found and uid not in now]
        new = [uid for uid in uids if uid in now and uid not in self._found]
        self._found.difference_update(gone)
        self._found.update(new)
        yield from self._tell(call.view, b"REMOVEFROM", gone)
        yield from self._tell(call.view, b"ADDTO", new)

    def _tell(self, view: View, what: bytes, uids: Sequence[int]) -> Iterator[bytes]:
        if uids:
            shown = numset.render(uids if self._uid else view.numbers_of(uids))
            yield _line(self.tag, self._uid, what, b"0 " + shown)


class Sorted:
    """A list: positions are told from 1, each as it is when those before it in the line are done."""

    def __init__(
        self, call: Call, key: Key, found: list[int], values: Values, values_of: ValuesOf, order: Order
    ) -> None:
        self.tag = call.tag
        self._uid = call.uid or call.session.uidonly
        self._key = key
        self._found = found
        self._values = values
        self._values_of = values_of
        self._order = order

    def without(self, view: View, uids: Sequence[int]) -> Iterator[bytes]:
        pairs: list[bytes] = []
        gone = frozenset(uids)
        for place in range(len(self._found) - 1, -1, -1):
            uid = self._found[place]
            if uid in gone:
                del self._found[place]
                self._values.pop(uid, None)
                pairs.append(b"%d %d" % (place + 1, uid if self._uid else view.number_of(uid)))
        if pairs:
            yield _line(self.tag, self._uid, b"REMOVEFROM", b" ".join(pairs))

    def again(self, call: Call, uids: Sequence[int]) -> Iterator[bytes]:
        view = call.view
        now = set(matching(call, self._key, uids))
        yield from self.without(view, [uid for uid in uids if uid not in now])
        new = [uid for uid in uids if uid in now and uid not in self._values]
        if not new:
            return
        self._values.update(finish(self._values_of(call, [view.number_of(uid) - 1 for uid in new])))
        coming = frozenset(new)
        self._found = self._order(sorted([*self._found, *coming]), self._values)
        pairs = [
            b"%d %d" % (place, uid if self._uid else view.number_of(uid))
            for place, uid in enumerate(self._found, 1)
            if uid in coming
        ]
        yield _line(self.tag, self._uid, b"ADDTO", b" ".join(pairs))


def matching(call: Call, key: Key, uids: Sequence[int]) -> list[int]:
    """Those of ``uids`` (ascending) that match."""
    view = call.view
    places = [bisect_left(view.uids, uid) for uid in uids]
    found = finish(Searcher(call, call.session.clock.time()).run(key, places))
    return [view.uids[place] for place in found]


def _line(tag: bytes, uid: bool, what: bytes, pairs: bytes) -> bytes:
    return b"* ESEARCH (TAG %b)%b %b (%b)\r\n" % (astring(tag), b" UID" if uid else b"", what, pairs)
