"""filterd as a mail filter of another MTA: the same stages, the same verdicts, the same traces as at our own door.

The MTA tells us client, envelope and message; mail from outside passes the incoming stages, that of logged-in people the
outgoing list and is signed. What our own door would write into the message becomes header changes, a refusal becomes the
MTA's SMTP refusal (the sender's own server hears it: no bounce), quarantine becomes the MTA's hold queue. Stores, people's
scripts and forwarding are the MTA's business; the administrator's scripts run here (``filterd/milter_sieve.py``).

Bytes: with HDR_LEADSPC a header is told exactly. Without it each field has lost a blank that a signature may cover, so a
signature that fails is no failure: DKIM says ``temperror`` (bytes uncertain) and DMARC cannot refuse.
Loops: a call that carries our own name in the macro ``{filterd_hop}`` comes from ourselves and is let through.
Whoever reaches the socket is believed: it belongs on a unix socket or on loopback.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from filterd import doortrace
from filterd.explain.traces import TraceWriter
from filterd.generation import run_stages
from filterd.milter_packets import Writer
from filterd.milter_sieve import Screen
from filterd.milter_srs import MilterSrs
from filterd.outgoing import Departure, aside
from filterd.proto.milter import Judge
from filterd.servers.milter import MilterService
from pipeline import authres
from pipeline.dkim.verify import SignatureResult
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.ports import Clock, Ids
from pipeline.reply import Reply
from pipeline.runner import Runner
from pipeline.stage import Phase, Stage
from pipeline.stages.milters import HOP, HOPS
from pipeline.stages.privacy import strip
from pipeline.trace import MessageTrace, RecipientTrace, Span, trace_id
from pipeline.transaction import Transaction
from pipeline.verdict import AuthResult, Disposition, EnvelopeEdit, HeaderEdit, Verdict
from pipeline.wire import milter
from pipeline.wire.milter import Bare, Packet
from rules.mail.message import Message

log = logging.getLogger("filterd.milter")

MAX_HOPS = 50  # Received fields, as at our own door
TRACE_FIELD = "X-Filterd-Trace"
LATER = Reply(451, "4.3.0", "Temporary failure, please try again later")
LOOP = Reply(554, "5.4.6", "Too many hops, this message is in a loop")
TOO_LARGE = Reply(552, "5.3.4", "The message is too large")
NO_RECIPIENT = Reply(451, "4.3.0", "The message has no recipient here")
UNCERTAIN = "bytes uncertain: the MTA does not tell headers exactly"
_LINE_END = re.compile(rb"\r?\n([ \t])?")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class MilterReceptionSettings:
    """``internal``: clients whose mail counts as our own people's, besides those who logged in."""

    hostname: str
    authserv_id: str
    our_ids: frozenset[str]
    time_budget: float = 25.0
    internal: Sequence[Network] = ()


