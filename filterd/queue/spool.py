"""The doors' way into the queue (HOUSE items 10, 11, 15): group commit in a thread, large texts written to files
before it.

Completions and acknowledgements ride the next group and cost nothing of their own. After a commit the sending process is
woken by a datagram. Equal large texts that are queued at the same time (a message to many recipients) are written once.

Invariant: a file is unlinked here only when the transactions of all that were to name it are over and none does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filterd.queue.base import Outgoing, PendingStore, Spool
from filterd.queue.bell import Bell
from filterd.queue.journal import BODY_IN_ROW, Journal, write_body
from filterd.queue.rows import Added
from filterd.queue.writer import Writer
from filterd.store.base import StoreUnavailable
from filterd.store.durable import RealDisk, make_dirs
from pipeline.ports import Clock


@dataclass(slots=True)
class _File:
    """A large text on its way to the disk, for all who queue it at the moment."""

    writing: asyncio.Task[str]
    users: int = 0
    named: bool = False


class GroupSpool(Spool):
    """One a process."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._disk = RealDisk()
        self._files: dict[bytes, _File] = {}
        self._bell = Bell(directory)
        self._writer = Writer(directory, clock, "spool", self._ring)

    async def enqueue(
        self, outgoing: Sequence[Outgoing], stores: Sequence[PendingStore] = ()
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        texts = [out.data for out in outgoing] + [store.message.data for store in stores]
        large = {data for data in texts if len(data) > BODY_IN_ROW}
        if not large:
            added = await asyncio.shield(self._post(outgoing, stores, {}, sum(map(len, texts))))
            return added.items, added.stores
        # what was begun is ended even when the caller goes away: the files must find their rows, or go
        added = await asyncio.shield(asyncio.ensure_future(self._with_files(outgoing, stores, large)))
        return added.items, added.stores

    def performed(self, store_ids: Sequence[str]) -> None:
        names = tuple(store_ids)
        # at once: until this is written a kill has the store done again, and once the client's acknowledgement has reached
        # the account nothing there would know it as the same
        self._writer.ride(lambda journal: journal.stores_done(names), urgent=True)

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
        files: dict[bytes, str],
        octets: int,
    ) -> asyncio.Future[Added]:
        now = self._clock.time

        def add(journal: Journal) -> Added:
            return journal.add(outgoing, stores, now(), files)

        return self._writer.post(add, octets)

    async def _with_files(
        self, outgoing: Sequence[Outgoing], stores: Sequence[PendingStore], large: set[bytes]
    ) -> Added:
        used = {data: self._take(data) for data in large}
        try:
            try:
                paths = {data: await asyncio.shield(file.writing) for data, file in used.items()}
            except OSError as error:
                raise StoreUnavailable(f"queue: {error}") from error
            added = await self._post(outgoing, stores, paths, 0)
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
