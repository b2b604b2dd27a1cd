"""The sending process: takes what is due, groups it by destination, tries, and records how each recipient ended.

One process sends, so no leases are needed: what it holds in memory is only what it is trying now, and a crash leaves the items
queued. The window that SMTP itself leaves open (the other side said 250, we died before writing it down) is the only way a
message goes out twice. A dead destination never delays another: each has its own few connections, and waits for itself.

Local recipients (bounces to our own people, redirects to them) are handed to ``local``, which runs the whole delivery here.
Stores that a worker began and did not finish are rolled forward by ``store`` (HOUSE item 10).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filterd.explain.traces import TraceWriter
from filterd.queue import dsn
from filterd.queue.base import Outgoing, PendingStore
from filterd.queue.dialogue import Mail, RemoteReply
from filterd.queue.journal import Item, Journal
from filterd.queue.outbound import Broken, Link, attempt, first_link
from filterd.queue.route import NoRoute, Relay, route
from filterd.queue.spool import WAKE_SOCKET
from pipeline.ports import Clock, Ids, Resolver
from pipeline.reply import Reply
from pipeline.trace import Span

log = logging.getLogger("filterd.queue")

PER_DESTINATION = 5
TOTAL = 100
GROUP = 50  # recipients of one message in one transaction
SWEEP_SECONDS = 30.0
FORGET_SECONDS = 600.0
MAX_PER_LINK = 100

Local = Callable[[str, str, bytes], Awaitable[Reply]]  # (reverse-path, recipient, text)
StoreLater = Callable[[PendingStore], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """``retry`` pauses in seconds, the last repeats. ``our_names`` are names of our mail exchanger."""

    directory: Path
    hostname: str
    relay: Relay | None
    retry: Sequence[float]
    max_age: float
    warn_after: float
    our_names: frozenset[str]
    our_domains: frozenset[str]


@dataclass(slots=True)
class Sender:
    settings: SenderSettings
    resolver: Resolver
    clock: Clock
    ids: Ids
    traces: TraceWriter
    local: Local
    store: StoreLater
    journal: Journal = field(init=False)
    _busy: set[str] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _active: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _forgot: float = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set; running attempts are given a moment to end."""
        self.journal = Journal(self.settings.directory)
        wake = self._listen()
        try:
            while not stop.is_set():
                self._woken.clear()
                await self._roll_forward()
                started = self._start_due()
                self._forget()
                if not started:
                    await self._pause(stop)
        finally:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=5.0)
            for task in self._tasks:
                task.cancel()
            asyncio.get_running_loop().remove_reader(wake.fileno())
            wake.close()
            self.journal.close()

    def _listen(self) -> socket.socket:
        path = self.settings.directory / WAKE_SOCKET
        path.unlink(missing_ok=True)
        wake = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        wake.setblocking(False)
        wake.bind(str(path))
        os.chmod(path, 0o600)

        def heard() -> None:
            with contextlib.suppress(BlockingIOError):
                while wake.recv(64):
                    pass
            self._woken.set()

        asyncio.get_running_loop().add_reader(wake.fileno(), heard)
        return wake

    async def _pause(self, stop: asyncio.Event) -> None:
        due = self.journal.next_due()
        seconds = SWEEP_SECONDS if due is None else min(SWEEP_SECONDS, max(0.05, due - self.clock.time()))
        if self._busy:
            seconds = min(seconds, 1.0) if due is not None and due > self.clock.time() else SWEEP_SECONDS
        waiters = [asyncio.ensure_future(self._woken.wait()), asyncio.ensure_future(stop.wait())]
        await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiters:
            waiter.cancel()

    # -- choosing ---------------------------------------------------------------------------
    def _start_due(self) -> int:
        """Start a task for each destination that has something due and a free connection."""
        by_domain: dict[str, list[Item]] = defaultdict(list)
        for item in self.journal.due(self.clock.time(), limit=5_000):
            if item.id not in self._busy:
                by_domain[item.domain].append(item)
        started = 0
        for domain, items in by_domain.items():
            free = min(PER_DESTINATION - self._active[domain], TOTAL - len(self._tasks))
            if free <= 0:
                continue
            share = max(1, -(-len(items) // free))
            for at in range(0, len(items), share):
                part = items[at : at + share][:MAX_PER_LINK]
                self._busy.update(item.id for item in part)
                self._active[domain] += 1
                task = asyncio.get_running_loop().create_task(self._destination(domain, part))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                started += 1
        return started

    async def _destination(self, domain: str, items: list[Item]) -> None:
        try:
            if domain in self.settings.our_domains:
                for item in items:
                    await self._deliver_here(item)
            else:
                await self._send_all(domain, items)
        except Exception:  # a bug: the items stay queued and are tried again later
            log.exception("sending to %s", domain)
            self._postpone(items, RemoteReply(451, ("4.3.0 an internal error",)))
        finally:
            self._busy.difference_update(item.id for item in items)
            self._active[domain] -= 1
            self._woken.set()

    # -- trying ---------------------------------------------------------------------------
    async def _send_all(self, domain: str, items: list[Item]) -> None:
        way = await route(domain, self.resolver, self.settings.relay, self.settings.our_names)
        if isinstance(way, NoRoute):
            reply = RemoteReply(550 if way.permanent else 451, (way.text,))
            self._record(items, {item.recipient: reply for item in items}, domain, "")
            return
        login = self.settings.relay.login if self.settings.relay else None
        link: Link | None = None
        groups = self._groups(items)
        try:
            for at, group in enumerate(groups):
                if link is None:
                    found = await first_link(way, self.settings.hostname, login)
                    if isinstance(found, RemoteReply):
                        rest = [item for later in groups[at:] for item in later]
                        self._record(rest, {item.recipient: found for item in rest}, domain, "")
                        return
                    link = found
                if not await self._try(link, group):
                    link.writer.close()
                    link = None
        finally:
            if link is not None:
                await link.close()

    def _groups(self, items: list[Item]) -> list[list[Item]]:
        """Recipients of the same text and reverse-path share a transaction."""
        groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
        for item in items:
            groups[(item.body, item.reverse_path)].append(item)
        return [group[at : at + GROUP] for group in groups.values() for at in range(0, len(group), GROUP)]

    async def _try(self, link: Link, group: list[Item]) -> bool:
        """One transaction; False when the link is of no more use."""
        started = self.clock.time()
        by_address: dict[str, Item] = {}
        for item in group:
            by_address.setdefault(item.recipient, item)
        mail = Mail(
            reverse_path=group[0].reverse_path,
            recipients=tuple(by_address),
            data=self.journal.body(group[0].body),
            params=[item.params for item in by_address.values()],
        )
        try:
            done = await attempt(link, mail)
        except Broken as error:
            reply = RemoteReply(451, (f"4.4.2 {error}",))
            host = f"{link.hop.name} [{link.hop.address}]"
            self._record(
                group, {item.recipient: reply for item in group}, host, "\n".join(link.transcript), started
            )
            return False
        dsn_taken = "DSN" in link.talk.features
        self._record(group, done.results, done.host, done.transcript, started, dsn_taken)
        return not any(reply.code == 421 for reply in done.results.values())

    async def _deliver_here(self, item: Item) -> None:
        started = self.clock.time()
        reply = await self.local(item.reverse_path, item.recipient, self.journal.body(item.body))
        answer = RemoteReply(reply.code, (f"{reply.enhanced_code} {reply.text}",))
        self._record([item], {item.recipient: answer}, "here", "", started, True)

    # -- ends ---------------------------------------------------------------------------
    def _record(
        self,
        items: Sequence[Item],
        results: dict[str, RemoteReply],
        host: str,
        transcript: str,
        started: float = 0.0,
        dsn_taken: bool = False,
    ) -> None:
        """One transaction: the attempt, the new state, the notifications that follow from it."""
        now = self.clock.time()
        journal = self.journal
        journal.begin()
        notes: list[Outgoing] = []
        spans: list[tuple[str, Span]] = []
        try:
            for item in items:
                reply = results.get(item.recipient) or RemoteReply(451, ("4.4.2 no answer",))
                journal.tried(item.id, now, host, reply.text, transcript)
                word = self._settle(item, reply, host, now, notes, dsn_taken)
                text = f"{item.recipient} at {host}: {reply.text}"
                spans.append((item.trace, Span("send", started or now, now - (started or now), word, text)))
            journal.add(notes, (), now)
            journal.commit()
        except BaseException:
            journal.rollback()
            raise
        for trace, span in spans:
            if trace:
                self.traces.event(trace, span)

    def _settle(
        self, item: Item, reply: RemoteReply, host: str, now: float, notes: list[Outgoing], dsn_taken: bool
    ) -> str:
        journal = self.journal
        if reply.good:
            journal.set_state(item.id, "sent")
            if not dsn_taken and dsn.wanted(item.params, "SUCCESS"):
                self._notify(item, "relayed", reply, host, now, notes)
            return "sent"
        expired = now - item.created >= self.settings.max_age
        if reply.permanent or expired:
            journal.set_state(item.id, "expired" if expired and not reply.permanent else "bounced")
            if dsn.wanted(item.params, "FAILURE"):
                self._notify(item, "failed", reply, host, now, notes)
            log.info("message for %s ended: %s", item.recipient, reply.text)
            return "bounced"
        pauses = self.settings.retry
        journal.set_state(item.id, "queued", now + pauses[min(item.attempts, len(pauses) - 1)])
        warn = self.settings.warn_after
        if warn and not item.warned and now - item.created >= warn and dsn.wanted(item.params, "DELAY"):
            journal.set_warned(item.id)
            self._notify(item, "delayed", reply, host, now, notes)
        return "waits"

    def _notify(
        self, item: Item, action: str, reply: RemoteReply, host: str, now: float, notes: list[Outgoing]
    ) -> None:
        """Queue a notification; the null reverse-path is never answered, nor are our own notifications."""
        if not item.reverse_path or item.kind in ("dsn", "vacation", "notify", "report"):
            return
        text = " ".join(reply.lines)
        data = dsn.compose(
            hostname=self.settings.hostname,
            action=action,
            reverse_path=item.reverse_path,
            recipient=item.recipient,
            status=dsn.status_of(text, action == "failed"),
            diagnostic=reply.text,
            original=self.journal.body(item.body),
            params=item.params,
            message_id=f"{self.ids.token(10)}@{self.settings.hostname}",
            now=now,
            remote="" if host == "here" else host.split(" ")[0],
            arrival=item.created,
        )
        key = f"{item.id}:{action}".encode()
        notes.append(Outgoing(key, "", item.reverse_path, data, "dsn", item.trace))

    def _postpone(self, items: Sequence[Item], reply: RemoteReply) -> None:
        try:
            self._record(items, {item.recipient: reply for item in items}, "", "")
        except Exception:
            log.exception("the queue cannot be written; trying again later")

    # -- rolling forward ---------------------------------------------------------------------------
    async def _roll_forward(self) -> None:
        now = self.clock.time()
        for name, attempts, pending in self.journal.pending_stores(now):
            try:
                await self.store(pending)
            except Exception as error:
                log.warning("store %s for %s fails: %s", name, pending.account, error)
                pause = self.settings.retry[min(attempts, len(self.settings.retry) - 1)]
                self._in_transaction(lambda n=name, p=pause: self.journal.store_failed(n, now + p))  # type: ignore[misc]  # bound now
                continue
            self._in_transaction(lambda n=name: self.journal.stores_done([n]))  # type: ignore[misc]  # bound now

    def _in_transaction(self, work: Callable[[], None]) -> None:
        self.journal.begin()
        try:
            work()
            self.journal.commit()
        except BaseException:
            self.journal.rollback()
            raise

    def _forget(self) -> None:
        now = self.clock.time()
        if now - self._forgot < FORGET_SECONDS:
            return
        self._forgot = now
        files: list[str] = []
        self._in_transaction(lambda: files.extend(self.journal.forget_ended(now)))
        for name in files:
            (self.settings.directory / name).unlink(missing_ok=True)
