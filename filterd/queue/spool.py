"""The doors' way into the queue (HOUSE items 10, 11, 15): group commit in a thread, large texts written to files
before it.

Completions and acknowledgements ride the next group and cost nothing of their own. After a commit the sending process is
woken by a datagram. Equal large texts that are queued at the same time (a message to many recipients) are written once.

Invariant: a file is unlinked here only when the transactions of all that were to name it are over and none does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filterd.queue.base import Outgoing, PendingChange, PendingStore, Spool, nothing
from filterd.queue.bell import Bell
from filterd.queue.journal import BODY_IN_ROW, Fresh, Journal, always_retry, write_body
from filterd.queue.routing import Lane, plain
from filterd.queue.rows import Added
from filterd.queue.writer import Writer
from filterd.store.base import StoreUnavailable
from filterd.store.durable import RealDisk, make_dirs
from pipeline.ports import Clock

AGAIN_SECONDS = 1.0  # a completion that could not be written is written later

log = logging.getLogger("filterd.queue")


@dataclass(slots=True)
class _File:
    """A large text on its way to the disk, for all who queue it at the moment."""

    writing: asyncio.Task[str]
    users: int = 0
    named: bool = False


class GroupSpool(Spool):
    """One a process. ``fresh`` is asked in the queue's thread about keys that are known, ``lane`` which way each item goes."""

    fresh: Fresh
    lane: Lane

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.fresh = always_retry
        self.lane = plain
        self._directory = directory
        self._clock = clock
        self._disk = RealDisk()
        self._files: dict[bytes, _File] = {}
        self._bell = Bell(directory)
        self._writer = Writer(directory, clock, "spool", self._ring)

    async def enqueue(
        self,
        outgoing: Sequence[Outgoing],
        stores: Sequence[PendingStore] = (),
        changes: Sequence[PendingChange] = (),
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        texts = [out.data for out in outgoing] + [store.message.data for store in stores]
        large = {data for data in texts if len(data) > BODY_IN_ROW}
        if not large:
            added = await asyncio.shield(self._post(outgoing, stores, changes, {}, sum(map(len, texts))))
            return added.items, added.stores
        # what was begun is ended even when the caller goes away: the files must find their rows, or go
        added = await asyncio.shield(
            asyncio.ensure_future(self._with_files(outgoing, stores, changes, large))
        )
        return added.items, added.stores

    def performed(self, ids: Sequence[str], then: Callable[[], None] = nothing) -> None:
        names = tuple(ids)
        try:
            written = self._writer.post(lambda journal: journal.stores_done(names))
        except StoreUnavailable:
            log.warning(
                "the queue is closed: what is done is rolled forward once more, which changes nothing"
            )
            return

        def struck(done: asyncio.Future[None]) -> None:
            if done.cancelled():
                return
            if done.exception() is None:
                then()
            else:
                done.get_loop().call_later(AGAIN_SECONDS, self.performed, names, then)

        written.add_done_callback(struck)

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        heard = tuple(keys)
        self._writer.ride(lambda journal: journal.acknowledge(heard))

    def close(self) -> None:
        """Write what waits and end the thread."""
        self._writer.close()
        self._bell.close()

    def _post(
        self,
        outgoing: Sequence[Outgoing],
        stores: Sequence[PendingStore],
        changes: Sequence[PendingChange],
        files: dict[bytes, str],
        octets: int,
    ) -> asyncio.Future[Added]:
        now = self._clock.time

        def add(journal: Journal) -> Added:
            return journal.add(outgoing, stores, now(), files, changes, self.fresh, self.lane)

        return self._writer.post(add, octets)

    async def _with_files(
        self,
        outgoing: Sequence[Outgoing],
        stores: Sequence[PendingStore],
        changes: Sequence[PendingChange],
        large: set[bytes],
    ) -> Added:
        used = {data: self._take(data) for data in large}
        try:
            try:
                paths = {data: await asyncio.shield(file.writing) for data, file in used.items()}
            except OSError as error:
                raise StoreUnavailable(f"queue: {error}") from error
            added = await self._post(outgoing, stores, changes, paths, 0)
            for file in used.values():
                file.named = file.named or file.writing.result() in added.paths
            return added
        finally:
            for data in used:
                await self._let_go(data)

    def _take(self, data: bytes) -> _File:
        file = self._files.get(data)
        if file is None:
            file = self._files[data] = _File(asyncio.ensure_future(asyncio.to_thread(self._write, data)))
        file.users += 1
        return file

    def _write(self, data: bytes) -> str:
        make_dirs(self._disk, str(self._directory))
        return write_body(self._disk, self._directory, data)

    async def _let_go(self, data: bytes) -> None:
        file = self._files[data]
        file.users -= 1
        if file.users:
            return
        del self._files[data]
        if not file.named:
            with contextlib.suppress(OSError):  # the write failed, or the sweep was faster
                name = await asyncio.shield(file.writing)
                await asyncio.to_thread((self._directory / name).unlink)

    def _ring(self) -> None:
        self._bell.ring()
