"""The message stages of one message, and once more when a filter gave it a new body (HOUSE item 7).

A new body makes another *generation*: the header as it came, the new body behind it. What looks at the content (the
scanners) runs again, once; who sent it was settled by the first generation and stays. The edits that filters made to the
header count the fields as they came, so they fit both generations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.runner import Runner, RunOutcome
from pipeline.stage import Phase
from pipeline.trace import Span
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition
from rules.mail.message import Message

CONTENT = frozenset({"clamav", "spamassassin"})  # stages that judge what stands in the message


@dataclass(frozen=True, slots=True)
class Judged:
    """``work`` holds the message of the last generation; ``spans`` those of both."""

    outcome: RunOutcome
    work: Transaction
    spans: tuple[Span, ...]


async def run_stages(runner: Runner, work: Transaction) -> Judged:
    """Never raises but for the caller's own cancellation."""
    outcome = await runner.run(Phase.EOM, work)
    body = outcome.verdict.body
    if body is None or outcome.verdict.disposition >= Disposition.DISCARD:
        return Judged(outcome, work, outcome.spans)
    message = work.message
    head = message.data[: message.header.body_start]
    if not head.endswith(b"\r\n\r\n") and head != b"\r\n":
        head = head.removesuffix(b"\r\n") + b"\r\n\r\n"  # it had no body at all
    work = replace(work, message=Message(head + body))
    again = [name for name in work.verdicts if name in CONTENT]
    if not again:
        return Judged(outcome, work, outcome.spans)
    kept = frozenset(work.verdicts) - CONTENT
    second = await runner.run(Phase.EOM, work, reuse=kept)
    spans = [
        replace(span, summary=f"{span.summary} (the new body)")
        for span in second.spans
        if span.stage in again
    ]
    return Judged(second, work, (*outcome.spans, *spans))
