"""Real programs beside the tests: started on a port of their own, waited for, ended."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import faultserver

START_SECONDS = 60.0


@contextmanager
def running(command: Sequence[str], port: int, log: Path, seconds: float = START_SECONDS) -> Iterator[None]:
    """While it runs and takes connections on a loopback port. ``log``: the file that gets what it prints."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{Path(command[0]).name} did not start: {log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def spamd(home: Path, *more: str) -> Iterator[str]:
    """``127.0.0.1:port`` of the real one, with local rules only; skips where it is not installed. ``more``: further arguments."""
    program = shutil.which("spamd") or "/usr/sbin/spamd"
    if not Path(program).exists():
        pytest.skip("spamd is not installed (Debian: spamd, formerly part of spamassassin)")
    where = faultserver.refused()
    port = where.rpartition(":")[2]
    command = [program, "-L", "-i", "127.0.0.1", "-p", port, "--max-children", "1"]
    command += ["-x", "-H", str(home), "-s", str(home / "log"), "-r", str(home / "pid"), *more]
    with running(command, int(port), home / "out"):
        yield where
