"""Work that runs in the sending process beside the sending: releases, the maildrop, learning, reports.

Invariant: whatever goes wrong in it, a mistake of ours included, is logged and it begins again; it never ends the sending.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

AGAIN_SECONDS = 10.0

log = logging.getLogger("filterd")


async def beside(
    name: str,
    run: Callable[[asyncio.Event], Awaitable[None]],
    stop: asyncio.Event,
    pause: float = AGAIN_SECONDS,
) -> None:
    """``run`` until it ends by itself or we are told to stop; anew after ``pause`` seconds when it fails."""
    while not stop.is_set():
        try:
            await run(stop)
            return
        except Exception:
            log.exception("%s; it begins again in %.0f seconds", name, pause)
        try:
            async with asyncio.timeout(pause):
                await stop.wait()
        except TimeoutError:
            continue
