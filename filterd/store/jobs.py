"""Blocking store work for the loop: one job per account at a time, in a bounded pool (HOUSE item 17).

Each account with work has a *lane*. A thread that comes to a lane takes all that waits in it: the deliveries go to the store as
one batch (one lock, one sync a directory, one transaction), the other work is done in order. A lane that got new work meanwhile
goes to the end of the pool's queue, so a busy account does not keep the others waiting.

What an account can tell from memory (``filterd.store.ready``) is asked for on the loop while no thread has the account: to wake a
thread and to be woken by it costs more than most answers.

Acknowledged delivery keys ride with the next delivery of the account, or are written after RIDE_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Protocol, TypeGuard, TypeVar

from filterd.store.base import AccountStore, NewMessage, SieveState, Store, Stored, StoreError
from filterd.store.ready import NotReady

T = TypeVar("T")

THREADS = 12
RIDE_SECONDS = 0.05
MAX_BATCH = 128
STEP_SECONDS = 0.04  # of background work at a time
PAUSE_SECONDS = 0.06  # between two steps
BUSY_SECONDS = 2.0  # an account that is never at rest does a step of it all the same
MAX_RUNS = 8  # pieces of other work a thread does for one account before others come to their turn

log = logging.getLogger("filterd.store")


class BatchStore(Protocol):
    """An account that takes many deliveries at once."""

    def deliver_many(
        self, items: Sequence[tuple[str, NewMessage, SieveState | None]]
    ) -> Sequence[Stored | StoreError]: ...

    def flush(self) -> None: ...


class ReadyStore(Protocol):
    """An account that can tell something at once."""

    def ready(self) -> AccountStore: ...


class BoundedStore(Protocol):
    """A store that says which accounts are open, and which it would like to close."""

    def opened(self, account: str) -> ReadyStore | None: ...

    def surplus(self) -> list[str]: ...

    def close_account(self, account: str) -> None: ...


class IndexingStore(Protocol):
    """An account that has work for idle times."""

    @property
    def unfinished(self) -> float | None:
        """In so many seconds; None: nothing."""
        ...

    def step(self, seconds: float) -> None: ...


# Asked for each message: isinstance of a runtime protocol would cost as much as an SQL statement.
def _is_batch(opened: object) -> TypeGuard[BatchStore]:
    return hasattr(opened, "deliver_many")


def _is_indexing(opened: object) -> TypeGuard[IndexingStore]:
    return hasattr(opened, "step")


def is_bounded(store: object) -> TypeGuard[BoundedStore]:
    return hasattr(store, "surplus")


@dataclass(slots=True)
class _Delivery:
    item: tuple[str, NewMessage, SieveState | None]
    future: asyncio.Future[Stored]


@dataclass(slots=True)
class _Lane:
    """What waits for one account. ``running``: a thread has it or will."""

    deliveries: list[_Delivery] = field(default_factory=list)
    runs: list[Callable[[AccountStore | StoreError], None]] = field(default_factory=list)
    acks: list[bytes] = field(default_factory=list)
    running: bool = False
    closing: bool = False
    idle: bool = False  # do a step of the account's background work


class _Pool:
    """Threads that take from one queue; begun when there is work and none is free. Less than half of what an executor costs,
    whose futures nobody looks at here. What is submitted catches its own exceptions."""

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0  # threads that wait, less what is queued for them

    def submit(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._free -= 1
            self._queue.put(work)
            if self._free < 0 and len(self._threads) < self._most:
                thread = threading.Thread(target=self._run, name=f"store_{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                self._free += 1
                thread.start()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except BaseException:
                log.exception("bug in the store's work")
            del work
            with self._lock:
                self._free += 1

    def close(self) -> None:
        """What was submitted is done first; also what is submitted by that."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        while not self._queue.empty():
            work = self._queue.get()
            if work is not None:
                work()


