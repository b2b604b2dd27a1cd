"""reject, ereject: the message is refused.

Specification: RFC 5429. Complete: yes; how the refusal reaches the sender (SMTP reply, never backscatter) is
the host's matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.actions import Reject
from rules.errors import RunError
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run


def _reject(bound: Bound) -> CommandFn:
    reason = bound.text(0)
    ereject = bound.name == "ereject"

    def act(run: Run) -> None:
        text = run.expand(reason)
        if len(text) > run.limits.reason:
            raise RunError(f"{bound.name}: the reason is longer than {run.limits.reason} characters")
        run.seen = text
        run.result.add(Reject(text, ereject, run.place(bound)))
        run.result.cancel_keep()

    return act


_REASON = (Param("reason", Kind.STRING),)

EXTENSION = Extension(
    "reject",
    ("reject", "ereject"),
    dialect="RFC 5429",
    commands=(
        CommandSpec("reject", ("reject",), _REASON, link=_reject, keeps_message=True, effects=("reject",)),
        CommandSpec("ereject", ("ereject",), _REASON, link=_reject, keeps_message=True, effects=("reject",)),
    ),
)
