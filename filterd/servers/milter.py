"""The shell of ``listen.milter``: other MTAs ask us about the mail they take in.

One ``MilterConnection`` an SMTP session of the MTA. While a message is judged the MTA hears PROGRESS every few seconds, so
that its patience does not depend on ours; the answer, changes and last word together, goes out in one write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
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

    __slots__ = ("_quick", "door")
    close_event = Close

    def __init__(self, door: MilterDoor, ticket: Ticket | None = None) -> None:
        super().__init__(ticket)
        self.door = door
        self._quick: socket.socket | None = None

    def begin(self) -> MilterCore:
        return MilterCore(self.door.limits)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX and hasattr(socket, "TCP_QUICKACK"):
            self._quick = sock
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Postfix and libmilter leave Nagle on: their last packet waits for our ACK of the one before, which the kernel
        likes to hold back for 40 ms. Each read uses the option up."""
        if self._quick is not None:
            with contextlib.suppress(OSError):
                self._quick.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        super().data_received(data)

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
