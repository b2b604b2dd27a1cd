"""What is asked of the kernel's memory: the stamp of a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from filterd.store.nowait import stamp_of, stamped


def test_a_stamp_is_what_stat_says(tmp_path: Path) -> None:
    file = tmp_path / "schön"
    file.write_bytes(b"keep;\r\n" * 1000)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    (tmp_path / "link").symlink_to("schön")
    said = stamped(os.stat(file))
    assert said[2:4] == (1_234_567_890_123_456_789, 7000)
    assert stamp_of(str(file)) == stamp_of(str(tmp_path / "link")) == stamp_of(str(file), None) == said
    assert stamp_of("/proc/self/status")[3] == 0 and stamp_of("/")[1] == os.stat("/").st_ino
    before = -86_400_000_000_001  # before 1970, and not a whole second
    os.utime(file, ns=(before, before))
    assert stamp_of(str(file)) == stamped(os.stat(file)) and stamp_of(str(file))[2] == before


def test_each_change_of_a_file_has_another_stamp(tmp_path: Path) -> None:
    file, other = tmp_path / "one", tmp_path / "other"
    file.write_text("one")
    seen = {stamp_of(str(file))}
    os.utime(file, ns=(1, 1))
    seen.add(stamp_of(str(file)))
    with file.open("a") as more:
        more.write("more")
    seen.add(stamp_of(str(file)))
    other.write_text("onemore")
    other.replace(file)
    assert len(seen | {stamp_of(str(file))}) == 4


@pytest.mark.parametrize("name", ["missing", "file/below", "loop"])
def test_what_cannot_be_looked_at_raises(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as ours:
        stamp_of(str(tmp_path / name))
    with pytest.raises(OSError) as theirs:
        os.stat(tmp_path / name)
    assert ours.value.errno == theirs.value.errno
