"""The trace store and its text: filterd/explain."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from filterd.explain import text
from filterd.explain.codec import MAX_STEPS, cut, dump, load
from filterd.explain.traces import TraceReader, TraceWriter
from pipeline.trace import MessageTrace, RecipientTrace, Span, trace_id
from rules.actions import TraceStep


def sample(name: str = "7K3QM-2XNPA", **changes: object) -> MessageTrace:
    ann, bob = "ann@here.example", "bob@here.example"
    trace = MessageTrace(
        id=name,
        at=1_800_000_000.5,
        profile="mx",
        client_ip="192.0.2.1",
        helo="mx.away.example",
        tls="TLSv1.3 X",
        reverse_path="far@away.example",
        message_id="1@away.example",
        subject="Hi",
        sender="Far@Away.example",
        size=1234,
        outcome="accepted",
        reply="Ok",
    )
    evidence = {"ip": "192.0.2.1"}
    trace.spans.append(Span("spf", 1_800_000_000.5, 0.004, "pass", "away.example allows 192.0.2.1", evidence))
    first = RecipientTrace(ann, ann, "main", "abc", outcome="stored", places=["Junk uid 881"])
    first.decision = 'Junk because line 4 of your script "main" filed it there.'
    first.steps.append(TraceStep("main", 4, "header", "YES", "YES", True))
    first.spans.append(Span("sieve", 1_800_000_000.6, 0.002, "", "main:4 fileinto"))
    second = RecipientTrace(bob, bob, outcome="stored", decision="INBOX because no rule said otherwise.")
    trace.recipients.extend((first, second))
    for key, value in changes.items():
        setattr(trace, key, value)
    return trace


def test_round_trip() -> None:
    assert load(dump(sample())) == sample()


@given(st.text(max_size=400))
def test_cut_is_short_printable_and_keeps_short_text(value: str) -> None:
    out = cut(value)
    assert len(out.encode("utf-8", "replace")) <= 203
    assert all(c.isprintable() for c in out)
    if len(value) < 50 and value.isprintable():
        assert out == value


def test_a_script_of_many_rules_does_not_fill_the_disk() -> None:
    trace = sample()
    trace.recipients[0].steps = [TraceStep("main", at, "header") for at in range(10_000)]
    steps = load(dump(trace)).recipients[0].steps
    assert len(steps) == MAX_STEPS + 1 and steps[0].line == 0 and steps[-1].line == 9_999


def test_trace_ids_are_ten_characters() -> None:
    assert trace_id(0) == "00000-00000" and trace_id((1 << 50) - 1) == "ZZZZZ-ZZZZZ"


def write(path: Path, *traces: MessageTrace, keep: float = 1e9) -> TraceReader:
    writer = TraceWriter(path, keep)
    for trace in traces:
        writer.put(trace)
    writer.event("7K3QM-2XNPA", Span("send", 1_800_000_001.0, 0.1, "sent", "x@away.example"))
    writer.alias("KQ7", "7K3QM-2XNPA")
    writer.close()
    return TraceReader(path)


def test_a_trace_is_found_by_everything_that_names_it(tmp_path: Path) -> None:
    reader = write(
        tmp_path / "traces.db",
        sample(),
        sample("AAAAA-BBBBB", at=1_800_000_009.0, message_id="2@away.example"),
    )
    for name in ("7K3QM-2XNPA", "7k3qm2xnpa", "7K3QM-2XNPA.2"):
        found = reader.get(name)
        assert found is not None and found.id == "7K3QM-2XNPA"
    assert reader.get("nonsense") is None
    assert [t.id for t in reader.by_message_id("<1@away.example>")] == ["7K3QM-2XNPA"]
    last = reader.last_from("FAR@away")
    assert last is not None and last.id == "AAAAA-BBBBB"
    queued = reader.by_queue_id("KQ7")
    assert queued is not None and queued.id == "7K3QM-2XNPA"
    assert [t.id for t in reader.recent("bob@here.example")] == ["AAAAA-BBBBB", "7K3QM-2XNPA"]
    assert [event.stage for event in reader.events("7K3QM-2XNPA")] == ["send"]
    reader.close()


def test_octets_that_are_no_text_do_not_end_the_writer(tmp_path: Path) -> None:
    odd = sample("AAAAA-BBBBB", subject="a\udcffb", reverse_path="\udcff@x", message_id="\udcff")
    odd.recipients[0].address = "\udcff@here.example"
    reader = write(tmp_path / "traces.db", odd, sample())
    assert reader.get("7K3QM-2XNPA") is not None and reader.get("AAAAA-BBBBB") is not None


def test_old_traces_go(tmp_path: Path) -> None:
    reader = write(tmp_path / "traces.db", sample(at=1000.0), keep=60.0)
    assert reader.get("7K3QM-2XNPA") is None


def test_the_text_says_why_and_shows_an_owner_only_his_part() -> None:
    trace = sample()
    whole = text.explain(trace)
    assert whole.startswith('Junk because line 4 of your script "main" filed it there.')
    assert "spf" in whole and "bob@here.example" in whole
    own = text.explain(trace, only=trace.recipients[1], steps=True)
    assert own.startswith("INBOX because no rule") and "ann@here.example" not in own and "line 4" not in own


def test_numbers_for_people() -> None:
    assert [text.duration(s) for s in (0.0004, 0.018, 2.1)] == ["0.4 ms", "18 ms", "2.1 s"]
    assert [text.size(n) for n in (10, 42_000, 50 << 20)] == ["10 bytes", "41 KiB", "50 MiB"]
