"""`filterd account share` on real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.config.load import load
from filterd.shared_mail import shares_of, sharing_of

TEXT = """
[server]
hostname = "mail.example.org"
data_dir = "data"
[[domain]]
name = "example.org"
"""
ANN, BOB = "ann@example.org", "bob@example.org"


@pytest.fixture
def file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    path = tmp_path / "filterd.toml"
    path.write_text(TEXT)
    assert main(["account", "add", "-c", str(path), ANN]) == 0
    capsys.readouterr()
    return str(path)


def run(capsys: pytest.CaptureFixture[str], file: str, *words: str) -> tuple[int, str, str]:
    code = main(["account", "share", "-c", file, "--", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_give_and_take(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, file, ANN) == (0, f"{ANN} shares nothing\n", "")
    assert run(capsys, file, "Ann@Example.org", "inbox", "bob", "lrs") == (0, f"INBOX  {BOB}  lrs\n", "")
    assert run(capsys, file, ANN, "INBOX", "bob", "+d")[1] == f"INBOX  {BOB}  lrste\n"
    assert run(capsys, file, ANN, "INBOX", "bob", "-s")[1] == f"INBOX  {BOB}  lrte\n"
    assert run(capsys, file, ANN, "INBOX", "-anyone", "w")[1] == f"INBOX  -anyone  w\nINBOX  {BOB}  lrte\n"
    shares = shares_of(load(file))
    assert shares.owners(BOB) == (ANN,)
    shares.path.unlink()
    shares.close()
    main(["account", "share", "-c", file, ANN, "--json"])
    assert json.loads(capsys.readouterr().out)["mailboxes"] == {"INBOX": {"-anyone": "w", BOB: "lrte"}}
    assert shares.owners(BOB) == (ANN,)  # written anew
    shares.close()
    assert run(capsys, file, ANN, "INBOX", "bob", "none")[1] == "INBOX  -anyone  w\n"
    assert shares.owners(BOB) == ()
    shares.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((ANN, "INBOX", "bob"), "which rights"),
        ((ANN, "INBOX", "bob", "lrq"), "no right"),
        ((ANN, "INBOX", "a b", "l"), "no such identifier"),
        ((ANN, "INBOX", ANN, "l"), "the owner"),
        ((ANN, "Nope", "bob", "l"), "no mailbox Nope"),
        (("nobody@example.org", "INBOX", "bob", "l"), "no account"),
    ],
)
def test_refusals(file: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str) -> None:
    code, _, err = run(capsys, file, *words)
    assert code != 0 and told in err


def test_with_whom(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    def made() -> object:
        sharing = sharing_of(load(file), lambda account: 0, lambda account, mailbox, modseq: None)
        if sharing is not None:
            sharing.close()
        return sharing and (sharing.scope, sharing.public)

    assert made() == ("domain", "")
    Path(file).write_text(TEXT + '[sharing]\nscope = "server"\npublic = "team@example.org"\n')
    assert made() == ("server", "team@example.org")
    Path(file).write_text(TEXT + '[sharing]\nscope = "nobody"\n')
    assert made() is None
    assert 'sharing.scope is "nobody"' in run(capsys, file, ANN, "INBOX", "bob", "l")[1]
