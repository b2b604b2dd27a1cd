"""The trace of a message while it is at the door: what the client said of itself, and whom a stage turned away at RCPT.

A recipient that a stage refuses (greylisting) has no text yet and so no Message-ID. He is noted until it is known what becomes
of the transaction: with a text he is one more recipient in its trace; without one the refusals are a trace of their own, found
by ``filterd explain last from SENDER``. What is refused without asking a stage (unknown people, relaying) is not traced: anybody
can ask for that a thousand times a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.envelope import Envelope
from pipeline.reply import Reply
from pipeline.runner import RunOutcome
from pipeline.trace import MessageTrace, RecipientTrace, Span
from rules.mail.message import Message

MESSAGE_ID_KEPT = 998  # characters in a trace
SUBJECT_KEPT = 200
REFUSALS_KEPT = 100  # recipients of one transaction


@dataclass(slots=True)
class Refusals:
    """Those of one transaction. ``trace`` is its name."""

    trace: str
    envelope: Envelope | None = None  # of the first one
    recipients: list[RecipientTrace] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    reply: Reply | None = None

    def note(self, envelope: Envelope, account: str, reply: Reply, outcome: RunOutcome) -> None:
        """The one recipient of ``envelope`` gets ``reply``."""
        if len(self.recipients) >= REFUSALS_KEPT:
            return
        address = envelope.recipients[0].address
        stage = outcome.verdict.stage or next(
            (verdict.stage for verdict in outcome.verdicts if address in verdict.recipients), "a stage"
        )
        word, end = ("Deferred", "deferred") if reply.temporary else ("Refused", "rejected")
        self.recipients.append(
            RecipientTrace(
                address,
                account,
                outcome=end,
                decision=f"{word} at RCPT by {stage} for {address}: {said(reply)}",
                spans=list(outcome.spans),
            )
        )
        self.envelope = self.envelope or envelope
        self.reply = reply
        if len(self.recipients) == 1:
            self.spans.extend(outcome.spans)

    def add_to(self, trace: MessageTrace) -> None:
        """The transaction had a text after all."""
        trace.recipients.extend(self.recipients)
        self.recipients = []

    def alone(self, now: float) -> MessageTrace | None:
        """The trace of a transaction that came to nothing; None when nobody was refused by a stage, or it was told before."""
        if self.envelope is None or self.reply is None or not self.recipients:
            return None
        trace = opened(self.trace, now, self.envelope, None)
        trace.spans.extend(self.spans)
        trace.outcome = "deferred" if self.reply.temporary else "rejected"
        trace.reply = said(self.reply)
        self.add_to(trace)
        return trace


def said(reply: Reply) -> str:
    return f"{reply.code} {reply.enhanced_code} {reply.text}"


def facts(name: str, now: float, envelope: Envelope, message: Message | None) -> MessageTrace:
    """A trace with what is known of client and message, and nothing of what happened."""
    client = envelope.client
    trace = MessageTrace(
        id=name,
        at=now,
        profile=envelope.profile.value,
        client_ip=client.ip or "",
        helo=client.helo,
        tls=client.tls,
        auth=client.auth,
        reverse_path=envelope.reverse_path,
    )
    if message is not None:
        sender = message.from_addresses()
        trace.message_id = message.message_id()[:MESSAGE_ID_KEPT]
        trace.subject = message.subject()[:SUBJECT_KEPT]
        trace.sender = sender[0].address if sender else ""
        trace.size = message.size
    return trace


def opened(name: str, now: float, envelope: Envelope, message: Message | None) -> MessageTrace:
    """The trace of a message that has just come; None: it never did."""
    client = envelope.client
    trace = facts(name, now, envelope, message)
    who = client.ip or "local"
    summary = f"{who} ({client.helo})" if client.helo else who
    if client.tls:
        summary += f", {client.tls.split(' ')[0]}"
    if client.auth:
        summary += f", logged in as {client.auth}"
    if client.told:
        summary += f", told by {client.told}"
    size = f"{message.size} octets" if message is not None else "no text was sent"
    trace.spans.append(Span(envelope.profile.value, now, 0.0, "", f"{summary}, {size}"))
    return trace
