"""Runs compiled scripts.

Specification: RFC 5228 2.10 (actions, errors: implicit keep of the original), RFC 5429, 2.10.5. A chain of
scripts (before, user, after) hands its keep on: while a script ends with the message kept, implicitly or
explicitly, the next one starts with that keep as its implicit keep; a script that cancelled it ends the
chain. Invariants: ``run`` never raises; every test that is evaluated and every action leave a trace step;
every step counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from rules.actions import Action, Keep, Place, RunResult, TraceStep
from rules.compiler import CompiledScript
from rules.context import LEAVE, STOP, Run
from rules.errors import BudgetError, RunError
from rules.execute import execute
from rules.host import Host, ScriptEnvelope
from rules.limits import DEFAULT, TRACE_VALUE, Limits
from rules.mail.message import Message
from rules.variables import Variables


def run(
    scripts: Sequence[CompiledScript],
    message: Message,
    envelope: ScriptEnvelope,
    host: Host,
    *,
    trace: bool = True,
    limits: Limits = DEFAULT,
    merge: bool = True,
    flags: tuple[str, ...] = (),
) -> RunResult:
    """Runs a chain of scripts over one message. Never raises: a failure keeps the original and says why.

    ``merge=False`` walks every rule instead of dispatching runs of rules: slower, with each false test in the trace.
    ``flags`` are the script's flags at its start (RFC 6785).
    """
    state = Run(message, envelope, host, limits, trace=trace, merge=merge)
    state.flags = flags
    outcome = RunResult(trace=state.trace if state.trace is not None else [], debug=state.debug)
    try:
        last = len(scripts) - 1
        for index, script in enumerate(scripts):
            start_script(state, script)
            outcome.stopped = execute(state, script) == STOP
            if not state.result.keeps():
                break
            if index < last:
                state.result.hand_on()
        outcome.actions = finish(state)
    except RunError as error:
        _fail(outcome, state, str(error))
        if isinstance(error, BudgetError):
            outcome.error_place = None
    except Exception as error:  # a bug of ours must not cost the message; it is told, not hidden
        _fail(outcome, state, f"internal error: {type(error).__name__}: {error}")
    return outcome


def finish(state: Run) -> list[Action]:
    """The final actions, with the implicit keep when it stands."""
    return state.result.finish(state.flags, state.view.stored())


def _fail(outcome: RunResult, state: Run, text: str) -> None:
    """RFC 5228 2.10.6: on an error the original message is kept."""
    script = state.script.name if state.script is not None else "main"
    step = state.step
    bound = step.bound if step is not None else None
    line = step.line if step is not None else 0
    outcome.error = text
    outcome.error_place = Place(script, line, bound.column if bound is not None else 1)
    outcome.actions = [Keep(implicit=True)]
    outcome.trace.append(
        TraceStep(script, line, "error", text[:TRACE_VALUE], step.what if step is not None else "")
    )


def start_script(state: Run, script: CompiledScript) -> None:
    """Fresh variables for a script that is not included by another."""
    state.globals = {}
    state.loops.clear()
    state.variables = Variables(state.limits, state.globals)
    state.script = script
    state.captures = script.captures


__all__ = ["LEAVE", "STOP", "execute", "finish", "run", "start_script"]
