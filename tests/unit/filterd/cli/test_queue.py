"""``filterd queue``: what it shows and what it changes."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path

import pytest

from filterd.cli import CliError
from filterd.cli import queue as command
from filterd.queue.base import Outgoing
from filterd.queue.journal import Journal


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "filterd.toml"
    path.write_text(
        f'version = 1\n[server]\nhostname = "mx.us.example"\ndata_dir = "{tmp_path}"\n[[domain]]\nname = "us.example"\n'
    )
    return path


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    with contextlib.closing(Journal(tmp_path / "queue")) as journal, journal.transaction():
        added = journal.add(
            [
                Outgoing(b"%d" % n, "ann@us.example", f"u{n}@d{n % 2}.example", b"text", "submission", "T")
                for n in range(4)
            ],
            (),
            time.time() - 7300,
        )
        item = journal.item(added.items[0])
        assert item is not None
        said = journal.said(1.0, "> RCPT TO:<u0@d0.example>\n< 450 4.2.2 full")
        journal.tried(item, 1_790_000_000.0, "mx.d0.example [192.0.2.1]", "450 4.2.2 full", said)
        journal.again(item.id, time.time() + 900)
    return list(added.items)


def run(config: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args([words[0], "-c", str(config), *words[1:]]))


def states(tmp_path: Path) -> list[str]:
    with contextlib.closing(Journal(tmp_path / "queue")) as journal:
        return [item.state for item in journal.items(("queued", "held", "dropped"))]


def test_without_a_queue(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "list") == 0 and capsys.readouterr().out == "0 message(s)\n"
    assert run(config, "list", "--json") == 0 and json.loads(capsys.readouterr().out) == []
    with pytest.raises(CliError):
        run(config, "show", "X")
    assert not (tmp_path / "queue").exists()


def test_list(config: Path, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{names[0]}  queued") and "450 4.2.2 full" in lines[0] and " 2h " in lines[0]
    assert "not tried yet" in lines[1] and lines[-1] == "4 message(s)"
    run(config, "list", "--json")
    first = json.loads(capsys.readouterr().out)[0]
    assert first["id"] == names[0] and first["attempts"] == 1 and "full" in first["advice"]
    assert run(config, "stats", "--json") == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["queued"] == 4 and stats["held"] == 0 and stats["oldest_seconds"] >= 7300


def test_why_shows_the_dialogue_and_what_to_do(
    config: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "why", names[0].lower()) == 0
    text = capsys.readouterr().out
    assert "> RCPT TO:<u0@d0.example>" in text and "→ The mailbox is full." in text and "next try" in text
    run(config, "show", names[0])
    assert "RCPT" not in capsys.readouterr().out
    run(config, "why", names[0], "--json")
    assert json.loads(capsys.readouterr().out)["tries"][0]["host"] == "mx.d0.example [192.0.2.1]"


def test_steering(config: Path, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "retry", names[0]) == 0
    with contextlib.closing(Journal(tmp_path / "queue")) as journal:
        item = journal.item(names[0])
        assert item is not None and item.next_at <= time.time()
    assert run(config, "hold", "all") == 0 and states(tmp_path) == ["held"] * 4
    assert run(config, "retry", "all") == 1  # nothing: held is held
    assert run(config, "release", names[1]) == 0 and states(tmp_path).count("queued") == 1
    assert run(config, "drop", names[2], "--yes") == 0 and states(tmp_path)[2] == "dropped"
    assert run(config, "bounce", names[3]) == 0
    assert run(config, "flush", "D1.example") == 0
    capsys.readouterr()
    assert run(config, "release", "all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"action": "release", "messages": 1}


def test_what_is_refused(config: Path, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    for words in (
        ["drop", "all"],
        ["bounce", "all"],
        ["show", "all"],
        ["retry", "NOSUCHID"],
        ["drop", names[0]],
    ):
        with pytest.raises(CliError):
            run(config, *words)


def test_a_message_for_later_says_so(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Outgoing(
        b"k", "ann@us.example", "bob@d.example", b"text", "submission", "T", hold_until=4_000_000_000.0
    )
    with contextlib.closing(Journal(tmp_path / "queue")) as journal, journal.transaction():
        (name,) = journal.add([out], (), time.time()).items
    run(config, "list")
    assert "held until 2096-10-02 07:06:40 UTC, as its sender asked" in capsys.readouterr().out
    run(config, "show", name)
    assert "held until 2096-10-02" in capsys.readouterr().out
