"""The real clock and the real source of chance, behind the pipeline's ports."""

from __future__ import annotations

import secrets
import time

from pipeline.ports import Clock, Ids

POOL = 4096


class SystemClock(Clock):
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class SystemIds(Ids):
    """The system's chance, fetched POOL octets at a time. Made after a fork, never shared by two processes."""

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def token(self, octets: int) -> str:
        if self._at + octets > len(self._pool):
            self._pool, self._at = secrets.token_bytes(max(POOL, octets)), 0
        at = self._at
        self._at = at + octets
        return self._pool[at : at + octets].hex()
