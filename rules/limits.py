"""Every limit of the Sieve engine, by name; nothing in the language can use more than these say.

Specification: RFC 5228 section 2.10.5 (limits on numbers of actions), 3.2 and 10 (nesting, loops), RFC 5229
section 6 (variable sizes), RFC 6609 section 3.1 (include nesting). Invariant: a limit that is hit at compile
time is an error of the script, at run time a failed run, which keeps the message.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MAX_NUMBER = 2**64 - 1  # RFC 5228 2.4.1 asks for at least 2^31 - 1
IDENTIFIER_LENGTH = 32
TRACE_VALUE = 200  # characters of a value or key that a trace step keeps
MATCH_VALUES = 33  # ${0} to ${32}; RFC 5229 3.2 asks for at least ten


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one compilation or one run; sizes in characters where not said otherwise."""

    script_size: int = 4 * 1024 * 1024
    string_size: int = 1024 * 1024  # one string literal
    nesting: int = 32  # blocks, and tests, inside one another
    errors: int = 100  # reported for one script before the rest is left out
    warnings: int = 100
    list_items: int = 20_000  # strings in one list, tests in one list
    arguments: int = 32  # of one command or test

    steps: int = 1_000_000  # executed in one chain of scripts
    cpu_seconds: float = 5.0  # of this thread, for one chain of scripts
    actions: int = 32
    redirects: int = 4
    notifies: int = 8
    vacations: int = 1
    includes: int = 64  # files fetched in one run
    include_depth: int = 10
    trace_steps: int = 5_000
    debug_lines: int = 200

    variables: int = 255  # RFC 5229 6: at least 128
    variable_name: int = 64  # RFC 5229 6: at least 32
    variable_size: int = 64 * 1024  # octets of UTF-8; RFC 5229 6: at least 4000
    variables_total: int = 1024 * 1024  # octets of UTF-8
    variable_parts: int = 4  # namespace levels of a name
    expanded_size: int = 1024 * 1024  # one string after substitution

    regex_size: int = 1024  # octets of one pattern
    regex_memory: int = 1024 * 1024  # octets google-re2 may use for one pattern
    regexes: int = 256  # patterns compiled at run time, in one run

    header_edits: int = 64
    header_value: int = 8 * 1024  # octets of a field added by editheader
    body_text: int = 4 * 1024 * 1024  # octets of a body that tests look at
    mime_parts: int = 1_000
    reason: int = 16 * 1024  # reject reason, vacation text, notification text
    subject: int = 256  # characters of a generated mail's subject
    flags: int = 128  # in one flags variable
    flag_size: int = 255
    duplicate_seconds: int = 90 * 86_400
    vacation_seconds: int = 365 * 86_400


DEFAULT = Limits()


class CpuBudget:
    """CPU time of the calling thread since its making; not a clock, so it is not a port."""

    __slots__ = ("_end", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = 0.0

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        """What happens inside is no work of the script (tables that are made once)."""
        begun = time.thread_time()
        try:
            yield
        finally:
            if self._end:
                self._end += time.thread_time() - begun

    def spent(self) -> bool:
        """True when the budget is used up. It begins with the first question: a short script never asks the system."""
        now = time.thread_time()
        if not self._end:
            self._end = now + self._seconds
        return now > self._end
