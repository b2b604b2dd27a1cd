"""The shape of a stage and its settings."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from pipeline.transaction import Transaction
from pipeline.verdict import Verdict


class Phase(Enum):
    """When in the SMTP dialogue a stage wants to be asked."""

    CONNECT = "connect"
    HELO = "helo"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    EOM = "eom"


class OnError(Enum):
    """What an error, or a missed time limit, of a stage becomes."""

    DEFER = "defer"
    ACCEPT = "accept"
    REJECT = "reject"


class Stage(Protocol):
    """A stage looks and returns a Verdict. It never edits, answers or delivers.

    ``after`` names the stages whose verdicts it reads: all others run beside it. ``check`` may raise
    ``pipeline.errors.StageFault``: the runner applies ``on_error``. Whatever else it raises is a bug, logged, and
    treated the same way. ``abort`` is called when the transaction ends early, whatever happened before.
    """

    name: str
    phases: frozenset[Phase]
    after: tuple[str, ...]
    on_error: OnError
    timeout: float  # seconds

    async def check(self, transaction: Transaction) -> Verdict: ...

    def abort(self, transaction: Transaction) -> None: ...
