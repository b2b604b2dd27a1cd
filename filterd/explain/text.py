"""A trace as a person reads it: one sentence, a time line, what would have changed it, what to do next (UX 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline.trace import MessageTrace, RecipientTrace, Span

STAGE_WIDTH = 12
TEXT_WIDTH = 76


def duration(seconds: float) -> str:
    """``18 ms``, ``0.4 ms``, ``2.1 s``."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    ms = seconds * 1000
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def size(octets: int) -> str:
    """``41 KiB``."""
    if octets < 10 * 1024:
        return f"{octets} bytes"
    if octets < 10 * 1024 * 1024:
        return f"{octets // 1024} KiB"
    return f"{octets / 1024 / 1024:.0f} MiB"


def clock(at: float) -> str:
    """``Mon 12:04:09.112`` in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%a %H:%M:%S.") + f"{int(at * 1000) % 1000:03d}"


def line(span: Span) -> str:
    """One line of the time line."""
    result = f"{span.result:<9} " if span.result else ""
    text = f"{result}{span.summary}".rstrip()
    return (
        f"  {clock(span.at)}  {span.stage:<{STAGE_WIDTH}} {text:<{TEXT_WIDTH}} {duration(span.duration):>8}"
    )


def headline(trace: MessageTrace, recipient: RecipientTrace | None) -> str:
    """The answer to "why?" in one sentence."""
    if recipient is None:
        why = trace.reply or trace.outcome
        return f"{trace.outcome.capitalize() or 'Unknown'}: {why}"
    return recipient.decision or recipient.outcome.capitalize()


def client(trace: MessageTrace) -> str:
    """``198.51.100.7 (mx.shop.example), TLSv1.3, accepted 41 KiB``."""
    who = trace.client_ip or "local"
    if trace.helo:
        who += f" ({trace.helo})"
    if trace.auth:
        who += f", logged in as {trace.auth}"
    secure = f", {trace.tls.split(' ')[0]}" if trace.tls else ""
    return f"{who}{secure}, {trace.outcome} {size(trace.size)}"


def explain(
    trace: MessageTrace,
    events: Sequence[Span] = (),
    only: RecipientTrace | None = None,
    now_at: str = "",
    steps: bool = False,
) -> str:
    """The whole explanation. ``only``: the view of one recipient's owner. ``now_at``: where the message is today.
    ``steps``: every evaluated test of the script too."""
    recipients = [only] if only else trace.recipients
    out: list[str] = []
    first = headline(trace, recipients[0] if recipients else None)
    out.append(f"{first:<{TEXT_WIDTH + 8}} trace {trace.id}")
    about = " ".join(
        part
        for part in (
            f"From {trace.sender}" if trace.sender else "",
            f"“{trace.subject}”" if trace.subject else "",
        )
        if part
    )
    if about:
        out.append(f"  {about}")
    out.extend(line(span) for span in trace.spans)
    for at, recipient in enumerate(recipients):
        if not (recipient.address or recipient.outcome):  # of an account that was removed
            continue
        if len(recipients) > 1:
            out.append(f"  for {recipient.address}: {headline(trace, recipient) if at else 'see above'}")
        out.extend(line(span) for span in recipient.spans)
        if steps:
            out.extend(_steps(recipient))
    out.extend(line(span) for span in events)
    if now_at:
        out.append(f"Now: {now_at}")
    other = _otherwise(trace, recipients)
    if other:
        out.append(f"What would have changed it: {other}")
    return "".join(f"{_visible(text)}\n" for text in out)


def _visible(text: str) -> str:
    """One line for a terminal: what a stranger wrote cannot move its cursor or turn its text round."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _steps(recipient: RecipientTrace) -> list[str]:
    out = []
    for step in recipient.steps:
        outcome = "" if step.result is None else (" → yes" if step.result else " → no")
        key = f' against "{step.key}"' if step.key else ""
        value = f' "{step.value}"' if step.value else ""
        out.append(f"      {step.script}:{step.line:<4} {step.what}{value}{key}{outcome}")
    return out


def _otherwise(trace: MessageTrace, recipients: Sequence[RecipientTrace]) -> str:
    if trace.outcome in ("rejected", "deferred"):
        last = next(
            (span for span in reversed(trace.spans) if span.result in ("found", "fail", "reject", "error")),
            None,
        )
        return f"another result of the stage “{last.stage}”." if last else ""
    for recipient in recipients:
        decisive = next((step for step in reversed(recipient.steps) if step.result), None)
        if decisive is not None:
            return (
                f"a different answer of the test “{decisive.what}” in line {decisive.line} of “{decisive.script}”,"
                " or a rule above it."
            )
    return ""
