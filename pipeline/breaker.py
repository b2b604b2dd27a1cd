"""A circuit breaker: a dead scanner must not cost every message its whole time limit.

States: closed (faults are counted, an answer sets the count to nought) → open after ``limit`` faults in a row (nothing
is asked for ``pause`` seconds) → half open (one single probe is let through; its answer closes the breaker, its fault
opens it again). Times are ``Clock.monotonic()`` values given by the caller: there is no clock in here.
Invariant: at most one probe is under way; a probe that was cancelled without an answer is given back (``release``).
"""

from __future__ import annotations

from dataclasses import dataclass

FAULTS_IN_A_ROW = 5
PAUSE = 30.0  # seconds


@dataclass(slots=True)
class Breaker:
    """One breaker guards one outside service of one stage."""

    limit: int = FAULTS_IN_A_ROW
    pause: float = PAUSE
    faults: int = 0
    opened_at: float | None = None
    probing: bool = False

    def allow(self, now: float) -> bool:
        """May the service be asked now? After a True the caller ends with success, fault or release."""
        if self.opened_at is None:
            return True
        if self.probing or now - self.opened_at < self.pause:
            return False
        self.probing = True
        return True

    def success(self) -> None:
        """The service answered."""
        self.faults = 0
        self.opened_at = None
        self.probing = False

    def fault(self, now: float) -> bool:
        """The service did not answer as it should; True when this fault opened the breaker."""
        self.faults += 1
        opens = self.opened_at is None and self.faults >= self.limit
        if opens or self.probing:
            self.opened_at = now
        self.probing = False
        return opens

    def release(self) -> None:
        """The question was withdrawn: neither an answer nor a fault."""
        self.probing = False

    @property
    def is_open(self) -> bool:
        return self.opened_at is not None
