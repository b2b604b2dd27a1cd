"""`filterd store adopt` and `filterd store export` from the outside, on real files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.accounts.database import AccountDatabase, Record
from filterd.accounts.places import account_folder, database_path
from filterd.accounts.provision import provision
from filterd.cli.storage import open_store
from filterd.config.load import load
from filterd.ports import SystemClock

ANN = "ann@example.org"
TEXT = """
[server]
hostname = "mail.example.org"
data_dir = "data"
[[domain]]
name = "example.org"
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "filterd.toml"
    path.write_text(TEXT)
    config = load(str(path))
    os.makedirs(config.server.data_dir)
    database = AccountDatabase(database_path(config), SystemClock())
    database.add(Record(ANN, "Ann", "x", None, enabled=True, created=1.0))
    database.close()
    store = open_store(config)
    provision(store, ANN)
    store.close()
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "old" / "Maildir"
    for part in ("cur", "new", "tmp"):
        (top / part).mkdir(parents=True)
        (top / ".Sent" / part).mkdir(parents=True)
    (top / "cur" / "1500000001.M1.h:2,S").write_bytes(b"Subject: one\n\nHello\n")
    (top / "cur" / "1500000002.M1.h:2,a").write_bytes(b"Subject: two\n\nHello\n")
    (top / "dovecot-uidlist").write_text("3 V1234567 N3 G" + "0" * 32 + "\n1 :1500000001.M1.h\n")
    (top / "dovecot-keywords").write_text("0 Todo\n")
    (top / ".Sent" / "dovecot-uidlist").write_text("3 V1234568 N9 G" + "1" * 32 + "\n")
    (top / "subscriptions").write_text("V\t2\n\nINBOX\n")
    return top


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(["store", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_dry_run_then_adoption_then_nothing(file: str, source: Path, capsys) -> None:
    folder = Path(account_folder(load(file), ANN))
    before = sorted(folder.rglob("*"))
    code, out, _ = run(capsys, "adopt", "dovecot", ANN, str(source), "-c", file, "--dry-run")
    assert code == 0 and "would bring 2 messages in 2 mailboxes" in out and "not kept" in out
    assert "INBOX: 2 messages, 1 with new UIDs, UIDVALIDITY 1234567, UIDNEXT 4" in out
    assert sorted(folder.rglob("*")) == before
    code, out, _ = run(capsys, "adopt", "dovecot", ANN, str(source), "-c", file, "--json")
    found = json.loads(out)
    assert code == 0 and found["done"] and found["mode"] == "copy" and not found["already_done"]
    assert found["mailboxes"][0] == {
        "name": "INBOX", "uidvalidity": 1234567, "uidnext": 4, "messages": 2, "new_uids": 1, "keywords": ["Todo"],
    }  # fmt: skip
    store = open_store(load(file))
    infos = {info.name: info for info in store.account(ANN).mailboxes()}
    assert infos["Sent"].uidvalidity == 1234568 and infos["Sent"].special_use == "\\Sent"
    assert store.account(ANN).snapshot("INBOX").uids.tolist() == [1, 3]
    store.close()
    code, out, _ = run(capsys, "adopt", "dovecot", ANN, str(source), "-c", file)
    assert code == 0 and "was adopted before" in out
    # and something else does not fit any more
    other = source.parent / "Other"
    source.rename(other)
    code, _, err = run(capsys, "adopt", "dovecot", ANN, str(other), "-c", file)
    assert code == 1 and "INBOX has 2 messages already" in err


def test_refused_while_somebody_has_it_open(file: str, source: Path, capsys) -> None:
    words = ("adopt", "dovecot", ANN, str(source), "-c", file)
    (source / "dovecot-uidlist.lock").write_text("")
    code, _, err = run(capsys, *words)
    assert code == 75 and "dovecot-uidlist.lock" in err and "--force" in err
    with open(source / "dovecot-uidlist", "rb") as opened:
        holder = subprocess.Popen(
            [sys.executable, "-c", "print(1, flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            pass_fds=[opened.fileno()],
        )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        for more in ((), ("--force",), ("--dry-run",)):
            code, _, err = run(capsys, *words, *more)
            assert code == 75 and f"process {holder.pid}" in err and "--force does not help" in err
    finally:
        holder.communicate(b"\n", timeout=20)
    assert run(capsys, *words, "--force")[0] == 0


def test_what_is_said_about_wrong_words(file: str, source: Path, tmp_path: Path, capsys) -> None:
    own = account_folder(load(file), ANN)
    for words, code, said in (
        (
            ("adopt", "dovecot", "bob@example.org", str(source)),
            1,
            "`filterd account add bob@example.org` makes it",
        ),
        (("adopt", "dovecot", ANN, str(tmp_path / "nowhere")), 1, "is no directory"),
        (("adopt", "dovecot", ANN, str(source.parent)), 1, "did you mean"),
        (("adopt", "dovecot", ANN, str(source), "--in-place"), 2, "own folder is"),
        (("adopt", "dovecot", ANN, own, "--move"), 2, "say --in-place"),
        (("adopt", "dovecot", ANN, str(source), "--pop3-uidl", "%m"), 1, "not supported"),
        (("export", "dovecot", ANN), 2, "name a DEST"),
        (("export", "dovecot", ANN, str(tmp_path / "a" / "b")), 1, "there is no"),
        (("export", "dovecot", ANN, str(source)), 1, "is not empty"),
    ):
        got, _, err = run(capsys, *words, "-c", file)
        assert got == code and said in err, (words, err)


def test_there_and_back(file: str, source: Path, tmp_path: Path, capsys) -> None:
    assert run(capsys, "adopt", "dovecot", ANN, str(source), "-c", file, "--pop3-uidl", "%v-%u")[0] == 0
    back = tmp_path / "back"
    code, out, _ = run(capsys, "export", "dovecot", ANN, str(back), "-c", file)
    assert code == 0 and "wrote 2 messages" in out
    lines = (back / "dovecot-uidlist").read_text().splitlines()
    assert lines[0] == "3 V1234567 N4 G" + "0" * 32 and lines[1].startswith("1 P1234567-1 :1500000001.M1.h")
    assert lines[2].startswith("3 P000000030012d687 :")
    assert (back / "dovecot-keywords").read_text() == "0 Todo\n"
    code, out, _ = run(capsys, "export", "dovecot", ANN, "--in-place", "-c", file, "--json")
    folder = Path(account_folder(load(file), ANN))
    assert code == 0 and json.loads(out)["path"] == str(folder)
    assert (folder / "dovecot-uidlist").exists() and not (folder / ".filterd").exists()
    code, out, _ = run(capsys, "adopt", "dovecot", ANN, str(folder), "-c", file)
    assert code == 0 and "(in-place)" in out
    assert (folder / ".filterd" / "index.db").exists()
