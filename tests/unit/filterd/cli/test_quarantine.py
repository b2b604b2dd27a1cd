"""``filterd quarantine``: what it shows and what it changes, without a server."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path

import pytest

from filterd.cli import CliError
from filterd.cli import quarantine as command
from filterd.quarantine.base import Facts, Hold
from filterd.quarantine.database import QuarantineDatabase, database_path
from pipeline.envelope import Client, Profile

ANN, BOB = "ann@us.example", "bob@us.example"
FIRST, SECOND, OTHER = "AAAAA-AAAAA.1", "AAAAA-AAAAA.2", "BBBBB-BBBBB.1"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "filterd.toml"
    path.write_text(
        f'version = 1\n[server]\nhostname = "mx.us.example"\ndata_dir = "{tmp_path}"\n[[domain]]\nname = "us.example"\n'
    )
    return path


@pytest.fixture
def held(tmp_path: Path) -> None:
    with contextlib.closing(QuarantineDatabase(database_path(tmp_path))) as database:
        for name, account in ((FIRST, ANN), (SECOND, BOB), (OTHER, ANN)):
            facts = Facts("far@away.example", account, Client(), Profile.MX)
            hold = Hold(
                name, account, "clamav", "Eicar", b"text\r\n", name.encode(), facts, "far@away.example", "bad"
            )
            database.put(hold, time.time(), 86400.0)


def run(config: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args([words[0], "-c", str(config), *words[1:]]))


def states(tmp_path: Path) -> dict[str, str]:
    with contextlib.closing(QuarantineDatabase(database_path(tmp_path))) as database:
        return {row.id: row.state for row in database.rows(ended=True)}


def test_before_anything_was_held(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "list") == 0 and capsys.readouterr().out == "0 message(s)\n"
    assert run(config, "list", "--json") == 0 and json.loads(capsys.readouterr().out) == []
    with pytest.raises(CliError, match="nothing was ever held"):
        run(config, "release", FIRST)
    assert not database_path(tmp_path).exists()


@pytest.mark.usefixtures("held")
def test_lists(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "list", ANN.upper(), "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in rows} == {FIRST, OTHER} and all(row["account"] == ANN for row in rows)
    assert run(config, "list") == 0
    out = capsys.readouterr().out
    assert "3 message(s)" in out and "far@away.example" in out and "clamav" in out


@pytest.mark.usefixtures("held")
def test_one_name_may_be_several_copies_and_an_owner_has_his_own(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "show", "aaaaaaaaaa") == 0
    shown = capsys.readouterr().out
    assert FIRST in shown and SECOND in shown
    assert run(config, "show", "AAAAA-AAAAA", "--account", BOB) == 0
    shown = capsys.readouterr().out
    assert SECOND in shown and FIRST not in shown
    for words in (("show",), ("release", "--no-wait"), ("drop", "--yes"), ("learn", "spam")):
        with pytest.raises(CliError, match="knows no"):
            run(config, *words, FIRST, "--account", BOB)
    assert set(states(tmp_path).values()) == {"held"}


@pytest.mark.usefixtures("held")
def test_releases_are_asked_for_with_options_anywhere(config: Path, tmp_path: Path) -> None:
    assert run(config, "release", "--no-wait", FIRST, OTHER) == 0
    assert run(config, "release", SECOND, "--no-wait") == 0
    assert set(states(tmp_path).values()) == {"asked"}


@pytest.mark.usefixtures("held")
def test_tokens(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from filterd.assembly import links_of
    from filterd.config.load import load

    with contextlib.closing(QuarantineDatabase(database_path(tmp_path))) as database:
        token = links_of(load(str(config))).token(database.find(SECOND)[0])
    with pytest.raises(SystemExit):
        run(config, "release", "--no-wait")
    with pytest.raises(CliError, match="opens nothing"):
        run(config, "release", "--no-wait", "--token", "x.y")
    assert run(config, "release", "--no-wait", "--token", token) == 0
    assert states(tmp_path) == {FIRST: "held", SECOND: "asked", OTHER: "held"}
    assert "as soon as it runs" in capsys.readouterr().out


@pytest.mark.usefixtures("held")
def test_drops_ask_first(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CliError, match="nobody is told"):
        run(config, "drop", FIRST)
    assert run(config, "drop", FIRST, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"dropped": 1}
    assert run(config, "drop", FIRST, "--yes") == 1
    with pytest.raises(CliError, match="text is not kept"):
        run(config, "show", FIRST, "--raw")
    assert states(tmp_path) == {FIRST: "dropped", SECOND: "held", OTHER: "held"}


@pytest.mark.usefixtures("held")
def test_a_digest_is_shown(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "digest", BOB) == 0
    out = capsys.readouterr().out
    assert f"To: {BOB}" in out and SECOND in out and FIRST not in out and "1 mail(s), not sent" in out