class AccountJobs:
    """``servers.ports.Jobs``. One a process; its methods are called on the loop."""

    def __init__(self, store: Store, threads: int = THREADS) -> None:
        self._store = store
        self._bounded = store if is_bounded(store) else None
        self._spare: _Lane | None = None  # for ``ready``, which mostly leaves its lane as it was
        self._pool = _Pool(threads)
        self._lock = threading.Lock()  # of the lanes
        self._lanes: dict[str, _Lane] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakes: dict[str, float] = {}  # account -> when its background work goes on, in the loop's time
        self._busy: dict[str, float] = {}  # account -> since when its work has found it busy

    async def run(self, account: str, work: Callable[[AccountStore], T]) -> T:
        """Do ``work`` with the account's store in the pool; its result or exception."""
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job(opened: AccountStore | StoreError) -> None:
            if future.cancelled():
                return
            try:
                if isinstance(opened, StoreError):
                    raise opened
                result = work(opened)
            except BaseException as error:  # handed to the caller, whatever it is
                _post(loop, future, None, error)
            else:
                _post(loop, future, result, None)

        with self._lock:
            self._lane(account).runs.append(job)
        return await future

    def ready(self, account: str, work: Callable[[AccountStore], T]) -> T | None:
        """Do ``work`` here and now with what the account has in memory; None: a job must do it (``run``).

        The account is ours meanwhile: no thread has it, and none comes in. ``work`` may raise ``NotReady``.
        """
        with self._lock:
            if account in self._lanes or self._closed or self._bounded is None:
                return None
            opened = self._bounded.opened(account)
            if opened is None:
                return None
            store = opened.ready()
            lane = self._lanes[account] = self._spare or _Lane(running=True)
            self._spare = None
        try:
            return work(store)
        except NotReady:
            return None
        finally:
            with self._lock:
                if lane.deliveries or lane.runs or lane.acks or lane.closing or lane.idle:
                    self._pool.submit(partial(self._work, account, lane))
                else:
                    del self._lanes[account]
                    self._spare = lane

    async def deliver(
        self, account: str, mailbox: str, message: NewMessage, state: SieveState | None = None
    ) -> Stored:
        """Like ``AccountStore.deliver``, together with all other deliveries that wait for the account."""
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Stored] = loop.create_future()
        with self._lock:
            self._lane(account).deliveries.append(_Delivery((mailbox, message, state), future))
        return await future

    def acknowledge(self, account: str, key: bytes) -> None:
        """The client went on after our reply (HOUSE item 11)."""
        with self._lock:
            self._lanes.setdefault(account, _Lane()).acks.append(key)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(RIDE_SECONDS, self._flush_acks)

    def close(self) -> None:
        """Finish what was begun. The store is closed by whoever opened it."""
        if self._closed:
            return
        self._closed = True
        if self._flush is not None:
            self._flush.cancel()
        self._pool.close()
        for account, lane in self._lanes.items():
            if lane.acks:
                try:
                    self._store.account(account).acknowledge(lane.acks)  # written when the store is closed
                except StoreError as error:
                    log.warning("acknowledgements of %s are lost: %s", account, error)
        self._lanes.clear()

    # -- inside -----------------------------------------------------------------------------------------------------------
    def _lane(self, account: str) -> _Lane:
        """The lane, on its way to a thread. Under the lock."""
        lane = self._lanes.get(account)
        if lane is None:
            lane = self._lanes[account] = _Lane()
        if not lane.running:
            lane.running = True
            self._pool.submit(partial(self._work, account, lane))
        return lane

    def _flush_acks(self) -> None:
        self._flush = None
        with self._lock:
            waiting = [(name, lane.running) for name, lane in self._lanes.items() if lane.acks]
            for account, running in waiting:
                if not running:
                    self._lane(account)
        if any(running for _, running in waiting):  # those came too late for the work under way: soon again
            self._flush = asyncio.get_running_loop().call_later(RIDE_SECONDS, self._flush_acks)

    def _work(self, account: str, lane: _Lane) -> None:
        """In a thread: all that waits in the lane."""
        with self._lock:
            deliveries, lane.deliveries = lane.deliveries[:MAX_BATCH], lane.deliveries[MAX_BATCH:]
            runs, lane.runs = lane.runs[:MAX_RUNS], lane.runs[MAX_RUNS:]
            acks, lane.acks = lane.acks, []
            closing, lane.closing = lane.closing, False
            idle, lane.idle = lane.idle, False
        opened: AccountStore | StoreError
        try:
            opened = self._store.account(account)
        except StoreError as error:
            opened = error
        try:
            if not isinstance(opened, StoreError):
                self._acknowledge(opened, acks, bool(deliveries))
            if deliveries:
                _deliver(opened, deliveries)
            for run in runs:
                run(opened)
            if idle and _is_indexing(opened):
                _step(opened)
            if closing and is_bounded(self._store):
                self._store.close_account(account)
        finally:
            pause = opened.unfinished if _is_indexing(opened) and not closing else None
            self._done(account, lane, pause)

    @staticmethod
    def _acknowledge(opened: AccountStore, acks: list[bytes], riding: bool) -> None:
        if acks:
            opened.acknowledge(acks)
            if not riding and _is_batch(opened):
                try:
                    opened.flush()
                except StoreError as error:
                    log.warning("acknowledgements wait: %s", error)

    def _idle(self, account: str) -> None:
        """On the loop, after a pause: nobody else wants the account, or somebody always does: go on with its background work."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._wakes.pop(account, None)
            since = self._busy.pop(account, loop.time())
            if is_bounded(self._store) and self._store.opened(account) is None:
                return  # closed since: whoever opens it finds the rest
            if self._closed:
                return
            if account not in self._lanes or loop.time() - since >= BUSY_SECONDS:
                self._lane(account).idle = True
            else:
                self._busy[account] = since  # the job that is under way asks for the next wake

    def _done(self, account: str, lane: _Lane, pause: float | None) -> None:
        surplus = self._store.surplus() if is_bounded(self._store) else []
        with self._lock:
            if lane.deliveries or lane.runs or lane.idle:
                self._pool.submit(partial(self._work, account, lane))
            else:
                lane.running = False
                if not lane.acks:
                    del self._lanes[account]
            if pause is None:
                self._busy.pop(account, None)
            elif self._loop is not None and not self._closed:
                pause = max(pause, PAUSE_SECONDS)
                when = self._loop.time() + pause
                if when < self._wakes.get(account, float("inf")):
                    self._wakes[account] = when
                    _soon(self._loop, pause, lambda: self._idle(account))
            for other in surplus:
                if other not in self._lanes and not self._closed:
                    self._lane(other).closing = True


def _step(opened: IndexingStore) -> None:
    try:
        opened.step(STEP_SECONDS)
    except StoreError as error:
        log.warning("background work: %s", error)


def _soon(loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], None]) -> None:
    """From a thread."""
    try:
        loop.call_soon_threadsafe(lambda: loop.call_later(seconds, act))
    except RuntimeError:
        log.debug("the loop ended before the background work")


def _deliver(opened: AccountStore | StoreError, deliveries: list[_Delivery]) -> None:
    results: Sequence[Stored | StoreError]
    try:
        if isinstance(opened, StoreError):
            results = [opened] * len(deliveries)
        elif _is_batch(opened):
            results = opened.deliver_many([delivery.item for delivery in deliveries])
        else:
            results = [_deliver_one(opened, delivery) for delivery in deliveries]
    except BaseException as error:  # handed to every caller: their clients are told to come again
        for delivery in deliveries:
            _post(delivery.future.get_loop(), delivery.future, None, error)
        return
    for delivery, result in zip(deliveries, results, strict=True):
        loop = delivery.future.get_loop()
        if isinstance(result, StoreError):
            _post(loop, delivery.future, None, result)
        else:
            _post(loop, delivery.future, result, None)


def _deliver_one(opened: AccountStore, delivery: _Delivery) -> Stored | StoreError:
    try:
        return opened.deliver(*delivery.item)
    except StoreError as error:
        return error


def _post(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], result: T | None, error: BaseException | None
) -> None:
    """From a thread. A loop that has ended wants nothing any more."""

    def finish() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T itself may be None

    try:
        loop.call_soon_threadsafe(finish)
    except RuntimeError:
        log.debug("the loop ended before its store work")
