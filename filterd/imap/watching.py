"""What a session is told of its selected mailbox beyond the usual: new messages with FETCH items, results kept current.

Specification: RFC 5465 5.2 (MessageNew with fetch-atts), RFC 5267 4.3 (ADDTO, REMOVEFROM).

The view notes what changed (``View.watching``); ``settle`` tells it when the view's own news are out. Nothing of it runs on the
loop from memory alone: a session that watches goes to the pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from filterd.imap import fetch, numset
from filterd.imap.call import Call
from filterd.imap.fetch import Plan
from filterd.imap.view import View
from filterd.store.base import AccountStore

if TYPE_CHECKING:
    from filterd.imap.session import Session

_MOST = 1_000  # new messages that are told with their items at once; of more only the newest


class Result(Protocol):
    """A result that is kept current."""

    tag: bytes

    def without(self, view: View, uids: Sequence[int]) -> Iterator[bytes]:
        """These messages will be expunged next."""
        ...

    def again(self, call: Call, uids: Sequence[int]) -> Iterator[bytes]:
        """These have come or changed (ascending; all are in the view)."""
        ...


class Watching:
    """``plan``: what is fetched of new messages, None for nothing."""

    __slots__ = ("_arrived", "_changed", "plan", "results")

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.results: list[Result] = []
        self._arrived: list[int] = []
        self._changed: set[int] = set()

    def __bool__(self) -> bool:
        return self.plan is not None or bool(self.results)

    # -- the view reports ---------------------------------------------------------------------------------------------
    def came(self, uids: Iterable[int], *, quiet: bool) -> None:
        uids = list(uids)
        if not quiet:
            self._arrived += uids
        self._changed.update(uids)

    def changed(self, uids: Iterable[int]) -> None:
        self._changed.update(uids)

    def leaving(self, view: View, uids: Sequence[int]) -> Iterator[bytes]:
        self._changed.difference_update(uids)
        for result in self.results:
            yield from result.without(view, uids)

    # -- and it is told -------------------------------------------------------------------------------------------------
    def settle(self, session: Session, store: AccountStore) -> Iterator[bytes]:
        view = session.view
        arrived, self._arrived = self._arrived, []
        changed, self._changed = self._changed, set()
        if view is None:
            return
        if arrived and self.plan is not None:
            yield from _fetch(session, store, self.plan, arrived)
        if changed and self.results:
            call = Call(session, b"*", False)
            call.enter(store)
            uids = [uid for uid in sorted(changed) if view.number_of(uid) and uid not in view.gone]
            for result in list(self.results):
                yield from result.again(call, uids)


def _fetch(session: Session, store: AccountStore, plan: Plan, arrived: list[int]) -> Iterator[bytes]:
    view = session.view
    assert view is not None
    call = Call(session, b"*", True)
    call.enter(store)
    places = [view.number_of(uid) - 1 for uid in arrived[-_MOST:] if uid not in view.gone]
    spans = numset.merge([(place, place + 1) for place in places if place >= 0])
    if not spans:
        return
    # What is gone already is left out without a word: its EXPUNGE follows.
    steps = fetch.run(call, plan.copy(), spans, missing_ok=True)
    for _ in steps:
        yield from call.take()
    yield from call.take()


def follow(
    session: Session, store: AccountStore, *, expunge: bool, uid: bool = False, fresh: bool = False
) -> Iterator[bytes]:
    """All news of the selected mailbox."""
    view = session.view
    if view is None:
        return
    style = session.style(uid)
    yield from view.refresh(store, expunge=expunge, style=style, fresh=fresh)
    if view.watching and not style.quiet:
        yield from view.watching.settle(session, store)
