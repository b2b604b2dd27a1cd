"""The loop that runs compiled steps.

Apart from ``rules/interpreter.py`` because ``include`` runs scripts inside scripts. Invariants: every test
that is evaluated and every action leave a trace step; every step counts; the CPU budget is looked at every few
steps, and in the middle of one with many values (``match.link_match``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.actions import TraceStep
from rules.compiler import CompiledScript, Step
from rules.context import Run
from rules.errors import BudgetError
from rules.limits import TRACE_VALUE
from rules.registry import CommandSpec, TestSpec

if TYPE_CHECKING:
    from rules.registry import CommandFn, TestFn

_CHECK_EVERY = 16  # steps between looks at the CPU budget: one step of a hostile script takes up to 0.1 s


def execute(state: Run, script: CompiledScript) -> int:
    """Runs one script in the given state; returns STOP or LEAVE. Raises RunError.

    ``include`` calls this again for the script inside, with its own variables set up by the caller.
    """
    code, name, trace, regions = script.code, script.name, state.trace, state.regions
    most = state.limits.trace_steps
    count = pc = 0
    while pc >= 0:
        step = code[pc]
        count += 1
        if not count % _CHECK_EVERY:
            _check_limits(state)
        op = step.op
        if op == 3:  # HOP; the enum's attribute look-up would cost as much as the step
            if step.no < 0:
                pc = _dispatch(state, step, pc)
            elif (mask := regions.get(step.region)) is None:
                pc += 1
            else:
                pc = mask.find("1", step.no)
                pc = step.region.places[pc] if pc >= 0 else step.region.end  # type: ignore[union-attr]  # a hop has one
        elif op == 0:  # TEST
            state.step = step
            result = (step.test or _link_test(step))(state)
            if trace is not None and len(trace) < most:
                trace.append(
                    TraceStep(
                        name, step.line, step.what, state.seen[:TRACE_VALUE], state.key[:TRACE_VALUE], result
                    )
                )
            pc = step.yes if result else step.no
        elif op == 1:  # ACTION
            state.step = step
            state.seen = state.key = ""
            target = (step.act or _link_action(step))(state)
            if trace is not None and len(trace) < most:
                trace.append(
                    TraceStep(name, step.line, step.what, state.seen[:TRACE_VALUE], state.key[:TRACE_VALUE])
                )
            pc = pc + 1 if target is None else target
        elif op == 2:  # JUMP
            pc = step.yes
        else:  # CALL
            state.step = step
            assert step.test is not None
            pc = step.yes if step.test(state) else step.no
    state.steps -= count % _CHECK_EVERY
    return pc


def _check_limits(state: Run) -> None:
    state.steps -= _CHECK_EVERY
    if state.steps <= 0:
        raise BudgetError(f"the script ran more than {state.limits.steps} steps")
    state.check_time()


def _dispatch(state: Run, step: Step, pc: int) -> int:
    """The start of a merged run of rules: which of them need be looked at?"""
    region = step.region
    if not state.merge or region is None:
        return pc + 1
    state.step = step
    candidates = region.candidates(state)
    state.regions[region] = candidates
    if state.trace is not None and state.script is not None:
        every = len(region.places)
        if (left := candidates.count("1")) < every:
            text = f"{every - left} of {every} rules are false by look-up"
            state.trace.append(TraceStep(state.script.name, step.line, "rules", text, "", False))
    index = candidates.find("1")
    return region.places[index] if index >= 0 else region.end


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
