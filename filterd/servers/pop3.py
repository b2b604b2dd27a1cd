"""The shell of POP3: one ``Pop3Connection`` a client, driving ``filterd.proto.pop3``.

Wiring (``filterd.app``)::

    door = Pop3Door(Pop3Config(hostname, starttls=True), logins, jobs, FileLocks(disk, run_dir), context=tls.current)
    server = Server(sock, door.connection, admission, refusal=Pop3Door.REFUSAL)        # POP3; for POP3S add context=tls.current
    server.start()
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from filterd.net.connection import Connection
from filterd.net.limits import Ticket
from filterd.proto.pop3 import Close, Login, Pop3Config, Pop3Core, Refusal, Retrieve, StartTls, Update
from filterd.servers.maildrop import (
    AHEAD,
    INBOX,
    MaildropLocks,
    SurrogateSizes,
    TooSoon,
    open_maildrop,
    read_messages,
    update,
)
from filterd.servers.ports import Jobs, LoginService
from filterd.store.base import StoreError
from pipeline.envelope import Client
from rules.mail import downgrade

READ_AHEAD = 16  # messages at most
LARGE = 16_384  # octets of a message that is written at once; smaller answers to pipelined commands gather


@dataclass(frozen=True, slots=True)
class Pop3Door:
    """What every connection of a listener has in common."""

    config: Pop3Config
    logins: LoginService
    jobs: Jobs
    locks: MaildropLocks
    context: Callable[[], ssl.SSLContext] | None = None
    surrogates: SurrogateSizes = field(default_factory=SurrogateSizes)

    REFUSAL: ClassVar[bytes] = b"-ERR [SYS/TEMP] Too many connections; try again later\r\n"

    def connection(self, ticket: Ticket) -> Pop3Connection:
        """The factory for ``filterd.net.listen.Server``."""
        return Pop3Connection(self, ticket)


class Pop3Connection(Connection[Pop3Core]):
    """One client. ``account`` is "" until the maildrop is ours; ``ahead`` holds messages read before they are asked for."""

    __slots__ = ("account", "ahead", "door", "last", "release")
    close_event = Close

    def __init__(self, door: Pop3Door, ticket: Ticket | None = None) -> None:
        super().__init__(ticket)
        self.door = door
        self.account = ""
        self.ahead: dict[int, bytes | None] = {}
        self.last = 0  # the number read last
        self.release: Callable[[], None] | None = None

    def begin(self) -> Pop3Core:
        core = Pop3Core(self.door.config, tls=bool(self.tls_name()))
        core.channel = self.channel()
        return core

    def secured(self) -> None:
        self.core.channel = self.channel()

    def _finish(self) -> None:
        # Reached at the end of every connection, behind whatever was under way: no other session comes in meanwhile.
        self._let_go()
        super()._finish()

    def _let_go(self) -> None:
        release, self.release = self.release, None
        if release is not None:
            release()

    async def perform(self, event: object) -> None:
        match event:
            case Retrieve():
                await self._retrieve(event)
            case Login():
                await self._log_in(event)
            case Update(deleted, seen):
                await self._update(deleted, seen)
            case StartTls():
                context = self.door.context
                if context is None or not await self.start_tls(context(), self.door.config.handshake):
                    self._cut()

    async def _log_in(self, asked: Login) -> None:
        door = self.door
        client = Client(ip=self.ip, port=self.port, tls=self.tls_name())
        if asked.evidence is None:
            account = await door.logins.authenticate(asked.login, asked.password, client, "pop3")
        else:
            account = await door.logins.judge(asked.evidence, client, "pop3")
        if self.core.judged(account):
            return
        if account is None:
            self.core.refuse(Refusal.CREDENTIALS)
            return
        try:
            release = await door.locks.acquire(account.id)
        except TooSoon:
            self.core.refuse(Refusal.TOO_SOON)
            return
        if release is None:
            self.core.refuse(Refusal.IN_USE)
            return
        self.release = release
        if self._lost:
            return
        try:
            drop = await open_maildrop(door.jobs, account.id)
            if not self.core.utf8:
                drop = await door.surrogates.applied(door.jobs, account.id, drop)
        except StoreError:
            self._let_go()
            self.core.refuse(Refusal.TEMPORARY)
            return
        except BaseException:
            self._let_go()
            raise
        self.account = account.id
        self.core.opened(drop)

    def at_once(self, event: object) -> bool:
        """A message that was read ahead, or that the system has in memory."""
        if not isinstance(event, Retrieve) or self.core.drop is None:
            return False
        number = event.number
        data = self.ahead.get(number)
        if data is None:
            uids = self._next(number)
            texts = self.door.jobs.ready(self.account, lambda store: store.read_many(INBOX, uids, AHEAD))
            if not texts or not (self.core.utf8 or all(downgrade.plain(text or b"") for text in texts)):
                return False
            self.ahead = dict(enumerate(texts, number))
            data = self.ahead[number]
        del self.ahead[number]
        self.last = number
        self._give(event, data)
        return True

    async def _retrieve(self, event: Retrieve) -> None:
        data = None
        with contextlib.suppress(StoreError):
            data = await self._read(event.number)
        self._give(event, data)

    def _give(self, event: Retrieve, data: bytes | None) -> None:
        self.core.text(data, event)
        if data is not None and len(data) > LARGE:
            self.flush()

    def _next(self, number: int) -> Sequence[int]:
        """UIDs from ``number`` on: for who goes through the maildrop in order some following ones are read too."""
        assert self.core.drop is not None
        count = READ_AHEAD if number == self.last + 1 else 1
        return self.core.drop.uids[number - 1 : number - 1 + count]

    async def _read(self, number: int) -> bytes | None:
        if self.core.drop is None:
            return None
        if number not in self.ahead:
            texts = await read_messages(self.door.jobs, self.account, self._next(number), self.core.utf8)
            self.ahead = dict(enumerate(texts, number))
        self.last = number
        return self.ahead.pop(number)

    async def _update(self, deleted: list[int], seen: list[int]) -> None:
        drop = self.core.drop
        if drop is None:
            return
        try:
            uids = [drop.uids[number - 1] for number in deleted]
            done = await update(self.door.jobs, self.account, uids, [drop.uids[n - 1] for n in seen])
        except StoreError:
            done = False
        self.core.updated(done)
        self._let_go()
