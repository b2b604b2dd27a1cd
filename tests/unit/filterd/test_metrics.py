"""Counting in shared memory, and the two texts that Prometheus reads (its own parsers are the judge)."""

from __future__ import annotations

import json
import mmap
import re
import threading
from pathlib import Path

import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from filterd import metrics
from filterd.board import Board
from filterd.metrics import PAGE, Meter, count_event, count_trace, families, gauge, text, totals
from pipeline.trace import MessageTrace, RecipientTrace, Span
from rules.actions import TraceStep
from tests.house import TestClock

ROOT = Path(__file__).resolve().parents[3]
NASTY = 'a "b"\\c\n\x1f\x00'


def samples(every, older=False):
    parse, name = (plain, "plain") if older else (openmetrics, "openmetrics")
    found = list(parse(text(every, openmetrics=name == "openmetrics").decode()))
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value for family in found for one in family.samples
    }


def test_pages_of_several_processes_add_up_and_outlive_them() -> None:
    memory = mmap.mmap(-1, 3 * PAGE)
    first, second = Meter(memory, 0), Meter(memory, PAGE)
    for meter in (first, second, second):
        meter.add("filterd_messages", ("mx", "accepted"))
    second.add("filterd_messages", ("mx", NASTY), 2)
    again = Meter(memory, PAGE)  # whoever takes the desk of one that ended
    again.add("filterd_messages", ("mx", "accepted"))
    found = totals(memory, 3)
    assert found["filterd_messages", ("mx", "accepted")] == 4
    assert sum(found.values()) == 6
    for older in (False, True):
        read = samples(families(found), older)
        assert read["filterd_messages_total", (("direction", "mx"), ("verdict", "accepted"))] == 4


