"""What pipe, filter and execute have in common: names of programs, their arguments, the message they get.

Specification: spec-bosch-sieve-extprograms sections 3 and 4. A name is no path and has no variables; which names there are
is the administrator's matter (``Host.execute``). Programs read the message with CRLF line ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from rules.errors import RunError
from rules.match import expand
from rules.registry import CheckFn, CommandFn, CommandSpec, Kind, Param, TestFn, TestSpec
from rules.view import crlf

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

PARAMS = (
    Param("program name", Kind.STRING, constant=True),
    Param("arguments", Kind.STRINGS, optional=True),
)
NAME_LENGTH = 128  # characters; section 3: at least that many
ARGUMENTS = 64  # section 4: at least 16 ...
ARGUMENT_OCTETS = 8192  # ... of at least 1024 octets
_BAD = re.compile("[\x00-\x1f/\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def name_fault(name: str) -> str | None:
    """Why this cannot name a program, or None."""
    if not name or len(name) > NAME_LENGTH or _BAD.search(name) or name.startswith("."):
        return f'"{name[:60]}" cannot be the name of a program'
    return None


def check(checker: Checker, bound: Bound) -> None:
    """A wrong name is an error of the script, whether there is such a program or not."""
    name = bound.text(0)
    if isinstance(name, str) and (fault := name_fault(name)):
        cure = "the administrator names the programs; a name is no path"
        checker.error(checker.where(bound, 0), "program-name", fault, cure)
    if len(bound.texts(1)) > ARGUMENTS:
        message = f"a program gets at most {ARGUMENTS} arguments"
        checker.error(checker.where(bound, 1), "arguments", message, "give fewer")


def call(run: Run, bound: Bound) -> tuple[str, tuple[str, ...]]:
    """Name and arguments of this use. Raises RunError."""
    name = run.expand(bound.text(0))
    arguments = expand(run, bound.texts(1))
    for argument in arguments:
        if "\0" in argument or len(argument.encode("utf-8", "surrogatepass")) > ARGUMENT_OCTETS:
            raise RunError(f"{bound.name}: an argument for {name} is too long or has NUL in it")
    run.seen, run.key = name, " ".join(arguments)
    return name, arguments


def current(run: Run) -> bytes:
    """The message as it is now, CRLF."""
    edited = run.view.rendered()
    return crlf(run.message.data) if edited is None else edited


def start(run: Run, bound: Bound, data: bytes, *, test: bool) -> tuple[int, bytes] | None:
    """Runs the program now: (exit status, output), None when a test names one that is not there. Raises RunError."""
    name, arguments = call(run, bound)
    run.check_time()
    answer = run.host.execute(name, arguments, data)
    if answer is None and not test:
        raise RunError(f"{bound.name}: there is no program {name}, or it cannot be run now")
    return answer


def specs(
    name: str,
    needs: tuple[str, ...],
    act: Callable[[Run, Bound, bool], bool],
    failed: str,
    check: CheckFn = check,
) -> tuple[CommandSpec, TestSpec]:
    """What is both an action and a test (sections 6 and 7). ``act``: its last argument says that it is the test; False: it did
    not work, for which the action's trace says ``failed``."""

    def command(bound: Bound) -> CommandFn:
        def run_command(run: Run) -> None:
            if not act(run, bound, False):
                run.seen += f": {failed}"

        return run_command

    def test(bound: Bound) -> TestFn:
        return lambda run: act(run, bound, True)

    return (
        CommandSpec(name, needs, PARAMS, check=check, link=command, effects=("body",)),
        TestSpec(name, needs, PARAMS, check=check, link=test, reads=("state", "body"), alters=True),
    )