class Uncertain:
    """A stage that verifies signatures, over bytes that may not be the sender's: it may pass, it cannot fail."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.name, self.phases, self.after = stage.name, stage.phases, stage.after
        self.on_error, self.timeout = stage.on_error, stage.timeout

    async def check(self, transaction: Transaction) -> Verdict:
        verdict = await self._stage.check(transaction)
        if verdict.result in ("pass", "none", "skipped"):
            return verdict
        found = transaction.state.get(self.name)
        if isinstance(found, list):
            transaction.state[self.name] = [_unsure(one) for one in found]
        authres_ = tuple(
            one
            if one.result in ("pass", "none")
            else AuthResult(one.method, "temperror", UNCERTAIN, one.properties)
            for one in verdict.authres
        )
        summary = f"{UNCERTAIN} (would be {verdict.result})"
        tags = {**verdict.tags, f"{self.name}.result": "temperror"}
        return replace(verdict, result="temperror", summary=summary, authres=authres_, tags=tags)

    def abort(self, transaction: Transaction) -> None:
        self._stage.abort(transaction)


def _unsure(one: object) -> object:
    if isinstance(one, SignatureResult) and not one.passed:
        return replace(one, result="temperror", reason=UNCERTAIN)
    return one


class MilterReception(MilterService):
    """The service of the milter door of one worker."""

    def __init__(
        self,
        settings: MilterReceptionSettings,
        incoming: Runner,
        departure: Departure,
        traces: TraceWriter,
        clock: Clock,
        ids: Ids,
        screen: Screen | None = None,
    ) -> None:
        self._settings = settings
        self._incoming = incoming
        self._departure = departure
        self._traces = traces
        self._clock = clock
        self._ids = ids
        self._screen = screen
        doubtful = [Uncertain(one) if one.name in ("dkim", "arc") else one for one in incoming.stages]
        self._uncertain = Runner(doubtful, clock, incoming.reject_becomes)
        self.srs: MilterSrs | None = None  # milter.srs

    async def judge(self, message: Judge) -> Sequence[Packet]:
        hops = message.macros.get(HOP, "")
        if self._settings.hostname in hops.split():
            log.info("a message comes from our own milters stage: let through")
            return (Bare.ACCEPT,)
        work = self._transaction(message, hops)
        trace = self._open_trace(work)
        queue_id = message.macros.get("i", "")
        if queue_id and queue_id != work.trace_id:
            trace.spans.append(Span("mta", self._clock.time(), 0.0, "", f"its queue id is {queue_id[:64]}"))
            self._traces.alias(queue_id.upper(), work.trace_id)
        if message.oversize:
            return self._end(trace, work, Verdict("milter", Disposition.REJECT, reply=TOO_LARGE))
        if len(work.message.header.get_all(b"received")) > MAX_HOPS:
            return self._end(trace, work, Verdict("loop", Disposition.REJECT, reply=LOOP))
        if work.envelope.client.auth:
            return await self._leaving(message, work, trace)
        return await self._arriving(message, work, trace)

    # -- mail from outside --------------------------------------------------------------------------------------------

    async def _arriving(self, message: Judge, work: Transaction, trace: MessageTrace) -> Sequence[Packet]:
        runner = self._incoming if message.exact else self._uncertain
        early = await self._at_rcpt(runner, work)
        if early is not None:
            return self._end(trace, work, early)
        judged = await run_stages(runner, work)
        trace.spans.extend(judged.spans)
        verdict = judged.outcome.verdict
        if verdict.disposition >= Disposition.DISCARD:
            return self._end(trace, work, verdict)
        adds = [HeaderEdit("add", TRACE_FIELD, work.trace_id)]
        if verdict.authres:
            adds.append(authres.field(self._settings.authserv_id, verdict.authres))
        own = (HeaderEdit("remove", TRACE_FIELD), *verdict.edits, *adds)
        others = self._departure.trusted_authserv if work.envelope.client.facts_trusted else frozenset()
        forged = authres.forged(work.message.header, self._settings.our_ids | others)
        screening = None
        if self._screen is not None:  # compiles and runs scripts: not on the loop (HOUSE item 17)
            screening = await asyncio.to_thread(self._screen.run, judged.work, own, forged)
        if screening is not None:
            trace.spans.append(screening.span)
            verdict = screening.over(verdict)
            if verdict.disposition >= Disposition.DISCARD:
                return self._end(trace, work, verdict)
            if screening.edits is not None:
                own, forged = screening.edits, []
        if self.srs is not None:
            verdict, span = self.srs.over(work.envelope, verdict)
            trace.spans.extend([span] if span is not None else [])
        writer = Writer(message.actions, message.exact, work.message)
        writer.header(own, [(cut.start, cut.end) for cut in forged])
        self._rest(writer, verdict, work.envelope)
        return self._end(trace, work, verdict, writer)

    async def _at_rcpt(self, runner: Runner, work: Transaction) -> Verdict | None:
        """The stages that ask at RCPT (greylist); we answer once, so the first refusal is the message's."""
        if not runner.has(Phase.RCPT):
            return None
        for recipient in work.envelope.recipients:
            one = replace(work, envelope=replace(work.envelope, recipients=(recipient,)), verdicts={})
            verdict = (await runner.run(Phase.RCPT, one)).verdict
            reply = verdict.recipients.get(recipient.address)
            if verdict.disposition >= Disposition.TEMPFAIL:
                reply = reply or verdict.reply or LATER
            if reply is not None and not reply.positive:
                disposition = Disposition.TEMPFAIL if reply.temporary else Disposition.REJECT
                return replace(verdict, disposition=disposition, reply=reply)
        return None

    # -- mail of our own people ---------------------------------------------------------------------------------------

    async def _leaving(self, message: Judge, work: Transaction, trace: MessageTrace) -> Sequence[Packet]:
        judged = await run_stages(self._departure.runner, work)
        trace.spans.extend(judged.spans)
        verdict = judged.outcome.verdict
        if verdict.disposition >= Disposition.DISCARD:
            return self._end(trace, work, verdict)
        writer = Writer(message.actions, message.exact, work.message)
        cuts: list[tuple[int, int]] = []
        privacy = self._departure.privacy_settings
        if privacy is not None:
            stripped = strip(judged.work.message, replace(privacy, parts=False))
            cuts = [(cut.start, cut.end) for cut in stripped.splices if not cut.text]
            if stripped.evidence:
                span = Span("privacy", self._clock.time(), 0.0, "", stripped.evidence.get("removed", ""))
                trace.spans.append(span)
        own = (HeaderEdit("remove", TRACE_FIELD), *verdict.edits)
        writer.header(own, cuts)
        self._rest(writer, verdict, work.envelope)
        sign = partial(_signed, self._departure, writer, verdict, _from_domain(work.message))
        signed = await aside(work, len(work.message.data), sign)
        if signed:
            writer.on_top(signed)
            trace.spans.append(Span("dkim-sign", self._clock.time(), 0.0, "signed", _selector(signed)))
        return self._end(trace, work, verdict, writer)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _rest(self, writer: Writer, verdict: Verdict, envelope: Envelope) -> None:
        """What is not the header."""
        if verdict.body is not None:
            writer.body(verdict.body)
        if verdict.envelope is not None:
            writer.envelope(_as_told(verdict.envelope, envelope))
        if verdict.disposition is Disposition.QUARANTINE:
            writer.quarantine(f"{verdict.stage}: {verdict.summary}")

    def _end(
        self, trace: MessageTrace, work: Transaction, verdict: Verdict, writer: Writer | None = None
    ) -> Sequence[Packet]:
        packets, outcome, reply, why = _last(verdict, writer, "SMTPUTF8" in work.envelope.mail_params)
        trace.outcome, trace.reply = outcome, reply
        if writer is not None:
            for note in writer.notes:
                trace.spans.append(Span("milter", self._clock.time(), 0.0, "note", note))
        for recipient in work.envelope.recipients:
            trace.recipients.append(
                RecipientTrace(printable(recipient.address), "", outcome=outcome, decision=why)
            )
        self._traces.put(trace)
        return packets

    # -- what the MTA told --------------------------------------------------------------------------------------------

    def _transaction(self, message: Judge, hops: str) -> Transaction:
        work = Transaction(
            message=Message(restored(message)),
            envelope=self._envelope(message),
            trace_id=trace_id(int(self._ids.token(7), 16) & ((1 << 50) - 1)),
            deadline=self._clock.monotonic() + self._settings.time_budget,
        )
        if hops:
            work.state[HOPS] = hops
        return work

    def _envelope(self, message: Judge) -> Envelope:
        reverse_path, mail_params = arguments(tuple(printable(milter.text(w)).encode() for w in message.mail))
        recipients = tuple(Recipient(*arguments(one)) for one in message.recipients)
        return Envelope(reverse_path, recipients, self._client(message), Profile.MILTER, mail_params)

    def _client(self, message: Judge) -> Client:
        said, macros = message.connect, message.macros
        ip, port, name = None, 0, ""
        if said is not None and said.family in (b"4", b"6"):
            ip = address(milter.text(said.address))
            port = said.port
            host = printable(milter.text(said.host))
            known = macros.get("client_resolve", "OK") == "OK"
            name = host if known and not host.startswith("[") and host.lower() != "unknown" else ""
        auth = macros.get("auth_authen", "") or ("?" if macros.get("auth_type") else "")
        local = ip is None or ipaddress.ip_address(ip).is_loopback
        if not auth and self._internal(ip):
            auth = f"[{ip or 'local'}]"
        tls = f"{macros.get('tls_version', '')} {macros.get('cipher', '')}".strip()
        return Client(ip, port, message.helo, name, tls, auth, facts_trusted=not local)

    def _internal(self, ip: str | None) -> bool:
        if ip is None:
            return False
        found = ipaddress.ip_address(ip)
        return any(
            found in network for network in self._settings.internal if network.version == found.version
        )

    def _open_trace(self, work: Transaction) -> MessageTrace:
        envelope, message = work.envelope, work.message
        client = envelope.client
        now = self._clock.time()
        trace = doortrace.facts(work.trace_id, now, envelope, message)
        who = f"{client.ip or 'local'}" + (f" ({client.helo})" if client.helo else "")
        if client.auth:
            who += f", logged in as {client.auth}"
        trace.spans.append(Span("milter", now, 0.0, "", f"{who}, {message.size} octets, told by another MTA"))
        return trace


