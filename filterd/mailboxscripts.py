"""Does what the scripts of mailboxes decide when IMAP changed something there.

Specification: RFC 6785 2.3 and 3. ``filterd.imapsieve`` decides; here the outcome becomes stores, mail and flags. For each
block of messages: in the account's job the scripts run and their files are stored; then what they send is queued; only then
flags are set and messages marked ``\\Deleted``. Whatever fails before that leaves the message as it was.

Invariants: nothing done here causes an event; what is sent leaves with the owner's address as its reverse-path (redirect) or
the null one (notify); a message that a redirect of this account brought back is not sent round again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import make_msgid
from functools import partial
from pathlib import Path

from filterd import scripterror
from filterd.accounts.directory import Directory
from filterd.deliverykey import DeliveryKeys
from filterd.execbridge import Programs, facts_of
from filterd.explain.traces import TraceWriter
from filterd.imap import events
from filterd.imap.events import MailboxEvent
from filterd.imap.filtering import Filter, Filtered
from filterd.imap.sharing import Sharing
from filterd.imapsieve import ImapEvent, ImapOutcome, ImapSieve
from filterd.outgoing import Departure
from filterd.perform import change_lists
from filterd.queue.base import Outgoing, Spool
from filterd.scripts import ScriptService, Sources
from filterd.servers.ports import Jobs
from filterd.shared_delivery import seen_by
from filterd.sieve_host import LIST_PREFIX, AccountHost
from filterd.specialuse import resolve_mailbox
from filterd.store.base import (
    SYSTEM_FLAGS,
    AccountStore,
    MailboxExists,
    NewMessage,
    NoSuchMailbox,
    SieveState,
    StoreError,
)
from pipeline import plan as plans
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.ports import Clock, Ids
from pipeline.trace import VALUE_LIMIT, MessageTrace, RecipientTrace, Span, trace_id
from pipeline.transaction import Transaction
from rules.actions import Redirect, Report
from rules.compiler import CompiledScript
from rules.ext.vnd_report import compose_report
from rules.host import ScriptEnvelope
from rules.limits import DEFAULT, Limits
from rules.mail.message import Message

log = logging.getLogger("filterd.imapsieve")

BLOCK_SECONDS = 0.04  # of scripts before the account is let go
LIST_REDIRECTS = 100  # members of a list that one redirect reaches
FILTER = "FILTER"  # the cause of what FILTER=SIEVE does
_CAUSES = {events.MOVE: events.COPY}  # RFC 6785 4: a move is a copy


@dataclass(frozen=True, slots=True)
class MailboxScriptSettings:
    hostname: str
    version: str
    global_scripts: Path | None = None
    subaddress: str = "+"
    limits: Limits = DEFAULT


@dataclass(slots=True)
class _Mark:
    """What is done last: new flags, ``\\Deleted``, memory and lists. ``flags``: those that the script saw."""

    uid: int
    outcome: ImapOutcome
    flags: tuple[str, ...] = ()
    data: bytes = b""  # for its pipes
    part: RecipientTrace | None = None


@dataclass(slots=True)
class _Block:
    """Some messages of an event, decided and filed. ``upto``: where the next block begins."""

    upto: int = 0
    outgoing: list[Outgoing] = field(default_factory=list)
    marks: list[_Mark] = field(default_factory=list)
    traces: list[MessageTrace] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Scripts that the owner named (FILTER=SIEVE), and what became of the messages: uid, what went wrong."""

    name: str
    scripts: list[CompiledScript]
    report: dict[int, str]