def test_threads_lose_no_count() -> None:
    meter = metrics.meter_alone()
    threads = [
        threading.Thread(target=lambda: [meter.add("filterd_recipients", ("stored",)) for _ in range(2000)])
        for _ in range(6)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert totals(meter._memory, 1)["filterd_recipients", ("stored",)] == 12_000


def test_a_full_page_takes_no_more_series_and_goes_on_counting() -> None:
    meter = metrics.meter_alone()
    for number in range(5000):
        meter.add("filterd_sieve_rule_hits", (f"script {number} {'x' * 200}", "1"))
        meter.add("filterd_recipients", ("stored",))
    found = totals(meter._memory, 1)
    assert found["filterd_recipients", ("stored",)] == 5000 and 500 < len(found) < 5000


def test_the_rules_of_users_leave_room_for_what_an_operator_looks_at() -> None:
    meter = metrics.meter_alone()
    for number in range(5000):
        meter.add("filterd_sieve_rule_hits", (f"script {number}", "1"))
    meter.observe("filterd_stage_duration_seconds", ("spf", "pass"), 0.1)
    meter.add("filterd_messages", ("mx", "accepted"))
    found = totals(meter._memory, 1)
    assert found["filterd_messages", ("mx", "accepted")] == 1
    assert found["filterd_stage_duration_seconds_sum", ("spf", "pass")] == 0.1
    assert sum(name == "filterd_sieve_rule_hits" for name, _ in found) > 500


def trace(**more: object) -> MessageTrace:
    steps = [TraceStep("main", 3, "header", result=True), TraceStep("main", 4, "header", result=False)]
    spans = [
        Span("mx", 0.0, 0.0, "", "a remark"),
        Span("spf", 0.0, 0.004, "pass", ""),
        Span("clamav", 0.0, 9.0, "timeout", "", {"fault": "timeout"}),
        Span("spamassassin", 0.0, 0.0, "ham", "", {"remembered": "7K3QM-2XNPB, 35 s ago"}),
    ]
    ann = RecipientTrace(
        "ann@x", "ann@x", steps=steps, outcome="stored", spans=[Span("store", 0.0, 0.002, "", "")]
    )
    return MessageTrace(
        "7K3QM-2XNPA", 0.0, "mx", size=900, outcome="accepted", spans=spans, recipients=[ann], **more
    )


def test_what_a_trace_tells() -> None:
    meter = metrics.meter_alone()
    count_trace(meter, trace())
    meter.rule_hits = True
    count_trace(meter, trace())
    count_event(meter, Span("send", 0.0, 0.1, "sent", ""))
    count_event(meter, Span("quarantine", 0.0, 0.1, "held", ""))
    read = samples(families(totals(meter._memory, 1)))

    def value(name: str, **labels: str) -> float:
        return read[name, tuple(sorted(labels.items()))]

    assert value("filterd_messages_total", direction="mx", verdict="accepted") == 2
    assert value("filterd_received_bytes_total", direction="mx") == 1800
    assert value("filterd_recipients_total", outcome="stored") == 2
    stage = {"stage": "spf", "verdict": "pass"}
    assert value("filterd_stage_duration_seconds_bucket", le="0.001", **stage) == 0
    assert value("filterd_stage_duration_seconds_bucket", le="0.005", **stage) == 2
    assert value("filterd_stage_duration_seconds_bucket", le="+Inf", **stage) == 2
    assert value("filterd_stage_duration_seconds_count", **stage) == 2
    assert value("filterd_stage_duration_seconds_sum", **stage) == 0.008
    assert value("filterd_stage_errors_total", stage="clamav", kind="timeout") == 2
    assert value("filterd_stage_remembered_total", stage="spamassassin") == 2
    assert value("filterd_sieve_rule_hits_total", script="main", line="3") == 1
    assert ("filterd_sieve_rule_hits_total", (("line", "4"), ("script", "main"))) not in read
    assert value("filterd_delivery_attempts_total", result="sent") == 1
    assert not any(labels.get("stage") == "mx" for _, labels in [(name, dict(pairs)) for name, pairs in read])


def test_both_texts_are_what_their_parsers_read() -> None:
    every = [gauge("filterd_up", 'How "it" is', [([("name", NASTY)], 1.5), ([("name", "x")], 0.0)])]
    for older in (False, True):
        assert samples(every, older)["filterd_up", (("name", NASTY),)] == 1.5
    assert text(every, openmetrics=True).endswith(b"# EOF\n") and b"EOF" not in text(every, openmetrics=False)


def test_desks_count_together(tmp_path) -> None:
    board = Board(4)
    one, two = board.take(TestClock(), tmp_path), board.take(TestClock(), tmp_path)
    one.meter.add("filterd_recipients", ("stored",))
    two.meter.add("filterd_recipients", ("stored",))
    two.leave()
    assert one.counted() == {("filterd_recipients", ("stored",)): 2.0}


def test_what_the_examples_and_the_manual_name_exists() -> None:
    """And the manual names everything."""
    shown = set(re.findall(r'"(filterd_[a-z_]+)"', (ROOT / "filterd/web/health.py").read_text()))
    known = {f"{name}_total" if one.kind == "counter" else name for name, one in metrics.COUNTED.items()}
    known |= {name if name != "filterd_build" else "filterd_build_info" for name in shown}
    named = {
        path: set(re.findall(r"filterd_[a-z_]+", (ROOT / path).read_text()))
        for path in (
            "filterd/docs/metrics.md",
            "examples/metrics/alerts.yml",
            "examples/metrics/grafana.json",
        )
    }
    for names in named.values():
        assert {name.removesuffix("_bucket") for name in names} <= known
    assert named["filterd/docs/metrics.md"] == known
    rules = yaml.safe_load((ROOT / "examples/metrics/alerts.yml").read_text())["groups"][0]["rules"]
    assert all(one["expr"] and one["annotations"]["summary"] for one in rules)
    assert json.loads((ROOT / "examples/metrics/grafana.json").read_text())["panels"]
