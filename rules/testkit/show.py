"""Actions and traces in words, for reports to people."""

from __future__ import annotations

from rules.actions import (
    Action,
    Discard,
    FileInto,
    Keep,
    ListStore,
    Notify,
    Pipe,
    Quarantine,
    Redirect,
    Reject,
    Remember,
    Report,
    RunResult,
    SetScore,
    TraceStep,
    Vacation,
)

_SHOWN = 80  # characters of a value


def action_text(action: Action) -> str:
    """One action in one line; empty for what is no action of its own."""
    match action:
        case Keep():
            return "keep in INBOX" + _flags(action.flags)
        case FileInto():
            return f"file into {action.mailbox}{_flags(action.flags)}" + (" (copy)" if action.copy else "")
        case Redirect():
            return f"redirect to {action.list_name or action.address}" + (" (copy)" if action.copy else "")
        case Reject():
            return f"reject: {_cut(action.reason)}"
        case Discard():
            return "discard"
        case Vacation():
            return f"answer {action.to}: {_cut(action.subject)}"
        case Notify():
            return f"notify {', '.join(action.recipients) or action.method}"
        case Pipe():
            return f"pipe to {action.program}"
        case Report():
            return f"report to {action.to}"
        case Quarantine():
            return f"quarantine: {_cut(action.reason)}"
        case SetScore():
            return f"score {action.value}"
        case ListStore():
            return f"{'remove from' if action.remove else 'add to'} list {action.name}: {action.value}"
        case Remember():
            return ""


def _flags(flags: tuple[str, ...]) -> str:
    return f" with {' '.join(flags)}" if flags else ""


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "\N{HORIZONTAL ELLIPSIS}"


def step_text(step: TraceStep) -> str:
    """One step of a trace in one line."""
    outcome = (
        {True: "true ", False: "false"}.get(step.result, "=>   ") if step.result is not None else "=>   "
    )
    detail = " ".join(f'"{_cut(text)}"' for text in (step.value, step.key) if text)
    return f"{step.script}:{step.line:<4} {outcome} {step.what} {detail}".rstrip()


def result_lines(result: RunResult) -> list[str]:
    """A whole run: what was seen, then what is done."""
    lines = [step_text(step) for step in result.trace]
    lines += [f"debug: {text}" for text in result.debug]
    if result.error is not None:
        lines.append(f"error: {result.error} (the message is kept)")
    done = [text for action in result.actions if (text := action_text(action))]
    return lines + (done or ["nothing is stored or sent"])


def action_lines(result: RunResult, kinds: tuple[type, ...]) -> list[int]:
    """The script lines of the actions of some kinds."""
    places = [getattr(action, "place", None) for action in result.actions if isinstance(action, kinds)]
    return [place.line for place in places if place is not None]
