"""What all tests share: no deadline for a single example, because a busy machine is no failure."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("filterd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("filterd")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that peers who give up root may enter. Those of ``tmp_path`` lie in one that each session of pytest that
    starts closes to others again; and what lies above it is not ours to open."""
    with tempfile.TemporaryDirectory(prefix="filterd-open-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