def _as_told(edit: EnvelopeEdit, envelope: Envelope) -> EnvelopeEdit:
    """Recipients that go, as the MTA wrote them: Postfix and Sendmail find no other spelling (a filter that we asked may have
    folded their case)."""
    told: dict[str, list[str]] = {}
    for recipient in envelope.recipients:
        told.setdefault(recipient.address.lower(), []).append(recipient.address)
    gone = [one for address in edit.remove for one in told.get(address.lower(), [address])]
    return replace(edit, remove=tuple(dict.fromkeys(gone)))


def _last(verdict: Verdict, writer: Writer | None, utf8: bool) -> tuple[list[Packet], str, str, str]:
    """The packets, the trace's outcome and reply, and the sentence for each recipient."""
    reply = verdict.reply
    match verdict.disposition:
        case Disposition.REJECT | Disposition.TEMPFAIL:
            reply = reply or LATER
            outcome = "deferred" if reply.temporary else "rejected"
            shown = f"{reply.code} {reply.enhanced_code} {reply.text}"
            word = "Deferred" if reply.temporary else "Refused"
            return (
                [milter.reply_code(reply, utf8)],
                outcome,
                shown,
                f"{word} at the door by {verdict.stage}: {reply.text}",
            )
        case Disposition.DISCARD:
            why = f"Discarded by {verdict.stage}: {verdict.summary}"
            return [Bare.DISCARD], "discarded", "discarded", why
    packets: list[Packet] = [*(writer.packets() if writer is not None else ()), Bare.CONTINUE]
    if verdict.disposition is Disposition.QUARANTINE:
        why = f"Held in the MTA's quarantine because of {verdict.stage}: {verdict.summary}"
        return packets, "quarantined", "handed back, quarantined", why
    return packets, "accepted", "handed back to the MTA", "Handed back to the MTA, which delivers it."


