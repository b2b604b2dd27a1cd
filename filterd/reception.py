"""From RCPT to the final reply: the application behind SMTP, submission, LMTP and ``filterd deliver``.

One message: envelope -> message stages (all of them, before any reply) -> per recipient Sieve, plan -> perform -> reply.
What each door may do is its profile's business (HOUSE item 6): behind another MTA a refusal becomes quarantine, and checks of
the client run only on facts from a trusted hop. Authenticated mail takes the outgoing road (HOUSE item 8).

Promises kept here: no positive reply before everything is on disk; every accepted recipient comes to a recorded end; any
failure of ours is a 4xx; a retry of a delivery whose reply was lost leaves one copy.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address

from filterd import outlets
from filterd.accounts.directory import (
    Account,
    Directory,
    Foreign,
    Forward,
    Local,
    Resolution,
    SrsReturn,
    Targets,
    ToOutlet,
    TryLater,
    Unknown,
)
from filterd.accounts.rates import Rates
from filterd.delivery import Delivery, Destination
from filterd.deliverykey import DeliveryKeys
from filterd.doortrace import Refusals, opened
from filterd.explain.traces import TraceWriter
from filterd.filtered import LATER, readdress
from filterd.generation import run_stages
from filterd.outgoing import Departure
from filterd.perform import Living, Outcome
from filterd.proto.smtp_parse import held_until
from filterd.queue.rows import HOLD
from filterd.returns import Returns
from filterd.servers.ports import SmtpService, SmtpSession, SmtpTransaction
from filterd.submitted import fixed_up
from pipeline import authres, edits, received
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.planner import BEHIND_MTA
from pipeline.ports import Clock, Ids
from pipeline.reply import Reply
from pipeline.runner import Runner, RunOutcome
from pipeline.stage import Phase
from pipeline.trace import MessageTrace, RecipientTrace, Span, trace_id
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, HeaderEdit, Verdict
from rules.mail.message import Message

log = logging.getLogger("filterd.reception")

MAX_HOPS = 50  # RFC 5321 6.3: Received fields; at least 100 is suggested as the limit of a simple counter, peers use 50

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
TRACE_REMOVED = HeaderEdit("remove", "X-Filterd-Trace")  # only we say where a trace is
MARK_REMOVED = HeaderEdit("remove", "X-Filterd-Quarantine")  # and what was held back
BCC_REMOVED = HeaderEdit("remove", "Bcc")  # RFC 5322 3.6.3: the others are not to see it
OK_SENDER = Reply(250, "2.1.0", "Sender ok")
OK_RECIPIENT = Reply(250, "2.1.5", "Recipient ok")
NO_USER = Reply(550, "5.1.1", "No such user here")
NO_RELAY = Reply(550, "5.7.1", "Relaying denied")
NO_BOUNCE_TARGET = Reply(550, "5.7.1", "Only delivery reports are accepted for this address")
SPLIT = Reply(452, "4.5.3", "Please send to this recipient in a message of its own")
FULL = Reply(452, "4.2.2", "Mailbox full")
LOOP = Reply(554, "5.4.6", "Too many hops, this message is in a loop")
NEED_AUTH = Reply(530, "5.7.0", "Authentication required")


@dataclass(slots=True)
class Pending:
    """What is known of a transaction before its text arrives. ``destinations`` per accepted recipient, in order."""

    trace: str
    refused: Refusals
    destinations: list[tuple[Destination, ...]] = field(default_factory=list)
    splits: bool = False  # one accepted recipient's script may refuse: the message is his alone


@dataclass(slots=True)
class SessionState:
    """What the last final reply promised, until the client shows that it got it."""

    promised: list[Outcome] = field(default_factory=list)
    living: list[Living] = field(default_factory=list)
    refused: Refusals | None = None  # of the transaction under way
    over: bool = False  # the connection is gone


@dataclass(frozen=True, slots=True)
class ReceptionSettings:
    """``authserv_id`` names us in Authentication-Results; ``our_ids`` are all names of ours that strangers may forge."""

    hostname: str
    authserv_id: str
    our_ids: frozenset[str]
    time_budget: float = 25.0
    split_reject: bool = True
    hide_client: bool = True
    relay_trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    refuse_untagged: bool = True  # reports, where BATV is on
    exec_socket: str = ""  # where filterd-exec listens


def _each(session: SmtpSession, what: SmtpTransaction | Envelope) -> bool:
    """Has each recipient a reply of his own: LMTP, or PRDR was asked for?"""
    return session.profile is Profile.LMTP or "PRDR" in what.mail_params


def _held(transaction: SmtpTransaction) -> bool:
    return "HOLDFOR" in transaction.mail_params or "HOLDUNTIL" in transaction.mail_params


def _headless(message: Message) -> bool:
    """Text, but not one line of its head is a field."""
    fields = message.header.fields
    return bool(fields) and not any(_FIELD.match(message.data, field.start) for field in fields)


class Reception(SmtpService):
    """The service of every SMTP-like door of one worker. ``rates``: how much our people may send; None: as much as they like."""

    rates: Rates | None

    def __init__(
        self,
        settings: ReceptionSettings,
        directory: Directory,
        incoming: Runner,
        departure: Departure,
        delivery: Delivery,
        traces: TraceWriter,
        clock: Clock,
        ids: Ids,
        secret: bytes,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._incoming = incoming
        self._departure = departure
        self._delivery = delivery
        self._traces = traces
        self._clock = clock
        self._ids = ids
        self._secret = secret
        self.rates = None
        self.returns = Returns(clock, departure.batv, settings.refuse_untagged)
        self._early = [early for stage in incoming.stages if (early := getattr(stage, "prefetch", None))]

    # -- the dialogue ---------------------------------------------------------------------------
    async def connect(self, session: SmtpSession) -> Reply | None:
        session.state = SessionState()
        return None

    async def helo(self, session: SmtpSession) -> Reply | None:
        return None

    async def mail(self, session: SmtpSession, transaction: SmtpTransaction) -> Reply:
        name = self._new_trace()
        transaction.state = Pending(name, Refusals(name))
        self._tell_refusals(session.state, transaction.state.refused)
        if session.profile is not Profile.SUBMISSION:
            if session.account is None:  # look-ups run while the client still talks
                client = transaction.client_of(session)
                for early in self._early:
                    early(Envelope(transaction.reverse_path, (), client, session.profile))
            return OK_SENDER
        if session.account is None:
            return NEED_AUTH
        sender = transaction.reverse_path
        if sender and not self._directory.may_send_as(session.account, sender):
            every = await asyncio.to_thread(self._directory.sendable_addresses, session.account)
            allowed = ", ".join(every[:5])
            return Reply(550, "5.7.1", f"You may not send as <{sender}>; yours are: {allowed}")
        return await self._over_rate(session, 1) or OK_SENDER

    async def rcpt(
        self, session: SmtpSession, transaction: SmtpTransaction, address: str, params: Mapping[str, str]
    ) -> Reply:
        pending = transaction.state
        assert isinstance(pending, Pending)
        asked = self.returns.asked(address)
        address, found = asked.address, await self._resolve(asked.address)
        reply, destinations = self._judge(session, transaction, address, found)
        reply = self.returns.judged(reply, session, transaction.reverse_path, asked, found)
        if not reply.positive:
            return reply
        if session.profile is Profile.SUBMISSION and _held(transaction):
            # RFC 4865: nobody has it before its time, our own people neither: the queue delivers to them then
            destinations = (Destination(address=address, forward=address, submitted=True),)
        if not await outlets.ready(self._settings.exec_socket, [one.outlet for one in destinations]):
            return LATER
        over = await self._over_rate(session, len(pending.destinations) + 1)
        if over is not None:
            return over
        locals_ = [d for d in destinations if d.local is not None]
        for destination in locals_:
            assert destination.local is not None
            if await self._delivery.full(
                destination.local.account, int(transaction.mail_params.get("SIZE", 0) or 0)
            ):
                return FULL
        if self._settings.split_reject and session.profile is Profile.MX and not _each(session, transaction):
            refuses = False
            for destination in locals_:
                if destination.local is not None and not refuses:
                    refuses = await self._delivery.can_reject(destination.local.account)
            if pending.destinations and (refuses or pending.splits):
                return SPLIT
            pending.splits = refuses
        refusal = await self._rcpt_stages(session, transaction, pending, destinations, params)
        if refusal is not None:
            return refusal
        pending.destinations.append(destinations)
        return OK_RECIPIENT

    async def _rcpt_stages(
        self,
        session: SmtpSession,
        transaction: SmtpTransaction,
        pending: Pending,
        destinations: Sequence[Destination],
        params: Mapping[str, str],
    ) -> Reply | None:
        """What the stages that ask at RCPT (greylist) say of this recipient; None lets him in."""
        if session.account is not None or not self._incoming.has(Phase.RCPT):
            return None
        address = destinations[0].address
        recipient = Recipient(address, params)
        client = transaction.client_of(session)
        envelope = Envelope(
            transaction.reverse_path, (recipient,), client, session.profile, transaction.mail_params
        )
        deadline = self._clock.monotonic() + self._settings.time_budget
        outcome = await self._incoming.run(Phase.RCPT, Transaction(Message(b""), envelope, "", deadline))
        verdict = outcome.verdict
        refusal = verdict.recipients.get(address)
        if verdict.disposition in (Disposition.REJECT, Disposition.TEMPFAIL):
            refusal = refusal or verdict.reply or LATER
        if refusal is not None:
            account = next((d.local.account.id for d in destinations if d.local is not None), "")
            pending.refused.note(envelope, account, refusal, outcome)
        return refusal

    def _tell_refusals(self, state: object, following: Refusals | None = None) -> None:
        """A transaction is over, perhaps without a text: whom the stages refused is known all the same."""
        if isinstance(state, SessionState):
            over, state.refused = state.refused, following
            trace = over.alone(self._clock.time()) if over is not None else None
            if trace is not None:
                self._traces.put(trace)

    def acknowledged(self, session: SmtpSession) -> None:
        state = session.state
        if isinstance(state, SessionState) and state.promised:
            for outcome in state.promised:
                self._delivery.performer.acknowledge(outcome)
            state.promised = []
        if isinstance(state, SessionState):
            self._forget(state)

    def ended(self, session: SmtpSession) -> None:
        state = session.state
        if isinstance(state, SessionState):
            state.over = True
            self._forget(state)
            self._tell_refusals(state)

    def _living(self, session: SmtpSession) -> Living:
        """What the next message's keys hang on."""
        state = session.state
        if not isinstance(state, SessionState):
            return Living(alive=False)
        living = Living(alive=not state.over)
        state.living.append(living)
        return living

    def _forget(self, state: SessionState) -> None:
        """The client went on, or is gone: what it sends again is a message of its own, or a retry."""
        for living in state.living:
            living.alive = False
            self._delivery.performer.ended(living)
        state.living.clear()

    def abort(self, session: SmtpSession, transaction: SmtpTransaction) -> None:
        transaction.state = None
        self._tell_refusals(session.state)

    async def authenticate(self, session: SmtpSession, login: str, password: str) -> Account | None:
        return await asyncio.to_thread(self._directory.authenticate, login, password)

    # -- who gets it ---------------------------------------------------------------------------
    async def _resolve(self, address: str) -> Resolution:
        try:
            return await self._delivery.lookups.lookup(self._directory, address)
        except Exception as error:  # no failure of a look-up ever becomes "no such user"
            log.exception("look-up of an address failed")
            return TryLater(str(error))

    def _judge(
        self, session: SmtpSession, transaction: SmtpTransaction, address: str, found: Resolution
    ) -> tuple[Reply, tuple[Destination, ...]]:
        """The refusal, or where this recipient leads."""
        match found:
            case Local() | Forward() | ToOutlet():
                return OK_RECIPIENT, (Destination.of(found, address),)
            case Targets(targets=targets):
                return OK_RECIPIENT, tuple(Destination.of(target, address, group=True) for target in targets)
            case SrsReturn(address=original):
                # RFC 5321 4.5.5: bounces have the null reverse-path; anything else to a rewritten address is abuse
                if transaction.reverse_path:
                    return NO_BOUNCE_TARGET, ()
                return OK_RECIPIENT, (Destination(address=address, forward=original, via=(address,)),)
            case Foreign(address=foreign):
                if session.account is None and not self._may_relay(session.client):
                    return NO_RELAY, ()
                if session.account is None:
                    return OK_RECIPIENT, (Destination(address=address, forward=foreign, relayed=True),)
                return OK_RECIPIENT, (Destination(address=address, forward=foreign, submitted=True),)
            case TryLater():
                return LATER, ()
            case Unknown():
                return NO_USER, ()

    def _may_relay(self, client: Client) -> bool:
        """Is it a mail server of ours that passes everything through us? Who speaks for another one (XCLIENT) has that one's
        rights."""
        if client.ip is None or not self._settings.relay_trusted:
            return False
        if client.told and not client.facts_trusted:  # by a proxy that could not say whose it is
            return False
        address = ip_address(client.ip)
        return any(
            address in network
            for network in self._settings.relay_trusted
            if network.version == address.version
        )

    # -- the text ---------------------------------------------------------------------------
    async def message(
        self, session: SmtpSession, transaction: SmtpTransaction, data: bytes
    ) -> Sequence[Reply]:
        pending = transaction.state
        assert isinstance(pending, Pending)
        transaction.state = None
        count = len(transaction.recipients) if session.profile is Profile.LMTP else 1
        envelope = self._envelope(session, transaction, pending)
        message = Message(data, crlf=True)
        trace = opened(pending.trace, self._clock.time(), envelope, message)
        pending.refused.add_to(trace)
        if len(message.header.get_all(b"received")) > MAX_HOPS:
            return self._refuse(trace, envelope, LOOP, "loop", count)
        work = Transaction(
            message=message,
            envelope=envelope,
            trace_id=pending.trace,
            deadline=self._clock.monotonic() + self._settings.time_budget,
        )
        runner = self._departure.runner if session.account is not None else self._incoming
        judged = await run_stages(runner, work)
        outcome, work = judged.outcome, judged.work
        trace.spans.extend(judged.spans)
        verdict = outcome.verdict
        if verdict.disposition in (Disposition.REJECT, Disposition.TEMPFAIL):
            return self._refuse(trace, envelope, verdict.reply or LATER, verdict.stage, count)
        if verdict.disposition is Disposition.DISCARD:
            return self._discard(trace, envelope, verdict, count)
        over = await self._over_rate(session, len(pending.destinations), count=True)
        if over is not None:
            return self._refuse(trace, envelope, over, "rate", count)
        keys = DeliveryKeys.of(self._secret, envelope, data)
        if verdict.envelope is not None or verdict.recipients:
            return await self._readdressed(session, pending, work, outcome, trace, keys)
        return await self._accept(session, pending, work, outcome, trace, keys)

    async def _over_rate(self, session: SmtpSession, recipients: int, count: bool = False) -> Reply | None:
        """What our people send by submission is limited by the hour."""
        if self.rates is None or session.account is None or session.profile is not Profile.SUBMISSION:
            return None
        asked = self.rates.take if count else self.rates.refusal
        return await asked(session.account.id, recipients)

    async def _readdressed(
        self,
        session: SmtpSession,
        pending: Pending,
        work: Transaction,
        outcome: RunOutcome,
        trace: MessageTrace,
        keys: DeliveryKeys,
    ) -> Sequence[Reply]:
        """A filter changed the envelope: other recipients, another reverse-path."""
        found = await readdress(work.envelope, pending.destinations, outcome.verdict, self._resolve)
        trace.spans.extend(Span("milters", self._clock.time(), 0.0, "note", note) for note in found.notes)
        each = _each(session, work.envelope)
        for recipient, end in zip(work.envelope.recipients, found.origin, strict=True):
            if isinstance(end, Reply) and not end.positive:
                why = f"Refused by a filter: {end.text}"
                trace.recipients.append(
                    RecipientTrace(recipient.address, recipient.account, "", "", [], "rejected", why)
                )
        if found.refusal is not None:
            stage = outcome.verdict.stage or "milters"
            count = len(found.origin) if session.profile is Profile.LMTP else 1
            return self._refuse(trace, work.envelope, found.refusal, stage, count)
        if not found.destinations:
            if not each or all(isinstance(one, Reply) and one.positive for one in found.origin):
                return self._discard(trace, work.envelope, outcome.verdict, len(found.origin) if each else 1)
            trace.outcome = "rejected"
            self._traces.put(trace)
            return [one for one in found.origin if isinstance(one, Reply)]
        work = replace(work, envelope=found.envelope)
        pending.destinations = found.destinations
        replies = await self._accept(session, pending, work, outcome, trace, keys, found.held)
        if not each:
            return replies
        return [replies[one] if isinstance(one, int) else one for one in found.origin]

    async def _accept(
        self,
        session: SmtpSession,
        pending: Pending,
        work: Transaction,
        outcome: RunOutcome,
        trace: MessageTrace,
        keys: DeliveryKeys,
        held: Collection[int] = (),
    ) -> Sequence[Reply]:
        """``held``: recipients whose copy is quarantined, by their place."""
        base = self._with_our_fields(session, work, outcome)
        verdict, where = outcome.verdict, pending.destinations
        if held:
            kept = [at for at in range(len(where)) if at not in held]
            late = replace(verdict, stage="milters", disposition=Disposition.QUARANTINE)
            parts = [(kept, verdict), (sorted(held), late)]
        else:
            parts = [(list(range(len(where))), verdict)]
        living = self._living(session)
        found: dict[int, Outcome] = {}
        for places, said in parts:
            chosen = [where[at] for at in places]
            if chosen:
                done = await self._delivery.deliver(work, base, chosen, keys, said, trace, living)
                found.update(zip(places, done, strict=True))
        answers = [found[at] for at in range(len(where))]
        each = _each(session, work.envelope)
        replies = self._replies(each, answers)
        if all(answer.reply.positive for answer in answers) or each:
            good = next((answer for answer in answers if answer.reply.positive), None)
            if good and session.account and session.profile is Profile.SUBMISSION:
                copy = await self._delivery.keep_sent(session.account, base, keys, trace)
                good.add(copy or Outcome(good.reply))
            state = session.state
            if isinstance(state, SessionState):
                state.promised = [answer for answer in answers if answer.reply.positive]
        else:
            self._delivery.performer.ended(living)
        trace.outcome = "accepted" if any(answer.reply.positive for answer in answers) else "refused"
        trace.reply = replies[0].text
        self._traces.put(trace)
        return replies

    def _replies(self, each: bool, answers: Sequence[Outcome]) -> list[Reply]:
        """One each. Else one for all: a refusal only when all are refused, a 4xx when any of them must come again."""
        if each:
            return [answer.reply for answer in answers]
        later = next((answer.reply for answer in answers if answer.reply.temporary), None)
        if later is not None:
            return [later]
        good = next((answer.reply for answer in answers if answer.reply.positive), None)
        return [good or answers[0].reply]

    def _with_our_fields(self, session: SmtpSession, work: Transaction, outcome: RunOutcome) -> Message:
        """The text with our Received, the stages' fields and Authentication-Results; forged ones of ours taken out."""
        settings = self._settings
        message, envelope = work.message, work.envelope
        if _headless(message):  # `echo done | filterd-deliver ann`: all of it is body
            message = Message(b"\r\n" + message.data)
        submitted = session.account is not None
        smtputf8 = "SMTPUTF8" in envelope.mail_params
        line = received.line(
            session.client,  # the hop we talked to; who sent it first (XFORWARD) is in that hop's own line
            envelope.profile,
            settings.hostname,
            work.trace_id,
            datetime.fromtimestamp(self._clock.time(), UTC),
            [recipient.address for recipient in envelope.recipients],
            smtputf8,
            hide_client=submitted and settings.hide_client and self._departure.private(envelope.client.auth),
        )
        own = [TRACE_REMOVED, MARK_REMOVED, *outcome.verdict.edits]
        if submitted:
            own.append(BCC_REMOVED)
        forged: Sequence[edits.Splice] = ()
        if not submitted:
            # names of our other servers are believed only from those: LMTP, deliver and unix sockets are hops of ours
            outside = envelope.profile not in BEHIND_MTA and session.client.ip is not None
            others = self._departure.trusted_authserv if outside else frozenset()
            forged = authres.forged(message.header, settings.our_ids | others)
            if outcome.verdict.authres:
                own.append(authres.field(settings.authserv_id, outcome.verdict.authres))
        if session.account is not None:
            account = session.account
            lines, forged = fixed_up(
                message.header,
                account.id,
                f"{work.trace_id.lower()}@{settings.hostname}",
                datetime.fromtimestamp(self._clock.time(), UTC),
                partial(self._directory.may_send_as, account)
                if session.profile is Profile.SUBMISSION
                else None,
                outcome.verdict.edits,
                envelope.reverse_path,
            )
            line += lines
        data = edits.apply(message.data, own, forged, message.header)
        known = message.crlf and not any(edit.raw for edit in own)  # a filter may have given lines of its own
        guard = edits.GUARD if data[:1] in (b" ", b"\t") else b""
        return Message(line + guard + data, crlf=known)

    # -- ends ---------------------------------------------------------------------------
    def _refuse(
        self, trace: MessageTrace, envelope: Envelope, reply: Reply, stage: str, count: int
    ) -> list[Reply]:
        trace.outcome = "deferred" if reply.temporary else "rejected"
        trace.reply = f"{reply.code} {reply.enhanced_code} {reply.text}"
        word = "Deferred" if reply.temporary else "Refused"
        for recipient in envelope.recipients:
            trace.recipients.append(
                RecipientTrace(
                    recipient.address,
                    recipient.account,
                    outcome=trace.outcome,
                    decision=f"{word} at the door by {stage}: {reply.text}",
                )
            )
        self._traces.put(trace)
        return [reply] * count

    def _discard(self, trace: MessageTrace, envelope: Envelope, verdict: Verdict, count: int) -> list[Reply]:
        trace.outcome = "discarded"
        for recipient in envelope.recipients:
            trace.recipients.append(
                RecipientTrace(
                    recipient.address,
                    recipient.account,
                    outcome="discarded",
                    decision=f"Discarded by {verdict.stage}: {verdict.summary}",
                )
            )
        self._traces.put(trace)
        return [Reply(250, "2.0.0", f"Ok {trace.id}")] * count

    # -- small things ---------------------------------------------------------------------------
    def _new_trace(self) -> str:
        return trace_id(int(self._ids.token(7), 16) & ((1 << 50) - 1))

    def _envelope(self, session: SmtpSession, transaction: SmtpTransaction, pending: Pending) -> Envelope:
        recipients = tuple(
            Recipient(
                address=where[0].address,  # without its tag
                params=params,
                account=next((d.local.account.id for d in where if d.local is not None), ""),
                detail=next((d.local.detail for d in where if d.local is not None), ""),
                via=where[0].via,
            )
            for params, where in zip(transaction.rcpt_params, pending.destinations, strict=True)
        )
        return Envelope(
            reverse_path=transaction.reverse_path,
            recipients=recipients,
            client=transaction.client_of(session),
            profile=session.profile,
            mail_params=self._mail_params(transaction),
        )

    def _mail_params(self, transaction: SmtpTransaction) -> Mapping[str, str]:
        """As given; HOLDFOR and HOLDUNTIL as one moment, in seconds since the epoch."""
        if not _held(transaction):
            return transaction.mail_params
        until = held_until(transaction.mail_params, self._clock.time())
        params = {name: value for name, value in transaction.mail_params.items() if name != "HOLDFOR"}
        return {**params, HOLD: f"{until:.0f}"}
