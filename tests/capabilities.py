"""What root may do here, and a child that may do less: capabilities(7), by number (<linux/capability.h>)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

DAC_OVERRIDE, DAC_READ_SEARCH, SYS_ADMIN = 1, 2, 21
PR_CAPBSET_DROP = 24  # <linux/prctl.h>


def has(capability: int) -> bool:
    """Is it among our effective ones?"""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    (word,) = [line.split()[1] for line in lines if line.startswith("CapEff:")]
    return bool(int(word, 16) >> capability & 1)


def without(*capabilities: int) -> Callable[[], None]:
    """For ``preexec_fn``: what is executed then has none of them, root or not. Needs CAP_SETPCAP."""

    def drop() -> None:
        for one in capabilities:
            assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, one, 0, 0, 0) == 0

    return drop
