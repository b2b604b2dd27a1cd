"""Is the daemon of an ``enabled = "auto"`` stage there at all?

"auto" means: on when the daemon answers. Until it has answered once in this process, nobody listening at its socket
means "not installed here": the stage is skipped, and the trace says so. From its first answer on the stage is on: a
daemon that has gone away is a fault from then, and takes ``on_error`` (a crashed scanner must not open the door).
After a failed look the socket is left alone for ``PAUSE`` seconds, so that an absent daemon costs nothing per message.
"""

from __future__ import annotations

import errno

from pipeline.ports import Clock

PAUSE = 5.0  # seconds
# A connection that fails for one of these was not refused by an absent daemon: it is there and overloaded, or we are.
BUSY = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ETIMEDOUT, errno.ENOBUFS, errno.ENOMEM})


class Presence:
    """``mode`` is "auto", "on" or "off" (the words "true" and "false" of a configuration are taken too)."""

    def __init__(self, mode: str, clock: Clock) -> None:
        self.off = mode in ("off", "false")
        self.auto = mode == "auto"
        self._clock = clock
        self._answered = False
        self._look_again = 0.0

    def skipped(self) -> bool:
        """It was not there a moment ago: do not look."""
        return self.auto and not self._answered and self._clock.monotonic() < self._look_again

    def answered(self) -> None:
        self._answered = True

    @staticmethod
    def nobody(error: OSError) -> bool:
        """Does this failure to connect mean that nobody (or nobody for us) listens there?"""
        return not isinstance(error, TimeoutError) and error.errno not in BUSY

    def missing(self) -> bool:
        """Nobody listens: True when that means "skip", False when it is a fault."""
        if not self.auto or self._answered:
            return False
        self._look_again = self._clock.monotonic() + PAUSE
        return True
