"""`filterd store convert` from the outside, and a configuration that keeps new accounts as mbox."""

import io
import json
from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.cli.storage import open_store
from filterd.config.errors import ConfigErrors
from filterd.config.load import load
from filterd.store.base import NewMessage

TEXT = """
[server]
hostname = "mail.example.org"
data_dir = "data"
[[domain]]
name = "example.org"
[store]
format = "mbox"
"""
ANN = "ann@example.org"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "filterd.toml"
    path.write_text(TEXT)
    monkeypatch.setattr("sys.stdin", io.StringIO("a long pass phrase\n"))
    assert main(["account", "add", ANN, "--config", str(path), "--password-stdin"]) == 0
    return str(path)


def test_there_and_back(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(load(file))
    place = Path(store.path(ANN))
    uid = store.account(ANN).append("INBOX", [NewMessage(b"Subject: x\r\n\r\nbody\r\n", ("\\Seen",))])[0].uid
    store.close()
    assert (place / "inbox").read_bytes().startswith(b"From ")
    capsys.readouterr()
    assert main(["store", "convert", ANN, "--to", "maildir", "--json", "--config", file]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["messages"], said["format"], said["notes"]) == (1, "maildir", [])
    assert (Path(said["old"]) / "inbox").is_file()
    store = open_store(load(file))
    assert list(store.account(ANN).snapshot("INBOX").uids) == [uid]
    store.close()
    assert main(["store", "convert", ANN, "--to", "maildir", "--config", file]) != 0
    assert "already" in capsys.readouterr().err
    assert main(["store", "convert", ANN, "--to", "mbox", "--config", file]) == 0
    assert main(["store", "convert", "bob@example.org", "--to", "mbox", "--config", file]) != 0


@pytest.mark.parametrize("line", ['inbox = "/var/mail/shared"', "locks = []"])
def test_what_the_check_refuses(tmp_path: Path, line: str) -> None:
    path = tmp_path / "filterd.toml"
    path.write_text(TEXT + f"[store.mbox]\n{line}\n")
    with pytest.raises(ConfigErrors, match=r"store\.mbox"):
        load(str(path))
