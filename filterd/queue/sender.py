"""The sending process: sees what is due, gives each destination its couriers, rolls unfinished stores forward.

One process sends; a lock on the directory makes sure, a second one waits for it. What it holds in memory is only what it is
trying now, so a crash leaves the items queued. The window that SMTP itself leaves open (the other side said 250, we died
before writing it down) is the only way a message goes out twice. A dead destination never delays another: each has its own
few connections, and what is due is looked up by destination, so a long queue for one does not hide the others.

Local recipients (bounces to our own people, redirects to them) are handed to ``local``, which runs the whole delivery here.
Stores that a worker began and did not finish are rolled forward by ``store`` (HOUSE item 10). All of SQLite happens in one
thread.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from filterd.explain.traces import TraceWriter
from filterd.queue import bell
from filterd.queue.base import PendingChange, PendingStore
from filterd.queue.courier import Courier, Local, Office, Outlets
from filterd.queue.destinations import PER_DESTINATION, Destination
from filterd.queue.ends import Ends, Schedule
from filterd.queue.journal import Journal
from filterd.queue.outbound import Connector, Dialer
from filterd.queue.route import Hop, NoRoute, Relay, route
from filterd.queue.routing import Routes, Rule, is_outlet, is_route
from filterd.queue.rows import Agenda
from filterd.queue.tlspolicy import TlsPolicies
from filterd.queue.writer import Writer
from filterd.store import durable
from filterd.store.base import StoreError, StoreUnavailable
from pipeline.batv import Batv
from pipeline.ports import Clock, Ids, Resolver

log = logging.getLogger("filterd.queue")

TOTAL = 100  # connections
SWEEP_SECONDS = 30.0  # looks by itself at least so often
FORGET_SECONDS = 600.0
LOCK_PAUSE = 1.0
FAULT_PAUSE = 2.0
STOP_SECONDS = 6.0  # for transactions under way
STORES_AT_ONCE = 8
LOCK_FILE = "sender.lock"
RELAY = "relay"
PER_RELAY = 20  # a host of ours takes more than a stranger

StoreLater = Callable[[PendingStore | PendingChange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """``retry`` pauses in seconds, the last repeats. ``our_names`` are names of our mail exchanger. ``relays``: where the mail of
    domains goes whose store is behind us (they are not among ``our_domains``). ``routes``: ways by sender and recipient, before
    ``relay``; ``bind``: source addresses of what takes no route. ``port`` is where MX hosts listen."""

    @property
    def router(self) -> Routes:
        return Routes(self.routes, frozenset({*self.our_domains, *self.relays}))

    directory: Path
    hostname: str
    relay: Relay | None
    retry: Sequence[float]
    max_age: float
    warn_after: float
    our_names: frozenset[str]
    our_domains: frozenset[str]
    relays: Mapping[str, Relay] = field(default_factory=dict)
    routes: Sequence[Rule] = ()
    bind: tuple[str, ...] = ()
    port: int = 25
    total: int = TOTAL
    per_destination: int = PER_DESTINATION


@dataclass(slots=True)
class Sender:
    settings: SenderSettings
    resolver: Resolver
    clock: Clock
    ids: Ids
    traces: TraceWriter
    local: Local
    store: StoreLater
    connector: Connector | None = None  # None: the network
    tls: TlsPolicies | None = None  # None: TLS when it is offered
    batv: Batv | None = None  # tags what leaves; None: nothing
    outlets: Outlets | None = None  # programs and files of aliases; None: there are none
    _office: Office = field(init=False, repr=False)
    _routes: Routes = field(init=False, repr=False)
    _ready: bool = False
    _places: dict[str, Destination] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _rolling: asyncio.Task[None] | None = None
    _forgot: float = float("-inf")

    def __post_init__(self) -> None:
        self._routes = self.settings.router

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set; running transactions are given a moment to end."""
        durable.make_dirs(durable.RealDisk(), str(self.settings.directory))
        lock = await self._lock(stop)
        if lock is None:
            return
        writer = Writer(self.settings.directory, self.clock, "sender")
        self._office = self._open_office(writer)
        await self._give_lanes(writer, stop)
        self._ready = True
        ears = bell.listen(self.settings.directory)
        loop = asyncio.get_running_loop()
        loop.add_reader(ears.fileno(), self._heard, ears)
        stopping = loop.create_task(self._stopped(stop))
        try:
            while not stop.is_set():
                await self._look(stop)
        finally:
            stopping.cancel()
            self._tell_stop()
            loop.remove_reader(ears.fileno())
            ears.close()
            await self._end_tasks()
            await asyncio.to_thread(writer.close)
            lock.release()
            lock.close()

    async def _give_lanes(self, writer: Writer, stop: asyncio.Event) -> None:
        """What waits goes the ways of today's configuration."""
        routes = self._routes
        while not stop.is_set():
            try:
                moved = await writer.write(lambda journal: journal.relane(routes.lane, bool(routes.rules)))
                if moved:
                    log.info("%d message(s) take another route now", moved)
                return
            except StoreUnavailable as error:
                log.warning("the queue cannot be written: %s", error)
            await self._wait(stop, FAULT_PAUSE)

    @property
    def busy(self) -> bool:
        """Is anything being tried now, or is it only about to start?"""
        return not self._ready or bool(self._office.busy)

    def wake(self) -> None:
        """Look again now, as a worker's datagram would have it."""
        self._office.look.set()

    def _open_office(self, writer: Writer) -> Office:
        settings = self.settings
        schedule = Schedule(
            settings.hostname, tuple(settings.retry) or (300.0,), settings.max_age, settings.warn_after
        )

        return Office(
            writer,
            Ends(schedule, self.clock, self.ids, self._routes.lane),
            self.connector or Dialer(settings.hostname),
            self.clock,
            self.traces,
            self.local,
            self._guarded,
            here=("", *sorted({*settings.our_domains, *settings.relays})),
            batv=self.batv,
            outlets=self.outlets,
        )

    async def _guarded(self, lane: str, loose: bool = False) -> Sequence[Hop] | NoRoute:
        """The addresses, each with what is demanded of TLS there; ``loose``: by our own configuration only."""
        hops = await self._way(lane)
        if isinstance(hops, NoRoute) or self.tls is None:
            return hops
        taken = self._routes.way(lane) if is_route(lane) else None
        return await self.tls.guard(taken.domain if taken is not None else lane, hops, loose)

    async def _way(self, lane: str) -> Sequence[Hop] | NoRoute:
        """The addresses to try for a lane."""
        settings = self.settings
        taken = self._routes.way(lane) if is_route(lane) else None
        if is_route(lane) and (taken is None or not (taken.relay or taken.domain)):
            return NoRoute(False, "4.3.5 its route is not configured any more")
        domain = taken.domain if taken is not None else lane
        relay = taken.relay if taken is not None else settings.relays.get(lane, settings.relay)
        found = await route(domain, self.resolver, relay, settings.our_names, settings.port, self.ids)
        bind = (taken.bind if taken is not None else ()) or settings.bind
        if isinstance(found, NoRoute) or not bind or lane in settings.relays:
            return found
        return [hop if hop.path else replace(hop, bind=bind) for hop in found]

    async def _lock(self, stop: asyncio.Event) -> durable.Lock | None:
        """The right to send. A process that is killed loses it at once."""
        disk = durable.RealDisk()
        with durable.opened(disk, str(self.settings.directory)) as at:
            lock = disk.open_lock(at, LOCK_FILE)
        told = False
        while not stop.is_set():
            try:
                lock.acquire(0.0)
                return lock
            except StoreUnavailable:
                if not told:
                    log.warning("another process sends from %s; waiting for it", self.settings.directory)
                told = True
            await self._wait(stop, LOCK_PAUSE)
        lock.close()
        return None

    async def _stopped(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._tell_stop()

    def _tell_stop(self) -> None:
        self._office.stopping = True
        self._office.look.set()
        for place in self._places.values():
            place.bell.set()

    async def _end_tasks(self) -> None:
        tasks = set(self._tasks)
        if self._rolling is not None:
            tasks.add(self._rolling)
        if not tasks:
            return
        for task in set(
            self._office.dialling
        ):  # a host that does not answer holds nobody up: no mail is on its way there
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _heard(self, ears: socket.socket) -> None:
        if bell.RETRY in bell.heard(ears):
            for place in self._places.values():
                place.wake()
        self._office.look.set()

    # -- looking ---------------------------------------------------------------------------
    async def _look(self, stop: asyncio.Event) -> None:
        """One round: start what is due, then wait for the next appointment or a wake-up."""
        office = self._office
        office.look.clear()
        began = time.monotonic()
        try:
            agenda = await office.writer.read(lambda journal: journal.agenda())
            now = self.clock.time()
            self._start_due(agenda, now)
            self._roll(agenda, now)
            await self._forget(now)
        except StoreUnavailable as error:
            log.warning("the queue cannot be read: %s", error)
            await self._wait(stop, FAULT_PAUSE)
            return
        # a long agenda is not looked through all the time
        await self._wait(stop, 2 * (time.monotonic() - began))
        pause = self._until_next(agenda, now)
        if pause > 0:
            try:
                async with asyncio.timeout(pause):
                    await office.look.wait()
            except TimeoutError:
                return

    @staticmethod
    async def _wait(stop: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            return

    def _until_next(self, agenda: Agenda, now: float) -> float:
        """Seconds until something that is not being served falls due; what is being served wakes us when it is done."""
        times = [at for _, at in agenda.domains if at > now]
        if agenda.store_at is not None and self._rolling is None:
            times.append(agenda.store_at)
        return max(0.02, min([SWEEP_SECONDS, *(at - now for at in times)]))

    def _place(self, domain: str) -> Destination:
        if is_route(domain):
            return self._route_place(domain)
        behind = domain in self.settings.relays
        local = (domain in self._office.here or is_outlet(domain)) and not behind
        name = RELAY if self.settings.relay is not None and not local and not behind else f"@{domain}"
        place = self._places.get(name)
        if place is None:
            limit = PER_RELAY if name == RELAY or behind else self.settings.per_destination
            place = Destination(name, None if name == RELAY else domain, local, limit)
            self._places[name] = place
        return place

    def _route_place(self, lane: str) -> Destination:
        place = self._places.get(lane)
        if place is None:
            taken = self._routes.way(lane)
            ours = taken is not None and taken.relay is not None
            place = Destination(lane, lane, False, PER_RELAY if ours else self.settings.per_destination)
            self._places[lane] = place
        return place

    def _start_due(self, agenda: Agenda, now: float) -> None:
        """A courier for each destination that has something due; a further one where the last left something behind."""
        waiting = []
        for domain, at in agenda.domains:
            if at > now:
                continue
            place = self._place(domain)
            if place.idle:
                place.bell.set()
            elif place.wants_another() and place not in waiting:
                waiting.append(place)
        waiting.sort(key=lambda place: place.active)  # who has none comes first
        for place in waiting:
            if len(self._tasks) >= self.settings.total:
                break
            place.active += 1
            place.hungry = False
            task = asyncio.get_running_loop().create_task(Courier(self._office, place).run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for name in [name for name, place in self._places.items() if place.forgettable(now)]:
            del self._places[name]

    # -- rolling forward ---------------------------------------------------------------------------
    def _roll(self, agenda: Agenda, now: float) -> None:
        if agenda.store_at is None or agenda.store_at > now or self._rolling is not None:
            return
        self._rolling = asyncio.get_running_loop().create_task(self._roll_forward(now))
        self._rolling.add_done_callback(self._rolled)

    def _rolled(self, task: asyncio.Task[None]) -> None:
        self._rolling = None
        self._office.look.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("rolling stores forward", exc_info=task.exception())

    async def _roll_forward(self, now: float) -> None:
        names = await self._office.writer.read(lambda journal: journal.pending_stores(now))
        for at in range(0, len(names), STORES_AT_ONCE):
            if self._office.stopping:
                return
            await asyncio.gather(*(self._roll_one(*entry) for entry in names[at : at + STORES_AT_ONCE]))

    async def _roll_one(self, name: str, attempts: int) -> None:
        writer = self._office.writer
        try:
            pending = await writer.read(lambda journal: journal.pending_store(name))
            if pending is not None:
                await self.store(pending)
                await writer.write(lambda journal: journal.stores_done([name]))
            return
        except StoreError as error:
            log.warning("store %s fails: %s", name, error)
        except Exception:
            log.exception("store %s", name)
        pause = (
            self.settings.retry[min(attempts, len(self.settings.retry) - 1)] if self.settings.retry else 300.0
        )
        later = self.clock.time() + pause

        def failed(journal: Journal) -> None:
            journal.store_failed(name, later)

        try:
            await writer.write(failed)
        except StoreUnavailable:
            await asyncio.sleep(FAULT_PAUSE)

    # -- forgetting ---------------------------------------------------------------------------
    async def _forget(self, now: float) -> None:
        """Old ends, and body files that a crash left without a row."""
        if now - self._forgot < FORGET_SECONDS:
            return
        self._forgot = now
        writer = self._office.writer
        files = await writer.write(lambda journal: journal.forget_ended(now))

        def sweep(journal: Journal) -> None:
            for name in {*files, *journal.stray_files(time.time())}:
                journal.unlink(name)

        await writer.read(sweep)
