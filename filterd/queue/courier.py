"""One courier serves one destination over one connection: takes what is due, sends, has the ends written, takes more.

Invariants: an item is in ``busy`` from the moment it is taken until its end is durable, so no second courier sends it; the
end of a transaction is written again and again until the database takes it, since what the other side has accepted must not
go out twice; between the text and its answer a courier is only stopped by force.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from filterd.explain.traces import TraceWriter
from filterd.queue import deliverby
from filterd.queue.destinations import Destination
from filterd.queue.dialogue import Mail
from filterd.queue.ends import HERE, Ends, Result
from filterd.queue.journal import Journal
from filterd.queue.link import Broken, Link
from filterd.queue.needs import Need, Unfit, fits, need_of, strict
from filterd.queue.outbound import Connector
from filterd.queue.replies import RemoteReply
from filterd.queue.route import Hop, NoRoute
from filterd.queue.routing import is_outlet
from filterd.queue.rows import FORWARD, TAGGED, TLS_REQUIRED, Item, PutOff, forwarded
from filterd.queue.writer import Writer
from filterd.store.base import StoreUnavailable
from pipeline.batv import Batv
from pipeline.ports import Clock
from pipeline.reply import Reply

BATCH = 50  # recipients taken at once, and in one transaction
MESSAGES = 10  # of them; what is left is for another connection
LINGER_SECONDS = 1.0  # an idle connection waits so long for more
MAX_PER_LINK = 1_000  # transactions; then a new connection, so that hosts of equal preference share
RECORD_PAUSE = 2.0  # between tries to write an end down
TOO_MANY = (452, 552)  # RFC 5321 4.5.3.1.10

log = logging.getLogger("filterd.queue")

Local = Callable[[str, str, bytes], Awaitable[Reply]]  # (reverse-path, recipient, text)
Outlets = Callable[
    [Item, bytes], Awaitable[tuple[RemoteReply, str]]
]  # what became of it, and where, for people
Route = Callable[
    [str, bool], Awaitable[Sequence[Hop] | NoRoute]
]  # (lane, without the recipient's demands on TLS)


@dataclass(slots=True)
class Office:
    """What all couriers share. ``here``: the due items of every domain but these are the relay's."""

    writer: Writer
    ends: Ends
    connector: Connector
    clock: Clock
    traces: TraceWriter
    local: Local
    route: Route
    here: tuple[str, ...]
    batv: Batv | None = None
    outlets: Outlets | None = None
    busy: set[int] = field(default_factory=set)
    dialling: set[asyncio.Task[object]] = field(default_factory=set)  # couriers that have said nothing yet
    stopping: bool = False
    look: asyncio.Event = field(default_factory=asyncio.Event)

    def sender_of(self, item: Item) -> str:
        """The reverse-path as it leaves, with its tag where it gets one."""
        return self.batv.sign(item.reverse_path) if self.batv and TAGGED in item.params else item.reverse_path

    async def record(self, result: Result) -> None:
        """Write an end down, however long it takes; the items are free afterwards."""
        while True:
            try:
                spans = await self.writer.write(lambda journal: self.ends.record(journal, result))
                break
            except StoreUnavailable as error:
                log.error("how %d message(s) ended cannot be written down: %s", len(result.items), error)
                if self.stopping:
                    return
                await asyncio.sleep(RECORD_PAUSE)
        self.busy.difference_update(item.number for item in result.items)
        for trace, name, span in spans:
            if trace:
                self.traces.alias(name, trace)
                self.traces.event(trace, span)


