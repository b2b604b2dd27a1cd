"""srs: the settings of the sender rewriting, which acts on what is sent on, after privacy.

The scheme itself is pipeline/srs.py; whether a message really leaves, and what happens when a sender cannot be rewritten,
is decided where it leaves (filterd/outgoing.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.registry import setting


@dataclass(frozen=True, slots=True)
class SrsSettings:
    enabled: str = setting(
        "auto", "auto: rewrite when a message of others is sent on.", choices=("auto", "on", "off")
    )
    domain: str = setting("", "The domain of rewritten addresses. Default: the first [[domain]].")
    secrets: tuple[str, ...] = setting((), "The first signs, all verify.", "secrets")
    valid: float = setting(21 * 86400.0, "How long a bounce finds its way back.", "duration")
