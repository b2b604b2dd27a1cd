"""The first five minutes: a clean clone, ``make demo ARGS=--once``, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.server import ENVIRONMENT, ROOT

pytestmark = pytest.mark.e2e


def processes(word: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if word in line and int(entry.name) != os.getpid():
                found.append(line)
    return found


def check_story(text: str) -> str:
    """The folder that it named."""
    for word in (
        "Uploaded a Sieve script",
        "Read by IMAP",
        "Read by POP3",
        "SRS",
        "filterd explain",
        "not scanned: no clamd here",
    ):
        assert word in text, (word, text)
    folder = text.partition("everything in ")[2].partition(")")[0]
    assert folder.startswith(tempfile.gettempdir())
    return folder


def test_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "filterd", "demo", "--once"], capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    folder = check_story(done.stdout)
    assert not Path(folder).exists() and not processes(folder) and not list(tmp_path.iterdir())
    assert not done.stderr, done.stderr


def test_the_demo_keeps_what_it_is_told_to_keep(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    words = [sys.executable, "-m", "filterd", "demo", "--once", "--keep", str(kept)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (kept / "filterd.toml").exists() and not processes(str(kept))
    words = [
        sys.executable,
        "-m",
        "filterd",
        "explain",
        "last",
        "from",
        "orders@shop.example",
        "-c",
        str(kept / "filterd.toml"),
    ]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)
    assert told.returncode == 0 and "trace" in told.stdout, told.stderr


@pytest.mark.slow
def test_make_demo_in_a_clean_clone(tmp_path: Path) -> None:
    """As the README says it. The clone is of what is committed."""
    git, make = shutil.which("git"), shutil.which("make")
    if git is None or make is None or not (ROOT / ".git").exists():
        pytest.skip("needs git, make and a checkout")
    clone = tmp_path / "filterd"
    subprocess.run([git, "clone", "-q", "--depth", "1", f"file://{ROOT}", str(clone)], check=True, timeout=60)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [make, "demo", "ARGS=--once"],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=240,
        env=clean,
        check=False,
    )
    if done.returncode and "pip could not install" in done.stderr:
        pytest.skip(f"no package index here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = check_story(done.stdout)
    assert not Path(folder).exists() and not processes(str(clone))
    status = subprocess.run(
        [git, "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert not status.stdout, status.stdout
