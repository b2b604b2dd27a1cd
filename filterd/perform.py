"""Perform a plan: prepare, commit, publish (HOUSE item 10).

A recipient whose plan is one local store needs no record: the store's own link is the commit, and Sieve state goes with it. A
plan with several effects (stores, what leaves, Sieve state that no store takes along, list entries) is first written to the
queue's database as one transaction (that is the commit); the stores and changes are done then, and struck from the record; what
a crash leaves behind is rolled forward by the sending process. Every effect has a delivery key or may be repeated, so doing it
twice changes nothing. The key of a store in a record is released when the record is struck out and the client has gone on.

A known key means: the same client lost our reply and sends again. A message that is equal octet for octet and comes while the
first one's session still lives is no such retry, and is delivered for itself; so is one whose equal was acknowledged. Which
sessions live in other processes, and what they have just acknowledged, is on the server's board (``filterd.board``).
Within one message a key is served once: two addresses of one account (RCPT twice, an alias beside its member) leave one copy in
a mailbox.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from filterd import shared_delivery
from filterd.board import Desk, alone
from filterd.deliverykey import DeliveryKeys
from filterd.execbridge import Programs, facts_of
from filterd.imap.sharing import Sharing
from filterd.outgoing import Departure, aside
from filterd.quarantine.base import Facts, Hold, Keeper
from filterd.queue.base import Outgoing, PendingChange, PendingStore, Spool
from filterd.sieve_host import LIST_PREFIX
from filterd.specialuse import resolve_mailbox
from filterd.store.base import (
    AccountStore,
    BadName,
    LimitReached,
    MailboxExists,
    NewMessage,
    NoSuchMailbox,
    OverQuota,
    SieveState,
    Stored,
    StoreError,
    StoreUnavailable,
)
from filterd.store.delivery import fingerprint
from filterd.store.jobs import RIDE_SECONDS, AccountJobs
from pipeline import plan as plans
from pipeline.plan import INBOX, Plan
from pipeline.ports import Clock
from pipeline.reply import Reply
from pipeline.trace import MessageTrace, RecipientTrace, Span
from pipeline.transaction import Transaction
from pipeline.verdict import Verdict
from rules.actions import ListStore
from rules.mail.message import Message

log = logging.getLogger("filterd.delivery")

LIST_MEMBERS = 5000  # entries of one list of an account
# An equal message's session in another process: it goes on or is found dead within a moment. What it acknowledged is in the
# database within RIDE_SECONDS. Looked for so often.
LOOK_AGAIN = (RIDE_SECONDS, 0.1, 0.2, 0.3)
MARK_SECONDS = 86_400  # like a delivery key


@dataclass(slots=True)
class Recorded:
    """The key of a store that was part of a record: released when the record is struck out and the client has gone on."""

    account: str
    key: bytes
    struck: bool = False
    heard: bool = False


@dataclass(slots=True)
class Outcome:
    """The answer for one recipient and the delivery keys its acknowledgement will release (``late``: those of a record)."""

    reply: Reply
    keys: list[tuple[str, bytes]] = field(default_factory=list)
    queue_keys: list[bytes] = field(default_factory=list)
    held_keys: list[bytes] = field(default_factory=list)  # of what is in the quarantine
    late: list[Recorded] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take over another outcome's keys."""
        self.keys.extend(other.keys)
        self.queue_keys.extend(other.queue_keys)
        self.held_keys.extend(other.held_keys)
        self.late.extend(other.late)


@dataclass(slots=True)
class Living:
    """The session a message came by: while it lives, an equal message of another session is no retry of this one."""

    alive: bool = True
    keys: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Job:
    """Everything about the message that each recipient's delivery needs. ``base``: the text with our fields."""

    work: Transaction
    base: Message
    keys: DeliveryKeys
    verdict: Verdict
    trace: MessageTrace
    alone: bool  # no other recipient of this message: a script's reject can still be our reply
    living: Living = field(default_factory=Living)
    released: str = ""  # out of the quarantine: "scripts" still run, or it goes straight to INBOX ("plain")
    begun: dict[bytes, asyncio.Future[bool]] = field(
        default_factory=dict
    )  # by key: did it come to a good end?


@dataclass(frozen=True, slots=True)
class Target:
    """For whom: the account, the address asked for, and which recipient of the message it is. ``marks``: of the Sieve state that is
    new with this delivery (``sieve_host``)."""

    account: str
    address: str
    number: int
    marks: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Effects:
    """What a plan comes down to."""

    stores: list[PendingStore] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    changes: list[PendingChange] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    state: SieveState | None = None  # not yet part of a store or a change


