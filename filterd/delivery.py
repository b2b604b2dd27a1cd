"""One message to its recipients: whom it is for, Sieve, the plan; what to answer. ``filterd.perform`` does what was planned."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import make_msgid
from functools import partial
from pathlib import Path

from filterd import outlets, scripterror
from filterd.accounts.beside import Lookups
from filterd.accounts.directory import Account, Directory, Forward, Local, Targets, ToOutlet
from filterd.accounts.outlets import Outlet
from filterd.board import Desk
from filterd.chains import Chains
from filterd.deliverykey import DeliveryKeys
from filterd.execbridge import Programs, facts_of
from filterd.local_text import MAILBOX
from filterd.outgoing import Departure, aside, relayed
from filterd.perform import Job, Living, Outcome, Performer, Target
from filterd.proto.smtp_parse import xtext
from filterd.queue.base import Outgoing, Spool
from filterd.scripts import ScriptService
from filterd.shared_delivery import reachable
from filterd.sieve_host import LIST_PREFIX, AccountHost
from filterd.store.base import AccountStore, NewMessage, OverQuota, StoreError
from filterd.store.full import disk_full
from filterd.store.jobs import AccountJobs
from pipeline import plan as plans
from pipeline import planner
from pipeline.envelope import Envelope, Profile
from pipeline.ports import Clock
from pipeline.reply import Reply
from pipeline.trace import MessageTrace, RecipientTrace, Span
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from rules import interpreter
from rules.actions import Action, Keep, Redirect, Report, RunResult
from rules.ext.vnd_report import compose_report
from rules.host import ScriptEnvelope
from rules.limits import DEFAULT, Limits
from rules.mail.message import Message

log = logging.getLogger("filterd.delivery")

LIST_REDIRECTS = 100  # members of a list that one redirect reaches
QUARANTINE_TEXT = 200  # characters of X-Filterd-Quarantine
SUBJECT_SHOWN = 100  # characters, in a notice about a script
QUOTA_SECONDS = 10.0
QUOTAS_KNOWN = 4096  # accounts
FULL_REPLY = Reply(452, "4.2.2", "Mailbox full")
SENT, SENT_NAME = "\\Sent", "Sent"  # RFC 6154 2
RELEASED = "INBOX because it was released from the quarantine."
HOPS = ("XCLIENT", "XFORWARD")  # how a server in front says whose mail it is
LOOPED = "this message was forwarded from here before"
NO_ROOM = Reply(452, "4.3.1", "No storage left here, please try again later")
LATER = Reply(451, "4.3.0", "Temporary failure, please try again later")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one RCPT leads: an account here (``local``), an address elsewhere (``forward``), a program or file (``outlet``);
    ``relayed``: passed on as it is, to a store behind us or for a mail server of ours."""

    address: str
    local: Local | None = None
    forward: str = ""
    via: tuple[str, ...] = ()
    submitted: bool = False
    group: bool = False  # an alias of several people
    relayed: bool = False
    outlet: Outlet | None = None

    @classmethod
    def of(cls, target: Local | Forward | ToOutlet, address: str, group: bool = False) -> Destination:
        if isinstance(target, Local):
            return cls(address=address, local=target, via=target.via, group=group)
        if isinstance(target, ToOutlet):
            return cls(address=address, outlet=target.outlet, via=target.via, group=group)
        return cls(address=address, forward=target.address, via=target.via, relayed=target.relayed)


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    hostname: str
    on_script_error_defer: bool = False
    global_scripts: Path | None = None
    subaddress: str = "+"
    limits: Limits = DEFAULT
    save_sent: bool = False


