"""Runs test scripts written in Pigeonhole's test dialect (svtest).

``run_file`` runs one file and returns what its tests said; ``run_files`` prints a report as ``testsuite`` does
and gives the exit code. A file fails when it does not compile, when it aborts, or when a test in it failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rules.compiler import CompiledScript, compile_script
from rules.context import Run
from rules.errors import RunError, ScriptError, ScriptErrors, render
from rules.execute import execute
from rules.host import ScriptEnvelope
from rules.interpreter import start_script
from rules.mail.message import Message
from rules.testkit import suite
from rules.testkit.bench import DEFAULT_FROM, DEFAULT_MESSAGE, DEFAULT_TO, USER, Bench, own_limits

_FILE = "%{file:"


@dataclass(frozen=True, slots=True)
class Case:
    """One test block that ran; ``reason`` None: it succeeded. ``line`` is that of the test, or of what failed it."""

    name: str
    reason: str | None
    line: int


@dataclass(slots=True)
class Report:
    """What a file's run gave. ``error`` is why it did not compile or was aborted."""

    path: str
    cases: list[Case] = field(default_factory=list)
    error: str = ""
    errors: list[ScriptError] = field(default_factory=list)
    text: str = ""
    printed: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many tests failed."""
        return sum(case.reason is not None for case in self.cases)

    @property
    def passed(self) -> bool:
        """Did the whole file pass?"""
        return not self.error and not self.errors and self.failed == 0


def run_file(path: str, *, moment: datetime | None = None) -> Report:
    """Runs one svtest file. Raises OSError when it cannot be read."""
    with open(path, "rb") as stream:
        text = stream.read().decode("utf-8", "replace")
    report = Report(path, text=text)
    registry = suite.registry()
    try:
        script = compile_script(
            _files_named(text), name=os.path.basename(path), registry=registry, capabilities=registry.known
        )
    except ScriptErrors as failure:
        report.errors = failure.errors
        return report
    folder = os.path.dirname(os.path.abspath(path))
    bench = Bench(folder, registry, moment or datetime(2026, 1, 1, tzinfo=UTC))
    _run(report, script, bench)
    report.cases = [Case(*result) for result in bench.results]
    report.printed = bench.printed
    return report


def _run(report: Report, script: CompiledScript, bench: Bench) -> None:
    envelope = ScriptEnvelope(DEFAULT_FROM, DEFAULT_TO, DEFAULT_TO, USER)
    run = Run(Message(DEFAULT_MESSAGE), envelope, bench, own_limits(bench.limits()), trace=False)
    bench.view = run.view
    try:
        start_script(run, script)
        execute(run, script)
        return
    except RunError as error:
        why = str(error)
    except Exception as error:  # a bug of ours fails this file, the others go on
        why = f"internal error: {type(error).__name__}: {error}"
    line = run.step.line if run.step is not None else 0
    report.error = f"line {line}: {why}"
    if bench.current:
        bench.results.append((bench.current, f"aborted: {why}", line))


def _files_named(text: str) -> str:
    """``%{file:NAME}`` is replaced by ``[FILE: NAME]``."""
    pieces = text.split(_FILE)
    out = [pieces[0]]
    for piece in pieces[1:]:
        name, brace, rest = piece.partition("}")
        out.append(f"[FILE: {name}]{rest}" if brace else _FILE + piece)
    return "".join(out)


def show(report: Report, write: Callable[[str], object]) -> None:
    """Prints one file's report."""
    write(f"{report.path}:\n")
    for number, case in enumerate(report.cases, 1):
        outcome = "SUCCEEDED" if case.reason is None else f"FAILED: {case.reason} (line {case.line})"
        write(f"{number:3d}: Test '{case.name}' {outcome}\n")
    for text in report.printed:
        write("".join(f"     | {line}\n" for line in text.splitlines()))
    if report.errors:
        write(render(report.errors, report.text, report.path))
    total, failed = len(report.cases), report.failed
    if report.errors:
        write("\nFAIL: the file does not compile.\n\n")
    elif report.error:
        write(f"\nFAIL: aborted at {report.error}; {failed} of {total} tests failed.\n\n")
    elif failed:
        write(f"\nFAIL: {failed} of {total} tests failed.\n\n")
    else:
        write(f"\nPASS: {total} tests succeeded.\n\n")


def run_files(
    paths: Sequence[str], *, moment: datetime | None = None, write: Callable[[str], object] = sys.stdout.write
) -> int:
    """Runs the files one after another and prints a report; 0 when all of them passed, 1 when not, 2 when one is absent."""
    code = 0
    reports: list[Report] = []
    for path in paths:
        try:
            report = run_file(path, moment=moment)
        except OSError as error:
            write(f"{path}: {error.strerror or error}\n")
            code = 2
            continue
        reports.append(report)
        show(report, write)
    if len(paths) > 1:
        tests = sum(len(report.cases) for report in reports)
        failed = sum(report.failed for report in reports)
        good = sum(report.passed for report in reports)
        write(f"{good} of {len(paths)} files passed; {tests} tests, {failed} failed.\n")
    return code or int(any(not report.passed for report in reports))
