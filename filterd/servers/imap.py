"""The shell of IMAP: one ``ImapConnection`` a client, driving ``filterd.imap.session``.

Wiring (``filterd.app``)::

    door = ImapDoor(ImapServerConfig(tls=True, message_size=...), login, jobs, notices, clock, context=tls.current)
    server = Server(sock, door.connection, Admission(AdmissionLimits()), refusal=ImapDoor.REFUSAL)      # filterd.net.listen
    server.start()

For implicit TLS also give ``Server(..., context=tls.current)``: the core sees that TLS is active and offers no STARTTLS.

An idle connection is this object, its core, one timer and, while it idles, a place in ``Notices``; no handle of the store.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from filterd.accounts.errors import AccountsUnavailable
from filterd.imap.config import ImapServerConfig
from filterd.imap.ext.filter import told as filtered
from filterd.imap.filtering import Filter
from filterd.imap.session import Authenticate, Close, Idle, IdleEnd, Session, StartCompress, StartTls, Watch
from filterd.imap.work import IdleWork, Work, in_progress
from filterd.net.connection import HIGH_WATER, Connection
from filterd.net.limits import Ticket
from filterd.servers.direct import DirectSink
from filterd.servers.ports import Jobs, LoginService, Notices
from filterd.store.base import StoreError
from pipeline.envelope import Client
from pipeline.ports import Clock

log = logging.getLogger("filterd.imap")

_INFLATE = 65_536  # octets decompressed in one go
_INFLATE_PAUSE = 0.05  # seconds until the next look when the core has enough to do
_HANDSHAKE = 30.0
JOINED = 65_536  # octets that are rather copied than written as pieces
PORTION = 131_072  # octets packed or encrypted on the loop before others come to their turn


@dataclass(frozen=True, slots=True)
class ImapDoor:
    """A listener's settings: what every connection by this door has in common.

    ``context`` gives the TLS context of STARTTLS (``config.tls`` must then be true).
    """

    config: ImapServerConfig
    login: LoginService
    jobs: Jobs
    notices: Notices
    clock: Clock
    context: Callable[[], ssl.SSLContext] | None = None

    REFUSAL = b"* BYE Too many connections; try again later\r\n"

    def connection(self, ticket: Ticket) -> ImapConnection:
        """The factory for ``filterd.net.listen.Server``."""
        return ImapConnection(self, ticket)


class ImapConnection(Connection[Session]):
    """One client."""

    __slots__ = (
        "_alive",
        "_deflate",
        "_half_closed",
        "_inflate",
        "_tail",
        "_unwatch",
        "_watches",
        "client",
        "door",
    )
    close_event = Close

    def __init__(self, door: ImapDoor, ticket: Ticket | None = None) -> None:
        super().__init__(ticket)
        self.door = door
        self._unwatch: Callable[[], None] | None = None
        self._alive: asyncio.TimerHandle | None = None
        self._deflate: zlib._Compress | None = None
        self._inflate: zlib._Decompress | None = None
        self._tail = b""  # still to be inflated
        self._half_closed = False  # nothing comes behind it
        self._watches: dict[str, Callable[[], None]] = {}  # of NOTIFY

    def begin(self) -> Session:
        tls = self.tls_name()
        self.client = Client(ip=self.ip, port=self.port, tls=tls)
        return Session(self.door.config, self.door.clock, tls=bool(tls), channel=self.channel())

    def secured(self) -> None:
        self.core.channel = self.channel()

    async def perform(self, event: object) -> None:
        match event:
            case Work() | IdleWork():
                await self._work(event)
                if type(event) is Work and event.call.events and self.door.config.events is not None:
                    await self.door.config.events.told(event.call.events)
            case Authenticate(login, password, evidence):
                logins, client = self.door.login, self.client
                try:
                    if evidence is None:
                        account = await logins.authenticate(login, password, client, "imap")
                    else:
                        account = await logins.judge(evidence, client, "imap")
                except AccountsUnavailable as error:
                    log.warning("a log-in could not be judged: %s", error)
                    self.core.unavailable()
                    return
                if not self.core.judged(account):
                    self.core.authenticated(account)
            case Idle(mailbox):
                self._watch(mailbox)
            case Filter():
                await self._filter(event)
            case IdleEnd():
                self._end_watch()
            case Watch(mailboxes):
                self._watch_many(mailboxes)
            case StartTls():
                await self._start_tls()
            case StartCompress(rest):
                self._start_compress(rest)

    async def _filter(self, request: Filter) -> None:
        config = self.door.config
        assert config.filters is not None, "not offered"
        work = asyncio.ensure_future(config.filters.filter(request))
        while not (await asyncio.wait((work,), timeout=config.limits.progress))[0]:
            self.core.write(in_progress(request.tag))
            self.flush()
        self.core.filtered(filtered(self.core, request, work.result()))

    def at_once(self, event: object) -> bool:
        if not isinstance(event, (Work, IdleWork)) or not event.quick or self._lost:
            return False
        event.quick = False  # it is tried once
        pieces = self.door.jobs.ready(event.account, event.attempt)
        if pieces is None:
            return False
        self._put(pieces)
        if event.done:
            self.core.work_done(event)
        return event.done

    async def _work(self, work: Work | IdleWork) -> None:
        """Job by job; what the pool's thread could not write itself is written, and taken by the client, before the next."""
        sink = None
        slow = False
        try:
            while not work.done:
                if self._lost:
                    work.close()
                    break
                self.flush()
                sink = sink or self._sink()
                if sink is not None and not self.transport.get_write_buffer_size():
                    sink.begin()
                    rest = await self.door.jobs.run(work.account, partial(work.step, sink=sink))
                else:
                    rest = await self.door.jobs.run(work.account, work.step)
                if sink is not None and rest and not slow and not work.done and not self._lost:
                    slow = True  # wait until all is taken, so that the thread may go on
                    self.transport.set_write_buffer_limits(high=0)
                for portion in [rest] if sink is not None else portions(rest):
                    self._put(portion)
                    if self._drained is not None:
                        await self.drain()
                    elif portion is not rest:
                        await asyncio.sleep(0)
        except StoreError as error:
            log.warning("the store of %s failed: %s", work.account, error)
            self.core.unavailable()
            return
        finally:
            if sink is not None:
                sink.close()
            if slow and not self._lost and not self.transport.is_closing():
                self.transport.set_write_buffer_limits()
        self.core.work_done(work)

    def _sink(self) -> DirectSink | None:
        """A way around the loop, for a connection whose octets nobody changes on the way."""
        transport = self.transport
        if self._deflate is not None or self._lost or transport.is_closing():
            return None
        if transport.get_extra_info("ssl_object") is not None:
            return None
        return DirectSink(transport.get_extra_info("socket").fileno())

    # -- IDLE ---------------------------------------------------------------------------------------------------------
    def _watch(self, mailbox: str | None) -> None:
        account = self.core.account
        if mailbox is not None and account is not None and not self._lost:
            self._unwatch = self.door.notices.watch(*self.core.place_of(mailbox), self._woken)
        self._alive = self.loop.call_later(self.door.config.limits.idle_refresh, self._still_here)

    def _woken(self) -> None:
        self.core.wake()
        self._go()

    def _still_here(self) -> None:
        self._alive = self.loop.call_later(self.door.config.limits.idle_refresh, self._still_here)
        self.core.wake(alive=True)
        self._go()

    def _end_watch(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        if self._alive is not None:
            self._alive.cancel()
            self._alive = None

    def _watch_many(self, mailboxes: Sequence[str]) -> None:
        """These, for NOTIFY; all are looked at once more: something may have happened before they were watched."""
        account = self.core.account if mailboxes and not self._lost else None
        wanted = frozenset(mailboxes) if account is not None else frozenset()
        for mailbox in self._watches.keys() - wanted:
            self._watches.pop(mailbox)()
        for mailbox in wanted:
            if mailbox not in self._watches and account is not None:
                notice = partial(self._changed, mailbox)
                self._watches[mailbox] = self.door.notices.watch(*self.core.place_of(mailbox), notice)
            self.core.mailbox_changed(mailbox)

    def _changed(self, mailbox: str) -> None:
        self.core.mailbox_changed(mailbox)
        self._go()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_watch()
        self._watch_many(())
        super().connection_lost(exc)

    # -- TLS and compression --------------------------------------------------------------------------------------------
    async def _start_tls(self) -> None:
        context = self.door.context
        if context is None or not await self.start_tls(context(), _HANDSHAKE):
            self._cut()
            return
        self.client = Client(ip=self.ip, port=self.port, tls=self.tls_name())

    def _start_compress(self, rest: bytes) -> None:
        self.flush()  # the OK itself is not compressed (RFC 4978 3)
        self._deflate = zlib.compressobj(level=3, wbits=-15, memLevel=6)
        self._inflate = zlib.decompressobj(wbits=-15)
        self.core.compress_started()
        if rest:
            self.loop.call_soon(self.data_received, rest)

    def data_received(self, data: bytes) -> None:
        if self._inflate is None:
            super().data_received(data)
        elif self._tail:
            self._tail += data
            if len(self._tail) > HIGH_WATER:
                self.transport.pause_reading()
        else:
            self._tail = data
            self._inflate_some()

    def eof_received(self) -> bool:
        if not self._tail:
            return super().eof_received()
        self._half_closed = True
        return self.transport.get_extra_info("ssl_object") is None

    def _inflate_some(self) -> None:
        """Feed the core as much as it takes, a piece at a time: a small input may grow a thousandfold, and others wait."""
        inflate = self._inflate
        if not self._tail or inflate is None or self._lost:
            return
        if len(self.core) > HIGH_WATER:
            self.loop.call_later(_INFLATE_PAUSE, self._inflate_some)
            return
        try:
            data = inflate.decompress(self._tail, _INFLATE)
        except zlib.error:
            self._cut()
            return
        self._tail = b"" if inflate.eof else inflate.unconsumed_tail
        if data:
            super().data_received(data)
        if self._tail:
            self.loop.call_soon(self._inflate_some)
        elif self._half_closed:
            super().eof_received()
        elif self._reading and not (self._lost or self._closing):
            self.transport.resume_reading()

    def flush(self) -> None:
        if self._deflate is None:
            super().flush()
        else:
            self._put([])

    def _put(self, pieces: list[bytes]) -> None:
        """Write the pieces behind what the core has ready, in one go."""
        head = self.core.data_to_send()
        if head:
            pieces = [head, *pieces]
        if not pieces or self._lost:
            return
        deflate = self._deflate
        if deflate is not None:
            packed = b"".join([deflate.compress(piece) for piece in pieces])
            pieces = [packed, deflate.flush(zlib.Z_SYNC_FLUSH)]
        if len(pieces) > 1 and sum(map(len, pieces)) <= JOINED:
            pieces = [b"".join(pieces)]
        if len(pieces) == 1:
            self.transport.write(pieces[0])
        else:
            self.transport.writelines(pieces)


def portions(pieces: list[bytes]) -> Iterator[list[bytes]]:
    """The same octets, at most ``PORTION`` at a time; the very same list when they are no more."""
    if sum(map(len, pieces)) <= PORTION:
        yield pieces
        return
    portion: list[bytes] = []
    room = PORTION
    for piece in pieces:
        at = 0
        while at < len(piece):
            portion.append(piece[at : at + room])
            at += len(portion[-1])
            room -= len(portion[-1])
            if not room:
                yield portion
                portion, room = [], PORTION
    if portion:
        yield portion
