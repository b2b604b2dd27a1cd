"""vnd.dovecot.filter: a program's output takes the place of the message.

Specification: spec-bosch-sieve-extprograms sections 6 and 8. Complete: yes. Off by default: a host that has a service for
programs asks for it by name. A program that fails or says nothing leaves the message as it is: no error, and false as a
test. An unknown program is an error of the action, and false as a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules import programs
from rules.registry import Extension
from rules.view import crlf

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run

_NEEDS = ("vnd.dovecot.filter",)


def _filtered(run: Run, bound: Bound, test: bool) -> bool:
    answer = programs.start(run, bound, programs.current(run), test=test)
    if answer is None or answer[0] != 0 or not answer[1]:
        return False
    data = crlf(answer[1])
    run.view.set_message(data if run.view.line_end == b"\r\n" else data.replace(b"\r\n", b"\n"))
    return True


_COMMAND, _TEST = programs.specs("filter", _NEEDS, _filtered, "failed, the message is unchanged")
EXTENSION = Extension(
    "vnd_filter",
    _NEEDS,
    dialect="spec-bosch-sieve-extprograms",
    default=False,
    commands=(_COMMAND,),
    tests=(_TEST,),
)
