"""The trace of a message whose details a crash took: what its index row tells, marked ``partial`` (HOUSE item 22)."""

from __future__ import annotations

from filterd.store.base import Row
from pipeline.trace import MessageTrace, RecipientTrace, Span

MOST_RECIPIENTS = 1000


def of_row(row: Row, account: str, mailbox: str) -> tuple[MessageTrace, RecipientTrace] | None:
    """None when the row tells nothing: the message did not come by delivery."""
    name, _, number = row.trace.partition(".")
    if not name:
        return None
    at = float(row.date)
    part = RecipientTrace(
        account, account, outcome="stored", decision=row.decision, places=[f"{mailbox} uid {row.uid}"]
    )
    note = Span("trace", at, 0.0, "partial", "the details are lost or no longer kept; the decision is not")
    before = min(int(number), MOST_RECIPIENTS) - 1 if number.isdigit() else 0
    others = [RecipientTrace("", "") for _ in range(before)]
    trace = MessageTrace(
        name, at, "", size=row.size, outcome="accepted", spans=[note], recipients=[*others, part]
    )
    return trace, part
