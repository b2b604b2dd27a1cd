"""vnd.dovecot.pipe: hand the message to a program of the administrator's.

Specification: spec-bosch-sieve-extprograms section 5. Complete: yes. Off by default: a host that has a service for
programs asks for it by name. The program runs when the actions are carried out; when it fails, the message is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules import programs
from rules.actions import Pipe
from rules.errors import RunError
from rules.registry import CommandFn, CommandSpec, Extension, TagSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run

_NEEDS = ("vnd.dovecot.pipe",)


def _pipe(bound: Bound) -> CommandFn:
    copy, attempt = bound.has("copy"), bound.has("try")

    def act(run: Run) -> None:
        name, arguments = programs.call(run, bound)
        if any(isinstance(one, Pipe) and one.program == name for one in run.result.actions):
            raise RunError(f"pipe: the message went to {name} already")  # section 5.1
        run.result.add(Pipe(name, arguments, attempt, copy, run.place(bound), run.view.rendered()))
        if not copy:
            run.result.cancel_keep()

    return act


EXTENSION = Extension(
    "vnd_pipe",
    _NEEDS,
    dialect="spec-bosch-sieve-extprograms",
    default=False,
    commands=(
        CommandSpec(
            "pipe", _NEEDS, programs.PARAMS, check=programs.check, link=_pipe, keeps_message=True, writes=()
        ),
    ),
    tags=(TagSpec("copy", ("pipe",), ("copy",)), TagSpec("try", ("pipe",))),
)
