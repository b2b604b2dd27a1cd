"""`filterd config` from the outside."""

import json
from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.config import schema

GOOD = '[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "example.org"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "filterd.toml"
    path.write_text(GOOD)
    return path


def test_check_of_a_good_file(file: Path, capsys) -> None:
    assert main(["config", "check", "-c", str(file)]) == 0
    assert "is fine" in capsys.readouterr().out
    assert main(["-c", str(file), "config", "check"]) == 0


def test_check_tells_all_mistakes(file: Path, capsys) -> None:
    file.write_text(GOOD + '[stage.clamav]\nfuond = "x"\nfound = "rejct"\n')
    assert main(["config", "check", "-c", str(file)]) == 1
    out = capsys.readouterr().out
    assert f"{file}:6:1  unknown key  stage.clamav.fuond" in out
    assert f"{file}:7:9  bad value    stage.clamav.found" in out
    assert "2 problems." in out


def test_check_as_json(file: Path, capsys) -> None:
    file.write_text(GOOD + '[listen]\nmetrics = "127.0.0.1:1"\nsmtp = 1\n')
    assert main(["config", "check", "--json", "-c", str(file)]) == 1
    (problem,) = json.loads(capsys.readouterr().out)
    assert (problem["line"], problem["column"], problem["severity"]) == (7, 8, "error")


def test_warnings_do_not_fail(file: Path, capsys) -> None:
    file.write_text(GOOD + '[listen]\nmetrics = "0.0.0.0:1"\n')
    assert main(["config", "check", "-c", str(file)]) == 0
    out = capsys.readouterr().out
    assert "use loopback" in out and "1 remark" in out


def test_show_with_origin(file: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("FILTERD_QUEUE__MAX_AGE", "3d")
    assert main(["config", "show", "--origin", "-c", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("server.hostname" in line and line.endswith(f"# {file}:2") for line in lines)
    assert any(
        'queue.max_age = "3d"' in line and line.endswith("# env FILTERD_QUEUE__MAX_AGE") for line in lines
    )
    assert any("limits.recipients = 100" in line and line.endswith("# default") for line in lines)


def test_show_of_one_section(file: Path, capsys) -> None:
    assert main(["config", "show", "-c", str(file), "limits"]) == 0
    keys = [key.name for key in schema.all_keys() if key.name.startswith("limits.") and not key.section]
    shown = [line.partition(" = ")[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(shown) == sorted(keys)
    assert main(["config", "show", "-c", str(file), "limit"]) == 2


def test_explain_and_sample(capsys) -> None:
    assert main(["config", "explain", "stage.spamassassin.junk_at"]) == 0
    assert "score" in capsys.readouterr().out
    assert main(["config", "docs"]) == 0
    assert "queue.relay" in capsys.readouterr().out
    assert main(["config", "sample"]) == 0
    assert "[[domain]]" in capsys.readouterr().out


def test_other_commands_refuse_a_bad_file(file: Path, capsys) -> None:
    file.write_text("x = 1")
    assert main(["account", "list", "-c", str(file)]) == 2
    err = capsys.readouterr().err
    assert "unknown key" in err and "nothing was done" in err
