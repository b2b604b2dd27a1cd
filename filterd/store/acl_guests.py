"""Accounts opened for somebody else than their owner.

A store object is for one thread at a time, and the job of a reader (``jobs``) runs in a thread of his own, not in the owner's lane.
So what others share is opened a second time, by a store of its own, as another process would open it: the account's files and its
writer lock keep the two apart. Here a lock a guest account keeps the threads apart.

Locks are taken in this order: the guest's thread lock (one at a time: no caller holds two), then the writer locks of both accounts
in the order of their ids (``both``). Whoever holds a writer lock waits for no thread lock.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from filterd.store.base import AccountStore, NoSuchMailbox, Store, StoreUnavailable
from filterd.store.jobs import BoundedStore, is_bounded

PATIENCE = 30.0  # seconds a guest waits for other guests of the same account


@dataclass(slots=True)
class _Lock:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class Guests:
    """One a process, made after the fork. ``store`` is used by nobody else."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = threading.Lock()  # of the dictionary
        self._locks: dict[str, _Lock] = {}

    @contextlib.contextmanager
    def use(self, account: str) -> Iterator[AccountStore]:
        """The account's store. Raises NoSuchMailbox when the account has none yet: nothing is made for a guest."""
        path = self._store.path(account)
        if path and not os.path.isdir(path):
            raise NoSuchMailbox(account)
        with self._lane(account):
            yield self._store.account(account)
        self._let_go()

    @contextlib.contextmanager
    def _lane(self, account: str, patience: float = PATIENCE) -> Iterator[None]:
        with self._guard:
            lane = self._locks.setdefault(account, _Lock())
            lane.users += 1
        try:
            if not lane.lock.acquire(timeout=patience):
                raise StoreUnavailable(f"{account} is in use by other guests")
            try:
                yield
            finally:
                lane.lock.release()
        finally:
            with self._guard:
                lane.users -= 1
                if not lane.users:
                    del self._locks[account]

    def _let_go(self) -> None:
        """Accounts that were not used for long are closed, when nobody uses them now."""
        if not is_bounded(self._store):
            return
        bounded: BoundedStore = self._store
        for account in bounded.surplus():
            if (
                account not in self._locks
            ):  # not under the guard: to close takes its time, and all others would wait
                with contextlib.suppress(StoreUnavailable), self._lane(account, 0.0):
                    bounded.close_account(account)

    def close(self) -> None:
        self._store.close()


@contextlib.contextmanager
def both(one: AccountStore, name: str, other: AccountStore, other_name: str) -> Iterator[None]:
    """The writer locks of two accounts, in the order of their ids."""
    first, second = (one, other) if name <= other_name else (other, one)
    with first.hold(), second.hold():
        yield
