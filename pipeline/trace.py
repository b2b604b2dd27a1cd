"""The trace of one message: what happened, when, why; one message part and one part per recipient (HOUSE item 22).

The owner of a mailbox sees the message part and his own recipient part, never another's.
Trace ids: ten characters of Crockford base32, shown as ``7K3QM-2XNPA``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rules.actions import TraceStep

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
VALUE_LIMIT = 200  # octets of a header value kept in a trace


def trace_id(number: int) -> str:
    """Ten base32 characters of a 50-bit number, five on each side of a hyphen."""
    text = "".join(ALPHABET[(number >> shift) & 31] for shift in range(45, -1, -5))
    return f"{text[:5]}-{text[5:]}"


@dataclass(slots=True)
class Span:
    """One line of the time line: ``at`` seconds since the epoch, ``duration`` in seconds."""

    stage: str
    at: float
    duration: float
    result: str
    summary: str
    evidence: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class RecipientTrace:
    """What was decided for one recipient."""

    address: str
    account: str
    script: str = ""
    script_digest: str = ""
    steps: list[TraceStep] = field(default_factory=list)
    outcome: str = ""  # "stored", "rejected", "redirected", "discarded", "deferred", "duplicate"
    decision: str = ""  # one sentence: why the message is where it is
    places: list[str] = field(default_factory=list)  # "Junk uid 881", "sent to a@b (queue id)"
    spans: list[Span] = field(default_factory=list)  # sieve, store, send


@dataclass(slots=True)
class MessageTrace:
    """The message part."""

    id: str
    at: float
    profile: str
    client_ip: str = ""
    helo: str = ""
    tls: str = ""
    auth: str = ""
    reverse_path: str = ""
    message_id: str = ""
    subject: str = ""  # cut at VALUE_LIMIT
    sender: str = ""  # the From address
    size: int = 0
    outcome: str = ""  # "accepted", "rejected", "deferred", "discarded", "quarantined"
    reply: str = ""
    spans: list[Span] = field(default_factory=list)
    recipients: list[RecipientTrace] = field(default_factory=list)