class Performer:
    """One a worker."""

    def __init__(
        self, jobs: AccountJobs, spool: Spool, departure: Departure, clock: Clock, desk: Desk | None = None
    ) -> None:
        self._jobs = jobs
        self._spool = spool
        self._departure = departure
        self._clock = clock
        self._live: Counter[bytes] = Counter()  # keys of messages whose sessions of this process still live
        self._desk = desk or alone(clock)
        self.programs: Programs | None = None  # set where there is a service for them
        self.sharing: Sharing | None = None  # None: all mailboxes are one's own
        self.quarantine: Keeper | None = None  # None: what is held back is in the Junk folder

    def fresh(self, key: bytes, created: float) -> bool:
        """Was the delivery with this key, made at ``created``, acknowledged, though the queue does not say so yet? Then an equal
        one is meant for itself. Asked by any thread."""
        return self._desk.heard(key, created)

    def unheard(self, key: bytes) -> bool:
        """May what is known by this key be a retry: nobody acknowledged it, and no session lives that brought it?"""
        return not (self._live[key] > 0 or self._desk.heard(key) or self._desk.elsewhere(key))

    async def perform(self, job: Job, plan: Plan, target: Target, trace: RecipientTrace) -> Outcome:
        """On a positive reply everything is on disk. Raises StoreError when nothing was promised."""
        return await self.carry_out(job, plan, target, trace, await self._prepare(job, plan, target, trace))

    async def send_on(self, job: Job, outgoing: list[Outgoing], trace: RecipientTrace) -> Outcome:
        """Queue what leaves without a script. Raises StoreError."""
        return await self.carry_out(job, None, None, trace, Effects(outgoing=outgoing))

    async def carry_out(
        self, job: Job, plan: Plan | None, target: Target | None, trace: RecipientTrace, effects: Effects
    ) -> Outcome:
        """Commit and publish; the keys count as living from here until ``ended``. What another recipient of this message began is
        waited for first: state must not be remembered for a copy that then failed."""
        outcome = Outcome(Reply(250, "2.0.0", f"Ok {job.trace.id}"))
        twins = _without_twins(job, effects, trace, self._clock.time())
        if effects.state is not None and target is not None:
            effects.changes.append(PendingChange(target.account, effects.state.remember, (), job.trace.id))
        held = [store.message.key for store in effects.stores] + [one.key for one in effects.outgoing]
        held += [one.key for one in effects.holds]
        if job.living.alive:
            job.living.keys.extend(held)
            self._live.update(held)
            for key in held:
                self._desk.hold(key)
            if target is not None and target.marks:
                job.living.keys.extend(target.marks)
                self._live.update(target.marks)
                for mark in target.marks:
                    self._desk.hold(mark)
        end: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        job.begun.update(dict.fromkeys(held, end))
        try:
            if not all([await twin for twin in twins]):
                raise StoreUnavailable("the same copy for another recipient failed")
            await self._effects(job, trace, effects, outcome)
            end.set_result(True)
            if target is not None:
                outcome.keys.extend((target.account, mark) for mark in target.marks)
        except BaseException:
            if not end.done():
                end.set_result(False)
            raise
        return outcome

    async def _effects(self, job: Job, trace: RecipientTrace, effects: Effects, outcome: Outcome) -> None:
        stores, changes = effects.stores, effects.changes
        for hold in effects.holds:
            await self._hold(hold, trace)
            outcome.held_keys.append(hold.key)
        outgoing = [
            replace(one, key=_of_its_own(one.key, job.trace.id)) if await self._beside(one.key) else one
            for one in effects.outgoing
        ]
        # more than one thing that a crash could part: written down first
        recorded = len(stores) + len(outgoing) + len(changes) > 1 or any(one.lists for one in changes)
        pending: tuple[str, ...] = ()
        if recorded and stores:
            await shared_delivery.check_room(self.sharing, self._jobs, stores)
        if outgoing or recorded:
            pending = await self._commit(outgoing, stores, changes, trace)
            outcome.queue_keys.extend(one.key for one in outgoing)
        for at, store in enumerate(stores):
            try:
                account = await self.store(store, trace)
            except StoreError as error:
                if not recorded:
                    raise
                log.warning("store of %s left to the queue: %s", job.trace.id, error)
                trace.places.append(f"{store.mailbox}: will be stored later ({error})")
                continue
            if recorded:
                late = Recorded(account, store.message.key)
                outcome.late.append(late)
                self._spool.performed([pending[at]], partial(self._struck, late))
            else:
                outcome.keys.append((account, store.message.key))
        for at, change in enumerate(changes, len(stores)):
            try:
                await self.change(change)
            except StoreError as error:
                if not recorded:
                    raise
                log.warning("Sieve state of %s left to the queue: %s", job.trace.id, error)
                continue
            if recorded:
                self._spool.performed([pending[at]])

    async def _beside(self, key: bytes) -> bool:
        """Does the session of an equal message live? One in another process is given a moment: will it go on, or is it dead?"""
        if self._live[key] > 1:
            return True
        for pause in LOOK_AGAIN:
            if not self._desk.elsewhere(key):
                return False
            await asyncio.sleep(pause)
        return True

    async def change(self, change: PendingChange) -> None:
        """Sieve state and lists of an account; durable on return. Raises StoreError."""

        def work(opened: AccountStore) -> None:
            if change.remember:
                opened.remember(SieveState(change.remember))
            change_lists(opened, change.lists)

        await self._jobs.run(change.account, work)

    async def redo(self, pending: PendingStore | PendingChange) -> None:
        """Roll forward what a worker began and did not strike out; a known key tells that it was done. Raises StoreError."""
        if isinstance(pending, PendingChange):
            await self.change(pending)
        elif not await shared_delivery.done(self.sharing, self._jobs, pending):
            await self.store(pending, again=True)

    async def _prepare(self, job: Job, plan: Plan, target: Target, trace: RecipientTrace) -> Effects:
        effects = Effects()
        if plan.remember:
            marks = {fingerprint(mark): MARK_SECONDS for mark in target.marks}
            effects.state = SieveState({**plan.remember, **marks})
        for step in plan.steps:
            match step:
                case plans.Store(quarantine=True) if self.keeps(plan.held_by):
                    effects.holds.append(_held_back(job, plan, target))
                case plans.Store():
                    effects.stores.append(await self._pending(job, step, plan, target, effects))
                case plans.Send():
                    key = job.keys.key(target.account, f"send:{step.to}")
                    send = partial(self._departure.redirected, job.work, job.base, step, key, target.account)
                    octets = len(job.base.data if step.data is None else step.data)
                    effects.outgoing.append(await aside(job.work, octets, send))
                case plans.Answer() | plans.Bounce():
                    reply = partial(
                        self._departure.generated, job.work, job.base, step, job.keys, target.account
                    )
                    effects.outgoing.extend(await aside(job.work, len(job.base.data), reply))
                case plans.Execute():
                    if await self._execute(job, step, plan, target, trace):
                        kept = plans.Store(step.mailbox, data=step.data)
                        effects.stores.append(await self._pending(job, kept, plan, target, effects))
                case _:
                    pass
        if plan.lists:
            state, effects.state = effects.state, None
            remember = state.remember if state is not None else {}
            effects.changes.append(PendingChange(target.account, remember, plan.lists, job.trace.id))
        return effects

    async def _execute(
        self, job: Job, step: plans.Execute, plan: Plan, target: Target, trace: RecipientTrace
    ) -> bool:
        """vnd.dovecot.pipe, before anything is promised. True: it failed, and the message must be kept."""
        started, clock = self._clock.time(), self._clock.monotonic()
        why = "there is no service for programs here"
        if self.programs is not None:
            data = step.data if step.data is not None else job.base.data
            facts = facts_of(target.account, job.work.envelope.reverse_path, target.address)
            why = await self.programs.pipe(step.program, step.arguments, data, facts)
        said = f"{step.program}: {why or 'done'}"
        took = self._clock.monotonic() - clock
        trace.spans.append(Span("program", started, took, "error" if why else "", said))
        if not why:
            trace.places.append(f"handed to the program {step.program}")
            return False
        ends = [one for one in plan.steps if isinstance(one, plans.Store | plans.Send)]
        there = any(isinstance(one, plans.Store) and one.mailbox == step.mailbox for one in ends)
        if there or (step.attempt and ends):
            return False
        trace.outcome, trace.decision = "stored", f"{step.mailbox} because {why}."
        return True

    async def _commit(
        self,
        outgoing: Sequence[Outgoing],
        stores: Sequence[PendingStore],
        changes: Sequence[PendingChange],
        trace: RecipientTrace,
    ) -> tuple[str, ...]:
        started = self._clock.time()
        ids, pending = await self._spool.enqueue(outgoing, stores, changes)
        for name, one in zip(ids, outgoing, strict=True):
            trace.places.append(f"queued for {one.recipient} ({name})")
            duration = self._clock.time() - started
            trace.spans.append(
                Span("queue", started, duration, "queued", f"{one.kind} to {one.recipient} as {name}")
            )
        return pending

    async def _pending(
        self, job: Job, step: plans.Store, plan: Plan, target: Target, effects: Effects
    ) -> PendingStore:
        """The store as it will be done, now or by whoever rolls it forward: its mailbox is a name from here on."""
        mailbox = step.mailbox
        if step.special_use or step.mailbox_id or step.quarantine:
            mailbox = await self._jobs.run(
                target.account, lambda store: resolve_mailbox(store, step, self.sharing, target.account)
            )
        body = step.data if step.data is not None else job.base.data
        if not step.generated:
            body = _final_fields(job, target) + body
        state = None
        if not shared_delivery.foreign(self.sharing, target.account, mailbox):  # state is the recipient's own
            state, effects.state = effects.state, None
        message = NewMessage(
            data=body,
            flags=step.flags,
            key=job.keys.key(target.account, f"{'fcc' if step.generated else 'store'}:{mailbox}"),
            trace=f"{job.trace.id}.{target.number}",
            decision=plan.decision,
            crlf=step.data is None and job.base.crlf,
        )
        return PendingStore(target.account, mailbox, message, state, job.trace.id)

    async def store(
        self, pending: PendingStore, trace: RecipientTrace | None = None, again: bool = False
    ) -> str:
        """Do a store now; a mailbox that is missing is made, or INBOX takes its place. ``again``: it may have been done
        before, then its key is known. The account that it is in. Raises StoreError."""
        started, clock = self._clock.time(), self._clock.monotonic()
        note = ""
        place = await shared_delivery.resolved(self.sharing, self._jobs, pending)
        if place is None:
            place, note = shared_delivery.kept(pending)
        try:
            stored = await self._into(place, again)
        except (NoSuchMailbox, OverQuota) as error:
            if place.account != pending.account:
                place, note = shared_delivery.kept(pending)
            elif isinstance(error, OverQuota):
                raise
            else:
                note = await self._create(place.account, place.mailbox)
                place = replace(place, mailbox=INBOX) if note else place
            stored = await self._into(place, again)
        if stored.duplicate and pending.state is not None:  # killed between the link and the index?
            await self.change(PendingChange(pending.account, pending.state.remember))
        if trace is not None:
            if note and trace.decision:
                trace.decision += f" ({note})"
            where = f"{stored.mailbox} uid {stored.uid}"
            trace.places.append(where)
            if stored.duplicate:
                trace.outcome = "duplicate"
                note = "already stored; the client had lost our reply"
            summary = f"{place.account}/{where}, on disk" + (f"; {note}" if note else "")
            trace.spans.append(Span("store", started, self._clock.monotonic() - clock, "", summary))
        return place.account

    async def _into(self, place: PendingStore, again: bool) -> Stored:
        stored = await self._jobs.deliver(place.account, place.mailbox, place.message, place.state)
        return await self._known(place, stored) if stored.duplicate and not again else stored

    def keeps(self, stage: str) -> bool:
        """Is what this stage holds back kept in the quarantine? Else it goes to Junk."""
        return bool(stage) and self.quarantine is not None and self.quarantine.takes(stage)

    async def _hold(self, hold: Hold, trace: RecipientTrace) -> None:
        """Into the quarantine; its commit is the delivery's. Raises StoreUnavailable."""
        assert self.quarantine is not None
        started, clock = self._clock.time(), self._clock.monotonic()
        kept = await self.quarantine.put(hold)
        if kept.duplicate and (await self._beside(hold.key) or self._desk.heard(hold.key, kept.at)):
            kept = await self.quarantine.put(replace(hold, key=b""))  # an equal one, meant for itself
        note = ""
        if kept.duplicate:
            trace.outcome, note = "duplicate", "; the client had lost our reply"
        trace.places.append(f"quarantine {kept.id}")
        summary = f"{hold.account}: {kept.id} by {hold.stage}, on disk until {_day(kept.expires)}{note}"
        trace.spans.append(Span("quarantine", started, self._clock.monotonic() - clock, "held", summary))

    async def _known(self, pending: PendingStore, first: Stored) -> Stored:
        """The key is known: a retry, or an equal message of a session that lives, or one that was just acknowledged?"""
        key = pending.message.key
        if self._live[key] <= 1:  # ours alone, or not even that any more
            for pause in LOOK_AGAIN:
                if not (self._desk.elsewhere(key) or self._desk.heard(key, first.at)):
                    return first
                await asyncio.sleep(pause)
                found = await self._jobs.deliver(
                    pending.account, pending.mailbox, pending.message, pending.state
                )
                if not found.duplicate:
                    return found
                if found.uid != first.uid:  # the first was acknowledged, and another one came after us
                    break
        message = replace(pending.message, key=b"")
        return await self._jobs.deliver(pending.account, pending.mailbox, message, pending.state)

    def ended(self, living: Living) -> None:
        """Nothing more is heard of this message: its session is over, or went on, or came to nothing."""
        for key in living.keys:
            self._desk.let_go(key)
            self._live[key] -= 1
            if self._live[key] <= 0:
                del self._live[key]
        living.keys.clear()

    def acknowledge(self, outcome: Outcome) -> None:
        """The client went on after our reply (HOUSE item 11)."""
        for account, key in outcome.keys:
            self._desk.hear(key)
            self._jobs.acknowledge(account, key)
        for key in outcome.queue_keys:
            self._desk.hear(key)
        if outcome.queue_keys:
            self._spool.acknowledge(outcome.queue_keys)
        for key in outcome.held_keys:
            self._desk.hear(key)
        if outcome.held_keys and self.quarantine is not None:
            self.quarantine.acknowledge(outcome.held_keys)
        for late in outcome.late:
            self._desk.hear(late.key)
            late.heard = True
            self._release(late)

    def _struck(self, late: Recorded) -> None:
        late.struck = True
        self._release(late)

    def _release(self, late: Recorded) -> None:
        """A record may still be rolled forward after a crash: until it is surely struck out its keys must be known."""
        if late.struck and late.heard:
            self._jobs.acknowledge(late.account, late.key)

    async def _create(self, account: str, mailbox: str) -> str:
        """A note when it cannot be created."""

        def create(store: AccountStore) -> str:
            try:
                store.create(mailbox)
            except MailboxExists:
                return ""
            except (BadName, LimitReached) as error:
                return f"“{mailbox}” cannot be created ({error}): INBOX instead"
            return ""

        return await self._jobs.run(account, create)


