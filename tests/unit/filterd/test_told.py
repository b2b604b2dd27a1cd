"""What a command says when the disk, the rights or the room are not there (``filterd.__main__``)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from filterd.__main__ import _told, main
from tests import capabilities


def chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PermissionError(13, "Permission denied", "/x/queue"),
            "/x/queue: Permission denied; run this as root",
        ),
        (
            chained(OSError("accounts.db: no"), PermissionError(13, "Permission denied")),
            "accounts.db: no; run this as root",
        ),
        (
            chained(OSError("x"), sqlite3.OperationalError("attempt to write a readonly database")),
            "run this as root",
        ),
        (OSError(28, "No space left on device"), "make room on that disk"),
        (
            chained(OSError("x"), sqlite3.OperationalError("database or disk is full")),
            "make room on that disk",
        ),
        (OSError("plain"), "plain"),
    ],
)
def test_what_to_do_is_said(error: BaseException, words: str) -> None:
    assert words in _told(error)


def test_a_configuration_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "filterd.toml"
    file.write_text("")
    file.chmod(0)
    command = [sys.executable, "-m", "filterd", "config", "check", "-c", str(file)]
    mortal = capabilities.without(
        capabilities.DAC_OVERRIDE, capabilities.DAC_READ_SEARCH
    )  # root reads all else
    root = os.geteuid() == 0
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, preexec_fn=mortal if root else None
    )
    assert done.returncode == 1 and "no rights" in done.stdout + done.stderr


def test_remarks_about_this_machine(tmp_path: Path, capsys) -> None:
    file = tmp_path / "filterd.toml"
    file.write_text(
        '[server]\nhostname = "m.example.org"\nuser = "no-such-user"\n[[domain]]\nname = "example.org"\n'
        f'[listen]\nlmtp = ["unix:{tmp_path}/none/lmtp", "unix:/run/filterd-none/lmtp"]\n'
    )
    assert main(["config", "check", "-c", str(file)]) == 0
    out = capsys.readouterr().out
    assert "useradd --system" in out and f"there is no folder {tmp_path}/none" in out and "2 remarks" in out
