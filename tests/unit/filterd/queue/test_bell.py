"""Waking the sending process, however long the path."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.queue import bell


@pytest.mark.parametrize("depth", [0, 200])
def test_rings(tmp_path: Path, depth: int) -> None:
    directory = tmp_path / ("d" * depth) if depth else tmp_path
    directory.mkdir(exist_ok=True)
    ringing = bell.Bell(directory)
    ringing.ring()  # nobody hears: no harm
    for _ in range(2):  # the second replaces the first's name
        ears = bell.listen(directory)
        ringing.ring()
        ringing.ring(bell.RETRY)
        assert bell.heard(ears) == {bell.LOOK, bell.RETRY} and bell.heard(ears) == set()
        ears.close()
    ringing.close()
