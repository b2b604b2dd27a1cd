"""What the owner of an account sees of a message that went to several: filterd/explain/owner.py."""

from __future__ import annotations

from pathlib import Path

from filterd.explain import owner, partial
from filterd.explain.text import explain
from filterd.explain.traces import TraceReader, TraceWriter, forget_account
from filterd.store.base import Row
from pipeline.trace import MessageTrace, RecipientTrace, Span


def test_nothing_of_other_recipients() -> None:
    ann = RecipientTrace("ann@here.example", "ann@here.example", places=["queued for a@away.example (Q1)"])
    bob = RecipientTrace("bob@here.example", "bob@here.example", places=["queued for b@away.example (Q2)"])
    spans = [
        Span("spf", 1.0, 0.0, "pass", "ok"),
        Span("milters", 1.0, 0.0, "note", "eve@here.example taken out"),
    ]
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


def test_who_sends_to_the_same_address_sees_his_own_tries() -> None:
    ann, bob = (
        RecipientTrace(name, name, places=[f"queued for x@away.example ({item})"])
        for name, item in (("ann@here.example", "Q1"), ("bob@here.example", "Q2"))
    )
    events = [
        Span("send", 2.0, 0.1, "sent", "x@away.example at mx.away.example: 250", {owner.ITEM: item})
        for item in ("Q1", "Q2")
    ]
    assert owner.events_of([ann], events) == events[:1] and owner.events_of([bob], events) == events[1:]


def test_a_copy_for_somebody_else_is_not_named() -> None:
    told = "CCCCC-DDDDD, 35 s ago"
    span = Span(
        "spamassassin",
        1.0,
        0.0,
        "ham",
        f"0.5 of 5  (remembered from {told})",
        {"score": "0.5", "remembered": told},
    )
    ann = RecipientTrace("ann@here.example", "ann@here.example")
    (seen,) = owner.view(MessageTrace("AAAAA-BBBBB", 1.0, "mx", spans=[span]), [ann]).spans
    assert (seen.summary, seen.evidence) == ("0.5 of 5  (remembered)", {"score": "0.5"})


def test_a_stranger_writes_nothing_to_the_terminal_but_text() -> None:
    trace = MessageTrace(
        "AAAAA-BBBBB", 1.0, "mx", subject="\x1b[31mred\x07 \u202eabc", sender="\x1b]0;x\x07@y"
    )
    shown = explain(trace)
    assert all(char.isprintable() or char == "\n" for char in shown) and "red" in shown


def test_the_traces_of_an_account_go_with_it(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    writer = TraceWriter(path, 1e12)
    ann, bob = (RecipientTrace(f"{name}@here.example", f"{name}@here.example") for name in ("ann", "bob"))
    writer.put(MessageTrace("AAAAA-00001", 1.0, "mx", recipients=[ann]))
    writer.put(MessageTrace("AAAAA-00002", 1.0, "mx", recipients=[ann, bob]))
    writer.close()
    forget_account(path, "ann@here.example")
    reader = TraceReader(path)
    assert reader.get("AAAAA-00001") is None
    left = reader.get("AAAAA-00002.2")
    assert left is not None and [part.address for part in left.recipients] == ["", "bob@here.example"]
    assert "ann" not in explain(left)
    reader.close()


def test_a_message_whose_trace_was_lost_still_tells_its_decision() -> None:
    row = Row(7, 0, 1, 100, 1_700_000_000, 0, 50, trace="AAAAA-00001.2", decision="Junk because of line 3.")
    found = partial.of_row(row, "bob@here.example", "Junk")
    assert found is not None
    trace, part = found
    assert trace.recipients[1] is part
    shown = explain(trace)
    assert "Junk because of line 3." in shown and "partial" in shown and "AAAAA-00001" in shown
    assert partial.of_row(Row(7, 0, 1, 100, 0, 0, 50), "bob@here.example", "Junk") is None


def test_where_a_colleague_sat_is_not_told() -> None:
    trace = MessageTrace(
        "AAAAA-00001", 1.0, "submission", client_ip="192.0.2.9", helo="laptop", auth="ann@here.example"
    )
    trace.spans = [
        Span("submission", 1.0, 0.0, "", "192.0.2.9 (laptop), logged in as ann@here.example, 9 octets")
    ]
    bob = RecipientTrace("bob@here.example", "bob@here.example")
    shown = explain(owner.view(trace, [bob])) + repr(owner.view(trace, [bob]))
    assert "192.0.2.9" not in shown and "laptop" not in shown and "logged in as ann@here.example" in shown
    own = owner.view(trace, [RecipientTrace("ann@here.example", "ann@here.example")])
    assert own.client_ip == "192.0.2.9"
