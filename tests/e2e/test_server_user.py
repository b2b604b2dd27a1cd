"""Started as root with ``server.user``, on a folder that nobody made before: the server serves, and everything is that user's."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import ENVIRONMENT, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: server.user cannot be taken on (CAP_SETUID)"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below pytest's own folder, which nobody else may enter."""
    path = Path(tempfile.mkdtemp(prefix="filterd-user-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "an account and a key"])
def test_the_first_start_as_root(folder: Path, before: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "filterd.toml"
    config.write_text(
        'version = 1\n[server]\nhostname = "mail.example.org"\nuser = "nobody"\ndata_dir = "data"\nworkers = 1\n'
        f'[[domain]]\nname = "example.org"\n[listen]\nsmtp = ["127.0.0.1:{port}"]\n'
    )
    filterd = [sys.executable, "-m", "filterd"]
    if before == "an empty folder":
        (folder / "data").mkdir()
    if before == "an account and a key":
        for words in (["account", "add", "ann@example.org"], ["dkim", "keygen", "example.org"]):
            subprocess.run(
                [*filterd, *words, "-c", config], check=True, capture_output=True, env=ENVIRONMENT, timeout=60
            )
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([*filterd, "serve", "-c", config], stdout=out, stderr=out, env=ENVIRONMENT)
    try:
        wait_for(
            lambda: b"is serving" in log.read_bytes() or process.poll() is not None,
            60.0,
            f"the server: {log}",
        )
        assert process.poll() is None, log.read_text()
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            assert client.recv(100).startswith(b"220 ")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    nobody = pwd.getpwnam("nobody").pw_uid
    data = folder / "data"
    assert {
        path: path.lstat().st_uid for path in (data, *data.rglob("*")) if path.lstat().st_uid != nobody
    } == {}