class MailboxScripts:
    """A ``filterd.imap.events.MailboxListener``. One a worker."""

    def __init__(
        self,
        settings: MailboxScriptSettings,
        scripts: ScriptService,
        directory: Directory,
        jobs: Jobs,
        spool: Spool,
        departure: Departure,
        traces: TraceWriter,
        clock: Clock,
        ids: Ids,
        secret: bytes,
        programs: Programs | None = None,
    ) -> None:
        self._settings = settings
        self._scripts = scripts
        self._directory = directory
        self._jobs = jobs
        self._spool = spool
        self._departure = departure
        self._traces = traces
        self._clock = clock
        self._ids = ids
        self._secret = secret
        self._programs = programs
        self.sharing: Sharing | None = None  # other people's mailboxes
        self._loop = asyncio.get_running_loop() if programs is not None else None
        self._sieve = ImapSieve(scripts, self._host, settings.limits)

    def wants(self, store: AccountStore, mailbox: str, cause: str) -> bool:
        return bool(ImapSieve.script_name(store, mailbox))

    async def told(self, event: MailboxEvent) -> None:
        await self._all(event)

    async def _all(self, event: MailboxEvent, chosen: Chosen | None = None) -> None:
        at = 0
        while at < len(event.uids):
            block = await self._jobs.run(event.account, partial(self._decide, event, at, chosen))
            if block.outgoing:
                await self._spool.enqueue(block.outgoing)
            for mark in block.marks:
                await self._pipe(event, mark)
            if block.marks:
                await self._jobs.run(event.account, partial(self._mark, event, block.marks))
            for trace in block.traces:
                self._traces.put(trace)
            at = block.upto

    # -- FILTER=SIEVE ---------------------------------------------------------------------------------------------------
    async def filter(self, request: Filter) -> Filtered:
        """A ``filterd.imap.filtering.FilterService``."""
        found = await self._jobs.run(request.account, lambda store: self._chosen(request))
        if isinstance(found, Filtered):
            return found
        event = MailboxEvent(request.account, request.account, FILTER, request.mailbox, request.uids)
        report: dict[int, str] = {}
        await self._all(event, Chosen(request.text or "delivery", found, report))
        return Filtered(tuple(sorted(report.items())))

    def _chosen(self, request: Filter) -> list[CompiledScript] | Filtered:
        account, name = request.account, request.text
        if request.kind == "DELIVERY":
            scripts, fault = self._scripts.chain(account)
        else:
            text: str | None = name
            if request.kind == "PERSONAL":
                text = self._scripts.personal(account, name)
            elif request.kind == "GLOBAL":
                text = self._scripts.global_script(name)
            if text is None:
                return Filtered(missing=True)
            errors, _ = self._scripts.check(account, text)
            label = "script" if request.kind == "SCRIPT" else name
            scripts, fault = self._scripts.compiled(account, Sources(None, ((label, text),), ()))
            fault = "\n".join(errors) or fault
        if fault:
            return Filtered(fault=fault)
        return scripts or Filtered(missing=True)

    async def _pipe(self, event: MailboxEvent, mark: _Mark) -> None:
        """A message that a program did not take keeps its place: it is not marked as deleted."""
        for one in mark.outcome.pipes:
            why = "there is no service for programs here"
            if self._programs is not None:
                data = mark.data if one.message is None else one.message
                facts = facts_of(event.account, event.account, event.account)
                why = await self._programs.pipe(one.program, one.arguments, data, facts)
            if why:
                log.warning("account %s: script “%s”: %s", event.account, mark.outcome.script, why)
                mark.outcome = replace(mark.outcome, delete=False)
            if mark.part is not None:
                mark.part.places.append(why or f"handed to the program {one.program}")

    # -- in the account's job -------------------------------------------------------------------------------------------
    def _decide(self, event: MailboxEvent, start: int, chosen: Chosen | None, store: AccountStore) -> _Block:
        block = _Block(len(event.uids))
        if chosen is None and not ImapSieve.script_name(store, event.mailbox):
            return block
        snapshot = store.snapshot(event.mailbox)
        names = (*SYSTEM_FLAGS, *snapshot.keywords)
        masks = dict(zip(snapshot.uids, snapshot.flags, strict=True))
        until = self._clock.monotonic() + BLOCK_SECONDS
        for at in range(start, len(event.uids)):
            uid = event.uids[at]
            mask = masks.get(uid)
            if mask is not None:
                self._one(block, store, event, uid, events.flag_names(mask, names), chosen)
            if self._clock.monotonic() > until:
                block.upto = at + 1
                break
        return block

    def _one(
        self,
        block: _Block,
        store: AccountStore,
        event: MailboxEvent,
        uid: int,
        flags: tuple[str, ...],
        chosen: Chosen | None,
    ) -> None:
        data = store.read(event.mailbox, uid)
        if data is None:
            return
        changed = (*event.added.get(uid, ()), *event.removed.get(uid, ()))
        cause = _CAUSES.get(event.cause, event.cause)
        happened = ImapEvent(
            event.account, event.login, event.account, cause, event.mailbox, data, flags, changed
        )
        started, clock = self._clock.time(), self._clock.monotonic()
        if chosen is not None:
            outcome: ImapOutcome | None = self._sieve.filter(store, happened, chosen.name, chosen.scripts)
        else:
            outcome = self._sieve.decide(store, happened)
        if outcome is None:
            return
        trace = self._trace(event, uid, Message(data), outcome)
        part = trace.recipients[0]
        if outcome.error is None:
            outgoing = self._outgoing(store, happened, outcome, trace.id)
            try:
                outcome = self._file(store, event, uid, data, outcome, part)
            except StoreError as error:
                log.warning("account %s: script “%s”: %s", event.account, outcome.script, error)
                outcome = replace(outcome, error=f"cannot be filed: {error}")
            else:
                block.outgoing.extend(outgoing)
                part.places.extend(f"queued for {one.recipient}" for one in outgoing)
                if (
                    outcome.flags is not None
                    or outcome.delete
                    or outcome.remember
                    or outcome.lists
                    or outcome.pipes
                ):
                    block.marks.append(_Mark(uid, outcome, flags, data, part))
        part.spans.append(
            Span(
                "sieve",
                started,
                self._clock.monotonic() - clock,
                "error" if outcome.error else "",
                _said(outcome),
            )
        )
        part.outcome, part.decision = _ending(event.mailbox, outcome)
        if chosen is not None:
            if outcome.error or part.places or outcome.delete or outcome.pipes or outcome.flags is not None:
                chosen.report[uid] = outcome.error or ""
        elif outcome.error:
            self._tell(store, event.account, outcome, data)
        if outcome.error or part.places or outcome.delete or outcome.pipes or outcome.flags is not None:
            block.traces.append(trace)

    def _file(
        self,
        store: AccountStore,
        event: MailboxEvent,
        uid: int,
        data: bytes,
        outcome: ImapOutcome,
        part: RecipientTrace,
    ) -> ImapOutcome:
        """Stores what is to be filed; filing into the mailbox where the message is keeps it there."""
        rows = store.rows(event.mailbox, [uid]) if outcome.files else []
        for action in outcome.files:
            step = plans.Store(
                action.mailbox,
                create=action.create,
                special_use=action.special_use,
                mailbox_id=action.mailbox_id,
            )
            mailbox = resolve_mailbox(store, step, self.sharing, event.account)
            mailbox = "INBOX" if mailbox.upper() == "INBOX" else mailbox
            if mailbox == event.mailbox and action.message is None:
                outcome = replace(outcome, delete=False, flags=action.flags)
                continue
            message = NewMessage(
                data if action.message is None else action.message,
                action.flags,
                rows[0].date if rows and action.message is None else None,
            )
            stored = _append(seen_by(self.sharing, event.account, store), mailbox, message)
            part.places.append(f"{mailbox} uid {stored}")
        return outcome

    def _tell(self, store: AccountStore, account: str, outcome: ImapOutcome, data: bytes) -> None:
        """The owner is told once."""
        now, error = self._clock.time(), outcome.error or ""
        key = scripterror.key(outcome.digest, error, outcome.place)
        if store.remembered(key, now):
            return
        subject = Message(data).subject()[:VALUE_LIMIT]
        text = scripterror.notice(account, outcome.script, error, subject, self._settings.hostname, now)
        try:
            store.deliver("INBOX", NewMessage(text), SieveState({key: scripterror.AGAIN_SECONDS}))
        except StoreError as failure:
            log.warning("account %s cannot be told of a script that failed: %s", account, failure)

    def _mark(self, event: MailboxEvent, marks: Sequence[_Mark], store: AccountStore) -> None:
        for mark in marks:
            outcome = mark.outcome
            if outcome.remember:
                store.remember(SieveState({one.key: one.seconds for one in outcome.remember}))
            if outcome.lists:
                change_lists(store, outcome.lists)
            if outcome.flags is not None:
                # What a client has changed since the script ran stays.
                if added := _beside(outcome.flags, mark.flags):
                    store.set_flags(event.mailbox, [mark.uid], "add", added)
                if removed := _beside(mark.flags, outcome.flags):
                    store.set_flags(event.mailbox, [mark.uid], "remove", removed)
            if outcome.delete:
                store.set_flags(event.mailbox, [mark.uid], "add", ("\\Deleted",))

    # -- what leaves --------------------------------------------------------------------------------------------------
    def _outgoing(
        self, store: AccountStore, event: ImapEvent, outcome: ImapOutcome, trace: str
    ) -> list[Outgoing]:
        if not outcome.sends:
            return []
        base = Message(event.data)
        client = Client(auth=event.login, facts_trusted=False)
        envelope = Envelope(event.email, (Recipient(event.email),), client, Profile.SUBMISSION)
        work = Transaction(base, envelope, trace, self._clock.monotonic())
        keys = DeliveryKeys.of(self._secret, envelope, trace.encode())  # each event sends for itself
        out: list[Outgoing] = []
        for action in outcome.sends:
            if isinstance(action, Report):
                answer = plans.Answer((action.to,), self._report(event, action), "report", action.place)
                out.extend(self._departure.generated(work, base, answer, keys, event.account))
                continue
            if not isinstance(action, Redirect):
                if action.message is not None and action.recipients:
                    answer = plans.Answer(action.recipients, action.message, "notify", action.place)
                    out.extend(self._departure.generated(work, base, answer, keys, event.account))
                continue
            if self._departure.redirected_before(base, event.account):
                continue
            for to in _members(store, action):
                step = plans.Send(
                    to, event.email, action.message, action.notify, action.ret,
                    action.by_time, action.by_mode, action.by_trace, place=action.place,
                )  # fmt: skip
                key = keys.key(event.account, f"send:{to}")
                out.append(self._departure.redirected(work, base, step, key, event.account))
        return out

    def _report(self, event: ImapEvent, action: Report) -> bytes:
        return compose_report(
            action,
            event.data,
            ScriptEnvelope(event.email, event.email, auth=event.login),
            sender=f"postmaster@{event.account.rpartition('@')[2]}",
            moment=datetime.fromtimestamp(self._clock.time(), UTC).astimezone(),
            message_id=make_msgid(domain=self._settings.hostname).strip("<>"),
            user=event.account,
        )

    # -- facts ----------------------------------------------------------------------------------------------------------
    def _host(self, store: AccountStore, event: ImapEvent, items: dict[str, str]) -> AccountHost:
        settings = self._settings
        account = self._directory.account(event.account)
        facts = {
            "domain": settings.hostname.partition(".")[2],
            "host": settings.hostname,
            "name": "filterd",
            "version": settings.version,
            "vnd.filterd.setting.recipient_delimiter": settings.subaddress,
            "vnd.filterd.setting.postmaster": f"postmaster@{event.account.rpartition('@')[2]}",
            **items,
        }
        programs = None
        if self._programs is not None and self._loop is not None:
            sender = facts_of(event.account, event.email, event.email)
            programs = self._programs.client.blocking(self._loop, sender)
        return AccountHost(
            programs=programs,
            at=self._clock.time(),
            hostname=settings.hostname,
            environment_items=facts,
            own=tuple(self._directory.own_addresses(account)) if account is not None else (event.email,),
            personal=lambda name: self._scripts.personal(event.account, name),
            global_dir=settings.global_scripts,
            store=store,
        )

    def _trace(self, event: MailboxEvent, uid: int, message: Message, outcome: ImapOutcome) -> MessageTrace:
        sender = message.from_addresses()
        now = self._clock.time()
        part = RecipientTrace(
            event.account, event.account, outcome.script, outcome.digest, list(outcome.trace)
        )
        trace = MessageTrace(
            id=trace_id(int(self._ids.token(7), 16) & ((1 << 50) - 1)),
            at=now,
            profile="imap",
            auth=event.login,
            message_id=message.message_id()[:VALUE_LIMIT],
            subject=message.subject()[:VALUE_LIMIT],
            sender=sender[0].address if sender else "",
            size=message.size,
            outcome="accepted",
            recipients=[part],
        )
        trace.spans.append(Span("imap", now, 0.0, "", f"{event.cause}: {event.mailbox} uid {uid}"))
        return trace


