"""What takes long is not read on an event loop: a thread reads it, and who asks meanwhile is told so.

A look whether something changed costs microseconds, and a short list is read again at once, whoever asks. What took longer
than LONG the last time is read in a thread when a loop asks; everybody else waits for it.
Invariant: one reader at a time; it holds ``lock``, which may be somebody else's too (a writer's). A loop never waits for it,
except where nothing is known yet (``wait``).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from filterd.accounts.errors import AccountsUnavailable

LONG = 0.01  # seconds

log = logging.getLogger("filterd.accounts")


class Aside:
    """One thing that is read again when it changed. ``changed`` and ``read`` are called under the lock."""

    def __init__(
        self,
        name: str,
        changed: Callable[[], bool],
        read: Callable[[], None],
        lock: threading.Lock | None = None,
    ) -> None:
        self._name, self._changed, self._read = name, changed, read
        self._lock = lock or threading.Lock()
        self._took = 0.0
        self._busy = False  # a thread was started

    def fresh(self, wait: bool = False) -> bool:
        """Read again what changed. False: what is known is older, the new state is being read. Raises what ``changed`` and
        ``read`` raise."""
        waits = wait or not on_loop()
        if not self._lock.acquire(blocking=waits):
            return False
        try:
            if not waits and self._busy:
                return False
            if not self._changed():
                return True
            if waits or self._took < LONG:
                self._do()
                return True
            self._busy = True
        finally:
            self._lock.release()
        try:
            threading.Thread(target=self._aside, name=self._name, daemon=True).start()
        except RuntimeError as error:  # too many threads: who asks next tries again
            log.warning("%s: %s", self._name, error)
            self._busy = False
        return False

    def _do(self) -> None:
        began = time.perf_counter()
        self._read()
        self._took = time.perf_counter() - began

    def _aside(self) -> None:
        with self._lock:
            try:
                if self._changed():
                    self._do()
            except AccountsUnavailable as error:  # who asks next is told
                log.warning("%s", error)
            finally:
                self._busy = False


def on_loop() -> bool:
    """Is this an event loop's thread, which must not wait?"""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
