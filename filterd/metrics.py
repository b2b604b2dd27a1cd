"""What the server has counted, for Prometheus: kept in shared memory, one page for each process, added up by whoever is asked.

Specification: OpenMetrics 1.0, and Prometheus' text format 0.0.4. Complete: counters, gauges and histograms without exemplars.

The pages are made before the workers are forked, beside the board (``filterd.board``): a process writes its own page alone and
nobody locks anything across processes. A page is a list of series, each a key and a number of 8 octets, so a reader sees the old
number or the new one. A process that takes the desk of one that ended goes on with its page: counters never go back while the
server runs. What does not fit on a page any more is not counted (SERIES_OCTETS). All labels but those of rule hits have few values,
from our own words and the configuration; rule hits, of which every user may make as many as he likes, leave a quarter of a page
to the others.

What the traces tell is counted by the thread that writes them (``explain.traces``), not on the way of a message.
"""

from __future__ import annotations

import math
import mmap
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pipeline.trace import MessageTrace, Span

PAGE: Final = 1 << 17  # octets of a process
SERIES_OCTETS: Final = PAGE - 64
RULE_HITS: Final = "filterd_sieve_rule_hits"
RULE_HITS_OCTETS: Final = PAGE * 3 // 4
LABEL_LENGTH: Final = 120  # octets of a label's value; the rest is cut
BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"

