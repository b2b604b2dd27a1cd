"""All of one message past clamd: its octets as they came, then each decoded part, under one deadline.

Invariants: blocks at most ``seconds``; the first find ends it; a part that clamd could not scan is a fault of the whole, never
clean (nor are parts beyond what ``ambiguity`` looks at: its word LIMIT); only the first question may say that nobody
listens (``Absent``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline import ambiguity
from pipeline.adapters.pyclamd import Absent, Question
from pipeline.endpoint import Endpoint
from pipeline.errors import StageFault
from pipeline.ports import Clock
from pipeline.wire.clamd import Scan
from rules.mail.message import Message


@dataclass(frozen=True, slots=True)
class Swept:
    """``virus`` "" = clean; ``where`` it was found; ``parts`` that were scanned besides the message; ``words``: ambiguities."""

    virus: str = ""
    where: str = ""
    parts: int = 0
    words: tuple[str, ...] = ()


class Asking(Protocol):
    """One question to a scanner."""

    def scan(self, data: bytes) -> Scan: ...
    def stop(self) -> None: ...


class Sweep:
    """One message, in one thread of the stage's pool; ``stop`` may come from another. ``ask`` makes the questions."""

    def __init__(
        self,
        endpoint: Endpoint,
        seconds: float,
        clock: Clock,
        ask: Callable[[Endpoint, float, Clock], Asking] = Question,
    ) -> None:
        self._ask = ask
        self._endpoint = endpoint
        self._seconds = seconds
        self._clock = clock
        self._deadline = clock.monotonic() + seconds
        self._question = ask(endpoint, seconds, clock)
        self._stopped = False

    def run(self, message: Message, every: bool, octets: int) -> Swept:
        """``every``: also the parts of a message that has one reading only. Raises StageFault, ``Absent`` among them."""
        virus = self._question.scan(message.data).virus
        reading = ambiguity.read(message, octets)
        words = tuple(reading.words)
        if virus:
            return Swept(virus, "the message as it came", 0, words)
        views = reading.views if every or words else []
        for number, view in enumerate(views, 1):
            virus = self._scan(view)
            if virus:
                return Swept(virus, f"decoded part {number}", number, words)
        return Swept("", "", len(views), words)

    def stop(self) -> None:
        self._stopped = True
        self._question.stop()

    def _scan(self, view: bytes) -> str:
        left = self._deadline - self._clock.monotonic()
        if left <= 0 or self._stopped:
            raise StageFault("timeout", f"the parts were not all scanned within {self._seconds:g} s")
        self._question = self._ask(self._endpoint, left, self._clock)
        if self._stopped:
            raise StageFault("timeout", "told to stop")
        try:
            return self._question.scan(view).virus
        except Absent as absent:
            raise StageFault("unavailable", absent.reason) from absent
