"""srs: the reverse-path of what is sent on, in the configured order after privacy (it acts on what leaves).

The scheme itself is pipeline/srs.py. Here: which reverse-path a ``Send`` of a plan leaves with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.plan import Send
from pipeline.registry import setting
from pipeline.srs import Rewritten, Srs, Unusable


@dataclass(frozen=True, slots=True)
class SrsSettings:
    enabled: str = setting(
        "auto", "auto: rewrite when a message of others is sent on.", choices=("auto", "on", "off")
    )
    domain: str = setting("", "The domain of rewritten addresses. Default: the first [[domain]].")
    secrets: tuple[str, ...] = setting((), "The first signs, all verify.", "secrets")
    valid: float = setting(21 * 86400.0, "How long a bounce finds its way back.", "duration")


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The step with the reverse-path it leaves with, and one line for the trace."""

    send: Send
    summary: str


def rewrite(send: Send, srs: Srs, fallback: str) -> Rewriting:
    """``fallback``: the forwarding account's own address, taken when the sender's cannot be rewritten.

    A bounce then reaches the person whose rule sent the message on; it cannot go round, since a bounce has the null path
    and that stays null.
    """
    result = srs.forward(send.reverse_path)
    match result:
        case Rewritten():
            return Rewriting(
                replace(send, reverse_path=result.address), f"reverse-path is now {result.address}"
            )
        case Unusable():
            return Rewriting(
                replace(send, reverse_path=fallback),
                f"not rewritten ({result.why}): bounces go to {fallback}",
            )
        case _:
            why = "null reverse-path" if not result.address else "a domain of ours"
            return Rewriting(send, f"unchanged: {why}")
