"""One thread that owns a Journal and writes in groups: everything that waits goes into one transaction with one sync
(HOUSE item 15).

Work is a function of the Journal. ``write`` is durable when it returns; ``ride`` goes with the next group, or after
RIDE_SECONDS; ``read`` is answered by the same thread, after what was written before it. The loop never touches SQLite.

A piece of work that fails must not fail its neighbours: a group that raises is rolled back and each piece is done alone. A
piece may therefore run twice and must change nothing but the Journal. When the database itself fails (locked, full, gone), all
that waited is told StoreUnavailable, what rides is kept, and the database is opened anew the next time.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from filterd.queue.journal import Journal
from filterd.store.base import StoreUnavailable
from pipeline.ports import Clock

T = TypeVar("T")

RIDE_SECONDS = 0.05  # until then only the board (filterd.board) knows what was acknowledged
GROUP = 256  # pieces of work in one transaction
GROUP_OCTETS = 16 << 20
MAX_RIDERS = 100_000  # while the database cannot be written; more are forgotten: they only save work later
JOIN_SECONDS = 15.0

log = logging.getLogger("filterd.queue")


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[Journal], T]
    loop: asyncio.AbstractEventLoop | None  # None: nobody waits
    future: asyncio.Future[T] | None
    octets: int = 0
    reads: bool = False


_Answer = tuple["_Job[object]", object, Exception | None]


class Writer:
    """See above. ``committed`` is called in the thread after a group that somebody waited for."""

    def __init__(
        self, directory: Path, clock: Clock, name: str, committed: Callable[[], None] | None = None
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._committed = committed
        self._waiting: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()  # of _closed: nothing is queued behind the end
        self._journal: Journal | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # -- on the loop ---------------------------------------------------------------------------
    def post(self, work: Callable[[Journal], T], octets: int = 0, reads: bool = False) -> asyncio.Future[T]:
        """The future result of ``work``. Raises StoreUnavailable when closed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(cast("_Job[object]", _Job(work, loop, future, octets, reads)))
        return future

    async def write(self, work: Callable[[Journal], T]) -> T:
        """Durable on return. A caller that is cancelled meanwhile has it done all the same."""
        return await asyncio.shield(self.post(work))

    async def read(self, work: Callable[[Journal], T]) -> T:
        return await asyncio.shield(self.post(work, reads=True))

    def ride(self, work: Callable[[Journal], object]) -> None:
        """Soon; lost when the process is killed first."""
        try:
            self._put(_Job(work, None, None))
        except StoreUnavailable:
            log.warning("the queue is closed: a completion is not written down")

    def close(self) -> None:
        """Write what waits and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._waiting.put(None)
        self._thread.join(timeout=JOIN_SECONDS)

    def _put(self, job: _Job[object]) -> None:
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the queue is closed")
            self._waiting.put(job)

    # -- in the thread ---------------------------------------------------------------------------
    def _run(self) -> None:
        riders: list[_Job[object]] = []
        since = 0.0
        going = True
        while going:
            group, patient, going = self._gather(RIDE_SECONDS if riders else None)
            waited = [job for job in group if job.future is not None]
            if not riders:
                since = self._clock.monotonic()
            riders.extend(job for job in group if job.future is None)
            late = patient or self._clock.monotonic() - since >= RIDE_SECONDS or len(riders) >= GROUP
            if waited or (riders and (late or not going)):
                riders = self._serve(waited, riders)[:MAX_RIDERS]
                since = self._clock.monotonic()
        if self._journal is not None:
            self._journal.close()

    def _gather(self, patience: float | None) -> tuple[list[_Job[object]], bool, bool]:
        """(all that waits, nothing came in time, go on)."""
        group: list[_Job[object]] = []
        octets = 0
        try:
            job = self._waiting.get(timeout=patience)
            while job is not None:
                group.append(job)
                octets += job.octets
                if len(group) >= GROUP or octets >= GROUP_OCTETS:
                    return group, False, True
                job = self._waiting.get_nowait()
        except queue.Empty:
            return group, not group, True
        return group, False, False

    def _serve(self, waited: Sequence[_Job[object]], riders: list[_Job[object]]) -> list[_Job[object]]:
        """Do it all; the riders that must come along again."""
        reads = [job for job in waited if job.reads]
        writes = [job for job in waited if not job.reads]
        try:
            journal = self._open()
            if writes or riders:
                self._tell(self._together(journal, [*riders, *writes]))
                if writes and self._committed is not None:
                    self._committed()
            self._tell([_alone(journal, job) for job in reads])
        except Exception as error:  # the database: told to every waiter, who answers 4xx; the thread lives on
            self._reopen()
            failure = _failure(error)
            log.warning("the queue cannot be written: %s", error)
            self._tell([(job, None, failure) for job in waited])
            return riders
        return []

    def _open(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self._directory)
        return self._journal

    def _reopen(self) -> None:
        if self._journal is not None:
            self._journal.rollback()
            self._journal.close()
            self._journal = None

    def _together(self, journal: Journal, jobs: list[_Job[object]]) -> list[_Answer]:
        """One transaction for all; when one of them raises, one for each. Raises what the database itself raises."""
        journal.begin()
        try:
            answers: list[_Answer] = [(job, job.work(journal), None) for job in jobs]
        except Exception as error:
            journal.rollback()
            if len(jobs) == 1:
                return [(jobs[0], None, _told(jobs[0], error))]
            return [answer for job in jobs for answer in self._together(journal, [job])]
        journal.commit()
        return answers

    @staticmethod
    def _tell(answers: Sequence[_Answer]) -> None:
        """Each loop is called once for all its answers."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for answer in answers:
            if answer[0].loop is not None:
                by_loop.setdefault(answer[0].loop, []).append(answer)
        for loop, mine in by_loop.items():
            try:
                loop.call_soon_threadsafe(_settle, mine)
            except RuntimeError:  # the loop is closed: nobody waits any more
                continue


def _alone(journal: Journal, job: _Job[object]) -> _Answer:
    try:
        return job, job.work(journal), None
    except Exception as error:  # handed to the caller
        return job, None, _told(job, error)


def _told(job: _Job[object], error: Exception) -> Exception:
    """What the waiter is told: the doors know StoreError only."""
    if job.future is None:
        log.error("a completion cannot be written down and is dropped: %s", error)
    return _failure(error)


def _failure(error: Exception) -> StoreUnavailable:
    """As if raised from ``error``: who asks why (a full disk?) follows the chain."""
    if isinstance(error, StoreUnavailable):
        return error
    failure = StoreUnavailable(f"queue: {error}")
    failure.__cause__ = error
    return failure


def _settle(answers: Sequence[_Answer]) -> None:
    for job, value, error in answers:
        future = job.future
        if future is None or future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
            future.exception()  # a caller that went away is no reason for a warning
