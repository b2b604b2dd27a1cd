"""What was answered about a mail a moment ago, and what is being asked about it now: copies are not asked about again.

A copy that comes while the first is asked about waits for that answer: for ``patience`` seconds, then, and when the first
failed or its answer is not for this copy (``fits``), it asks itself; when the first went away, one of those who wait asks for
all.

Invariants: an answer is used for ``seconds`` from when it was asked for, however often; at most ``ANSWERS`` of them are kept,
those used longest ago go first; nothing that was asked for before the last lesson is recalled (``lessons``, a number that
changes with each).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pipeline.ports import Clock

T = TypeVar("T")

ANSWERS: Final = 2048  # in a process: some 2 KB each


@dataclass(frozen=True, slots=True)
class Mail:
    """``key`` is that of all its copies, ``exact`` that of those which differ by hardly anything; ``trace_id`` is its own."""

    key: bytes
    exact: bytes
    trace_id: str


@dataclass(frozen=True, slots=True)
class Remembered(Generic[T]):
    """``mail``: what was asked about; ``at``: when, by Clock.monotonic()."""

    answer: T
    mail: Mail
    at: float


Fits = Callable[
    [T, bool], bool
]  # may the answer be used for a copy, which is exactly the same or only alike?


class Memory(Generic[T]):
    """One for the life of a stage, used by one loop."""

    def __init__(
        self,
        clock: Clock,
        seconds: float,
        patience: float,
        fits: Fits[T],
        lessons: Callable[[], int] | None = None,
        limit: int = ANSWERS,
    ) -> None:
        self._clock, self._seconds, self._patience, self._limit = clock, seconds, patience, limit
        self._fits, self._lessons = fits, lessons or _none
        self._taught = self._lessons()
        self._known: OrderedDict[bytes, Remembered[T]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Future[Remembered[T] | None]] = {}

    def recall(self, mail: Mail) -> Remembered[T] | None:
        """What is known; at once."""
        taught = self._lessons()
        if taught != self._taught:
            self._taught = taught
            self._known.clear()
        found = self._known.get(mail.key)
        if found is None:
            return None
        if self._clock.monotonic() - found.at >= self._seconds:
            del self._known[mail.key]
            return None
        if not self._fit(found, mail):
            return None
        self._known.move_to_end(mail.key)
        return found

    def _fit(self, found: Remembered[T], mail: Mail) -> bool:
        return self._fits(found.answer, found.mail.exact == mail.exact)

    async def ask(self, mail: Mail, question: Callable[[], Awaitable[T]]) -> Remembered[T]:
        """What is known, what somebody else is told just now, or what ``question`` says; raises what it raises. Who asked himself
        finds his own ``mail``."""
        key = mail.key
        until = self._clock.monotonic() + self._patience
        while (known := self.recall(mail)) is None:
            asking = self._asking.get(key)
            if asking is None:
                return await self._first(mail, question)
            await asyncio.wait((asking,), timeout=max(0.0, until - self._clock.monotonic()))
            if not asking.done():
                break
            if asking.cancelled():
                continue
            told = asking.result()
            if told is None or not self._fit(told, mail):
                break
            return told
        if known is not None:
            return known
        if key not in self._asking:
            return await self._first(mail, question)
        at = self._clock.monotonic()
        return Remembered(await question(), mail, at)

    async def _first(self, mail: Mail, question: Callable[[], Awaitable[T]]) -> Remembered[T]:
        mine: asyncio.Future[Remembered[T] | None] = asyncio.get_running_loop().create_future()
        self._asking[mail.key] = mine
        at, taught = self._clock.monotonic(), self._taught
        try:
            made = Remembered(await question(), mail, at)
            if self._fits(made.answer, True):
                mine.set_result(made)
                if taught == self._taught:
                    self._put(mail.key, made)
            return made
        except asyncio.CancelledError:
            mine.cancel()
            raise
        finally:
            del self._asking[mail.key]
            if not mine.done():
                mine.set_result(None)

    def _put(self, key: bytes, made: Remembered[T]) -> None:
        self._known[key] = made
        self._known.move_to_end(key)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)


def _none() -> int:
    return 0
