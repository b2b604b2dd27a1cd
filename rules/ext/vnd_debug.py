"""vnd.dovecot.debug: debug_log leaves a line for the script's owner.

Specification: spec-bosch-sieve-debug. Complete: yes. The lines are in ``RunResult.debug`` (at most
``limits.debug_lines``, each cut at 1,000 characters) and in the trace; nothing is written to a system log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run

_LINE = 1_000  # characters


def _log(bound: Bound) -> CommandFn:
    message = bound.text(0)

    def act(run: Run) -> None:
        text = run.expand(message)[:_LINE]
        run.seen = text
        if len(run.debug) < run.limits.debug_lines:
            run.debug.append(text)

    return act


_NEEDS = ("vnd.dovecot.debug",)

EXTENSION = Extension(
    "vnd_debug",
    _NEEDS,
    dialect="spec-bosch-sieve-debug",
    commands=(
        CommandSpec("debug_log", _NEEDS, (Param("message", Kind.STRING),), link=_log, keeps_message=True),
    ),
)