@dataclass(slots=True)
class Courier:
    office: Office
    place: Destination
    link: Link | None = None
    loose: bool = False  # the link was opened without the recipient's demands

    async def run(self) -> None:
        """Until nothing is due any more."""
        items: list[Item] = []
        try:
            while not self.office.stopping:
                items = await self._take()
                if items:
                    await self._serve(items)
                    items = []
                elif not await self._more():
                    break
        except _Crowded:
            log.info("%s takes no further connection", self.place.name)
        except StoreUnavailable as error:
            log.warning("the queue cannot be read: %s", error)
            await asyncio.sleep(RECORD_PAUSE)
        except Exception:  # a bug: the items stay queued and are tried again later
            log.exception("sending to %s", self.place.name)
            left = [item for item in items if item.number in self.office.busy]
            await self._all(left, RemoteReply(451, ("4.3.0 an internal error",)))
        finally:
            self._give_back(items)
            self.place.active -= 1
            self.office.look.set()
            if self.link is not None:
                await self._hang_up()

    async def _hang_up(self) -> None:
        assert self.link is not None
        if self.office.stopping:
            self.link.wire.abort()
        else:
            await self.link.close()
        self.link = None

    async def _more(self) -> bool:
        """Wait a moment on an open connection."""
        place = self.place
        if self.link is None or not self.link.fresh:
            return False
        place.bell.clear()
        place.idle += 1
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await place.bell.wait()
        except TimeoutError:
            return False
        finally:
            place.idle -= 1
        return True

    # -- taking ---------------------------------------------------------------------------
    async def _take(self) -> list[Item]:
        office, place = self.office, self.place
        async with place.taking:
            now = office.clock.time()
            if place.resting(now):
                schedule = office.ends.schedule
                wait = PutOff(
                    place.rest_until, place.reply, now - schedule.max_age, now - (schedule.warn_after or now)
                )
                free = await office.writer.write(lambda journal: self._left(journal, now, wait))
            else:
                free = await office.writer.read(lambda journal: self._due(journal, now))
            taken = share(free)
            place.hungry = len(taken) < len(free)
            office.busy.update(item.number for item in taken)
        if place.hungry:
            office.look.set()
        return taken

    def _due(self, journal: Journal, now: float) -> list[Item]:
        office = self.office
        return journal.due(now, self.place.domain, BATCH + 1, office.here, office.busy)

    def _left(self, journal: Journal, now: float, wait: PutOff) -> list[Item]:
        """In one transaction: put off what the resting place has due; what must not wait is left. Mail that came between the
        two would be counted a try that was never made."""
        journal.put_off(now, self.place.domain, self.office.here, wait)
        return self._due(journal, now)

    # -- sending ---------------------------------------------------------------------------
    async def _serve(self, items: list[Item]) -> None:
        unwanted = [item for item in items if item.wish == "bounce"]
        if unwanted:
            await self._all(unwanted, RemoteReply(550, ("5.0.0 returned by the postmaster",)))
            items = [item for item in items if not item.wish]
        if self.place.local:
            for at, item in enumerate(items):
                if self.office.stopping:  # a program that we cannot wait for would run a second time
                    self._give_back(items[at:])
                    return
                await self._deliver_here(item)
            return
        if self.place.resting(self.office.clock.time()):  # too old to be put off
            await self._all(items, RemoteReply(451, (self.place.reply.partition(" ")[2],)))
            return
        groups = sorted(grouped(items), key=lambda group: need_of(group[0]))
        while groups:
            if self.office.stopping:
                self._give_back([item for group in groups for item in group])
                return
            need = need_of(groups[0][0])
            failed = await self._connect(groups[0][0].domain, need)
            if isinstance(failed, Unfit):
                await self._all(groups.pop(0), failed)
                continue
            if failed is not None:
                await self._unreachable([item for group in groups for item in group], failed)
                return
            again = await self._try(groups.pop(0))
            if again:
                groups.insert(0, again)

    def _give_back(self, items: Sequence[Item]) -> None:
        self.office.busy.difference_update(item.number for item in items)

    async def _connect(self, domain: str, need: Need = Need.PLAIN) -> RemoteReply | None:
        """A usable link, or the reply that says why there is none."""
        if self.link is not None:
            good = need is Need.LOOSE or not self.loose
            if self.link.fresh and self.link.used < MAX_PER_LINK and good and fits(self.link, need):
                return None
            await self.link.close()
            self.link = None
        office, me = self.office, asyncio.current_task()
        assert me is not None
        office.dialling.add(me)
        try:
            way = await office.route(domain, need is Need.LOOSE)
            if isinstance(way, NoRoute):
                return RemoteReply(550 if way.permanent else 451, (way.text,))
            if need is Need.STRICT:
                found = await strict(office.connector, way)
            else:
                found = await office.connector.first(way)
        finally:
            office.dialling.discard(me)
        if isinstance(found, RemoteReply):
            return found
        self.link, self.loose = found, need is Need.LOOSE
        self.place.worked()
        return None

    async def _unreachable(self, items: Sequence[Item], reply: RemoteReply) -> None:
        now = self.office.clock.time()
        schedule = self.office.ends.schedule
        if not reply.permanent and not self.place.unreachable(now, reply.text, schedule.retry[0]):
            self._give_back(items)  # another connection works and takes them
            raise _Crowded
        await self._all(items, reply)

    async def _try(self, group: list[Item]) -> list[Item]:
        """One transaction; the items to ask for again at once, because the host takes no more at a time."""
        assert self.link is not None
        office, link = self.office, self.link
        started = office.clock.time()
        try:
            data = await office.writer.read(lambda journal: journal.body(group[0].body))
        except StoreUnavailable as error:
            log.error("%s: %s", group[0].id, error)
            await self._all(group, RemoteReply(451, ("4.3.0 the text cannot be read here",)))
            return []
        by_address: dict[str, Item] = {}
        for item in group:
            by_address.setdefault(item.recipient, item)
        mail = Mail(
            reverse_path=office.sender_of(group[0]),
            recipients=tuple(by_address),
            data=data,
            params=[deliverby.params_now(item, started) for item in by_address.values()],
            forward=forwarded(group[0].params) if link.hop.ours else {},
        )
        try:
            await link.attempt(mail)
        except Broken as error:
            link.talk.broken = True
            doubt = "; the text was sent whole, it may have arrived" if mail.sent else ""
            unknown = RemoteReply(451, (f"4.4.2 {error}{doubt}",))
            mail.results.update({a: unknown for a in mail.recipients if a not in mail.results})
        if any(reply.code == 421 for reply in mail.results.values()):
            link.talk.broken = True
            self.place.crowded()
        again = later_here(group, mail.results)
        ended = [item for item in group if item not in again]
        taken, promised = "DSN" in link.talk.features, link.talk.lmtp or "DELIVERBY" in link.talk.features
        said = link.take_transcript()
        await office.record(Result(ended, mail.results, link.host, said, started, taken, by_taken=promised))
        return again

    async def _deliver_here(self, item: Item) -> None:
        office = self.office
        started = office.clock.time()
        try:
            data = await office.writer.read(lambda journal: journal.body(item.body))
            answer, place = await self._handed(item, data)
        except StoreUnavailable as error:
            log.error("%s: %s", item.id, error)
            answer, place = RemoteReply(451, ("4.3.0 the text cannot be read here",)), ""
        await office.record(Result([item], {item.recipient: answer}, HERE, "", started, place=place))

    async def _handed(self, item: Item, data: bytes) -> tuple[RemoteReply, str]:
        """To one of our own people, a program or a file: the answer, and where when that is not clear."""
        office = self.office
        if not is_outlet(item.domain):
            reply = await office.local(item.reverse_path, item.recipient, data)
            return RemoteReply(reply.code, (f"{reply.enhanced_code} {reply.text}".strip(),)), ""
        if office.outlets is None:
            return RemoteReply(451, ("4.3.5 programs and files are not allowed here",)), ""
        return await office.outlets(item, data)

    async def _all(self, items: Sequence[Item], reply: RemoteReply) -> None:
        """The same end for all of them, without a conversation."""
        if items:
            await self.office.record(Result(items, {item.recipient: reply for item in items}, ""))


