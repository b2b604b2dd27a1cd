"""`filterd config get`, `set`, `unset`, `diff`, `schema` and `migrate` from the outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.cli import configedit
from filterd.config import schema
from filterd.config.effect import EXEC, RELOAD, RESTART, taken_up
from filterd.config.load import load

GOOD = """\
# mine
version = 1
[server]
hostname = "mail.example.org"   # us
data_dir = "data"
[[domain]]
name = "example.org"   # first
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.delenv("FILTERD_CONFIG", raising=False)
    path = tmp_path / "filterd.toml"
    path.write_text(GOOD)
    path.chmod(0o640)
    return path


def run(file: Path, *words: str) -> int:
    return main(["config", words[0], "-c", str(file), *words[1:]])


def test_get_tells_value_and_origin(file: Path, capsys, monkeypatch) -> None:
    (file.parent / "conf.d").mkdir()
    (file.parent / "conf.d" / "10.toml").write_text("[limits]\nrecipients = 200\n")
    monkeypatch.setenv("FILTERD_QUEUE__MAX_AGE", "3d")
    for key, value, origin in (
        ("server.hostname", "mail.example.org", f"from {file}:4"),
        ("limits.recipients", "200", f"from {file.parent}/conf.d/10.toml:2"),
        ("queue.max_age", "3d", "from env FILTERD_QUEUE__MAX_AGE"),
        ("log.level", "info", "not set: the default"),
        ("domain.name", "example.org", f"from {file}:7"),
        ("domain[example.org].privacy", "true", "not set: the default"),
        ("queue.retry", "5m\n15m\n1h\n4h\n8h", "not set: the default"),
    ):
        assert run(file, "get", key) == 0
        out = capsys.readouterr()
        assert out.out == f"{value}\n" and origin in out.err, key
    assert run(file, "get", "--json", "limits.recipients") == 0
    assert json.loads(capsys.readouterr().out)["default"] == 100
    assert run(file, "get", "-q", "log.level") == 0 and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("limits.recipent", 'did you mean "limits.recipients"?'),
        ("limits", "is a table"),
        ("domain", "is a table"),
        ("domain[7].name", "domain has 1; domain[1] would be the next"),
        ("domain[example.com].name", 'did you mean "example.org"?'),
        ("stage.milters.name", "stage.milters[0] would be the first"),
        ("a..b", "is not a key such as"),
    ],
)
def test_a_wrong_key_gets_a_hint(file: Path, capsys, key: str, hint: str) -> None:
    for action in (["get", key], ["set", key, "x"], ["unset", key]):
        assert run(file, *action) == 2
        assert hint in capsys.readouterr().err
    assert file.read_text() == GOOD


def test_set_changes_one_line_and_keeps_the_rest(file: Path, capsys) -> None:
    assert run(file, "set", "server.hostname", "mx.example.org") == 0
    out = capsys.readouterr().out
    assert f'{file}:4  server.hostname = "mx.example.org"   (was "mail.example.org")' in out
    assert file.read_text() == GOOD.replace('"mail.example.org"', '"mx.example.org"')
    assert file.stat().st_mode & 0o777 == 0o640 and os.listdir(file.parent) == ["filterd.toml"]


def test_set_of_several_keys_is_one_change(file: Path) -> None:
    words = [
        "domain[1].name",
        "example.net",
        "domain[1].catch_all",
        "ann@example.org",
        "queue.retry",
        "1m,2m",
    ]
    assert run(file, "set", *words) == 0
    config = load(str(file), {})
    assert config.domain[1].catch_all == "ann@example.org" and config.queue.retry == (60.0, 120.0)
    before = file.read_bytes()
    assert run(file, "set", "log.level", "debug", "stage.spf.fail", "rejct") == 1
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stage.spf.fail", "rejct"), ("limits.recipients", "many"), ("queue.max_age", "5"), ("tls.mode", "files"),
        ("listen.smtp", "25"), ("pipeline.incoming", "sieve,spf"), ("srs.domain", "example.com"), ("limits.recipients", "-3"),
        ("tls.cert", ""), ("dkim.key_table", "nowhere"), ("srs.secrets", "file:nowhere"),
    ],
)  # fmt: skip
def test_set_refuses_what_check_refuses_with_its_words(file: Path, capsys, key: str, value: str) -> None:
    code = run(file, "set", key, value)
    out = capsys.readouterr().out
    if value == "":
        assert code == 0
        return
    assert code == 1 and file.read_text() == GOOD and "Nothing was changed." in out
    candidate = file.parent / "other.toml"
    from filterd.config.edit import changed
    from filterd.config.load import from_text

    info = next(one for one in schema.all_keys() if one.name == key)
    candidate.write_text(changed(GOOD, tuple(key.split(".")), from_text(value, info.kind)))
    assert main(["config", "check", "-c", str(candidate)]) == 1
    said = capsys.readouterr().out.replace(str(candidate), str(file)).splitlines()
    assert out.splitlines()[:-1] == said[:-1]


