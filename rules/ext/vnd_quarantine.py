"""vnd.filterd.quarantine: hold the message until somebody has looked at it.

Specification: our own. ``quarantine "reason";`` cancels the implicit keep, as discard does; of several the first counts. Off
by default: the administrator's scripts over the mail of another server (filterd/milter_profile.py) ask for it by name. Complete:
yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.actions import Quarantine
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run

REASON = 200  # characters: it is told in one line


def _quarantine(bound: Bound) -> CommandFn:
    reason = bound.text(0)

    def act(run: Run) -> None:
        text = " ".join(run.expand(reason).split())[:REASON]
        run.seen = text
        run.result.cancel_keep()
        if not any(isinstance(one, Quarantine) for one in run.result.actions):
            run.result.add(Quarantine(text, run.place(bound)))

    return act


_NEEDS = ("vnd.filterd.quarantine",)

EXTENSION = Extension(
    "vnd_quarantine",
    _NEEDS,
    dialect="filterd",
    commands=(
        CommandSpec(
            "quarantine",
            _NEEDS,
            (Param("reason", Kind.STRING),),
            link=_quarantine,
            keeps_message=True,
            writes=(),
        ),
    ),
    default=False,
)
