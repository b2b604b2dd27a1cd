"""`filterd account` from the outside, on real files."""

import io
import json
from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.accounts.builtin import BuiltinDirectory
from filterd.accounts.database import AccountDatabase
from filterd.accounts.password import Passwords
from filterd.accounts.places import database_path
from filterd.accounts.provision import FOLDERS
from filterd.cli.storage import open_store
from filterd.config.load import load
from filterd.ports import SystemClock

TEXT = """
[server]
hostname = "mail.example.org"
data_dir = "data"
[[domain]]
name = "example.org"
aliases = { info = "ann@example.org" }
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "filterd.toml"
    path.write_text(TEXT)
    return str(path)


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(["account", *words])
    out, err = capsys.readouterr()
    return code, out, err


def may_log_in(file: str, login: str, password: str) -> bool:
    config = load(file)
    database = AccountDatabase(database_path(config), SystemClock())
    found = BuiltinDirectory(config, database, Passwords(SystemClock())).authenticate(login, password)
    database.close()
    return found is not None


def test_add_makes_account_password_and_folders(file: str, capsys) -> None:
    code, out, _ = run(
        capsys, "add", "-c", file, "Ann@Example.org", "--json", "--quota", "2 GiB", "--name", "Ann"
    )
    made = json.loads(out)
    assert code == 0 and made["address"] == "ann@example.org"
    assert may_log_in(file, "ann@example.org", made["password"])
    store = open_store(load(file))
    found = {info.name: info.special_use for info in store.account("ann@example.org").mailboxes()}
    store.close()
    assert found == {"INBOX": "", **dict(FOLDERS)}
    code, out, _ = run(capsys, "show", "-c", file, "ann@example.org", "--json")
    shown = json.loads(out)
    assert shown["maildir"] == made["maildir"] and (Path(shown["maildir"]) / "cur").is_dir()
    assert shown["quota"] == 2 << 30 and shown["name"] == "Ann"
    assert shown["addresses"] == ["ann@example.org", "info@example.org"]


def test_password_from_standard_input(file: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" päss word \nsecond line\n"))
    code, out, _ = run(capsys, "add", "-c", file, "bob@example.org", "--password-stdin")
    assert code == 0 and "password:" not in out and "päss" not in out
    assert may_log_in(file, "bob@example.org", " päss word ")
    monkeypatch.setattr("sys.stdin", io.StringIO("new"))
    assert run(capsys, "passwd", "-c", file, "bob@example.org", "--password-stdin")[0] == 0
    assert may_log_in(file, "bob@example.org", "new") and not may_log_in(
        file, "bob@example.org", " päss word "
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert run(capsys, "add", "-c", file, "eve@example.org", "--password-stdin")[0] == 2


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("ann@other.example", "is not a [[domain]]"),
        ("info@example.org", "is an alias"),
        ("../x@example.org", "dots stand"),
        ("a/x@example.org", "cannot contain"),
        ("ann", "not an address"),
        ("a+b@example.org", "subaddress"),
    ],
)
def test_addresses_that_cannot_be(file: str, capsys, address: str, word: str) -> None:
    code, _, err = run(capsys, "add", "-c", file, address)
    assert code == 2 and word in err
    assert run(capsys, "list", "-c", file)[1].startswith("no accounts yet")


def test_twice_is_refused_and_changes_nothing(file: str, capsys) -> None:
    first = json.loads(run(capsys, "add", "-c", file, "ann@example.org", "--json")[1])["password"]
    code, _, err = run(capsys, "add", "-c", file, "ann@example.org")
    assert code == 1 and "exists already" in err
    assert may_log_in(file, "ann@example.org", first)


def test_list_and_remove(file: str, capsys) -> None:
    for name in ("ann", "bob"):
        run(capsys, "add", "-c", file, f"{name}@example.org")
    code, out, _ = run(capsys, "list", "-c", file, "--json")
    assert [one["address"] for one in json.loads(out)] == ["ann@example.org", "bob@example.org"]
    folder = Path(json.loads(run(capsys, "show", "-c", file, "bob@example.org", "--json")[1])["maildir"])
    code, _, err = run(capsys, "remove", "-c", file, "bob@example.org")
    assert code == 2 and "--yes" in err, "nobody to ask, nothing lost"
    assert run(capsys, "remove", "-c", file, "bob@example.org", "--yes")[0] == 0
    assert folder.is_dir()
    assert run(capsys, "remove", "-c", file, "bob@example.org", "--yes")[0] == 1
    assert run(capsys, "remove", "-c", file, "ann@example.org", "--yes", "--purge")[0] == 0
    assert not (folder.parent / "ann").exists()


def test_nobody_of_that_name(file: str, capsys) -> None:
    run(capsys, "add", "-c", file, "ann@example.org")
    code, _, err = run(capsys, "show", "-c", file, "anne@example.org")
    assert code == 1 and 'did you mean "ann@example.org"?' in err


def test_a_broken_database_is_temporary(file: str, capsys, tmp_path: Path) -> None:
    run(capsys, "add", "-c", file, "ann@example.org")
    for ending in ("", "-wal", "-shm"):
        (tmp_path / "data" / f"accounts.db{ending}").unlink(missing_ok=True)
    (tmp_path / "data" / "accounts.db").write_bytes(b"no database" * 1000)
    assert run(capsys, "list", "-c", file)[0] == 75


def test_app_passwords(file: str, capsys) -> None:
    run(capsys, "add", "-c", file, "ann@example.org")
    code, out, _ = run(capsys, "app-password", "add", "-c", file, "Ann@example.org", "telephone", "--json")
    made = json.loads(out)
    assert code == 0 and made["name"] == "telephone"
    assert may_log_in(file, "ann@example.org", made["password"])
    assert may_log_in(file, "ann@example.org", made["password"].replace("-", " ").upper()), (
        "as people type it"
    )
    code, _, err = run(capsys, "app-password", "add", "-c", file, "ann@example.org", "telephone")
    assert code == 1 and "already" in err
    assert run(capsys, "app-password", "add", "-c", file, "ann@example.org", " ")[0] != 0
    assert run(capsys, "app-password", "list", "-c", file, "ann@example.org")[1] == "telephone\n"
    run(capsys, "passwd", "-c", file, "ann@example.org")
    assert may_log_in(file, "ann@example.org", made["password"]), "the account's own password is another one"
    assert run(capsys, "app-password", "remove", "-c", file, "ann@example.org", "telephone")[0] == 0
    assert not may_log_in(file, "ann@example.org", made["password"])
    code, _, err = run(capsys, "app-password", "remove", "-c", file, "ann@example.org", "telephone")
    assert code == 1 and "no app password" in err
    assert "no app passwords" in run(capsys, "app-password", "list", "-c", file, "ann@example.org")[1]
    assert run(capsys, "app-password", "list", "-c", file, "bob@example.org")[0] == 1


def test_show_says_that_an_index_was_made_anew(file: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("secret words\n"))
    run(capsys, "add", "-c", file, "ann@example.org", "--password-stdin")
    code, out, _ = run(capsys, "show", "-c", file, "ann@example.org")
    assert code == 0 and "made anew" not in out
    folder = Path(json.loads(run(capsys, "show", "-c", file, "ann@example.org", "--json")[1])["maildir"])
    for lost in (1, 2):
        store = open_store(load(file))
        store.account("ann@example.org").set_metadata(None, "/private/comment", "kept")
        store.close()
        for path in (folder / ".filterd").iterdir():
            path.unlink()
        if lost == 2:
            (folder / "filterd-account").write_text("nonsense")
        store = open_store(load(file))
        account = store.account("ann@example.org")
        assert account.get_metadata(None, "/private/comment") == ("kept" if lost == 1 else None)
        store.close()
        code, out, _ = run(capsys, "show", "-c", file, "ann@example.org")
        assert code == 0 and "made anew" in out
        assert ("came back: 1 entries of METADATA" in out) == (lost == 1)
        assert ("filterd-account is damaged" in out) == (lost == 2)
    facts = json.loads(run(capsys, "show", "-c", file, "ann@example.org", "--json")[1])
    assert "damaged" in facts["index"]["problems"][0]
