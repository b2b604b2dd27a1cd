"""The errors of the pipeline.

PipelineError
└── StageFault      a stage could not judge: scanner down, odd answer, time limit (carries kind and reason)
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of the pipeline's own errors."""


class StageFault(PipelineError):
    """A stage could not come to a verdict. ``kind`` is one of: timeout, unavailable, protocol, resource.

    ``reason`` is for the operator and the trace; strangers get a generic text.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason
