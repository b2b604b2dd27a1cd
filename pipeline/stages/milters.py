"""milters: asks other people's mail filters (OpenDKIM, clamav-milter, rspamd, any libmilter or pymilter program).

Specification: the milter protocol, versions 2 to 6 (``pipeline/wire/milter*.py``).

Every filter of the list is asked in its order, over a connection of its own, and sees the message as those before it
left it, without the recipients that they refused: an MTA's order is kept. Authentication-Results that strangers wrote in our
name are not shown. What they change comes back as edits of the message (whole fields, exactly as the filter wrote them, so that
its signatures hold), a new body, and changes of the envelope. The first refusal ends the list.

A filter that is silent, slow, gone or breaks the protocol takes its ``on_error`` within its ``timeout``, its changes are
not done at all, and after five faults in a row it is left alone for half a minute. Nothing a filter does ever counts as
"continue" but its own word.

Tags: ``milters.NAME`` = the filter's word; ``milters.fault`` names the first that could not be asked. Loops: our calls
carry the macro ``{filterd_hop}``; a filterd that finds its own name in it does nothing (``filterd/milter.py``).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline import authres, endpoint
from pipeline.breaker import Breaker
from pipeline.endpoint import Endpoint
from pipeline.envelope import Envelope, Profile, Recipient
from pipeline.errors import StageFault
from pipeline.registry import StageContext, setting
from pipeline.runner import fault_verdict
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict, combine
from pipeline.wire import milter
from pipeline.wire.milter import Connect, MilterError
from pipeline.wire.milter_client import Answer, Ask, Question, Word
from pipeline.wire.milter_message import FilteredMessage, body_of

log = logging.getLogger(__name__)

HOP = "filterd_hop"
HOPS = "milters.hop"  # key in Transaction.state: the hops a milter call to us came by, blank separated
READ = 1 << 16
MARGIN = 1.0  # seconds: each filter keeps its own limit, the stage's comes after all of them
LISTENERS: Mapping[Profile, str] = {
    Profile.MX: "smtp",
    Profile.SUBMISSION: "submission",
    Profile.LMTP: "lmtp",
    Profile.DELIVER: "deliver",
    Profile.MILTER: "milter",
}
_DISPOSITIONS = {
    Word.CONTINUE: Disposition.CONTINUE,
    Word.ACCEPT: Disposition.CONTINUE,
    Word.REJECT: Disposition.REJECT,
    Word.TEMPFAIL: Disposition.TEMPFAIL,
    Word.DISCARD: Disposition.DISCARD,
}


@dataclass(frozen=True, slots=True)
class MilterSettings:
    """One filter."""

    name: str = setting("", "What it is called in traces and logs.")
    socket: str = setting("", "Where it listens: unix:PATH, HOST:PORT, inet:PORT@HOST.", "socket")
    timeout: float = setting(10.0, "For one message.", "duration")
    on_error: str = setting("defer", "When it fails.", choices=("defer", "accept", "reject"))
    listeners: tuple[str, ...] = setting(
        ("smtp", "submission"),
        "The doors whose mail it sees: smtp, submission, lmtp, deliver, milter.",
        choices=tuple(LISTENERS.values()),
    )


@dataclass(frozen=True, slots=True)
class MiltersSettings:
    milters: tuple[MilterSettings, ...] = setting((), "The filters, in the order in which they are asked.")


@dataclass(slots=True)
class _Filter:
    settings: MilterSettings
    endpoint: Endpoint
    breaker: Breaker


class MiltersStage:
    """The stage; one for the life of a configuration."""

    name = "milters"
    phases = frozenset({Phase.EOM})
    after: tuple[str, ...] = ()
    on_error = OnError.DEFER  # each filter has its own; this one is for bugs

    def __init__(self, settings: MiltersSettings, context: StageContext) -> None:
        self._context = context
        self._filters = [
            _Filter(one, endpoint.parse(one.socket, default_port=8891), Breaker()) for one in settings.milters
        ]
        self.timeout = sum(one.timeout for one in settings.milters) + MARGIN

    def quick(self, transaction: Transaction) -> Verdict | None:
        """Nobody is to be asked."""
        return (
            None
            if self._asked(transaction)
            else Verdict(self.name, result="none", summary="no filter to ask")
        )

    def abort(self, transaction: Transaction) -> None:
        """Nothing is kept between calls; a connection under way ends with its task."""

    async def check(self, transaction: Transaction) -> Verdict:
        message = FilteredMessage(transaction.message.header, self._forged(transaction))
        verdicts: list[Verdict] = []
        evidence: dict[str, str] = {}
        recipients = transaction.envelope.recipients
        for one in self._asked(transaction):
            began = self._context.clock.monotonic()
            try:
                verdict = await self._ask(one, transaction, message, recipients)
            except StageFault as fault:
                log.info("milter %s, message %s: %s", one.settings.name, transaction.trace_id, fault)
                verdict = fault_verdict(self.name, OnError(one.settings.on_error), fault)
                verdict = replace(verdict, summary=f"{one.settings.name} {verdict.summary}")
            took = self._context.clock.monotonic() - began
            evidence[one.settings.name] = (
                f"{verdict.summary.removeprefix(one.settings.name + ' ')}, {took * 1000:.1f} ms"
            )
            verdicts.append(verdict)
            if verdict.disposition >= Disposition.DISCARD:
                break
            recipients = tuple(to for to in recipients if to.address not in verdict.recipients)
        return _nobody_left(self._sum(message, verdicts, evidence), transaction.envelope)

    def _asked(self, transaction: Transaction) -> list[_Filter]:
        door = LISTENERS[transaction.envelope.profile]
        return [one for one in self._filters if door in one.settings.listeners]

    def _forged(self, transaction: Transaction) -> frozenset[int]:
        """Where the results begin that strangers wrote in our name: they are taken out of the message later, and a filter that
        believes our name (OpenDMARC) must not see them before."""
        if transaction.envelope.client.auth:  # what our people send keeps what is in it
            return frozenset()
        context = self._context
        ours = context.our_ids | {name for name in (context.authserv_id, context.hostname) if name}
        if transaction.envelope.client.facts_trusted:  # no hop of ours brought it
            ours |= context.trusted_ids
        return frozenset(cut.start for cut in authres.forged(transaction.message.header, ours))

    def _sum(self, message: FilteredMessage, verdicts: list[Verdict], evidence: dict[str, str]) -> Verdict:
        whole = combine(verdicts)
        deciding = next((v for v in verdicts if v.disposition is whole.disposition), verdicts[-1])
        changed = whole.disposition <= Disposition.QUARANTINE
        return replace(
            whole,
            stage=self.name,
            result=deciding.result,
            summary=deciding.summary
            if len(verdicts) == 1 or whole.disposition
            else "; ".join(v.summary for v in verdicts),
            evidence=evidence,
            edits=message.edits() if changed else (),
            body=message.body if changed else None,
            envelope=message.envelope() if changed else None,
        )

    async def _ask(
        self,
        one: _Filter,
        transaction: Transaction,
        message: FilteredMessage,
        recipients: Sequence[Recipient],
    ) -> Verdict:
        now = self._context.clock.monotonic()
        if not one.breaker.allow(now):
            raise StageFault("unavailable", f"not asked: {one.breaker.faults} faults in a row")
        ask = Ask(self._question(transaction, message, recipients))
        try:
            answer = await self._converse(one, ask)
            count = self._do(answer, ask, message)
        except MilterError as error:
            self._count(one)
            raise StageFault("protocol", str(error)) from error
        except StageFault:
            self._count(one)
            raise
        except BaseException:
            one.breaker.release()
            raise
        one.breaker.success()
        return self._verdict(one, answer, count, recipients)

    def _count(self, one: _Filter) -> None:
        if one.breaker.fault(self._context.clock.monotonic()):
            log.warning("milter %s: %d faults in a row", one.settings.name, one.breaker.faults)

    # -- the connection -----------------------------------------------------------------------------------------------

    async def _converse(self, one: _Filter, ask: Ask) -> Answer:
        """The whole dialogue. Raises StageFault and MilterError, within the filter's limit."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(one.settings.timeout):
                reader, writer = await _connect(one.endpoint)
                sock = writer.get_extra_info("socket")
                while not ask.done:
                    writer.write(ask.data_to_send())
                    await writer.drain()
                    _acknowledge_at_once(sock)
                    data = await reader.read(READ)
                    if not data:
                        ask.receive_eof()
                    ask.receive_data(data)
                writer.write(ask.data_to_send())
        except TimeoutError:
            where = "connecting" if writer is None else ask.step
            raise StageFault("timeout", f"no answer within {one.settings.timeout:g} s ({where})") from None
        except OSError as error:
            kind, where = (
                ("unavailable", "cannot be reached")
                if writer is None
                else ("protocol", f"broke off at {ask.step}")
            )
            raise StageFault(kind, f"{where} at {one.endpoint}: {error.strerror or error}") from error
        finally:
            if writer is not None:
                writer.close()
        assert ask.answer is not None
        return ask.answer

    # -- what it is told ----------------------------------------------------------------------------------------------

    def _question(
        self, transaction: Transaction, message: FilteredMessage, recipients: Sequence[Recipient]
    ) -> Question:
        envelope, original = transaction.envelope, transaction.message
        body = message.body if message.body is not None else original.data[original.header.body_start :]
        return Question(
            connect=_client(envelope),
            helo=milter.octets(envelope.client.helo),
            mail=_arguments(envelope.reverse_path, envelope.mail_params),
            recipients=[_arguments(one.address, one.params) for one in recipients],
            fields=message.fields(),
            body=body,
            macros=self._macros(transaction),
            always=(HOP,),
        )

    def _macros(self, transaction: Transaction) -> dict[str, bytes]:
        client = transaction.envelope.client
        name = client.name or (f"[{client.ip}]" if client.ip else "unknown")
        hops = str(transaction.state.get(HOPS, ""))
        out = {
            "j": self._context.hostname,
            "v": "filterd",
            "i": transaction.trace_id,
            "_": f"{name} [{client.ip}]" if client.ip else name,
            "daemon_name": LISTENERS[transaction.envelope.profile],
            "client_addr": client.ip or "",
            "client_port": str(client.port or ""),
            "client_name": client.name or ("unknown" if client.ip else ""),
            "client_ptr": client.name or ("unknown" if client.ip else ""),
            "mail_addr": transaction.envelope.reverse_path,
            HOP: f"{hops} {self._context.hostname}".strip(),
        }
        if client.auth:
            out["auth_type"], out["auth_authen"] = "PLAIN", client.auth
        if client.tls:
            version, _, cipher = client.tls.partition(" ")
            out["tls_version"], out["cipher"] = version, cipher
        return {key: milter.octets(value).replace(b"\0", b"") for key, value in out.items()}

    # -- what it said -------------------------------------------------------------------------------------------------

    @staticmethod
    def _do(answer: Answer, ask: Ask, message: FilteredMessage) -> int:
        """Its changes, all or none. Raises MilterError."""
        leading = bool(ask.steps & milter.Steps.HDR_LEADSPC)
        trial = message.copy()
        count = trial.apply(answer.changes, leading)
        if answer.body is not None:
            trial.body = body_of(answer.body)
        message.become(trial)
        return count

    def _verdict(self, one: _Filter, answer: Answer, count: int, recipients: Sequence[Recipient]) -> Verdict:
        name = one.settings.name
        disposition = _DISPOSITIONS[answer.word]
        words = [f"{count} header change{'s' if count > 1 else ''}"] if count else []
        if answer.body is not None:
            words.append("a new body")
        if answer.quarantine is not None and disposition is Disposition.CONTINUE:
            disposition = Disposition.QUARANTINE
            words.append(f"quarantine: {answer.quarantine[:200]}")
        if answer.refused and disposition < Disposition.DISCARD:
            words.append(f"{len(answer.refused)} recipients refused")
        if answer.reply is not None:
            words.append(f"{answer.reply.code} {answer.reply.enhanced_code} {answer.reply.text}"[:200])
        result = "quarantine" if disposition is Disposition.QUARANTINE else answer.word.value
        addresses = [recipient.address for recipient in recipients]
        return Verdict(
            self.name,
            disposition,
            result,
            f"{name} {result}"
            + (f" at {answer.at}" if answer.at and disposition >= Disposition.DISCARD else "")
            + (f" ({', '.join(words)})" if words else ""),
            answer.reply,
            tags={f"milters.{name}": result},
            recipients={addresses[at]: reply for at, reply in answer.refused.items()},
        )