def restored(message: Judge) -> bytes:
    """The message as the MTA has it: CRLF, one blank after the colon when the MTA took it away."""
    out = []
    for name, value in message.fields:
        blank = b"" if message.exact or value[:1] in (b" ", b"\t") else b" "
        out.append(name + b":" + blank + _LINE_END.sub(_continued, value) + b"\r\n")
    return b"".join(out) + b"\r\n" + message.body


def _continued(found: re.Match[bytes]) -> bytes:
    """A bare CR ends no line, as at our own door; what would begin another field continues this one."""
    return b"\r\n" + (found[1] or b"\t")


def arguments(words: tuple[bytes, ...]) -> tuple[str, dict[str, str]]:
    """Path without brackets, ESMTP parameters by upper-case name."""
    if not words:
        return "", {}
    path = milter.text(words[0]).strip()
    if path.startswith("<") and path.endswith(">"):
        path = path[1:-1]
    params = {}
    for word in words[1:]:
        name, _, value = milter.text(word).partition("=")
        params[name.upper()] = value
    return path, params


def printable(text: str) -> str:
    """Octets that are no UTF-8 become question marks: a trace is text."""
    return text.encode("utf-8", "replace").decode("utf-8")


def address(text: str) -> str | None:
    """An address as Sendmail and Postfix write it (``IPv6:`` in front, IPv4 in IPv6 unwrapped); None when it is none."""
    text = text.partition("%")[0]
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)


def _from_domain(message: Message) -> str:
    senders = message.from_addresses()
    return senders[0].domain.lower() if senders else ""


def _signed(departure: Departure, writer: Writer, verdict: Verdict, domain: str) -> bytes:
    return departure.sign(writer.result(verdict.body), domain)


def _selector(signature: bytes) -> str:
    found = re.search(rb"[\s;]d=([^;\s]+)", signature)
    return f"for {found[1].decode('ascii', 'replace')}" if found else ""
