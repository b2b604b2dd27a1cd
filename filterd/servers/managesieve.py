"""The shell of ManageSieve: one ``SieveConnection`` a client, driving ``filterd.proto.managesieve``.

Wiring (``filterd.app``)::

    config = SieveConfig(scripts.capabilities(), starttls=True)
    door = SieveDoor(config, logins, scripts, context=tls.current)
    server = Server(sock, door.connection, admission, refusal=SieveDoor.REFUSAL)              # filterd.net.listen
    server.start()

Script stores block on the disk and checking a script costs CPU: both run through ``door.run`` (a thread by default).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from filterd.accounts.scripts_base import ScriptStore, ScriptStoreError
from filterd.net.connection import Connection
from filterd.net.limits import Ticket
from filterd.proto.managesieve import Close, LoggedOut, Login, Request, SieveConfig, SieveCore, StartTls
from filterd.servers.ports import LoginService, Scripts
from pipeline.envelope import Client

T = TypeVar("T")


class Run(Protocol):
    """Runs blocking work away from the loop."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


def in_thread(work: Callable[[], T], /) -> Awaitable[T]:
    return asyncio.to_thread(work)


@dataclass(frozen=True, slots=True)
class SieveDoor:
    """What every connection of a listener has in common."""

    config: SieveConfig
    logins: LoginService
    scripts: Scripts
    context: Callable[[], ssl.SSLContext] | None = None
    run: Run = in_thread

    REFUSAL: ClassVar[bytes] = b'BYE (TRYLATER) "Too many connections"\r\n'

    def connection(self, ticket: Ticket) -> SieveConnection:
        """The factory for ``filterd.net.listen.Server``."""
        return SieveConnection(self, ticket)


class SieveConnection(Connection[SieveCore]):
    """One client."""

    __slots__ = ("account", "door")
    close_event = Close

    def __init__(self, door: SieveDoor, ticket: Ticket | None = None) -> None:
        super().__init__(ticket)
        self.door = door
        self.account = ""

    def begin(self) -> SieveCore:
        return SieveCore(self.door.config, tls=bool(self.tls_name()), channel=self.channel())

    def secured(self) -> None:
        self.core.channel = self.channel()

    async def perform(self, event: object) -> None:
        match event:
            case Request():
                await self._request(event)
            case Login():
                await self._log_in(event)
            case LoggedOut():
                self.account = ""
            case StartTls():
                context = self.door.context
                if context is None or not await self.start_tls(context(), self.door.config.handshake):
                    self._cut()

    async def _log_in(self, asked: Login) -> None:
        client = Client(ip=self.ip, port=self.port, tls=self.tls_name())
        logins = self.door.logins
        if asked.evidence is None:
            account = await logins.authenticate(asked.login, asked.password, client, "sieve")
        else:
            account = await logins.judge(asked.evidence, client, "sieve")
        if self.core.judged(account):
            return
        if account is None:
            self.core.refused()
        else:
            self.account = account.id
            self.core.logged_in(account.id)

    async def _request(self, request: Request) -> None:
        try:
            await self._perform(request)
        except ScriptStoreError as error:
            self.core.respond("NO", error.text, error.code)
        except OSError:
            self.core.respond("NO", "The script storage is not available now", "TRYLATER")

    async def _perform(self, request: Request) -> None:
        core, run = self.core, self.door.run
        store = await run(lambda: self.door.scripts.of(self.account))
        names = request.names
        match request.verb:
            case "LISTSCRIPTS":
                core.listing([(script.name, script.active) for script in await run(store.list)])
                return
            case "GETSCRIPT":
                core.script(await run(lambda: store.get(names[0])))
                return
            case "CHECKSCRIPT" | "PUTSCRIPT":
                await self._put(store, request)
                return
            case "HAVESPACE":
                await run(lambda: store.have_space(names[0], request.size))
            case "SETACTIVE":
                await run(lambda: store.activate(names[0]))
            case "DELETESCRIPT":
                await run(lambda: store.delete(names[0]))
            case "RENAMESCRIPT":
                await run(lambda: store.rename(names[0], names[1]))
        core.respond("OK")

    async def _put(self, store: ScriptStore, request: Request) -> None:
        """RFC 5804 2.6, 2.12: nothing is stored that does not compile; warnings do not keep it out."""
        run, text = self.door.run, request.script
        if request.verb == "PUTSCRIPT":
            size = len(text.encode("utf-8"))
            await run(lambda: store.have_space(request.names[0], size))
        errors, warnings = await run(lambda: self.door.scripts.check(self.account, text))
        if errors:
            self.core.respond("NO", "\r\n".join(errors))
            return
        if request.verb == "PUTSCRIPT":
            await run(lambda: store.put(request.names[0], text))
        if warnings:
            self.core.respond("OK", "\r\n".join(warnings), "WARNINGS")
        else:
            self.core.respond("OK")
