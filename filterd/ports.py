"""The real clock and the real source of chance, behind the pipeline's ports."""

from __future__ import annotations

import secrets
import time

from pipeline.ports import Clock, Ids


class SystemClock(Clock):
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class SystemIds(Ids):
    def token(self, octets: int) -> str:
        return secrets.token_hex(octets)
