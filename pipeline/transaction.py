"""What a stage may look at: the message, the envelope, the verdicts so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.envelope import Envelope
from pipeline.verdict import Verdict
from rules.mail.message import Message


@dataclass(slots=True)
class Transaction:
    """One message on its way through the stages.

    ``message`` is the immutable received text (CRLF), without anything we add. ``verdicts`` holds, by stage name, the
    finished stages; the runner alone writes it. ``deadline`` is a Clock.monotonic() value.
    """

    message: Message
    envelope: Envelope
    trace_id: str
    deadline: float
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    state: dict[str, object] = field(default_factory=dict)  # per-transaction state of stages, by stage name

    def tags(self) -> Mapping[str, str]:
        """All tags of the finished stages."""
        out: dict[str, str] = {}
        for verdict in self.verdicts.values():
            for key, value in verdict.tags.items():
                out.setdefault(key, value)
        return out
