"""The transport half that the shells of SMTP, LMTP, POP3 and ManageSieve share.

One ``Connection`` drives one sans-IO core: a chunk read goes into the core, its events are performed in order by the
subclass, and what is ready goes out in one write. A task exists only while events are performed, so an idle connection
is one slotted object and one timer: 3 KiB under uvloop with the SMTP core. TLS is the loop's: 24 KiB more under uvloop,
but asyncio's own keeps a 256 KiB read buffer for each connection (PROTOTYPES 4), so large installations want uvloop.

Invariants:

* Events are performed strictly one after the other; ``perform`` of a message under way is never cancelled, not even by a
  cut connection (what it stores is stored). After the cut the core still tells what came to nothing.
* Reading stops while a batch runs and the core holds more than ``HIGH_WATER`` octets; performing stops while the peer
  does not take what we wrote.
* A deadline moves only when a whole command was done, or a block of text came in; before the connection has settled all
  of it must fit into the prelude (RELIABILITY 7). Time during which *we* work does not count.
* Any exception of ``perform`` is a bug: logged with traceback, told to the peer by the core's ``internal_error`` and the
  connection goes on when the core says so.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Protocol, TypeVar, cast

from filterd.net.channel import channel_of
from filterd.net.limits import Ticket, plain_ip
from filterd.proto.lines import Pause
from filterd.proto.sasl import Channel

HIGH_WATER = 262_144  # octets waiting in a core before reading stops
AT_ONCE = 16  # events performed without a task before others come to their turn
FLUSH = 65_536  # octets of replies gathered before they are written
LINGER = 10.0  # seconds the last replies may take
STOP_LINGER = 1.0  # the same when the server stops: an idle TLS client may never answer our close_notify
STALLED = 300.0  # seconds a peer may take nothing of what we wrote

log = logging.getLogger("filterd.net")


class Core(Protocol):
    """What a core must offer to be driven."""

    def receive_data(self, data: bytes) -> None: ...

    def receive_eof(self) -> None:
        """No more will come; what waits is still done."""

    def lost(self) -> None:
        """The connection is gone; only what must be told still comes."""

    def shut_down(self) -> None:
        """The server stops: good-bye to the peer, then the closing event."""

    def timed_out(self) -> None:
        """The peer was too slow: good-bye, then the closing event."""

    def internal_error(self) -> None:
        """The event performed last failed by a fault of ours: answer it with a temporary failure."""

    def next_event(self) -> object | None:
        """``Pause`` after a row of commands that needed no event."""
        ...

    def data_to_send(self) -> bytes: ...

    def tls_started(self) -> None: ...

    def __len__(self) -> int:
        """Octets received and not yet read."""
        ...

    @property
    def patience(self) -> float:
        """Seconds for the next command, or the next block of a text."""
        ...

    @property
    def prelude(self) -> float:
        """Seconds from the first octet until ``settled``."""
        ...

    @property
    def settled(self) -> bool:
        """The peer has shown what it is (logged in, or began a mail): the prelude is over."""
        ...

    @property
    def in_text(self) -> bool:
        """Inside a long text: each block that arrives moves the deadline."""
        ...

    @property
    def text_patience(self) -> float:
        """Seconds for such a text as a whole."""
        ...


C = TypeVar("C", bound=Core)


class Connection(asyncio.Protocol, ABC, Generic[C]):
    """Subclasses write ``begin`` and ``perform`` and name the event class that closes."""

    __slots__ = (
        "_began",
        "_closing",
        "_deadline",
        "_drained",
        "_lost",
        "_reading",
        "_stopping",
        "_task",
        "_text_since",
        "_timer",
        "_wrote",
        "core",
        "ip",
        "loop",
        "port",
        "ticket",
        "transport",
    )
    close_event: ClassVar[type]

    core: C
    transport: asyncio.Transport

    def __init__(self, ticket: Ticket | None = None) -> None:
        self.ticket = ticket
        self.loop = asyncio.get_running_loop()
        self.ip: str | None = None
        self.port = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._reading = True
        self._closing = False
        self._lost = False
        self._stopping = False
        self._wrote = False
        self._began = self._deadline = self._text_since = 0.0

    # -- for subclasses -----------------------------------------------------------------------------------------------
    @abstractmethod
    def begin(self) -> C:
        """The core for this connection; ``ip``, ``port`` and ``transport`` are set."""

    @abstractmethod
    async def perform(self, event: object) -> None:
        """Do what the core's event says and answer it."""

    def at_once(self, event: object) -> bool:
        """Perform an event that waits for nothing, without a task; False: ``perform`` must (nothing was done)."""
        return False

    def secured(self) -> None:
        """STARTTLS is done; the core does not know yet: the place to tell it what it must know first."""

    def channel(self) -> Channel:
        """What TLS binds the connection to, for its log-ins."""
        return channel_of(self.transport.get_extra_info("ssl_object"))

    async def send(self, data: bytes) -> None:
        """Write a large answer now, behind what the core has ready; waits while the peer is slow."""
        if self._lost:
            return
        head = self.core.data_to_send()
        self.transport.write(head + data if head and len(data) < FLUSH else head or data)
        if head and len(data) >= FLUSH:
            self.transport.write(data)
        await self.drain()

    async def drain(self) -> None:
        """Wait until the peer has taken enough of what was written (or is gone)."""
        if self._drained is not None and not self._lost:
            self._deadline = self.loop.time() + STALLED
            await self._drained

    async def start_tls(self, context: ssl.SSLContext, seconds: float) -> bool:
        """Write what is ready and begin TLS; False when the handshake failed (the connection is then over)."""
        self.flush()
        if self._lost:
            return False
        try:
            transport = await self.loop.start_tls(
                self.transport, self, context, server_side=True, ssl_handshake_timeout=seconds
            )
        except (TimeoutError, OSError, ssl.SSLError) as error:
            log.info("TLS handshake failed: %s", type(error).__name__)
            self._cut()
            # asyncio's own TLS does not always tell the protocol that a failed handshake was its end.
            self.loop.call_soon(self._ended)
            return False
        if transport is None or self._lost:
            return False
        self.transport = transport
        self.secured()
        self.core.tls_started()
        self._reading = True
        return True

    def tls_name(self) -> str:
        """ "TLSv1.3 TLS_AES_256_GCM_SHA384", "" in clear."""
        tls = self.transport.get_extra_info("ssl_object")
        if tls is None:
            return ""
        cipher = tls.cipher()
        return f"{tls.version()} {cipher[0] if cipher else ''}".strip()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ip, self.port = plain_ip(transport.get_extra_info("peername"))
        if self.ticket is not None and self.ticket.client is not None:  # a proxy told us (PROXY protocol)
            self.ip, self.port = self.ticket.client
        try:
            self.core = self.begin()
        except Exception:
            log.exception("bug while a connection began")
            self._cut()
            return
        if self.ticket is not None:
            self.ticket.evict = self._cut
            self.ticket.stop = self.shut_down
        self._began = self.loop.time()
        self._touch()
        self._timer = self.loop.call_at(self._deadline, self._tick)
        self._go()

    def data_received(self, data: bytes) -> None:
        core = self.core
        core.receive_data(data)
        if self._task is None:
            self._go()
            if core.in_text:
                self._touch()
        elif len(core) > HIGH_WATER and self._reading:
            self._reading = False
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.core.receive_eof()
        self._go()
        # Half closed: replies to what still waits can be written. Under TLS the transport closes anyway.
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.ticket is not None:
            self.ticket.release()
        self._wake()
        if hasattr(self, "core"):
            self.core.lost()
            self._go()

    def _ended(self) -> None:
        if not self._lost:
            self.connection_lost(None)

    def pause_writing(self) -> None:
        self._drained = self.loop.create_future()

    def resume_writing(self) -> None:
        self._wake()

    def _wake(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- the run -------------------------------------------------------------------------------------------------------
    def _go(self) -> None:
        """Perform what the core has ready, in a task when there is anything; else write its replies."""
        if self._task is not None:
            return
        event = self.core.next_event()
        done = 0
        while event is not None and done < AT_ONCE and self._drained is None and self._now(event):
            done += 1
            event = self.core.next_event()
        if event is not None:
            self._task = self.loop.create_task(self._run(event))
        else:
            self._wrote = done > 0
            self.flush()
            if self._wrote:
                self._touch()  # the core answered a command by itself

    async def _run(self, event: object | None) -> None:
        core = self.core
        row = 0
        try:
            while event is not None:
                if type(event) is self.close_event:
                    self._finish()
                    return
                if self._now(event):
                    row += 1
                    if row % AT_ONCE == 0:
                        await asyncio.sleep(0)
                else:
                    await self._guarded(event)
                if self._drained is not None:
                    await self.drain()
                event = core.next_event()
        finally:
            self._task = None
        self.flush()
        if self._stopping and not self._closing:
            self.shut_down()
            return
        if not (self._reading or self._lost or self._closing):
            self._reading = True
            self.transport.resume_reading()
        self._touch()
        if self.ticket is not None and core.settled:
            self.ticket.settle()

    def _now(self, event: object) -> bool:
        try:
            return self.at_once(event)
        except Exception:
            log.exception("bug while performing %s", type(event).__name__)
            self.core.internal_error()
            return True

    async def _guarded(self, event: object) -> None:
        if type(event) is Pause:
            self.flush()
            await asyncio.sleep(0)
            return
        try:
            await self.perform(event)
        except Exception:
            log.exception("bug while performing %s", type(event).__name__)
            self.core.internal_error()

    def flush(self) -> None:
        """Write what the core has ready."""
        data = self.core.data_to_send()
        if data and not self._lost:
            self._wrote = True
            self.transport.write(data)

    def _finish(self) -> None:
        self._task = None
        self.flush()
        if not self._closing and not self._lost:
            self._closing = True
            self._deadline = self.loop.time() + (STOP_LINGER if self._stopping else LINGER)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self.loop.call_at(self._deadline, self._tick)
            self.transport.close()

    def shut_down(self) -> None:
        """The server stops: say so between two commands and close."""
        self._stopping = True
        if self._task is None and not self._closing and not self._lost:
            self.core.shut_down()
            self._go()

    def _cut(self) -> None:
        if not self._lost:
            self._closing = True
            self.transport.abort()

    # -- time ----------------------------------------------------------------------------------------------------------
    def _touch(self) -> None:
        """A command was done: the next one has its time, within the prelude while not settled."""
        core = self.core
        now = self.loop.time()
        deadline = now + core.patience
        if not core.settled:
            deadline = min(deadline, self._began + core.prelude)
        if core.in_text:
            if not self._text_since:
                self._text_since = now
            deadline = min(deadline, self._text_since + core.text_patience)
        else:
            self._text_since = 0.0
        self._deadline = deadline

    def _tick(self) -> None:
        """The one timer: looks whether the deadline has moved meanwhile."""
        now = self.loop.time()
        working = self._task is not None and self._drained is None
        if working or now < self._deadline:
            self._timer = self.loop.call_at(max(self._deadline, now + 1.0), self._tick)
        elif self._closing or self._task is not None:
            self._timer = None
            self._cut()
        else:
            self._timer = self.loop.call_at(now + LINGER, self._tick)
            self.core.timed_out()
            self._go()
