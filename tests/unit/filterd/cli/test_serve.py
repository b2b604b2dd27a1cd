"""filterd/cli/serve.py: what is refused before anything is bound."""

from __future__ import annotations

import errno
import ssl
import sys
from pathlib import Path

import pytest

from filterd.cli import CliError
from filterd.cli.serve import check_packages, why_not
from filterd.config.load import parse
from filterd.config.schema import Config


def test_a_package_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages()
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rules", raising=False)
    with pytest.raises(CliError, match="environment of its own"):
        check_packages()


def made(tmp_path: Path, text: str = "") -> Config:
    base = '[server]\nhostname = "mail.example.org"\ndata_dir = "data"\n[[domain]]\nname = "example.org"\n'
    return parse(base + text, str(tmp_path / "filterd.toml"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EADDRINUSE, "cannot listen on 127.0.0.1:25: Address already in use"), "ss -ltnp"),
        (OSError(errno.EACCES, "cannot listen on 127.0.0.1:25: Permission denied"), "ports below 1024"),
        (OSError(errno.ENOENT, "cannot listen on unix:/nowhere/x: No such file"), "make the folder"),
        (OSError(errno.EADDRNOTAVAIL, "cannot listen on 192.0.2.1:25: no"), "does not have that address"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/srv/data/run"),
            "/srv/data/run: Permission denied; give it to",
        ),
        (FileExistsError(errno.EEXIST, "File exists", "/srv/data"), "a folder is needed there"),
        (OSError(errno.ENOSPC, "No space left on device"), "make room on the disk of"),
        (OSError("something else"), "something else"),
    ],
)
def test_why_it_does_not_start_says_what_to_do(tmp_path: Path, error: OSError, words: str) -> None:
    assert words in why_not(error, made(tmp_path))


def test_a_bad_certificate_is_told_in_words(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("junk")
    config = made(tmp_path, '[tls]\nmode = "files"\ncert = "c.pem"\nkey = "k.pem"\n')
    with pytest.raises(ssl.SSLError) as caught:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls.cert, config.tls.key)
    assert "tls.cert has no “-----BEGIN CERTIFICATE-----”" in why_not(caught.value, config)
