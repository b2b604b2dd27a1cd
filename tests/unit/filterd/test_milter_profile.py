"""filterd/milter_profile.py: what a script over another server's mail may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.config.errors import ConfigErrors
from filterd.config.load import load
from filterd.milter_profile import CODE, compile_for_milter, problems, refuse
from rules.errors import ScriptError, ScriptErrors


def faults(text: str) -> list[ScriptError]:
    with pytest.raises(ScriptErrors) as caught:
        compile_for_milter(text, "policy")
    return caught.value.errors


@pytest.mark.parametrize(
    "text",
    [
        "keep;",
        "discard;",
        'require "reject"; reject "no";',
        'require "ereject"; ereject "no";',
        'require "copy"; redirect :copy "a@b.example"; redirect "c@b.example";',
        'require ["editheader", "variables"]; set "x" "y"; addheader "X-${x}" "1"; deleteheader "Subject";',
        'require "vnd.filterd.quarantine"; if header "subject" "x" { quarantine "why"; }',
        'require ["spamtest", "virustest", "body", "mime", "foreverypart", "date", "regex"]; keep;',
        'require "vnd.filterd.score"; score "5"; if score :over 4 { discard; }',
    ],
)
def test_what_a_filter_may_do(text: str) -> None:
    assert compile_for_milter(text, "policy").name == "policy"


def test_each_word_beyond_it_has_line_column_and_cure() -> None:
    text = (
        'require ["reject",\n  "fileinto", "vacation"];\n'
        'if header "subject" "x" {\n    fileinto "Junk";\n} else {\n  vacation "away"; reject "no"; stop;\n}\n'
    )
    found = [(one.line, one.column) for one in faults(text)]
    assert found == [(2, 3), (2, 15), (4, 5), (6, 3)]
    assert all(one.code == CODE and one.cure for one in faults(text))
    assert "fileinto is not possible in a milter" in faults(text)[2].message


@pytest.mark.parametrize(
    "capability",
    [
        "imap4flags",
        "mailbox",
        "special-use",
        "enotify",
        "duplicate",
        "include",
        "replace",
        "enclose",
        "fcc",
        "extlists",
    ],
)
def test_other_words_of_stores_and_accounts(capability: str) -> None:
    (one,) = faults(f'require "{capability}"; keep;')
    assert (one.code, one.line, one.column) == (CODE, 1, 9) and one.cure


def test_other_errors_are_told_as_well() -> None:
    codes = [
        one.code
        for one in faults('require ["fileinto", "nonsense"]; fileinto "a"; keep :wrong; fileinto "b"')
    ]
    assert codes.count(CODE) >= 2 and len(codes) > codes.count(CODE)


def test_ihave_lets_one_script_serve_both_doors() -> None:
    text = 'require "ihave"; if ihave "fileinto" { fileinto "Junk"; } else { discard; }'
    assert compile_for_milter(text, "policy")


def configuration(tmp_path: Path, more: str) -> Path:
    (tmp_path / "stores.sieve").write_text('require "fileinto";\n  fileinto "Junk";\n')
    (tmp_path / "fits.sieve").write_text("keep;\n")
    path = tmp_path / "filterd.toml"
    path.write_text(
        f'[server]\nhostname = "mx.home.example"\ndata_dir = "{tmp_path}/data"\n[[domain]]\nname = "home.example"\n'
        f'[stage.sieve]\nbefore = ["{tmp_path}/stores.sieve"]\n{more}'
    )
    return path


def test_the_door_does_not_open_with_scripts_it_cannot_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listen = '[listen]\nmilter = ["127.0.0.1:0"]\n'
    config = load(str(configuration(tmp_path, listen)))
    with pytest.raises(ConfigErrors) as caught:
        refuse(config, config.listen.milter)
    first, second = caught.value.errors
    assert (first.line, first.column, second.line, second.column) == (1, 9, 2, 3)
    assert first.file.endswith("stores.sieve") and "cure: " in first.text and "milter.scripts" in first.text
    assert main(["config", "check", "-c", str(tmp_path / "filterd.toml")]) == 1
    assert "stores.sieve:2:3" in capsys.readouterr().out


def test_the_command_refuses_before_it_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration(tmp_path, "")
    assert main(["milter", "127.0.0.1:0", "-c", str(tmp_path / "filterd.toml")]) == 78
    told = capsys.readouterr().err
    assert "stores.sieve:2:3" in told and "nothing was started" in told
    assert not (tmp_path / "data" / "run" / "milter.pid").exists()


def test_scripts_are_checked_for_the_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration(tmp_path, "")
    assert main(["sieve", "check", str(tmp_path / "stores.sieve")]) == 0
    assert main(["sieve", "check", "--profile", "milter", str(tmp_path / "stores.sieve")]) == 1
    assert "stores.sieve:2:3: error: fileinto is not possible in a milter" in capsys.readouterr().out
    assert main(["sieve", "check", "--profile", "milter", str(tmp_path / "fits.sieve")]) == 0


def test_scripts_of_its_own(tmp_path: Path) -> None:
    listen = f'[listen]\nmilter = ["127.0.0.1:0"]\n[milter]\nscripts = ["{tmp_path}/fits.sieve"]\n'
    config = load(str(configuration(tmp_path, listen)))
    assert not list(problems(config, config.listen.milter))
    without = load(str(configuration(tmp_path, "")))
    assert not list(problems(without, without.listen.milter))  # no such door: the stores' scripts are fine
    missing = load(str(configuration(tmp_path, listen.replace("fits", "nowhere"))))
    (one,) = problems(missing, missing.listen.milter)
    assert one.kind == "no such file"