def test_set_changes_the_file_that_has_the_key(file: Path, capsys) -> None:
    folder = file.parent / "conf.d"
    folder.mkdir()
    other = folder / "50-more.toml"
    other.write_text('[limits]\nrecipients = 200 # more\n[[domain]]\nname = "example.net"\n')
    assert (
        run(file, "set", "limits.recipients", "300", "domain[example.net].catch_all", "ann@example.org") == 0
    )
    assert file.read_text() == GOOD
    text = other.read_text()
    assert "recipients = 300 # more" in text and text.endswith(
        'name = "example.net"\ncatch_all = "ann@example.org"\n'
    )
    assert run(file, "set", "domain[2].name", "example.com") == 0
    assert 'name = "example.com"' in file.read_text()


def test_set_says_that_the_environment_wins(file: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("FILTERD_LIMITS__RECIPIENTS", "150")
    assert run(file, "set", "limits.recipients", "200") == 0
    assert "FILTERD_LIMITS__RECIPIENTS in the environment wins" in capsys.readouterr().out


def test_set_says_when_it_is_taken_up(file: Path, capsys) -> None:
    assert run(file, "set", "limits.recipients", "200") == 0
    assert "no server of this data_dir runs" in capsys.readouterr().out
    (file.parent / "data" / "run").mkdir(parents=True)
    (file.parent / "data" / "run" / "filterd.pid").write_text(f"{os.getpid()}\n")
    assert run(file, "set", "limits.recipients", "300") == 0
    assert f"kill -HUP {os.getpid()}" in capsys.readouterr().out
    assert run(file, "set", "listen.smtp", "127.0.0.1:2525") == 0
    assert "has to be restarted" in capsys.readouterr().out
    assert run(file, "set", "exec.timeout", "20s") == 0
    assert "filterd exec serve" in capsys.readouterr().out
    assert [taken_up(key) for key in ("limits.recipients", "listen.smtp", "server.user", "exec.user")] == [
        RELOAD, RESTART, RESTART, EXEC,
    ]  # fmt: skip


def test_unset_and_aliases(file: Path, capsys) -> None:
    assert run(file, "set", "domain.aliases.info", "ann@example.org, bob@example.org") == 0
    assert run(file, "get", "domain.aliases.info") == 0
    assert "ann@example.org\nbob@example.org\n" in capsys.readouterr().out
    assert run(file, "unset", "domain.aliases.info") == 0
    assert file.read_text() == GOOD
    assert run(file, "unset", "domain.aliases.info") == 2
    assert "not set in this file" in capsys.readouterr().err
    assert run(file, "unset", "server.hostname") == 1
    assert "missing key" in capsys.readouterr().out and file.read_text() == GOOD


def test_a_pair_with_an_equals_sign_is_understood_as_a_slip(file: Path, capsys) -> None:
    assert run(file, "set", "log.level=debug") == 2
    assert "Did you mean: filterd config set log.level debug" in capsys.readouterr().err


def test_a_file_that_is_broken_is_left_alone(file: Path, capsys) -> None:
    file.write_text(GOOD + "[log\n")
    assert run(file, "set", "log.level", "debug") == 2
    assert "syntax" in capsys.readouterr().err and file.read_text() == GOOD + "[log\n"


def test_one_mistake_is_mended_by_set(file: Path, capsys) -> None:
    file.write_text(GOOD + '[log]\nlevel = "loud"\n')
    assert run(file, "set", "log.level", "debug") == 0
    assert load(str(file), {}).log.level == "debug"


def test_a_link_stays_a_link(file: Path) -> None:
    real = file.parent / "real"
    real.mkdir()
    os.rename(file, real / "x.toml")
    file.symlink_to(real / "x.toml")
    assert run(file, "set", "log.level", "debug") == 0
    assert file.is_symlink() and "debug" in (real / "x.toml").read_text()


def test_who_set_at_the_same_time_lose_nothing(file: Path) -> None:
    keys = [
        "limits.recipients",
        "limits.imap_saved",
        "limits.messages_per_hour",
        "limits.recipients_per_hour",
    ]
    threads = [threading.Thread(target=run, args=(file, "set", key, "1000")) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    config = load(str(file), {})
    assert [getattr(config.limits, key.partition(".")[2]) for key in keys] == [1000] * 4


def test_a_full_disk_leaves_the_old_file(file: Path, capsys, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(configedit.RealDisk, "sync", full)
    assert run(file, "set", "log.level", "debug") == 75
    assert "make room on that disk" in capsys.readouterr().err
    assert file.read_text() == GOOD and os.listdir(file.parent) == ["filterd.toml"]


def test_diff_with_the_defaults_and_between_files(file: Path, capsys) -> None:
    assert run(file, "diff") == 0
    out = capsys.readouterr().out
    assert f'server.hostname = "mail.example.org"  # {file}:4; required' in out and "limits" not in out
    other = file.parent / "sub" / "other.toml"
    other.parent.mkdir()
    other.write_text(
        '[[domain]]\nname = "example.net"\n'
        + GOOD.replace("version = 1", "")
        + "[limits]\nrecipients = 200\n"
    )
    assert main(["config", "diff", str(file), str(other)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "- limits.recipients = 100  # default" in out and any(
        line.startswith("+ limits.recipients = 200") for line in out
    )
    assert any(line.startswith("+ domain[example.net].name") for line in out)
    assert not any("domain[example.org]" in line or "data_dir" in line for line in out)
    assert main(["config", "diff", str(file), str(file)]) == 0


def test_diff_sees_other_secrets_and_shows_none(file: Path, capsys) -> None:
    one, two = file.parent / "one.toml", file.parent / "two.toml"
    for path, secret in ((one, "the first secret of all"), (two, "another secret of mine")):
        path.write_text(
            GOOD + f'[srs]\nsecrets = ["{secret}"]\n[queue]\nrelay = "smtp://me:{secret[:5]}@h.example:25"\n'
        )
    assert main(["config", "diff", str(one), str(two)]) == 1
    out = capsys.readouterr().out
    assert "srs.secrets" in out and "queue.relay" in out and "first" not in out and "another" not in out


def test_schema_is_json(capsys) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["server", "domain"]


def test_migrate_lifts_and_tells(file: Path, capsys) -> None:
    stages = '[stage.spam]  # points\njunk_at = 4.0\n[pipeline]\nincoming = ["spf", "spam", "store"]\n'
    old = GOOD + '[store]\nfsync = "never"\ndedupe = false\n' + stages
    file.write_text(old)
    assert run(file, "migrate") == 1
    out = capsys.readouterr().out
    assert f"{file}:9  left" in out and "store.dedupe is gone" in out and "nothing was written" in out
    assert file.read_text() == old
    assert run(file, "migrate", "--write") == 1
    text = file.read_text()
    assert (
        "[stage.spamassassin]  # points\njunk_at = 4.0" in text
        and 'incoming = ["spf", "spamassassin"]' in text
    )
    assert "dedupe" not in text and 'fsync = "never"' in text
    file.write_text(GOOD)
    assert run(file, "migrate") == 0
    assert "nothing to lift" in capsys.readouterr().out


def test_a_name_with_capitals_names_its_element(file: Path, capsys) -> None:
    file.write_text(
        GOOD
        + '[[stage.milters]]\nname = "OpenDKIM"\nsocket = "127.0.0.1:1"\n'
        + '[[stage.milters]]\nname = "b"\nsocket = "127.0.0.1:2"\n'
    )
    for name in ("OpenDKIM", "opendkim"):
        assert run(file, "get", "-q", f"stage.milters[{name}].socket") == 0
        assert capsys.readouterr().out == "127.0.0.1:1\n"


def test_migrate_writes_nothing_when_one_of_the_files_is_broken(file: Path, capsys) -> None:
    file.write_text(GOOD + "[store]\ndedupe = false\n")
    (file.parent / "conf.d").mkdir()
    (file.parent / "conf.d" / "x.toml").write_text("a = \n")
    before = file.read_bytes()
    assert run(file, "migrate", "--write") == 2
    assert "nothing was changed" in capsys.readouterr().err and file.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('[pipeline]\nincoming = ["spam", ["x"]]\n', '["spamassassin", ["x"]]', "lifted"),
        ("[accounts]\ndot_forward = true\n", "enabled = true", "accounts.forward.enabled now"),
        ("[accounts]\ndot_forward = false\n", "", "is gone"),
    ],
)
def test_migrate_one_spelling(file: Path, capsys, old: str, new: str, told: str) -> None:
    file.write_text(GOOD + old)
    assert run(file, "migrate", "--write") == 0
    out = capsys.readouterr().out
    assert out.count("lifted") == 1 and "left" not in out and told in out
    assert new in file.read_text() and "dot_forward" not in file.read_text()


def test_help_does_not_wait_for_what_commands_need() -> None:
    code = "import sys; from filterd.cli import config; import argparse; config.configure(argparse.ArgumentParser()); "
    code += "print([one for one in ('filterd.config.takeover', 'filterd.store.durable', 'ssl') if one in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
