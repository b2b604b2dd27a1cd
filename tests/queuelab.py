"""A laboratory for the queue: a clock set by hand, other people's mail servers in memory with all their moods, a
running sender.

``Sink`` speaks through the real server core (``filterd.proto.smtp``), so what the client says is checked by it. A mood is
looked up by the address of the hop. Nothing here opens a network socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filterd.explain.traces import TraceWriter
from filterd.proto import smtp_events as events
from filterd.proto.smtp import SmtpCore
from filterd.proto.smtp_limits import SmtpConfig, SmtpLimits
from filterd.queue.base import Outgoing, PendingChange, PendingStore, Spool, nothing
from filterd.queue.courier import Outlets
from filterd.queue.dialogue import Conversation, Refused
from filterd.queue.journal import Journal
from filterd.queue.link import Broken, Link, Wire
from filterd.queue.outbound import Connector, opportunistic
from filterd.queue.replies import RemoteReply
from filterd.queue.route import Hop
from filterd.queue.rows import ENDS, LIVE, Item
from filterd.queue.sender import Sender, SenderSettings
from filterd.queue.spool import GroupSpool
from filterd.queue.writer import Writer
from pipeline.envelope import Profile
from pipeline.ports import Clock, Ids
from pipeline.reply import Reply
from pipeline.zone import Zone, ZoneResolver

START = 1_790_000_000.25
OK = Reply(250, "2.0.0", "taken")
TEXT = b"Subject: hello\r\nMessage-ID: <1@us.example>\r\n\r\nbody\r\n"
ZONE = """
$TTL 300
*.dead.example   MX  10 mx.dead.example
dead.example     A   192.0.2.66
mx.dead.example  A   192.0.2.66
null.example     MX  0 .
later.example    MX  SERVFAIL
half.example     A   192.0.2.77
"""


@dataclass
class HandClock(Clock):
    now: float = START

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class CountingIds(Ids):
    def __init__(self) -> None:
        self.last = 0

    def token(self, octets: int) -> str:
        self.last += 1
        return f"{self.last:0{2 * octets}x}"


@dataclass
class Mood:
    """How a host behaves. ``break_at``: "text" (in the middle), "dot" (after it, before the answer), "rcpt"; counted down."""

    rcpt: dict[str, Reply] = field(default_factory=dict)
    text: list[Reply] = field(default_factory=list)  # answers to texts, first to last; then OK
    break_at: str = ""
    breaks: int = 1_000_000
    refuse: Reply | None = None  # at the greeting
    dead: bool = False
    silent: bool = False  # takes the connection and never speaks
    per_transaction: int = 1000
    connections: int = 1000
    lmtp: bool = False


@dataclass
class Sink(Connector):
    """All other hosts. ``taken``: (hop address, recipient, text) of what was answered 250 or may be believed to have been."""

    moods: dict[str, Mood] = field(default_factory=dict)
    taken: list[tuple[str, str, bytes]] = field(default_factory=list)
    doubtful: Counter[str] = field(default_factory=Counter)  # taken, and the answer never left
    tried: Counter[str] = field(default_factory=Counter)
    open: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    mails: list[str] = field(default_factory=list)  # "<sender> params" of each MAIL
    transactions: list[list[str]] = field(default_factory=list)
    forwarders: bool = False  # they offer XFORWARD

    def mood(self, address: str) -> Mood:
        return self.moods.setdefault(address, Mood())

    async def first(self, hops: Sequence[Hop]) -> Link | RemoteReply:
        last = RemoteReply(451, ("4.4.1 nobody",))
        for hop in hops:
            mood = self.mood(hop.address)
            self.tried[hop.address] += 1
            await asyncio.sleep(0)
            if mood.dead:
                last = RemoteReply(451, (f"4.4.1 cannot connect to {hop.name}: no answer in time",))
                continue
            if mood.silent:
                await asyncio.Event().wait()
            if self.open[hop.address] >= mood.connections:
                last = RemoteReply(451, ("4.3.2 refused: 421 too many connections",))
                continue
            wire = MemoryWire(self, hop, mood)
            talk = Conversation("us.example", lmtp=mood.lmtp)
            link = Link(hop, talk, wire, opportunistic())
            try:
                await link.run(talk.open())
                return link
            except (Broken, Refused) as error:
                last = RemoteReply(451, (f"4.3.2 refused: {error}",))
        return last


class MemoryWire(Wire):
    """A connection without a network: the other end is a server core that is asked at once."""

    def __init__(self, sink: Sink, hop: Hop, mood: Mood) -> None:
        super().__init__()
        self.sink, self.hop, self.mood = sink, hop, mood
        profile = Profile.LMTP if mood.lmtp else Profile.MX
        limits = SmtpLimits(refused_recipients=100_000, errors=100_000)
        self.core = SmtpCore(SmtpConfig(f"{hop.name}", profile, limits=limits), xforward=sink.forwarders)
        self.recipients: list[str] = []
        sink.open[hop.address] += 1
        sink.most[hop.address] = max(sink.most[hop.address], sink.open[hop.address])
        self._serve()

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)
        if self.ended:
            return
        if self._breaks("text") and data.endswith(b"\r\n.\r\n"):
            self.core.receive_data(data[: len(data) // 2])
            self._serve()
            self._broken()
            return
        self.core.receive_data(data)
        self._serve()

    def abort(self) -> None:
        self._hang_up()

    def _hang_up(self) -> None:
        if not self.ended:
            self.sink.open[self.hop.address] -= 1
        self.ended = True

    def _breaks(self, where: str) -> bool:
        return self.mood.break_at == where and self.mood.breaks > 0

    def _broken(self) -> None:
        self.mood.breaks -= 1
        self._hang_up()

    def _serve(self) -> None:
        while not self.ended and (event := self.core.next_event()) is not None:
            match event:
                case events.Connected():
                    self.core.reply(self.mood.refuse)
                case events.Helo():
                    self.core.reply(None)
                case events.Mail():
                    self.recipients = []
                    params = "".join(
                        f" {name}={value}" for name, value in event.params.items() if name != "SIZE"
                    )
                    self.sink.mails.append(f"<{event.reverse_path}>{params}")
                    self.core.reply(Reply(250, "2.1.0", "ok"))
                case events.Rcpt():
                    self._rcpt(event.forward_path)
                case events.Text():
                    self._text(event)
                case events.Close():
                    self.received += self.core.data_to_send()
                    self._hang_up()
                case _:
                    pass
        self.received += self.core.data_to_send()

    def _rcpt(self, address: str) -> None:
        if self._breaks("rcpt"):
            self._broken()
            return
        answer = self.mood.rcpt.get(address) or self.mood.rcpt.get("*") or Reply(250, "2.1.5", "ok")
        if answer.code < 300 and len(self.recipients) >= self.mood.per_transaction:
            answer = Reply(452, "4.5.3", "too many recipients")
        if answer.code < 300:
            self.recipients.append(address)
        self.core.reply(answer)

    def _text(self, event: events.Text) -> None:
        answer = self.mood.text.pop(0) if self.mood.text else OK
        lost = self._breaks("dot")
        if answer.code < 300:
            self.sink.transactions.append(list(self.recipients))
            self.sink.taken += [(self.hop.address, address, event.data) for address in self.recipients]
            if lost:
                self.sink.doubtful.update(self.recipients)
        if lost:
            self._broken()
        elif self.mood.lmtp:
            self.core.reply(*[answer] * event.recipients)
        else:
            self.core.reply(answer)


@dataclass
class Lab:
    """A spool and a sender over one directory. ``local``: what was handed to our own people, and how it is answered."""

    directory: Path
    clock: HandClock = field(default_factory=HandClock)
    sink: Sink = field(default_factory=Sink)
    zone: Zone = field(default_factory=lambda: Zone.parse(ZONE))
    here: list[tuple[str, str, bytes]] = field(default_factory=list)
    answers: dict[str, Reply] = field(default_factory=dict)
    stored: list[PendingStore | PendingChange] = field(default_factory=list)
    store_faults: list[Exception] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    outlets: Outlets | None = None  # programs and files of aliases
    keys: int = 0

    def __post_init__(self) -> None:
        self.queue = self.directory / "queue"

    def live(self, number: int) -> str:
        """A domain with a host of its own, at 198.51.100.<number>."""
        name = f"d{number}.example"
        if not self.zone.exists(name):
            self.zone.add(name, "A", f"198.51.100.{number}")
        return name

    def out(
        self,
        recipient: str,
        sender: str = "ann@us.example",
        data: bytes = TEXT,
        kind: str = "submission",
        **params: str,
    ) -> Outgoing:
        self.keys += 1
        return Outgoing(b"key-%d" % self.keys, sender, recipient, data, kind, "TRACE-00001", params)

    def put(self, *outgoing: Outgoing) -> tuple[str, ...]:
        """Queue without a thread."""
        with contextlib.closing(Journal(self.queue)) as journal, journal.transaction():
            return journal.add(outgoing, (), self.clock.now).items

    async def local(self, reverse_path: str, recipient: str, data: bytes) -> Reply:
        await asyncio.sleep(0)
        answer = self.answers.get(recipient, OK)
        if answer.code < 300:
            self.here.append((reverse_path, recipient, data))
        return answer

    async def store(self, pending: PendingStore | PendingChange) -> None:
        await asyncio.sleep(0)
        if self.store_faults:
            raise self.store_faults.pop(0)
        self.stored.append(pending)

    def sender(self) -> Sender:
        given: dict[str, object] = {
            "directory": self.queue, "hostname": "us.example", "relay": None, "retry": (300.0, 900.0), "max_age": 86_400.0,
            "warn_after": 14_400.0, "our_names": frozenset({"us.example"}), "our_domains": frozenset({"us.example"}),
        }  # fmt: skip
        settings = SenderSettings(**{**given, **self.settings})  # type: ignore[arg-type]  # the fields above
        self.traces = TraceWriter(self.directory / "traces.db", 1e6)
        return Sender(
            settings,
            ZoneResolver(self.zone),
            self.clock,
            CountingIds(),
            self.traces,
            self.local,
            self.store,
            self.sink,
            outlets=self.outlets,
        )

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[Sender]:
        sender, stop = self.sender(), asyncio.Event()
        task = asyncio.create_task(sender.run(stop))
        try:
            yield sender
        finally:
            stop.set()
            await task
            self.traces.close()

    def items(self) -> list[Item]:
        with contextlib.closing(Journal(self.queue)) as journal:
            return journal.items(LIVE + ENDS)

    def states(self) -> Counter[str]:
        return Counter(item.state for item in self.items())

    async def until(self, happened: Callable[[], bool], seconds: float = 15.0) -> None:
        """Let the loop run until it has happened."""
        async with asyncio.timeout(seconds):
            while not happened():
                await asyncio.sleep(0.005)

    async def quiet(self, sender: Sender, seconds: float = 15.0) -> None:
        """Until nothing is due and nobody is sending."""

        def done() -> bool:
            return not sender.busy and all(
                i.state != "queued" or i.next_at > self.clock.now for i in self.items()
            )

        await self.until(done, seconds)

    async def later(self, sender: Sender, seconds: float) -> None:
        """Move the clock and let happen what is due then."""
        self.clock.now += seconds
        sender.wake()
        await self.quiet(sender)


def spool(lab: Lab) -> GroupSpool:
    return GroupSpool(lab.queue, lab.clock)


def writer(lab: Lab) -> Writer:
    return Writer(lab.queue, lab.clock, "test")


@dataclass
class KeptSpool(Spool):
    """A queue that knows what it has by its key."""

    taken: dict[bytes, Outgoing] = field(default_factory=dict)
    calls: int = 0

    async def enqueue(
        self,
        outgoing: Sequence[Outgoing],
        stores: Sequence[PendingStore] = (),
        changes: Sequence[PendingChange] = (),
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        self.calls += 1
        self.taken.update({one.key: one for one in outgoing})
        return (), ()

    def performed(self, ids: Sequence[str], then: Callable[[], None] = nothing) -> None:
        then()

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        pass
