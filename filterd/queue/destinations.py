"""What the sending process knows about each destination: how many connections, whether it rests. Pure state, no clock
of its own.

A destination is a domain, or the relay for all that leaves. One that cannot be reached rests for a while: what is due for it
is put off together, without an attempt each, and the first after the rest finds out. One that says it has too much of us
(421, a refused greeting beside open connections) gets fewer connections, and one more again after each that works.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

PER_DESTINATION = 5
REST_SECONDS = 300.0  # at most; new mail for a host that was down waits so long


@dataclass(slots=True)
class Destination:
    """``local``: our own people. ``domain`` None: the relay, for every domain that is not ours."""

    name: str
    domain: str | None
    local: bool = False
    most: int = PER_DESTINATION
    active: int = 0
    idle: int = 0  # connections that wait for more
    hungry: bool = False  # more was due than the last one took
    rest_until: float = 0.0
    reply: str = ""  # why it rests
    limit: int = 0
    taking: asyncio.Lock = field(default_factory=asyncio.Lock)
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.limit = self.most

    def wants_another(self) -> bool:
        """Should a further connection be opened for what is due?"""
        return self.active == 0 or (self.hungry and self.active < self.limit)

    def resting(self, now: float) -> bool:
        return now < self.rest_until

    def unreachable(self, now: float, reply: str, pause: float) -> bool:
        """No host of it could be reached. True: rest; False: others of us are talking to it, it only has no more room."""
        if self.active > 1:
            self.crowded()
            return False
        self.rest_until = now + min(pause, REST_SECONDS)
        self.reply = reply
        return True

    def crowded(self) -> None:
        self.limit = max(1, min(self.limit, self.active - 1))

    def worked(self) -> None:
        self.rest_until = 0.0
        if self.limit < self.most:
            self.limit += 1

    def wake(self) -> None:
        """The operator wants it now."""
        self.rest_until = 0.0

    def forgettable(self, now: float) -> bool:
        return self.active == 0 and not self.resting(now)