def _append(store: AccountStore, mailbox: str, message: NewMessage) -> int:
    try:
        return store.append(mailbox, [message])[0].uid
    except NoSuchMailbox:
        try:
            store.create(mailbox)
        except MailboxExists:
            log.debug("%s was made meanwhile", mailbox)
        return store.append(mailbox, [message])[0].uid


def _members(store: AccountStore, action: Redirect) -> list[str]:
    """RFC 6134 2.6: ``:list`` is every member of the account's list."""
    if not action.list_name:
        return [action.address]
    text = store.get_metadata(None, LIST_PREFIX + action.list_name) or ""
    return [one for one in text.split("\n") if "@" in one][:LIST_REDIRECTS]


def _said(outcome: ImapOutcome) -> str:
    if outcome.error:
        return outcome.error
    last = next((step for step in reversed(outcome.trace) if step.result is None), None)
    return f"{last.script}:{last.line}  {last.what} {last.value}".rstrip() if last else "no rule applied"


def _ending(mailbox: str, outcome: ImapOutcome) -> tuple[str, str]:
    """For the trace: outcome and sentence."""
    script = f"the script “{outcome.script}” of this mailbox"
    if outcome.error:
        return "stored", f"{mailbox}, unchanged, because {script} failed: {outcome.error}"
    if outcome.delete:
        return "discarded", f"Marked as deleted in {mailbox} because {script} did not keep it."
    return "stored", f"{mailbox} because {script} left it there."


def _beside(flags: Sequence[str], others: Sequence[str]) -> list[str]:
    """Those that are not among the others."""
    known = {flag.lower() for flag in others}
    return [flag for flag in flags if flag.lower() not in known]
