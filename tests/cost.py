"""What an act costs, for tests with an upper limit: the processor time of this process, the least of a few times.

A test process has the remains of thousands of other tests in memory; one full collection of them takes longer than many an
act. So nothing is collected meanwhile.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

TIMES = 3


def cpu(act: Callable[[], object]) -> float:
    """Seconds. ``act`` is done more than once."""
    collected = gc.isenabled()
    gc.disable()
    try:
        return min(_once(act) for _ in range(TIMES))
    finally:
        if collected:
            gc.enable()


def _once(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began
