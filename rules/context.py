"""What a running script works on: message, envelope, host, variables, result, trace, limits.

One ``Run`` lasts for one chain of scripts. Extensions keep their own state in it under a ``StateKey``; what
lives as long as one script (variables) is changed by the interpreter when scripts follow or include one
another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from rules.actions import Place, TraceStep
from rules.errors import BudgetError
from rules.host import Host, ScriptEnvelope
from rules.limits import CpuBudget, Limits
from rules.loops import Loop
from rules.mail.message import Message
from rules.result import Result
from rules.variables import Variables
from rules.view import View

if TYPE_CHECKING:
    from rules.bound import Bound, Text
    from rules.compiler import CompiledScript, Step
    from rules.merge import Region

STOP = -1  # the whole run ends here, as ``stop`` says
LEAVE = -2  # this script ends here (``return`` of RFC 6609)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StateKey(Generic[T]):
    """A named place for an extension's own state; ``make`` gives its first value."""

    name: str
    make: Callable[[], T]


class Run:
    """One run."""

    __slots__ = (
        "_settings",
        "captures",
        "cpu",
        "debug",
        "depth",
        "envelope",
        "flags",
        "globals",
        "host",
        "key",
        "limits",
        "loops",
        "merge",
        "message",
        "moment",
        "regions",
        "result",
        "script",
        "seen",
        "state",
        "step",
        "steps",
        "trace",
        "variables",
        "view",
    )

    def __init__(
        self,
        message: Message,
        envelope: ScriptEnvelope,
        host: Host,
        limits: Limits,
        *,
        trace: bool,
        merge: bool = True,
    ) -> None:
        self.message = message
        self.view = View(message)
        self.envelope = envelope
        self.host = host
        self.limits = limits
        self.trace: list[TraceStep] | None = [] if trace else None
        self.debug: list[str] = []
        self.result = Result(limits)
        self.cpu = CpuBudget(limits.cpu_seconds)
        self.steps = limits.steps
        self.merge = merge
        self.depth = 0
        self.loops: list[Loop] = []  # of foreverypart, the innermost last
        self.flags: tuple[str, ...] = ()  # the internal variable of RFC 5232
        self.seen = ""  # what the last test looked at
        self.key = ""  # and what it looked for
        self.captures = False  # does the running script have variables?
        self.globals: dict[str, str] = {}
        self.variables = Variables(limits, self.globals)
        self.regions: dict[Region | None, str] = {}
        self.script: CompiledScript | None = None
        self.step: Step | None = None
        self.state: dict[str, object] = {}
        self.moment: datetime | None = None
        self._settings: dict[str, str | None] = {}

    def get(self, key: StateKey[T]) -> T:
        """The state of an extension, made at its first use."""
        if key.name not in self.state:
            self.state[key.name] = key.make()
        return cast(T, self.state[key.name])

    def put(self, key: StateKey[T], value: T) -> None:
        """Replaces the state of an extension."""
        self.state[key.name] = value

    def expand(self, text: Text) -> str:
        """A string with its variables put in."""
        return text if isinstance(text, str) else text.expand(self)

    def place(self, bound: Bound) -> Place:
        """Where a command stands."""
        return Place(self.script.name if self.script else "main", bound.line, bound.column)

    def now(self) -> datetime:
        """The host's time when it was first asked for: the same for all tests of a run."""
        if self.moment is None:
            self.moment = self.host.now()
        return self.moment

    def setting(self, name: str, default: str) -> str:
        """A setting of the installation, such as ``recipient_delimiter``; asked of the host's environment once a run."""
        if name not in self._settings:
            self._settings[name] = self.host.environment(SETTING_PREFIX + name)
        value = self._settings[name]
        return default if value is None else value

    def forget_settings(self) -> None:
        """Settings are asked anew (the test dialect changes them)."""
        self._settings.clear()

    def use_limits(self, limits: Limits) -> None:
        """Other limits from here on (the test dialect changes them)."""
        self.limits = limits
        self.result.limits = limits
        self.variables.limits = limits

    def check_time(self) -> None:
        """Raises RunError when the CPU budget is spent; for loops inside tests and actions."""
        if self.cpu.spent():
            raise BudgetError(f"the script used more than {self.limits.cpu_seconds:g} seconds of CPU time")


SETTING_PREFIX = "vnd.filterd.setting."
