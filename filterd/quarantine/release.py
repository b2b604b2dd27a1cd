"""What the quarantine does by itself, in the one process that sends: releases that were asked for, and the end of what is too old.

A release is asked for in the database (`filterd quarantine release`, a link of a digest) and carried out here: the rest of the
pipeline runs with the facts of the reception (the account's Sieve, privacy and SRS of what it sends on), then the row ends.
Its effects have delivery keys made of the row's id and stay unacknowledged until the row has ended, so that a release that was cut
off between delivery and end is done again without a second copy. What a script or a redirect held is not asked again: INBOX.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from filterd.accounts.directory import Directory, Local
from filterd.delivery import Delivery, Destination
from filterd.deliverykey import DeliveryKeys
from filterd.perform import Living, Outcome
from filterd.quarantine.base import PLAIN_STAGES, Facts, Held
from filterd.quarantine.digest import Digests
from filterd.quarantine.keeper import Quarantine
from filterd.store.base import StoreError
from pipeline.ports import Clock
from pipeline.trace import MessageTrace, RecipientTrace, Span
from pipeline.transaction import Transaction
from pipeline.verdict import Verdict
from rules.mail.message import Message

log = logging.getLogger("filterd.quarantine")

LOOK_SECONDS = 1.0
CLAIM_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 3600.0
PURGE_SECONDS = 3600.0
DIGEST_SECONDS = 60.0
DELIVERY_SECONDS = 60.0
RECENT = 100


class Learner(Protocol):
    """What learns from a person's decisions."""

    def learn(self, account: str, kind: str, data: bytes) -> str:
        """Learn ``data`` as "ham" or "spam" of ``account``; one line for people. Asked in a thread."""
        ...


class TraceSink(Protocol):
    """Where the story of a message is written."""

    def put(self, trace: MessageTrace) -> None: ...

    def event(self, trace_id: str, span: Span) -> None: ...


@dataclass(slots=True)
class Releaser:
    """``known`` reads the trace of an id, or None; it is asked in a thread."""

    quarantine: Quarantine
    delivery: Delivery
    directory: Directory
    traces: TraceSink
    known: Callable[[str], MessageTrace | None]
    clock: Clock
    secret: bytes
    learner: Learner | None = None
    digests: Digests | None = None
    looked: float = 0.0
    purged: float = 0.0
    recent: dict[str, MessageTrace] = field(
        default_factory=dict
    )  # traces put a moment ago, perhaps not yet to be read

    async def run(self, stop: asyncio.Event) -> None:
        """Look every second, until told to stop. One process does this at a time (``filterd.workers``: exclusive)."""
        resumed = False
        while not stop.is_set():
            try:
                if not resumed and await asyncio.to_thread(self.quarantine.exists):
                    now = self.clock.time()
                    await self.quarantine.run(lambda database, at=now: database.resume(at))  # type: ignore[misc]  # at bound now
                resumed = True
                await self.look()
            except StoreError as error:
                log.warning("%s", error)
            except Exception:  # a bug in one release must not end the others, nor the sending beside it
                log.exception("the quarantine")
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Do what is due. Raises StoreError."""
        if not await asyncio.to_thread(self.quarantine.exists):
            return
        now = self.clock.time()
        for row in await self.quarantine.run(lambda database: database.due(now)):
            await self.release(row)
        if self.digests is not None and now - self.looked >= DIGEST_SECONDS:
            self.looked = now
            await self.digests.send_due()
        if now - self.purged >= PURGE_SECONDS:
            self.purged = now
            for row in await self.quarantine.run(lambda database: database.purge(now)):
                self._event(row, "expired", "nobody wanted it in time; it was thrown away")

    async def release(self, row: Held) -> None:
        """Deliver one and end it; put it off when that is not possible now. Raises StoreError."""
        now = self.clock.time()
        if not await self.quarantine.run(lambda database: database.claim(row.id, now, CLAIM_SECONDS)):
            return
        data = await self.quarantine.run(lambda database: database.data(row.id))
        facts = await self.quarantine.run(lambda database: database.facts(row.id))
        account = await asyncio.to_thread(self.directory.account, row.account)
        if data is None or facts is None or account is None:
            why = f"there is no account {row.account} any more" if account is None else "its text is gone"
            await self.quarantine.run(lambda database: database.back(row.id, why))
            return
        trace = MessageTrace(row.trace, row.created, facts.profile.value)
        trace.recipients = [RecipientTrace("", "") for _ in range(row.number - 1)]  # it keeps its number
        destination = Destination(row.address, Local(account, facts.detail))
        outcome = await self._deliver(row, facts, data, destination, trace)
        part = trace.recipients[-1] if len(trace.recipients) >= row.number else RecipientTrace("", "")
        if not outcome.reply.positive:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(row.tries, 10))
            note = part.decision or outcome.reply.text
            await self.quarantine.run(lambda database: database.later(row.id, now + pause, note))
            return
        learned = await self._learn(row, data) if row.learn else ""
        where = ", ".join(part.places) or part.outcome
        await self.quarantine.run(
            lambda database: database.released(row.id, self.clock.time(), where, learned)
        )
        self.delivery.performer.acknowledge(outcome)
        await self._tell(row, part, where)
        log.info("%s released for %s: %s", row.id, row.account, where)

    async def _deliver(
        self, row: Held, facts: Facts, data: bytes, destination: Destination, trace: MessageTrace
    ) -> Outcome:
        base = Message(data)
        deadline = self.clock.monotonic() + DELIVERY_SECONDS
        work = Transaction(base, facts.envelope(row.account), row.trace, deadline, facts.by_stage())
        keys = DeliveryKeys.of(self.secret, work.envelope, data)
        keys = replace(keys, envid=f"released {row.id}")
        how = "plain" if row.stage in PLAIN_STAGES else "scripts"
        (outcome,) = await self.delivery.deliver(
            work, base, [(destination,)], keys, Verdict(""), trace, Living(alive=False), how
        )
        return outcome

    async def _learn(self, row: Held, data: bytes) -> str:
        if self.learner is None:
            return "not learned: nothing here learns"
        try:
            return await asyncio.to_thread(partial(self.learner.learn, row.account, row.learn, data))
        except Exception as error:  # the message is delivered; that it was not learned is said
            log.exception("learning from %s", row.id)
            return f"not learned: {error}"

    async def _tell(self, row: Held, part: RecipientTrace, where: str) -> None:
        """The trace of the reception goes on; when it is not known any more the event alone is kept."""
        self._event(row, "released", f"{where}; held since {_time(row.created)} by {row.stage}")
        trace = self.recent.get(row.trace) or await asyncio.to_thread(self.known, row.trace)
        if trace is None or len(trace.recipients) < row.number:
            return
        first = trace.recipients[row.number - 1]
        if (first.account or row.account) != row.account:  # a guardian holds it for another address
            first.account = row.account
        first.script, first.script_digest = (
            part.script or first.script,
            part.script_digest or first.script_digest,
        )
        first.steps = part.steps or first.steps
        first.outcome = part.outcome
        first.decision = f"{part.decision} It had been held: {row.reason}"
        first.places = [*first.places, *part.places]
        first.spans = [*first.spans, *part.spans]
        self.traces.put(trace)
        if len(self.recent) >= RECENT:
            self.recent.clear()
        self.recent[row.trace] = trace

    def _event(self, row: Held, result: str, text: str) -> None:
        span = Span("quarantine", self.clock.time(), 0.0, result, f"{row.address}: {text}")
        self.traces.event(row.trace, span)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
