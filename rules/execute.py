"""The loop that runs compiled steps.

Apart from ``rules/interpreter.py`` because ``include`` runs scripts inside scripts. Invariants: every test
that is evaluated and every action leave a trace step; every step counts; the CPU budget is looked at every
few hundred steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.actions import TraceStep
from rules.compiler import CompiledScript, Step
from rules.context import Run
from rules.errors import RunError
from rules.limits import TRACE_VALUE
from rules.registry import CommandSpec, TestSpec

if TYPE_CHECKING:
    from rules.registry import CommandFn, TestFn

_CHECK_EVERY = 256  # steps between looks at the CPU budget


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
