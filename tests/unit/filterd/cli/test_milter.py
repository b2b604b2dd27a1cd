"""``filterd milter``: where to listen, and how others write it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.cli.milter import spellings

CONFIG = '[server]\nhostname = "mx.example.org"\n[[domain]]\nname = "example.org"\n[listen]\nsmtp = ["127.0.0.1:0"]\n'


@pytest.mark.parametrize(("where", "said"), [("", "set listen.milter"), ("8891", "[::]:8891")])
def test_it_says_what_is_missing(
    where: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "filterd.toml"
    path.write_text(CONFIG)
    assert main(["milter", *([where] if where else []), "-c", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_spellings(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        postfix, sendmail = spellings(sock)
    assert postfix == f"Postfix    smtpd_milters = unix:{tmp_path}/s" and f"S=local:{tmp_path}/s" in sendmail
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        postfix, sendmail = spellings(sock)
    assert postfix.endswith(f"inet:127.0.0.1:{port}") and f"inet:{port}@127.0.0.1" in sendmail
