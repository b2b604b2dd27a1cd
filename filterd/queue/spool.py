"""The doors' way into the queue: group commit (HOUSE item 15).

A thread takes everything that waits, writes it in one transaction with one sync, and tells all who waited. Completions and
acknowledgements ride the next group and cost nothing of their own. After a commit the sending process is woken by a datagram.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filterd.queue.base import Outgoing, PendingStore, Spool
from filterd.queue.journal import Journal
from filterd.store.base import StoreUnavailable
from pipeline.ports import Clock

Ids = tuple[tuple[str, ...], tuple[str, ...]]
RIDE_SECONDS = 1.0  # completions wait at most so long for a group to ride on
GROUP = 256  # messages in one transaction
WAKE_SOCKET = "wake"


@dataclass(slots=True)
class _Request:
    outgoing: Sequence[Outgoing]
    stores: Sequence[PendingStore]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Ids]


@dataclass(slots=True)
class _Rider:
    stores: Sequence[str] = ()
    keys: Sequence[bytes] = field(default=())


class GroupSpool(Spool):
    """One a process."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._waiting: queue.Queue[_Request | _Rider | None] = queue.Queue()
        self._wake = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._wake.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    async def enqueue(self, outgoing: Sequence[Outgoing], stores: Sequence[PendingStore] = ()) -> Ids:
        loop = asyncio.get_running_loop()
        request = _Request(outgoing, stores, loop, loop.create_future())
        self._waiting.put(request)
        return await request.done

    def performed(self, store_ids: Sequence[str]) -> None:
        self._waiting.put(_Rider(stores=store_ids))

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        self._waiting.put(_Rider(keys=keys))

    def close(self) -> None:
        """Write what waits and end the thread."""
        self._waiting.put(None)
        self._thread.join(timeout=15)
        self._wake.close()

    def _run(self) -> None:
        journal: Journal | None = None
        riders: list[_Rider] = []
        ride_until = 0.0
        going = True
        while going:
            patience = max(0.0, ride_until - self._clock.monotonic()) if riders else None
            batch, found, going = self._gather(patience)
            if found and not riders:
                ride_until = self._clock.monotonic() + RIDE_SECONDS
            riders.extend(found)
            if going and not batch and self._clock.monotonic() < ride_until:
                continue
            try:
                if journal is None:
                    journal = Journal(self._directory)
                self._write(journal, batch, riders)
                riders = []
            except Exception as error:  # told to every waiter, who answers 4xx; the thread lives on
                if journal is not None:
                    journal.rollback()
                failure = (
                    error if isinstance(error, StoreUnavailable) else StoreUnavailable(f"queue: {error}")
                )
                for request in batch:
                    request.loop.call_soon_threadsafe(_fail, request.done, failure)
        if journal is not None:
            journal.close()

    def _gather(self, patience: float | None) -> tuple[list[_Request], list[_Rider], bool]:
        """All that waits, after at most ``patience`` seconds for the first of it; False at the end: time to stop."""
        batch: list[_Request] = []
        riders: list[_Rider] = []
        try:
            entry = self._waiting.get(timeout=patience)
            while entry is not None:
                if isinstance(entry, _Rider):
                    riders.append(entry)
                else:
                    batch.append(entry)
                    if len(batch) >= GROUP:
                        return batch, riders, True
                entry = self._waiting.get_nowait()
        except queue.Empty:
            return batch, riders, True
        return batch, riders, False

    def _write(self, journal: Journal, batch: list[_Request], riders: list[_Rider]) -> None:
        if not batch and not riders:
            return
        now = self._clock.time()
        journal.begin()
        answers = [journal.add(request.outgoing, request.stores, now) for request in batch]
        journal.stores_done([name for rider in riders for name in rider.stores])
        journal.acknowledge([key for rider in riders for key in rider.keys])
        journal.commit()
        for request, answer in zip(batch, answers, strict=True):
            request.loop.call_soon_threadsafe(_finish, request.done, answer)
        if batch:
            with contextlib.suppress(
                OSError
            ):  # nobody sends at the moment: the queue process looks when it starts
                self._wake.sendto(b"1", str(self._directory / WAKE_SOCKET))


def _finish(future: asyncio.Future[Ids], value: Ids) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Ids], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