def _without_twins(
    job: Job, effects: Effects, trace: RecipientTrace, now: float
) -> list[asyncio.Future[bool]]:
    """Take out what is already being done for another recipient of this message; who waits for it looks at these."""
    twins = [store for store in effects.stores if store.message.key in job.begun]
    effects.stores = [store for store in effects.stores if store.message.key not in job.begun]
    for twin in twins:
        text = f"{twin.mailbox}: one copy, made for another address of the same account"
        trace.places.append(text)
        trace.spans.append(Span("store", now, 0.0, "", text))
        effects.state = effects.state or twin.state
    keys = [twin.message.key for twin in twins] + [
        one.key for one in effects.outgoing if one.key in job.begun
    ]
    keys += [one.key for one in effects.holds if one.key in job.begun]
    for one in effects.holds:
        if one.key in job.begun:
            trace.places.append("quarantine: one copy, made for another address of the same account")
    effects.holds = [one for one in effects.holds if one.key not in job.begun]
    effects.outgoing = [one for one in effects.outgoing if one.key not in job.begun]
    return [job.begun[key] for key in keys]


def _of_its_own(key: bytes, trace: str) -> bytes:
    """A key that no other message has."""
    return hashlib.blake2b(key, key=trace.encode(), digest_size=len(key)).digest()