class Delivery:
    """One a worker."""

    def __init__(
        self,
        settings: DeliverySettings,
        directory: Directory,
        jobs: AccountJobs,
        scripts: ScriptService,
        spool: Spool,
        departure: Departure,
        clock: Clock,
        desk: Desk | None = None,
        programs: Programs | None = None,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._jobs = jobs
        self._scripts = scripts
        self._chains = Chains(scripts)
        self.lookups = Lookups()
        self._spool = spool
        self._departure = departure
        self._clock = clock
        self.performer = Performer(jobs, spool, departure, clock, desk)
        self._programs = self.performer.programs = programs
        self._quotas: dict[str, tuple[int, float]] = {}  # room left, believed until

    # -- asked at RCPT ---------------------------------------------------------------------------
    async def can_reject(self, account: Account) -> bool:
        """May the account's scripts refuse a message (HOUSE item 9)?"""
        return (await self._chains.ready(account.id)).can_reject

    def close(self) -> None:
        self._chains.close()
        self.lookups.close()

    async def full(self, account: Account, size: int) -> bool:
        """Would a message of ``size`` octets not fit? Unknown (the store is busy or down) counts as fitting."""
        if not account.quota:
            return False
        now = self._clock.monotonic()
        known = self._quotas.get(account.id)
        if known is None or now > known[1]:
            try:
                quota = await self._jobs.run(account.id, lambda store: store.quota())
            except StoreError:
                return False
            room = quota.limit - quota.used if quota.limit > 0 else sys.maxsize
            if len(self._quotas) >= QUOTAS_KNOWN:
                self._quotas.clear()
            # far from full the answer holds for a while; near the limit every RCPT asks (the store itself never oversteps)
            known = self._quotas[account.id] = (
                room,
                now + (QUOTA_SECONDS if room > account.quota // 10 else 0.0),
            )
        return size > known[0] or known[0] <= 0

    # -- delivering ---------------------------------------------------------------------------
    async def deliver(
        self,
        work: Transaction,
        base: Message,
        destinations: Sequence[tuple[Destination, ...]],
        keys: DeliveryKeys,
        verdict: Verdict,
        trace: MessageTrace,
        living: Living,
        released: str = "",
    ) -> list[Outcome]:
        """One Outcome a recipient, in order; on a positive one everything is on disk. ``released`` as in ``Job``."""
        parts = [
            (at, RecipientTrace(d.address, d.local.account.id if d.local else ""), d)
            for at, where in enumerate(destinations)
            for d in where
        ]
        # one of several recipients whose copies are handled apart is not alone either
        alone = len(parts) == 1 and len(work.envelope.recipients) == 1
        job = Job(work, base, keys, verdict, trace, alone, living, released)
        first = len(trace.recipients) + 1  # a message may be delivered in two goes
        trace.recipients.extend(part[1] for part in parts)
        if len(parts) == 1:
            results = [await self._one(job, parts[0][2], parts[0][1], first)]
        else:
            jobs = {at: _job_of(job, len(where)) for at, where in enumerate(destinations)}
            results = await asyncio.gather(
                *(self._one(jobs[at], d, part, number) for number, (at, part, d) in enumerate(parts, first))
            )
        outcomes: list[Outcome] = []
        for at in range(len(destinations)):
            mine = [result for result, part in zip(results, parts, strict=True) if part[0] == at]
            worst = next((o for o in mine if o.reply.temporary), None) or next(
                (o for o in mine if o.reply.positive), mine[0]
            )
            merged = Outcome(worst.reply)
            for outcome in mine:
                merged.add(outcome)
            outcomes.append(merged)
        return outcomes

    async def keep_sent(
        self, account: Account, base: Message, keys: DeliveryKeys, trace: MessageTrace
    ) -> Outcome | None:
        """A copy of what ``account`` has sent, \\Seen, where its programs look for it. The message is on its way already: a copy
        that cannot be kept is noted, no more. Its key is released with the reply's, so a retry leaves one copy."""
        if not self._settings.save_sent:
            return None
        key = keys.key(account.id, "sent")
        message = NewMessage(base.data, ("\\Seen",), key=key, trace=trace.id, crlf=base.crlf)
        try:
            mailbox = await self._jobs.run(account.id, _sent_mailbox)
            await self._jobs.deliver(account.id, mailbox, message)
        except StoreError as error:
            log.warning("message %s: no copy for %s: %s", trace.id, account.id, error)
            trace.spans.append(Span("save-sent", self._clock.time(), 0.0, "failed", str(error)))
            return None
        return Outcome(LATER, keys=[(account.id, key)])

    async def _one(self, job: Job, destination: Destination, trace: RecipientTrace, number: int) -> Outcome:
        try:
            if destination.local is None:
                return await self._leave(job, destination, trace, number)
            return await self._local(job, destination, destination.local, trace, number)
        except StoreError as error:
            log.warning("message %s for %s: %s", job.trace.id, destination.address, error)
            trace.outcome, trace.decision = "deferred", f"Deferred: {error}"
            return Outcome(FULL_REPLY if isinstance(error, OverQuota) else _later(error))
        except Exception as error:
            log.exception("message %s for %s", job.trace.id, destination.address)
            trace.outcome, trace.decision = "deferred", "Deferred: an internal error, see the log"
            return Outcome(_later(error))

    async def _leave(self, job: Job, destination: Destination, trace: RecipientTrace, number: int) -> Outcome:
        """Straight to an address elsewhere: an alias, a bounce to an SRS address, a submission."""
        if destination.outlet is not None:
            return await self._let_out(job, destination, destination.outlet, trace, number)
        kind = "submission" if destination.submitted else "relay" if destination.relayed else "forward"
        params = next(
            (r.params for r in job.work.envelope.recipients if r.address == destination.address), {}
        )
        if kind == "forward" and self._departure.loops(job.base, destination.address):
            return await self._loop_found(job, destination, trace, number)
        make = partial(
            self._departure.outgoing,
            job.work,
            job.base,
            to=destination.forward,
            kind=kind,
            key=job.keys.key(destination.address.lower(), f"send:{destination.forward}"),
            params=params,
            passed=destination.address,
        )
        outgoing = await aside(job.work, len(job.base.data), make)
        if kind != "forward" and job.verdict.disposition is Disposition.QUARANTINE:
            outgoing = quarantined(outgoing, job.verdict, hold=kind == "submission")
        outcome = await self.performer.send_on(job, [outgoing], trace)
        trace.outcome = "redirected" if kind == "forward" else "quarantined" if outgoing.held else "sent on"
        trace.decision = f"On its way to {destination.forward}" + (
            f" because {destination.address} leads there." if kind == "forward" else "."
        )
        return outcome

    async def _let_out(
        self, job: Job, destination: Destination, outlet: Outlet, trace: RecipientTrace, number: int
    ) -> Outcome:
        """To a program or a file, by the queue."""
        address = destination.address
        if self._departure.loops(job.base, address):
            return await self._loop_found(job, destination, trace, number)
        params = next((r.params for r in job.work.envelope.recipients if r.address == address), {})
        reverse_path = self._departure.plain(job.work.envelope.reverse_path)
        head = outlets.fields(reverse_path, address, f"{job.trace.id}.{number}")
        text = await aside(job.work, len(job.base.data), lambda: head + job.base.data)
        out = Outgoing(
            key=job.keys.key(address.lower(), f"outlet:{outlet.owner}:{outlet}"),
            reverse_path=job.work.envelope.reverse_path,
            recipient=address,
            data=text,
            kind="",
            trace=job.trace.id,
            params=relayed(job.work.envelope.mail_params, params),
        )
        outgoing = outlets.queued(outlet, out)
        if job.verdict.disposition is Disposition.QUARANTINE:
            outgoing = quarantined(outgoing, job.verdict)
        outcome = await self.performer.send_on(job, [outgoing], trace)
        trace.outcome = (
            "quarantined" if outgoing.held else "given to a program" if outlet.program else "filed"
        )
        trace.decision = f"On its way to {outlet} because {destination.via[-1]} leads there."
        return outcome

    async def _loop_found(
        self, job: Job, destination: Destination, trace: RecipientTrace, number: int
    ) -> Outcome:
        """It was forwarded from here before (RFC 5321 6.3). Only its text tells, so RCPT cannot refuse it. A recipient with a reply
        of his own is refused; beside others a verified sender gets a bounce, and what nobody vouches for is held (HOUSE item 5)."""
        trace.outcome, trace.decision = "rejected", f"Refused: {LOOPED}"
        refusal = Reply(554, "5.4.6", "Forwarding loop")
        if job.alone or job.work.envelope.profile is Profile.LMTP:
            return Outcome(refusal)
        sender = job.work.envelope.reverse_path
        known = sender and _verified(job.work)
        guardian = None if known else await self._guardian(destination.address)
        if guardian is not None:
            recipient = next(r for r in job.work.envelope.recipients if r.address == destination.address)
            held = Verdict("loop", Disposition.QUARANTINE, summary=f"{destination.address}: {LOOPED}")
            plan = planner.quarantine_plan(recipient, held, self._places("loop"))
            trace.outcome, trace.decision = plan.outcome, f"{guardian.account.id}: {plan.decision}"
            return await self.performer.perform(
                job, plan, Target(guardian.account.id, destination.address, number), trace
            )
        outcome = Outcome(Reply(250, "2.0.0", f"Ok {job.trace.id}"))
        if not sender:  # a report that loops: nobody to tell but the log
            trace.outcome, trace.decision = "discarded", f"Discarded: a delivery report, and {LOOPED}"
            log.warning("message %s for %s discarded: a report in a loop", job.trace.id, destination.address)
            return outcome
        trace.decision = f"Returned to its sender: {LOOPED}"
        bounce = plans.Bounce(sender, refusal)
        make = partial(self._departure.generated, job.work, job.base, bounce, job.keys, destination.address)
        notes = await aside(job.work, len(job.base.data), make)
        outcome.add(await self.performer.send_on(job, notes, RecipientTrace(sender, "")))
        return outcome

    async def _guardian(self, address: str) -> Local | None:
        """Who looks at what this domain of ours holds back: its postmaster, when that is somebody here."""
        found = await self.lookups.lookup(self._directory, f"postmaster@{address.rpartition('@')[2]}")
        if isinstance(found, Targets):
            return next((one for one in found.targets if isinstance(one, Local)), None)
        return found if isinstance(found, Local) else None

    async def _local(
        self, job: Job, destination: Destination, local: Local, trace: RecipientTrace, number: int
    ) -> Outcome:
        recipient = next(r for r in job.work.envelope.recipients if r.address == destination.address)
        host: AccountHost | None = None
        if job.verdict.disposition is Disposition.QUARANTINE:
            plan = planner.quarantine_plan(recipient, job.verdict, self._places(job.verdict.stage))
        elif job.released == "plain":
            plan = plans.Plan(recipient, (plans.Store(plans.INBOX),), "stored", RELEASED)
        else:
            result, host = await self._run_scripts(job, destination, local, trace)
            if result.error and self._settings.on_script_error_defer:
                trace.outcome, trace.decision = "deferred", f"Deferred: {result.error}"
                return Outcome(LATER)
            await self._expand_lists(local.account.id, result)
            settings = replace(
                self._places("sieve"),
                default_mailbox=xtext(recipient.params.get(MAILBOX, "")) or plans.INBOX,
                can_refuse=job.alone,
                sender_verified=_verified(job.work),
                report=partial(self._report, job, destination, local.account.id),
            )
            plan = planner.plan_from(result, recipient, job.work.envelope, settings)
            if job.released:
                plan = not_refused_again(plan)
            if self._departure.redirected_before(job.base, local.account.id):
                plan = kept_here(plan)
            if result.error and plan.refusal is None:
                plan = await self._told(job, plan, local.account.id, result, trace)
        trace.outcome, trace.decision = plan.outcome, plan.decision
        for note in plan.notes:
            trace.spans.append(Span("plan", self._clock.time(), 0.0, "note", note))
        if plan.refusal is not None:
            return Outcome(plan.refusal)
        marks = host.marks(plan.remember) if plan.remember and host is not None else ()
        return await self.performer.perform(
            job, plan, Target(local.account.id, destination.address, number, marks), trace
        )

    def _places(self, stage: str) -> planner.PlanSettings:
        """Where what ``stage`` holds back will be, for the words of the plan."""
        if self.performer.keeps(stage):
            return planner.PlanSettings(quarantine="Quarantine", quarantine_use=None)
        return planner.PlanSettings()

    # -- Sieve ---------------------------------------------------------------------------
    async def _run_scripts(
        self, job: Job, destination: Destination, local: Local, trace: RecipientTrace
    ) -> tuple[RunResult, AccountHost | None]:
        account = local.account.id
        started, clock = self._clock.time(), self._clock.monotonic()
        chain = await self._chains.ready(account)
        scripts, error = chain.scripts, chain.error
        if not scripts:
            result = RunResult(actions=[Keep(implicit=True)], error=error)
            if error:
                trace.spans.append(Span("sieve", started, 0.0, "error", error))
            return result, None
        host = self._host(job, destination, local)
        envelope = self._script_envelope(job.work.envelope, destination, job.base)
        limits = self._settings.limits
        run = partial(interpreter.run, scripts, job.base, envelope, host, limits=limits)
        result = await self._chains.run(chain, len(job.base.data), run)
        if host.needed_program and self._programs is not None:
            facts = facts_of(account, envelope.mail_from, envelope.rcpt_to)
            result = await self._programs.run(account, host, facts, run)
        elif host.needed_store:

            def again(store: AccountStore) -> RunResult:
                host.store, host.needed_store = reachable(self.performer.sharing, account, store), False
                return run()

            result = await self._jobs.run(account, again)
        trace.script = scripts[-1].name
        trace.script_digest = scripts[-1].digest[:16]
        trace.steps = result.trace
        result.error = result.error or error
        summary = result.error or _last_action(result)
        word = "error" if result.error else ""
        span = Span("sieve", started, self._clock.monotonic() - clock, word, summary)
        trace.spans.append(span)
        return result, host

    async def _told(
        self, job: Job, plan: plans.Plan, account: str, result: RunResult, trace: RecipientTrace
    ) -> plans.Plan:
        """The plan, with a notice to the owner when this fault was not told before."""
        now, error = self._clock.time(), result.error or ""
        key = scripterror.key(trace.script_digest, error, result.error_place)
        if await self._jobs.run(account, lambda store: store.remembered(key, now)):
            return plan
        text = scripterror.notice(
            account, trace.script, error, job.base.subject()[:SUBJECT_SHOWN], self._settings.hostname, now
        )
        step = plans.Store(plans.INBOX, data=text, generated=True)
        remember = {**plan.remember, key: scripterror.AGAIN_SECONDS}
        return replace(plan, steps=(*plan.steps, step), remember=remember)

    async def _expand_lists(self, account: str, result: RunResult) -> None:
        """RFC 6134 2.6: ``redirect :list`` goes to every member of the account's list; to nobody means the mail is kept."""
        names = {one.list_name for one in result.actions if isinstance(one, Redirect) and one.list_name}
        if not names:
            return

        def look(store: AccountStore) -> dict[str, list[str]]:
            texts = {name: store.get_metadata(None, LIST_PREFIX + name) or "" for name in names}
            return {name: [one for one in text.split("\n") if "@" in one] for name, text in texts.items()}

        members = await self._jobs.run(account, look)
        actions: list[Action] = []
        for one in result.actions:
            if isinstance(one, Redirect) and one.list_name:
                to = members[one.list_name][:LIST_REDIRECTS]
                actions.extend(replace(one, address=address, list_name=None) for address in to)
            else:
                actions.append(one)
        result.actions = actions

    def _host(self, job: Job, destination: Destination, local: Local) -> AccountHost:
        tags = job.work.tags()
        score = tags.get(f"spam.score.{local.account.id}", tags.get("spam.score"))
        threshold = tags.get("spam.threshold")
        client = job.work.envelope.client
        items: dict[str, str] = {
            "domain": self._settings.hostname.partition(".")[2],
            "host": self._settings.hostname,
            "location": "MTA",
            "name": "filterd",
            "phase": "during",
            "version": "0.1",
            "remote-host": client.name,
            "remote-ip": client.ip or "",
            "vnd.filterd.trace": job.trace.id,
            "vnd.filterd.setting.recipient_delimiter": self._settings.subaddress,
            "vnd.filterd.setting.postmaster": f"postmaster@{local.account.id.rpartition('@')[2]}",
            "vnd.filterd.setting.vacation_use_original_recipient": "yes",  # which we have from servers of ours only
        }
        if local.catch_all or destination.group:  # vacation stays silent on such paths
            items["vnd.filterd.recipient-path"] = "catch-all" if local.catch_all else "group"
        items.update((f"vnd.filterd.{name}", verdict.result) for name, verdict in job.work.verdicts.items())
        virus = tags.get("virus.status")
        return AccountHost(
            at=self._clock.time(),
            hostname=self._settings.hostname,
            environment_items=items,
            own=() if local.catch_all else tuple(self._directory.own_addresses(local.account)),
            personal=lambda name: self._scripts.personal(local.account.id, name),
            global_dir=self._settings.global_scripts,
            spam=(float(score), float(threshold)) if score and threshold else None,
            virus=int(virus) if virus and virus.isdigit() else None,
            offers_programs=self._programs is not None,
            delivery=partial(job.keys.key, local.account.id, "state"),
            retry=self.performer.unheard,
        )

    def _script_envelope(self, envelope: Envelope, destination: Destination, base: Message) -> ScriptEnvelope:
        params: Mapping[str, str] = next(
            (r.params for r in envelope.recipients if r.address == destination.address), {}
        )
        original = destination.address
        trusted = envelope.profile in (Profile.LMTP, Profile.DELIVER)
        if trusted or envelope.client.told.startswith(HOPS):  # a stranger may say what he likes
            told = xtext(params.get("ORCPT", "").partition(";")[2])
            original = told or base.text(b"x-original-to") or original
        return ScriptEnvelope(
            mail_from=self._departure.plain(envelope.reverse_path),
            rcpt_to=destination.address,
            orig_to=original,
            auth=envelope.client.auth,
            mail_params=envelope.mail_params,
            rcpt_params=params,
        )

    def _report(self, job: Job, destination: Destination, account: str, action: Report) -> bytes:
        """vnd.dovecot.report: the abuse report as mail of the postmaster's."""
        return compose_report(
            action,
            job.base.data,
            self._script_envelope(job.work.envelope, destination, job.base),
            sender=f"postmaster@{account.rpartition('@')[2]}",
            moment=datetime.fromtimestamp(self._clock.time(), UTC).astimezone(),
            message_id=make_msgid(domain=self._settings.hostname).strip("<>"),
            user=account,
        )

    def _span(self, stage: str, started: float, result: str, summary: str) -> Span:
        return Span(stage, started, self._clock.time() - started, result, summary)


def _job_of(job: Job, parts: int) -> Job:
    """With PRDR each recipient has a reply of his own: a script's reject is an SMTP refusal whoever else gets the message."""
    envelope = job.work.envelope
    each = "PRDR" in envelope.mail_params and envelope.profile is not Profile.LMTP
    return replace(job, alone=True) if each and parts == 1 else job


def _sent_mailbox(store: AccountStore) -> str:
    """The mailbox for what was sent (RFC 6154 2), made when there is none. Raises StoreError."""
    found = store.mailboxes()
    named = next((info.name for info in found if info.special_use == SENT), None)
    if named is not None:
        return named
    if all(info.name != SENT_NAME for info in found):
        store.create(SENT_NAME, SENT)
    return SENT_NAME


def quarantined(outgoing: Outgoing, verdict: Verdict, hold: bool = False) -> Outgoing:
    """What a check holds back, for a mailbox behind us: a virus waits in the queue until the operator has looked at it, all
    else goes on with a field that a rule there can file by. ``hold``: mail of our own people waits, whatever was found."""
    why = f"{verdict.stage}: {verdict.summary or verdict.result or 'held back'}"
    if hold or verdict.stage == "clamav":
        return replace(outgoing, held=f"quarantined by {why}")
    text = "".join(char if " " <= char <= "~" else "?" for char in why)[:QUARANTINE_TEXT]
    return replace(outgoing, data=f"X-Filterd-Quarantine: {text}\r\n".encode() + outgoing.data)


def kept_here(plan: plans.Plan) -> plans.Plan:
    """RFC 5228 4.2: a message that a redirect of this account brought back is not sent round again, it is kept."""
    steps = tuple(step for step in plan.steps if not isinstance(step, plans.Send))
    if len(steps) == len(plan.steps):
        return plan
    notes = (*plan.notes, "redirect left out: this message was redirected from here before")
    if any(isinstance(step, plans.Store | plans.Execute | plans.Drop) for step in steps):
        return replace(plan, steps=steps, notes=notes)
    decision = f"{plans.INBOX} because it was redirected from here before and came back."
    return replace(
        plan, steps=(*steps, plans.Store(plans.INBOX)), outcome="stored", decision=decision, notes=notes
    )


def not_refused_again(plan: plans.Plan) -> plans.Plan:
    """Somebody wanted it out of the quarantine: a script's reject is left out then."""
    ends = (plans.Refuse, plans.Bounce)
    if not any(
        isinstance(one, ends) or (isinstance(one, plans.Store) and one.quarantine) for one in plan.steps
    ):
        return plan
    notes = (*plan.notes, "reject left out: it was released from the quarantine")
    return plans.Plan(plan.recipient, (plans.Store(plans.INBOX),), "stored", RELEASED, notes=notes)


def _later(error: Exception) -> Reply:
    """RFC 5321 4.2.2: a full disk has a code of its own."""
    return NO_ROOM if disk_full(error) else LATER


def _verified(work: Transaction) -> bool:
    """SPF or an aligned DKIM signature passed, or it is the sender's own log-in (which may only send as itself): a bounce
    would reach the real sender (HOUSE item 5)."""
    if work.envelope.profile is Profile.SUBMISSION and work.envelope.client.auth:
        return True
    domain = work.envelope.reverse_path.rpartition("@")[2].lower()
    spf = work.verdicts.get("spf")
    dkim = work.verdicts.get("dkim")
    signed = dkim.tags.get("dkim.pass", "").lower().split() if dkim else []
    return bool(domain) and ((spf is not None and spf.result == "pass") or domain in signed)


def _last_action(result: RunResult) -> str:
    """``main:4  fileinto "Junk"`` or what else was decided last."""
    actions = (step for step in reversed(result.trace) if step.result is None and step.what != "stop")
    action = next(actions, None)
    test = next((step for step in reversed(result.trace) if step.result), None)
    if action is None:
        return "kept: no rule applied"
    because = f'{test.what} "{test.value[:40]}" ' if test is not None else ""
    return f"{action.script}:{action.line}  {because}→ {action.what} {action.value}".rstrip()
