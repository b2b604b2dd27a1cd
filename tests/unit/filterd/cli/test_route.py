"""``filterd route``: where mail for an address goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.accounts.database import AccountDatabase, Record
from filterd.accounts.places import database_path
from filterd.assembly import batv_of
from filterd.config.load import load
from filterd.ports import SystemClock


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "filterd.toml"
    (tmp_path / "aliases").write_text("team: ann, bob@else.example\nprog: |cat\n")
    path.write_text(
        f"""[server]
hostname = "mx.us.example"
data_dir = "{tmp_path}/data"
[[domain]]
name = "us.example"
alias_files = ["aliases:aliases"]
aliases = {{ "*-info" = "team@us.example" }}
[[domain]]
name = "behind.example"
relay = "lmtp://127.0.0.1:24"
recipients = ["carl"]
[[queue.route]]
senders = ["ann@us.example"]
via = "smtp://u:secret@relay.example:587"
[[queue.route]]
recipients = ["bound.example"]
bind = ["192.0.2.4"]
"""
    )
    database = AccountDatabase(database_path(load(str(path))), SystemClock())
    database.add(Record("ann@us.example", "", "x", created=1.0))
    database.close()
    return str(path)


def steps(
    config: str, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, list[tuple[str, str, str]]]:
    code = main(["route", *words, "-c", config, "--offline", "--json"])
    story = json.loads(capsys.readouterr().out)
    return code, [(step["kind"], step["address"], step["text"]) for step in story["steps"]]


def test_aliases_accounts_and_what_leaves(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = steps(config, capsys, "de-info@us.example")
    assert code == 0
    assert [(kind, address) for kind, address, _ in found] == [
        ("alias", "de-info@us.example"),
        ("alias", "team@us.example"),
        ("here", "ann@us.example"),
        ("mx", "bob@else.example"),
    ]
    assert found[1][2].endswith("aliases:1)") and "*-info" in found[0][2]
    _, found = steps(config, capsys, "ann+list@us.example")
    assert found == [("here", "ann@us.example", 'mailbox here, detail "list"')]


def test_routes(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = steps(config, capsys, "bob@else.example", "--from", "ann@us.example")
    assert found == [("route", "bob@else.example", "queue.route 1: smtp://u:(secret)@relay.example:587")]
    _, found = steps(config, capsys, "bob@bound.example")
    assert found[0][0] == "mx" and found[0][2].endswith(", from 192.0.2.4")
    _, found = steps(config, capsys, "carl@behind.example")
    assert found == [("relay", "carl@behind.example", "its store is behind us: lmtp://127.0.0.1:24")]


@pytest.mark.parametrize(
    ("address", "code", "word"),
    [
        ("zoe@us.example", 1, "no such user"),
        ("prog@us.example", 1, "program"),
        ("x@behind.example", 1, "no such"),
    ],
)
def test_who_is_refused_and_why(
    config: str, capsys: pytest.CaptureFixture[str], address: str, code: int, word: str
) -> None:
    got, found = steps(config, capsys, address)
    assert got == code and found[0][0] == "refused" and word in found[0][2]


def test_for_people(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", "<team@us.example>", "-c", config, "--offline"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "team@us.example" and out[1].startswith("  alias ") and "mailbox here" in out[2]
    assert main(["route", "", "-c", config]) == 2


def test_a_tagged_address(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Path(config).open("a") as file:
        file.write('[batv]\nenabled = true\nsecrets = ["a secret of the tests"]\n')
    tags = batv_of(load(config), SystemClock())
    assert tags is not None
    signed = tags.sign("ann@us.example")
    code, found = steps(config, capsys, signed)
    assert code == 0 and [kind for kind, _, _ in found] == ["batv", "here"]
    code, found = steps(config, capsys, signed.replace("=ann", "=nobody"))
    assert code == 1 and [kind for kind, _, _ in found] == ["batv", "refused"]
    assert "wrong tag" in found[0][2]