def _held_back(job: Job, plan: Plan, target: Target) -> Hold:
    authors = job.base.from_addresses()
    return Hold(
        id=f"{job.trace.id}.{target.number}",
        account=target.account,
        stage=plan.held_by,
        reason=plan.decision,
        data=job.base.data,
        key=job.keys.key(target.account, "quarantine"),
        facts=Facts.of(job.work, target.address),
        sender=authors[0].address if authors else "",
        subject=job.base.subject(),
        message_id=job.base.text(b"message-id"),
    )


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _final_fields(job: Job, target: Target) -> bytes:
    """RFC 5321 4.4: the final delivery adds Return-Path; Delivered-To cuts forwarding loops."""
    original = "" if target.address.lower() == target.account else f"X-Original-To: {target.address}\r\n"
    return (
        f"Return-Path: <{job.work.envelope.reverse_path}>\r\n"
        f"Delivered-To: {target.account}\r\n{original}"
        f"X-Filterd-Trace: {job.trace.id}.{target.number}\r\n"
    ).encode("utf-8", "surrogateescape")


def change_lists(store: AccountStore, changes: Sequence[ListStore]) -> None:
    """vnd.filterd.list: entries a script adds to the account's lists, or takes out of them."""
    for change in changes:
        name = LIST_PREFIX + change.name
        members = [one for one in (store.get_metadata(None, name) or "").split("\n") if one]
        value = change.value.lower()
        if change.remove and value in members:
            members.remove(value)
        elif not change.remove and value not in members and len(members) < LIST_MEMBERS:
            members.append(value)
        else:
            continue
        store.set_metadata(None, name, "\n".join(members))
