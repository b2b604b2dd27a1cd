"""Runs compiled scripts.

Specification: RFC 5228 2.10 (actions, errors: implicit keep of the original), RFC 5429, 2.10.5. A chain of scripts (before, user,
after) hands its keep on: while a script ends with the message kept, implicitly or explicitly, the next one starts with that
keep as its implicit keep; a script that cancelled it ends the chain. Invariants: ``run`` never raises; every test that is
evaluated and every action leave a trace step; every step counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rules.actions import Action, Keep, Place, RunResult, TraceStep
from rules.compiler import CompiledScript, Op, Step
from rules.context import LEAVE, STOP, Run
from rules.errors import RunError
from rules.host import Host, ScriptEnvelope
from rules.limits import DEFAULT, TRACE_VALUE, Limits
from rules.mail.message import Message
from rules.registry import CommandSpec, TestSpec
from rules.variables import Variables

if TYPE_CHECKING:
    from rules.registry import CommandFn, TestFn

_CHECK_EVERY = 256  # steps between looks at the CPU budget


def run(
    scripts: Sequence[CompiledScript],
    message: Message,
    envelope: ScriptEnvelope,
    host: Host,
    *,
    trace: bool = True,
    limits: Limits = DEFAULT,
    merge: bool = True,
) -> RunResult:
    """Runs a chain of scripts over one message. Never raises: a failure keeps the original and says why.

    ``merge=False`` walks every rule instead of dispatching runs of rules: slower, with each false test in the trace.
    """
    state = Run(message, envelope, host, limits, trace=trace, merge=merge)
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
    except Exception as error:  # a bug of ours must not cost the message; it is told, not hidden
        _fail(outcome, state, f"internal error: {type(error).__name__}: {error}")
    return outcome


def finish(state: Run) -> list[Action]:
    """The final actions, with the implicit keep when it stands."""
    return state.result.finish(state.flags, state.view.rendered())


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
    state.variables = Variables(state.limits, state.globals)
    state.script = script
    state.captures = script.captures


def execute(state: Run, script: CompiledScript) -> int:
    """Runs one script in the given state; returns STOP or LEAVE. Raises RunError.

    ``include`` calls this again for the script inside, with its own variables set up by the caller.
    """
    code = script.code
    name = script.name
    trace = state.trace
    pc = 0
    while pc >= 0:
        step = code[pc]
        state.steps -= 1
        if state.steps % _CHECK_EVERY == 0:
            _check_limits(state)
        op = step.op
        if op == 0:  # TEST; the enum's attribute look-up would cost as much as the test
            state.step = step
            test = step.test or _link_test(step)
            result = test(state)
            if trace is not None and len(trace) < state.limits.trace_steps:
                trace.append(
                    TraceStep(
                        name, step.line, step.what, state.seen[:TRACE_VALUE], state.key[:TRACE_VALUE], result
                    )
                )
            pc = step.yes if result else step.no
        elif op == 3:  # HOP
            pc = _hop(state, step, pc)
        elif op == 2:  # JUMP
            pc = step.yes
        elif op == 1:  # ACTION
            state.step = step
            state.seen = state.key = ""
            act = step.act or _link_action(step)
            target = act(state)
            if trace is not None and len(trace) < state.limits.trace_steps:
                trace.append(
                    TraceStep(name, step.line, step.what, state.seen[:TRACE_VALUE], state.key[:TRACE_VALUE])
                )
            pc = pc + 1 if target is None else target
        else:  # CALL
            state.step = step
            assert step.test is not None
            pc = step.yes if step.test(state) else step.no
    return pc


def _check_limits(state: Run) -> None:
    if state.steps <= 0:
        raise RunError(f"the script ran more than {state.limits.steps} steps")
    state.check_time()


def _hop(state: Run, step: Step, pc: int) -> int:
    """The start of a merged run, or of one of its rules."""
    region = step.region
    if not state.merge or region is None:
        return pc + 1
    if step.no >= 0:
        return region.next(state.regions[id(region)], step.no)
    state.step = step
    candidates = region.candidates(state)
    state.regions[id(region)] = candidates
    if state.trace is not None and len(candidates) < len(region.places) and state.script is not None:
        text = f"{len(region.places) - len(candidates)} of {len(region.places)} rules are false by look-up"
        state.trace.append(TraceStep(state.script.name, step.line, "rules", text, "", False))
    return region.next(candidates, 0)


def _link_test(step: Step) -> TestFn:
    bound = step.bound
    assert bound is not None and isinstance(bound.spec, TestSpec) and bound.spec.link is not None
    step.test = bound.spec.link(bound)
    return step.test


def _link_action(step: Step) -> CommandFn:
    bound = step.bound
    assert bound is not None and isinstance(bound.spec, CommandSpec) and bound.spec.link is not None
    step.act = bound.spec.link(bound)
    return step.act


__all__ = ["LEAVE", "STOP", "Op", "execute", "finish", "run", "start_script"]