_USED = struct.Struct("<I")
_KEY = struct.Struct("<I")
_NUMBER = struct.Struct("<d")
_FIRST = 8
_CUT = "\x1f"
Labels = tuple[str, ...]
Series = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class Metric:
    """``kind``: counter, gauge or histogram; ``labels``: names, in the order in which values are given."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


# The names that are counted in the pages. A counter is written NAME_total.
COUNTED: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "filterd_sessions": Metric("counter", "Connections taken or refused, by listener.", ("listener", "result")),
        "filterd_smtp_sessions": Metric("counter", "Connections by SMTP and LMTP, taken or refused.", ("result",)),
        "filterd_auth_failures": Metric("counter", "Failed log-ins, by protocol.", ("service",)),
        "filterd_messages": Metric("counter", "Messages by door and what was answered.", ("direction", "verdict")),
        "filterd_recipients": Metric("counter", "Recipients, by what became of the message for them.", ("outcome",)),
        "filterd_received_bytes": Metric("counter", "Octets of messages that came, by door.", ("direction",)),
        "filterd_stage_duration_seconds": Metric("histogram", "How long a stage took, by its result.", ("stage", "verdict")),
        "filterd_stage_errors": Metric("counter", "Stages that could not do their work, by kind.", ("stage", "kind")),
        "filterd_stage_remembered": Metric("counter", "Verdicts that were known from a copy of the mail.", ("stage",)),
        "filterd_delivery_attempts": Metric("counter", "Tries of the queue to deliver, by result.", ("result",)),
        RULE_HITS: Metric(
            "counter", "Tests of scripts that were true (metrics.rule_hits).", ("script", "line")
        ),
    }
)  # fmt: skip


class Meter:
    """A process's own page. Any thread may count."""

    def __init__(self, memory: mmap.mmap, at: int = 0) -> None:
        self._memory, self._at = memory, at
        self._lock = threading.Lock()
        self._places = {series: place for series, place, _ in _read(memory, at)}
        self.rule_hits = False  # may be many series: by configuration only

    def add(self, name: str, labels: Labels = (), amount: float = 1.0) -> None:
        """``name`` is one of COUNTED, with the ending of a histogram's part."""
        series = (name, tuple([_label(one) for one in labels]))
        with self._lock:
            place = self._places.get(series)
            if place is None:
                place = self._new(series)
                if place is None:
                    return
            now = _NUMBER.unpack_from(self._memory, place)[0]
            _NUMBER.pack_into(self._memory, place, now + amount)

    def observe(self, name: str, labels: Labels, seconds: float) -> None:
        """One value of a histogram."""
        over = next((f"{limit:g}" for limit in BUCKETS if seconds <= limit), "+Inf")
        self.add(f"{name}_bucket", (*labels, over))
        self.add(f"{name}_sum", labels, seconds)

    def _new(self, series: Series) -> int | None:
        key = _CUT.join((series[0], *series[1])).encode("utf-8", "replace")
        used = _USED.unpack_from(self._memory, self._at)[0] or _FIRST
        room = -(-(_KEY.size + len(key)) // 8) * 8 + _NUMBER.size
        if used + room > (RULE_HITS_OCTETS if series[0] == RULE_HITS else SERIES_OCTETS):
            return None
        at = self._at + used
        place = at + room - _NUMBER.size
        _KEY.pack_into(self._memory, at, len(key))
        self._memory[at + _KEY.size : at + _KEY.size + len(key)] = key
        _NUMBER.pack_into(self._memory, place, 0.0)
        _USED.pack_into(self._memory, self._at, used + room)  # last: a reader never meets half an entry
        self._places[series] = place
        return place


def meter_alone() -> Meter:
    """For a process without neighbours."""
    return Meter(mmap.mmap(-1, PAGE))


def totals(memory: mmap.mmap, pages: int) -> dict[Series, float]:
    """The sums over the first ``pages`` pages."""
    out: dict[Series, float] = {}
    for number in range(pages):
        for series, _, value in _read(memory, number * PAGE):
            out[series] = out.get(series, 0.0) + value
    return out


def _read(memory: mmap.mmap, at: int) -> Iterator[tuple[Series, int, float]]:
    end = at + _USED.unpack_from(memory, at)[0]
    place = at + _FIRST
    while place < end:
        length = _KEY.unpack_from(memory, place)[0]
        name, *labels = bytes(memory[place + _KEY.size : place + _KEY.size + length]).decode().split(_CUT)
        number = place + -(-(_KEY.size + length) // 8) * 8
        yield (name, tuple(labels)), number, _NUMBER.unpack_from(memory, number)[0]
        place = number + _NUMBER.size


def _label(value: str) -> str:
    if len(value) <= LABEL_LENGTH and value.isprintable():
        return value
    return "".join(ch if ch.isprintable() else "?" for ch in value[:LABEL_LENGTH])


# -- what traces tell ------------------------------------------------------------------------------------------------------------


def count_trace(meter: Meter, trace: MessageTrace) -> None:
    """A message that was answered."""
    direction = trace.profile
    meter.add("filterd_messages", (direction, trace.outcome or "unknown"))
    if trace.size:
        meter.add("filterd_received_bytes", (direction,), trace.size)
    for span in trace.spans:
        _count_span(meter, span)
    for recipient in trace.recipients:
        meter.add("filterd_recipients", (recipient.outcome or trace.outcome or "unknown",))
        for span in recipient.spans:
            _count_span(meter, span)
        if meter.rule_hits:
            for step in recipient.steps:
                if step.result:
                    meter.add(RULE_HITS, (step.script, str(step.line)))


def count_event(meter: Meter, span: Span) -> None:
    """What happened to a message later."""
    if span.stage == "send":
        meter.add("filterd_delivery_attempts", (span.result,))


def _count_span(meter: Meter, span: Span) -> None:
    if not span.duration and span.result in ("", "note"):
        return  # a remark
    fault = span.evidence.get("fault", "") if span.evidence else ""
    # a script's result is its name and line: too many, and told by rule_hits
    result = "" if span.stage in RESULT_IS_A_PLACE else span.result
    meter.observe("filterd_stage_duration_seconds", (span.stage, result), max(0.0, span.duration))
    if span.evidence and "remembered" in span.evidence:
        meter.add("filterd_stage_remembered", (span.stage,))
    if fault or span.result in FAULTS:
        meter.add("filterd_stage_errors", (span.stage, fault or span.result))


FAULTS: Final = frozenset({"error", "timeout"})
RESULT_IS_A_PLACE: Final = frozenset({"sieve", "store", "forward", "send"})


# -- the text ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its samples: (ending of the name, label values with names, value)."""

    name: str
    metric: Metric
    samples: Sequence[tuple[str, Sequence[tuple[str, str]], float]]


def gauge(name: str, about: str, samples: Iterable[tuple[Sequence[tuple[str, str]], float]]) -> Family:
    return Family(name, Metric("gauge", about), [("", labels, value) for labels, value in samples])


def families(counted: Mapping[Series, float]) -> list[Family]:
    """What the pages say, in the order of COUNTED. A counter without labels is there from the beginning."""
    out = []
    for name, metric in COUNTED.items():
        if metric.kind == "histogram":
            samples = _histogram(name, metric, counted)
        else:
            samples = [
                ("_total", list(zip(metric.labels, labels, strict=True)), value)
                for (one, labels), value in sorted(counted.items())
                if one == name
            ]
        if samples:
            out.append(Family(name, metric, samples))
    return out


def _histogram(
    name: str, metric: Metric, counted: Mapping[Series, float]
) -> list[tuple[str, Sequence[tuple[str, str]], float]]:
    limits = [*(f"{limit:g}" for limit in BUCKETS), "+Inf"]
    samples: list[tuple[str, Sequence[tuple[str, str]], float]] = []
    for (one, labels), total in sorted(counted.items()):
        if one != f"{name}_sum":
            continue
        named = list(zip(metric.labels, labels, strict=True))
        below = 0.0
        for limit in limits:
            below += counted.get((f"{name}_bucket", (*labels, limit)), 0.0)
            samples.append(("_bucket", [*named, ("le", limit)], below))
        samples += [("_count", named, below), ("_sum", named, total)]
    return samples


def text(every: Iterable[Family], openmetrics: bool) -> bytes:
    """As OpenMetrics, or in the older format."""
    lines = []
    for family in every:
        metric = family.metric
        shown = family.name if openmetrics or metric.kind != "counter" else f"{family.name}_total"
        lines.append(f"# HELP {shown} {metric.help}")
        lines.append(f"# TYPE {shown} {metric.kind}")
        for ending, labels, value in family.samples:
            inner = ",".join(f'{label}="{_escaped(one)}"' for label, one in labels)
            lines.append(f"{family.name}{ending}{f'{{{inner}}}' if inner else ''} {_number(value)}")
    if openmetrics:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)
