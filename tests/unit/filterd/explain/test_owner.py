"""What the owner of an account sees of a message that went to several: filterd/explain/owner.py."""

from __future__ import annotations

from filterd.explain import owner
from pipeline.trace import MessageTrace, RecipientTrace, Span


def test_nothing_of_other_recipients() -> None:
    ann = RecipientTrace("ann@here.example", "ann@here.example", places=["queued for a@away.example (Q1)"])
    bob = RecipientTrace("bob@here.example", "bob@here.example", places=["queued for b@away.example (Q2)"])
    spans = [Span("spf", 1.0, 0.0, "pass", "ok"), Span("milters", 1.0, 0.0, "note", "eve@here.example taken out")]
    trace = MessageTrace("AAAAA-BBBBB", 1.0, "mx", spans=spans, recipients=[ann, bob])
    events = [
        Span("send", 2.0, 0.1, "sent", "a@away.example at mx.away.example: 250"),
        Span("send", 2.0, 0.1, "sent", "b@away.example at mx.away.example: 250"),
        Span("send", 2.0, 0.1, "waits", "a@away.example: 451"),
    ]
    seen = owner.view(trace, [ann])
    assert seen.recipients == [ann] and [span.stage for span in seen.spans] == ["spf"]
    assert owner.events_of([ann], events) == [events[0], events[2]]
    assert owner.events_of([RecipientTrace("c@here.example", "c@here.example")], events) == []
    assert len(trace.recipients) == 2  # the trace itself is as it was
