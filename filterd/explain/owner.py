"""What the owner of an account may see of a trace: the message part and his own parts, nothing of other recipients
(HOUSE item 22)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from pipeline.trace import MessageTrace, RecipientTrace, Span

QUEUED = re.compile(r"queued for (?P<address>.+) \((?P<id>[^()]*)\)\Z")  # a place of a recipient
ITEM = "item"  # of the evidence of a try to send: which item of the queue it was


def view(trace: MessageTrace, parts: Sequence[RecipientTrace]) -> MessageTrace:
    """The trace with these parts only. Notes on the message part tell whom a filter put in or took out: they go, and so does
    what copy of a message a remembered verdict was about."""
    spans = [_alone(span) for span in trace.spans if span.result != "note"]
    if not trace.auth or trace.auth in {part.account for part in parts}:
        return replace(trace, spans=spans, recipients=list(parts))
    # somebody who logged in: where he sat is nobody's business, as in our Received line (HOUSE item 8)
    door = f"logged in as {trace.auth}, {trace.size} octets"
    spans = [replace(span, summary=door) if span.stage == trace.profile else span for span in spans]
    return replace(trace, client_ip="", helo="", tls="", spans=spans, recipients=list(parts))


def _alone(span: Span) -> Span:
    """Without the name of another message (``remembered``, pipeline/stages/spamassassin.py)."""
    other = span.evidence.get("remembered")
    if other is None:
        return span
    evidence = {key: value for key, value in span.evidence.items() if key != "remembered"}
    return replace(span, summary=span.summary.replace(f" from {other}", ""), evidence=evidence)


def events_of(parts: Sequence[RecipientTrace], events: Sequence[Span]) -> list[Span]:
    """The later events (tries to send, releases from the quarantine) of what these parts sent, or had held back."""
    places = [place for part in parts for place in part.places]
    own = [(found["address"], found["id"]) for place in places if (found := QUEUED.match(place))]
    held = tuple(f"{part.address}: " for part in parts)
    return [
        event
        for event in events
        if any(concerns(event, address, item) for address, item in own)
        or (event.stage == "quarantine" and event.summary.startswith(held))
    ]


def concerns(event: Span, address: str, item: str) -> bool:
    """Is this a try to send what was queued for ``address`` as ``item``? Old ones tell the address alone."""
    if told := event.evidence.get(ITEM):
        return told == item
    return event.summary.startswith((f"{address}: ", f"{address} at "))