class _Crowded(Exception):
    """This connection is one too many for the destination."""


def grouped(items: Sequence[Item]) -> list[list[Item]]:
    """Recipients of the same text, reverse-path and parameters of MAIL share a transaction (RFC 5321 4.1.1.4)."""
    groups: dict[tuple[object, ...], list[Item]] = defaultdict(list)
    for item in items:
        said = tuple(
            item.params.get(name)
            for name in (
                "RET",
                "ENVID",
                "BODY",
                "SMTPUTF8",
                "BY",
                "REQUIRETLS",
                TLS_REQUIRED,
                TAGGED,
                FORWARD,
            )
        )
        groups[(item.body, item.reverse_path, said)].append(item)
    return list(groups.values())


def share(items: Sequence[Item]) -> list[Item]:
    """What one courier takes: at most BATCH recipients of at most MESSAGES messages, and never none."""
    taken: list[Item] = []
    bodies: set[int] = set()
    for item in items[:BATCH]:
        bodies.add(item.body)
        if len(bodies) > MESSAGES:
            break
        taken.append(item)
    return taken


def later_here(group: Sequence[Item], results: dict[str, RemoteReply]) -> list[Item]:
    """RFC 5321 4.5.3.1.10: refused only because others were taken in the same transaction: the next one will do."""
    taken = [item for item in group if results[item.recipient].good]
    if not taken:
        return []
    return [item for item in group if _too_many(results[item.recipient])]


def _too_many(reply: RemoteReply) -> bool:
    if reply.code not in TOO_MANY:
        return False
    return reply.enhanced[2:] == "5.3" or (reply.code == 552 and not reply.enhanced)
