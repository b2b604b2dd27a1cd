"""The shell of ``listen.web``: one request, one page, good-bye. What the pages say is ``filterd.web``'s business."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import ClassVar, Protocol

from filterd.net.connection import Connection
from filterd.net.limits import Ticket
from filterd.proto.http import Close, HttpCore, Request
from filterd.web.page import Page
from pipeline.ports import Clock


class WebService(Protocol):
    async def answer(self, request: Request) -> Page:
        """The page. Any exception is a bug: the shell logs it and answers 500."""
        ...


@dataclass(frozen=True, slots=True)
class WebDoor:
    """What every connection by this door has in common."""

    service: WebService
    clock: Clock

    REFUSAL: ClassVar[bytes] = (
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )

    def connection(self, ticket: Ticket) -> WebConnection:
        """The factory for ``filterd.net.listen.Server``."""
        return WebConnection(self, ticket)

    def date(self) -> str:
        return format_datetime(datetime.fromtimestamp(self.clock.time(), UTC), usegmt=True)


class WebConnection(Connection[HttpCore]):
    """One client."""

    __slots__ = ("door",)
    close_event = Close

    def __init__(self, door: WebDoor, ticket: Ticket | None = None) -> None:
        super().__init__(ticket)
        self.door = door

    def begin(self) -> HttpCore:
        return HttpCore(self.door.date)

    async def perform(self, event: object) -> None:
        if isinstance(event, Request):
            page = await self.door.service.answer(event)
            self.core.respond(page.code, page.body, page.fields)
