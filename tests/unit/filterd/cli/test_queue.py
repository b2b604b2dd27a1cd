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
    assert run(config, "bounce", names[3], "--yes") == 0
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


def domains(tmp_path: Path) -> list[str]:
    with contextlib.closing(Journal(tmp_path / "queue")) as journal:
        return [item.domain for item in journal.items()]


def test_choosing_by_domain_sender_and_age(
    config: Path, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "hold", "--domain", "D1.example") == 0
    assert states(tmp_path) == ["queued", "held", "queued", "held"]
    assert run(config, "release", "--sender", "@us.example", "--older", "2h") == 0
    assert run(config, "hold", "--sender", "ANN@us.example", "--domain", "d0.example") == 0
    assert states(tmp_path) == ["held", "queued", "held", "queued"]
    assert run(config, "release", "--older", "3h") == 1  # nothing is so old
    assert run(config, "release", "all", "--sender", "<>") == 1
    assert run(config, "bounce", "--domain", "d1.example") == 0
    assert run(config, "drop", "--domain", "d0.example", "--yes") == 0
    assert states(tmp_path) == ["dropped", "queued", "dropped", "queued"]
    for words in (
        ["drop"],
        ["hold", names[0], "--domain", "x"],
        ["hold", "--older", "soon"],
        ["bounce", "all"],
    ):
        with pytest.raises(CliError):
            run(config, *words)


def test_reroute(config: Path, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "reroute", names[0], "--to", "smtp://mx2.example:2525") == 0
    assert run(config, "reroute", "--domain", "d1.example", "--to", "lmtp:unix:/run/other") == 0
    assert domains(tmp_path) == [
        "!smtp://mx2.example:2525", "!lmtp:unix:/run/other", "d0.example", "!lmtp:unix:/run/other",
    ]  # fmt: skip
    capsys.readouterr()
    assert run(config, "show", names[0]) == 0
    assert "rerouted by hand to smtp://mx2.example:2525" in capsys.readouterr().out
    assert run(config, "flush", "d1.example") == 0  # what was rerouted is still for that domain
    assert capsys.readouterr().out == "2 message(s) tried now\n"
    assert run(config, "reroute", "all", "--to", "auto") == 0
    assert domains(tmp_path) == ["d0.example", "d1.example"] * 2
    for url in ("smtp://u:p@mx2.example", "http://x", "lmtp:unix:here", "smtp://"):
        with pytest.raises(CliError):
            run(config, "reroute", "all", "--to", url)
