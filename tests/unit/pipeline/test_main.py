"""``python -m pipeline run``: the stages without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.__main__ import main

ZONE = 'example.net TXT "v=spf1 ip4:192.0.2.1 -all"\n'


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "zone").write_text(ZONE)
    (tmp_path / "mail").write_bytes(
        b"From: a@example.net\nAuthentication-Results: us.example; spf=pass\nX-Spam-Flag: YES\n\nbody\n"
    )
    return str(tmp_path / "mail"), str(tmp_path / "zone")


COMMON = (
    "--helo",
    "mx.example.net",
    "--from",
    "a@example.net",
    "--rcpt",
    "b@us.example",
    "--hostname",
    "us.example",
)
QUIET = ("--set", "clamav.enabled=off", "--set", "spamassassin.enabled=off")


def test_people(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", files[0], "--zone", files[1], "--ip", "192.0.2.1", *COMMON, *QUIET]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:2] == ["spf", "pass"] and out[-1] == "continue"
    assert any(line.startswith("clamav") and "not scanned: switched off" in line for line in out)


def test_a_refusal_is_the_exit_code(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--stages", "spf", "--set", "spf.fail=reject", "--json"]
    assert main(["run", files[0], "--zone", files[1], "--ip", "192.0.2.2", *COMMON, *options]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (
        told["disposition"] == "reject"
        and told["reply"].startswith("550 5.7.")
        and told["stages"][0]["result"] == "fail"
    )


def test_the_edited_message(files: tuple[str, str], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["run", files[0], "--zone", files[1], "--ip", "192.0.2.1", "--edited", *COMMON, *QUIET]) == 0
    out = capfdbinary.readouterr().out
    assert out.endswith(b"From: a@example.net\r\n\r\nbody\r\n")
    assert out.count(b"Authentication-Results: us.example; spf=pass") == 1


def test_what_it_cannot_do(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 64
    assert main(["run", "/nonexistent"]) == 66
    assert main(["run", files[0], "--stages", "spff"]) == 64
    assert main(["run", files[0], "--set", "spf.x=1"]) == 64
    assert main(["run", files[0], "--zone", "/nonexistent"]) == 64
    assert main(["stages"]) == 0 and "clamav: " in capsys.readouterr().out
