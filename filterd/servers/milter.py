"""The shell of ``listen.milter``: other MTAs ask us about the mail they take in.

One ``MilterConnection`` an SMTP session of the MTA. While a message is judged the MTA hears PROGRESS every few seconds, so
that its patience does not depend on ours; the answer, changes and last word together, goes out in one write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from filterd.net.connection import Connection
from filterd.net.limits import Ticket
from filterd.proto.milter import Close, Judge, MilterCore, MilterLimits
from pipeline.wire.milter import Packet

PROGRESS_SECONDS = 5.0  # Sendmail waits ten seconds for an answer before it gives up, unless told otherwise

log = logging.getLogger("filterd.milter")


class MilterService(Protocol):
    async def judge(self, message: Judge) -> Sequence[Packet]:
        """The changes and, last, the verdict. Any exception is a bug: the shell logs it and answers TEMPFAIL."""
        ...


@dataclass(frozen=True, slots=True)
class MilterDoor:
    """What every connection by this door has in common."""

    service: MilterService
    limits: MilterLimits = field(default_factory=MilterLimits)
    progress: float = PROGRESS_SECONDS

    REFUSAL = b""  # the protocol has no word before the negotiation: the connection just ends

    def connection(self, ticket: Ticket) -> MilterConnection:
        """The factory for ``filterd.net.listen.Server``."""
        return MilterConnection(self, ticket)


class MilterConnection(Connection[MilterCore]):
    """Events of the core, performed."""

    __slots__ = ("door",)
    close_event = Close

    def __init__(self, door: MilterDoor, ticket: Ticket | None = None) -> None:
        super().__init__(ticket)
        self.door = door

    def begin(self) -> MilterCore:
        return MilterCore(self.door.limits)

    async def perform(self, event: object) -> None:
        if not isinstance(event, Judge):
            return
        work = asyncio.ensure_future(self.door.service.judge(event))
        while not work.done():
            await asyncio.wait((work,), timeout=self.door.progress)
            if not work.done():
                self.core.progress()
                self.flush()
        self.core.answer(work.result())
