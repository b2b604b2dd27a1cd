"""`filterd milter` on a folder that nobody made before: all of its processes serve at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server import ENVIRONMENT, wait_for

pytestmark = pytest.mark.e2e


def test_the_first_start_makes_the_certificate_once(tmp_path: Path) -> None:
    config = tmp_path / "filterd.toml"
    config.write_text(
        '[server]\nhostname = "mail.example.org"\ndata_dir = "data"\nworkers = 6\n[[domain]]\nname = "example.org"\n'
    )
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "filterd", "milter", f"unix:{tmp_path}/m", "-c", config], stdout=out, stderr=out,
            env=ENVIRONMENT,
        )  # fmt: skip
    try:
        wait_for(
            lambda: b"smtpd_milters" in log.read_bytes() or process.poll() is not None, 90.0, "the filter"
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    text = log.read_text()
    assert "smtpd_milters" in text and "failed" not in text and "Traceback" not in text, text
