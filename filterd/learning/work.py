"""Works the journal off: one process at a time (a lock beside the file), each engine on its own.

Killed at any point it begins again where the journal stands: the builtin tables know what they have learned, spamd and rspamd
recognise a message they learned before, so a lesson that was given and not yet written down changes nothing the second time.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, Protocol, TypeVar

from filterd.learning.journal import Job, Journal, Look, journal_path
from filterd.learning.lesson import FAILED, SKIPPED, Outcome, Teacher
from filterd.store import durable
from filterd.store.base import AccountStore, StoreError, StoreUnavailable
from pipeline.ports import Clock

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("filterd.learning")

LOCK: Final = "work.lock"
PAUSE_SECONDS: Final = 1.0
BATCH: Final = 50
APART_SECONDS: Final = 30.0  # an account that cannot be read is left alone
APART: Final = 500  # accounts; more are asked again each time
READ_SECONDS: Final = 20.0  # for one message (TimeoutError is an OSError)
SMALL_BATCH: Final = 5  # lessons of a daemon before the journal hears of it


class Reader(Protocol):
    """Messages of an account; None: gone."""

    async def read(self, account: str, mailbox: str, uid: int) -> bytes | None: ...


class Work:
    """``reader`` None: messages that are still in mailboxes are left for the server."""

    def __init__(
        self, data_dir: Path, teachers: Sequence[Teacher], clock: Clock, reader: Reader | None = None
    ) -> None:
        self._path = journal_path(data_dir)
        self._teachers = {one.name: one for one in teachers}
        self._clock, self._reader = clock, reader
        self._journal: Journal | None = None
        # the journal's: engines are done at their own times, and a round that failed may have left one at work
        self._thread: ThreadPoolExecutor | None = None
        self._stop = asyncio.Event()
        self._apart: dict[
            str, float
        ] = {}  # accounts that could not be read, and until when they are left alone

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; a daemon that does not answer is not waited for then."""
        self._stop = stop
        while not stop.is_set():
            try:
                more = await self.step()
            except (sqlite3.Error, OSError, StoreUnavailable) as error:
                log.warning("learning: %s", error)
                more = False
            if more:
                continue
            try:
                async with asyncio.timeout(PAUSE_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue
        await self.close()

    async def close(self) -> None:
        for teacher in self._teachers.values():
            await teacher.close()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(None, thread.shutdown)
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    async def _ask(self, work: Callable[P, T], *values: P.args, **named: P.kwargs) -> T:
        """One after the other, to its end though the asker goes away meanwhile."""
        self._thread = self._thread or ThreadPoolExecutor(1, "learning")
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *values, **named))

    async def step(self) -> bool:
        """One batch; True when there may be more to do now. Raises sqlite3.Error, OSError, StoreUnavailable."""
        if self._journal is None:
            if not self._path.exists():
                return False
            self._journal = await self._ask(Journal, self._path)
        if await self._ask(self._journal.idle, self._clock.time()):
            return False
        lock = await asyncio.to_thread(_lock, self._path.parent)
        if lock is None:
            return False
        try:
            looked = await self._look(self._journal)
            taught = await self._teach(self._journal)
            return looked or taught
        finally:
            lock.close()

    async def _look(self, journal: Journal) -> bool:
        if self._reader is None:
            return False
        now = self._clock.time()
        self._apart = {account: until for account, until in self._apart.items() if until > now}
        looks = await self._ask(journal.looks, BATCH, tuple(self._apart)[:APART])
        for look in looks:
            if look.account in self._apart:
                continue
            try:
                async with asyncio.timeout(READ_SECONDS):
                    text = await self._text(look)
            except (StoreUnavailable, OSError, sqlite3.Error) as error:  # this account later, the others now
                log.warning("learning: %s cannot be read now: %s", look.account, error or "no answer")
                self._apart[look.account] = now + APART_SECONDS
                continue
            await self._ask(journal.looked, look, text, tuple(self._teachers), self._clock.time())
        return len(looks) == BATCH

    async def _text(self, look: Look) -> bytes | None:
        assert self._reader is not None
        try:
            return await self._reader.read(look.account, look.mailbox, look.uid)
        except StoreUnavailable:
            raise
        except StoreError as error:
            log.info("learning: %s %s/%d: %s", look.account, look.mailbox, look.uid, error)
            return None

    async def _teach(self, journal: Journal) -> bool:
        jobs = await self._ask(journal.due, self._clock.time(), BATCH)
        groups: dict[tuple[str, str], list[Job]] = {}
        for job in jobs:
            groups.setdefault((job.engine, job.account), []).append(job)
        ends = await asyncio.gather(
            *(
                self._engine(journal, engine, [group for key, group in groups.items() if key[0] == engine])
                for engine in dict.fromkeys(engine for engine, _ in groups)
            ),
            return_exceptions=True,  # none goes on behind our back, without the lock
        )
        for end in ends:
            if end is not None:
                raise end
        return len(jobs) == BATCH

    async def _engine(self, journal: Journal, engine: str, groups: list[list[Job]]) -> None:
        teacher = self._teachers.get(engine)
        down = ""
        for group in groups:
            size = BATCH if engine == "builtin" else SMALL_BATCH
            for at in range(0, len(group), size):
                batch = group[at : at + size]
                if teacher is None:
                    outcomes = [Outcome(SKIPPED, "not configured any more")] * len(batch)
                elif down:  # it did not answer a moment ago: the others wait for the next round
                    outcomes = [Outcome(FAILED, down)] * len(batch)
                else:
                    outcomes = await self._taught(teacher, batch)
                    if not outcomes:
                        return
                    if all(one.what == FAILED for one in outcomes):
                        down = outcomes[-1].reason
                results = list(zip(batch, outcomes, strict=True))
                await self._ask(self._write, journal, results)

    async def _taught(self, teacher: Teacher, batch: list[Job]) -> list[Outcome]:
        """A mistake in a teacher is a failure of these lessons: they are put off, and given up in the end."""
        try:
            return await self._lessons(teacher, batch)
        except Exception as error:
            log.exception("learning: %s", teacher.name)
            return [Outcome(FAILED, f"internal error: {error!r}")] * len(batch)

    async def _lessons(self, teacher: Teacher, batch: list[Job]) -> list[Outcome]:
        """What became of them; nothing when we are told to stop meanwhile: they are given again later."""
        work = asyncio.ensure_future(teacher.teach(batch[0].account, [job.lesson for job in batch]))
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else []
        finally:
            work.cancel()
            stopped.cancel()

    def _write(self, journal: Journal, results: list[tuple[Job, Outcome]]) -> None:
        journal.done(results, self._clock.time())
        for job, outcome in results:
            if outcome.what == FAILED:
                log.info("learning: %s, %s: %s", job.engine, job.account or "everybody", outcome.reason)


def _lock(folder: Path) -> durable.Lock | None:
    """The right to work; None when another process has it."""
    disk = durable.RealDisk()
    with durable.opened(disk, str(folder)) as at:
        lock = disk.open_lock(at, LOCK)
    try:
        lock.acquire(0.0)
    except StoreUnavailable:
        lock.close()
        return None
    return lock


class StoreReader:
    """``Reader`` over the jobs of a server process."""

    def __init__(self, jobs: JobRunner) -> None:
        self._jobs = jobs

    async def read(self, account: str, mailbox: str, uid: int) -> bytes | None:
        return await self._jobs.run(account, lambda store: store.read(mailbox, uid))


class JobRunner(Protocol):
    """``servers.ports.Jobs``, as much of it as is needed."""

    async def run(self, account: str, work: Read) -> bytes | None: ...


class Read(Protocol):
    def __call__(self, store: AccountStore, /) -> bytes | None: ...
