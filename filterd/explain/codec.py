"""Traces to and from the compact JSON that the trace database keeps.

Format (documented nowhere else): one object a message, keys short because a busy server writes thousands a minute:
``i`` id, ``t`` seconds, ``p`` profile, ``c`` [ip, helo, tls, auth], ``f`` reverse-path, ``m`` Message-ID, ``s`` subject,
``o`` From address, ``z`` size, ``x`` [outcome, reply], ``n`` spans, ``r`` recipients. A span is
[stage, at, duration, result, summary, evidence]; a recipient is
[address, account, script, digest, outcome, decision, places, spans, steps]; a step is
[script, line, what, value, key, result].
"""

from __future__ import annotations

import json
from typing import cast

from pipeline.trace import VALUE_LIMIT, MessageTrace, RecipientTrace, Span
from rules.actions import TraceStep

MAX_STEPS = 2000  # of one recipient kept in a trace: the first half and the last half of more


def plain(text: str) -> str:
    """Text that UTF-8 can say: octets a client should not have sent become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def cut(text: str) -> str:
    """At most VALUE_LIMIT octets of UTF-8, with a mark where something was cut; control characters made visible."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) * 4 <= VALUE_LIMIT:
        return text
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= VALUE_LIMIT else raw[:VALUE_LIMIT].decode("utf-8", "ignore") + "…"


def _spans(spans: list[Span]) -> list[object]:
    return [
        [
            s.stage,
            round(s.at, 4),
            round(s.duration, 6),
            s.result,
            cut(s.summary),
            {k: cut(v) for k, v in s.evidence.items()},
        ]
        for s in spans
    ]


def _steps(steps: list[TraceStep]) -> list[object]:
    if len(steps) > MAX_STEPS:
        half = MAX_STEPS // 2
        skipped = TraceStep(steps[half].script, 0, "…", f"{len(steps) - MAX_STEPS} steps left out")
        steps = [*steps[:half], skipped, *steps[-half:]]
    return [[s.script, s.line, s.what, cut(s.value), cut(s.key), s.result] for s in steps]


def dump(trace: MessageTrace) -> str:
    """The JSON text of a whole trace."""
    t = trace
    recipients = [
        [
            r.address,
            r.account,
            r.script,
            r.script_digest,
            r.outcome,
            r.decision,
            r.places,
            _spans(r.spans),
            _steps(r.steps),
        ]
        for r in t.recipients
    ]
    text = json.dumps(
        {
            "i": t.id,
            "t": round(t.at, 4),
            "p": t.profile,
            "c": [t.client_ip, t.helo, t.tls, t.auth],
            "f": t.reverse_path,
            "m": t.message_id,
            "s": t.subject,
            "o": t.sender,
            "z": t.size,
            "x": [t.outcome, t.reply],
            "n": _spans(t.spans),
            "r": recipients,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return plain(text)


def _load_spans(rows: list[list[object]]) -> list[Span]:
    return [
        Span(
            str(row[0]),
            cast(float, row[1]),
            cast(float, row[2]),
            str(row[3]),
            str(row[4]),
            dict(cast("dict[str, str]", row[5])),
        )
        for row in rows
    ]


def load(text: str) -> MessageTrace:
    """The inverse of ``dump``."""
    d = json.loads(text)
    trace = MessageTrace(
        id=d["i"],
        at=d["t"],
        profile=d["p"],
        client_ip=d["c"][0],
        helo=d["c"][1],
        tls=d["c"][2],
        auth=d["c"][3],
        reverse_path=d["f"],
        message_id=d["m"],
        subject=d["s"],
        sender=d["o"],
        size=d["z"],
        outcome=d["x"][0],
        reply=d["x"][1],
        spans=_load_spans(d["n"]),
    )
    for address, account, script, digest, outcome, decision, places, spans, steps in d["r"]:
        trace.recipients.append(
            RecipientTrace(
                address=address,
                account=account,
                script=script,
                script_digest=digest,
                outcome=outcome,
                decision=decision,
                places=list(places),
                spans=_load_spans(spans),
                steps=[TraceStep(*step) for step in steps],
            )
        )
    return trace