def _nobody_left(verdict: Verdict, envelope: Envelope) -> Verdict:
    """All recipients are refused, some for now only: where there is one reply for all, they are asked for again."""
    if envelope.profile is Profile.LMTP or any(
        one.address not in verdict.recipients for one in envelope.recipients
    ):
        return verdict
    later = next((reply for reply in verdict.recipients.values() if reply.temporary), None)
    if later is None or verdict.disposition is not Disposition.REJECT:
        return verdict
    return replace(verdict, disposition=Disposition.TEMPFAIL, reply=later)


async def _connect(where: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if where.is_unix:
        return await asyncio.open_unix_connection(where.path)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return reader, writer


def _acknowledge_at_once(sock: socket.socket) -> None:
    """libmilter writes each packet of its last answer by itself, with Nagle on: the second waits for our ACK of the first,
    which the kernel likes to hold back for 40 ms. The option is used up by every read."""
    if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _client(envelope: Envelope) -> Connect:
    client = envelope.client
    if not client.ip:
        return Connect(b"localhost" if envelope.profile is Profile.DELIVER else b"unknown")
    address = client.ip.partition("%")[0]
    host = milter.octets(client.name or f"[{address}]")
    if ":" in address:
        return Connect(host, b"6", client.port, f"IPv6:{address}".encode())
    return Connect(host, b"4", client.port, address.encode())


def _arguments(address: str, params: Mapping[str, str]) -> tuple[bytes, ...]:
    words = [f"{name}={value}" if value else name for name, value in params.items()]
    return (f"<{address}>".encode("utf-8", "surrogateescape"), *(milter.octets(word) for word in words[:60]))
