"""A message by command into a real store, without a server: what other programs rely on."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from filterd.__main__ import main as filterd
from filterd.cli import deliver, sendmail

TEXT = """
[server]
hostname = "mail.example.org"
data_dir = "data"
[[domain]]
name = "example.org"
[stage.clamav]
enabled = false
[stage.spamassassin]
enabled = false
"""


@pytest.fixture
def config(tmp_path: Path, capsys) -> str:
    path = tmp_path / "filterd.toml"
    path.write_text(TEXT)
    assert filterd(["account", "add", "-c", str(path), "ann@example.org"]) == 0
    return str(path)


def give(monkeypatch, data: bytes) -> None:
    class Input:
        buffer = io.BytesIO(data)

    monkeypatch.setattr("sys.stdin", Input())


def stored(config: str) -> list[bytes]:
    folder = Path(config).parent / "data" / "mail" / "example.org" / "ann"
    return [path.read_bytes() for path in sorted(folder.glob("new/*"))]


def test_delivered_with_sender_and_detail(config: str, monkeypatch) -> None:
    give(monkeypatch, b"Subject: x\n\nline\n.\nend\n")
    assert deliver.main(["-c", config, "-f", "a@b.example", "-d", "ann", "-a", "ann+list@example.org"]) == 0
    (data,) = stored(config)
    assert data.startswith(b"Return-Path: <a@b.example>\r\n")
    assert b"X-Original-To: ann+list@example.org\r\n" in data
    assert data.endswith(b"Subject: x\r\n\r\nline\r\n.\r\nend\r\n")


@pytest.mark.parametrize(("address", "code"), [("nobody@example.org", 67), ("x@other.example", 77)])
def test_refused(config: str, monkeypatch, address: str, code: int) -> None:
    give(monkeypatch, b"Subject: x\n\n")
    assert deliver.main(["-c", config, "-f", "", address]) == code
    assert stored(config) == []


def test_a_broken_database_is_try_again(config: str, monkeypatch) -> None:
    for ending in ("", "-wal", "-shm"):
        Path(Path(config).parent / "data" / f"accounts.db{ending}").unlink(missing_ok=True)
    (Path(config).parent / "data" / "accounts.db").write_bytes(b"no database" * 1000)
    give(monkeypatch, b"Subject: x\n\n")
    assert deliver.main(["-c", config, "ann@example.org"]) == 75


def test_sendmail_reads_the_recipients_of_the_header(config: str, monkeypatch, capsys) -> None:
    give(monkeypatch, b"To: ann\nBcc: ann@example.org, far@other.example\nSubject: x\n\nbody\n.\nnot sent\n")
    assert sendmail.main(["-C", config, "-t", "-f", "ann@example.org"]) == 0
    (data,) = stored(config)
    assert b"\r\nFrom: <ann@example.org>\r\n" in data and b"Bcc" not in data
    assert data.endswith(b"\r\n\r\nbody\r\n"), "a line with a dot ends it, without -i"
    assert sendmail.main(["-C", config, "-bp"]) == 0
    assert "<far@other.example>" in capsys.readouterr().out


def test_sendmail_verifies(config: str, capsys) -> None:
    assert sendmail.main(["-C", config, "-bv", "ann"]) == 0
    assert sendmail.main(["-C", config, "-bv", "nobody"]) == 67


def test_smtp_on_standard_input(config: str) -> None:
    dialog = b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.org>\r\nRCPT TO:<no@example.org>\r\n"
    dialog += b"DATA\r\nSubject: x\r\n\r\n..\r\n.\r\nQUIT\r\n"
    done = subprocess.run(
        [sys.executable, "-m", "filterd", "sendmail", "-bs", "-C", config],
        input=dialog,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    codes = [line[:3] for line in done.stdout.splitlines() if line[3:4] == b" "]
    assert codes == [b"220", b"250", b"250", b"250", b"550", b"354", b"250", b"221"]
    (data,) = stored(config)
    assert data.endswith(b"\r\n\r\n.\r\n")
