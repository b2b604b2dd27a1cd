"""Holding the garbage collector while many objects are made.

Compiling makes objects by the hundred thousand and no garbage in cycles; collecting meanwhile costs more than
the work itself. What another thread leaves in cycles during these milliseconds is collected later. What was made
is handed to the oldest generation at once, so that no collection of young objects walks through all of it; not
when the process has frozen objects of its own (``gc.freeze``), which would thaw with them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_held(large: bool) -> Iterator[None]:
    """No collection inside, when ``large`` says that it is worth it."""
    held = large and gc.isenabled()
    if held:
        gc.disable()
    try:
        yield
    finally:
        if held:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
