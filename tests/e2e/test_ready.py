"""When the server says that it is ready: everybody serves then, not only exists (sd_notify, the lines on the terminal)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.server import ENVIRONMENT, Raw, Server, wait_for

pytestmark = pytest.mark.e2e

SECONDS = 40.0
# Each role serves once the test has made the file ``go``, dies once when it finds ``die``.
GROUP = """
import logging, os, signal, sys, time
from pathlib import Path
from filterd import workers
from filterd.workers import RETIRE, Group, Role

folder = Path(sys.argv[1])
logging.basicConfig()
workers.REPLACE_SECONDS = 1.0

def main(name):
    def run(serving):
        (folder / f"{name}.{os.getpid()}").touch()
        while not (folder / f"{name}.go").exists():
            time.sleep(0.01)
            try:
                (folder / f"{name}.die").unlink()
            except FileNotFoundError:
                continue
            return 3
        if name == "sender" and (folder / "deaf").exists():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        serving()
        (folder / f"{name}.serves").touch()
        signal.pause()
        return 0
    return Role(name, run, exclusive=name == "sender")

group = Group([main("one"), main("two"), main("sender")], folder / "pid", ready=(folder / "announced").touch,
              patience=float(sys.argv[2]))
sys.exit(group.run())
"""


@dataclass
class Told:
    """What systemd hears."""

    sock: socket.socket

    def next(self, seconds: float = SECONDS) -> str:
        self.sock.settimeout(seconds)
        return self.sock.recv(4096).decode()

    def nothing(self) -> bool:
        with contextlib.suppress(TimeoutError):
            return not self.next(0.3)
        return True


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        yield Told(sock)


@contextlib.contextmanager
def running(folder: Path, patience: float = 60.0) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", GROUP, str(folder), str(patience)]
    environment = {**ENVIRONMENT, "NOTIFY_SOCKET": str(folder / "notify")}
    with (
        open(folder / "log", "ab") as log,
        subprocess.Popen(command, env=environment, stderr=log) as group,
    ):
        try:
            yield group
            group.send_signal(signal.SIGTERM)
            assert group.wait(15) == 0
        finally:
            group.kill()


def begun(folder: Path, name: str) -> int:
    """How often it was started."""
    return len([path for path in folder.glob(f"{name}.*") if path.suffix[1:].isdigit()])


def go(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.go").touch()


def wait_start(folder: Path, count: int = 1) -> None:
    for name in ("one", "two", "sender"):
        wait_for(lambda name=name: begun(folder, name) >= count, SECONDS, name)  # type: ignore[misc]  # bound now


def test_ready_is_when_the_last_one_serves(tmp_path: Path, told: Told) -> None:
    with running(tmp_path):
        wait_start(tmp_path)
        go(tmp_path, "one", "sender")
        wait_for((tmp_path / "one.serves").exists, SECONDS, "one")
        wait_for((tmp_path / "sender.serves").exists, SECONDS, "sender")
        assert told.nothing() and not (tmp_path / "announced").exists()
        go(tmp_path, "two")
        assert told.next() == "READY=1\nSTATUS=serving"
        assert (tmp_path / "announced").exists()
    assert told.next() == "STOPPING=1"


def test_one_that_dies_before_is_started_again_and_waited_for(tmp_path: Path, told: Told) -> None:
    with running(tmp_path):
        go(tmp_path, "one", "sender")
        (tmp_path / "two.die").touch()
        wait_for(lambda: begun(tmp_path, "two") == 2, SECONDS, "the second start")
        assert told.nothing()
        go(tmp_path, "two")
        assert told.next() == "READY=1\nSTATUS=serving"
    assert "process two ended with status 3 " in (tmp_path / "log").read_text()


def test_who_takes_too_long_is_named_and_holds_nobody_up(tmp_path: Path, told: Told) -> None:
    go(tmp_path, "one", "two")
    with running(tmp_path, patience=3.0) as group:
        wait_for((tmp_path / "one.serves").exists, SECONDS, "one")
        found = told.next()
        assert found.startswith("READY=1\nSTATUS=serving without ") and "sender" in found
        group.send_signal(signal.SIGHUP)
        while not found.startswith("RELOADING=1"):
            found = told.next()
        while not found.startswith("READY=1\nSTATUS=serving without "):
            found = told.next()
        assert "sender" in found
        go(tmp_path, "sender")
        wait_for((tmp_path / "sender.serves").exists, SECONDS, "sender")
        while found != "READY=1\nSTATUS=serving":
            found = told.next()
    assert "after 3 s these do not serve: " in (tmp_path / "log").read_text()


def test_nobody_serving_is_never_ready(tmp_path: Path, told: Told) -> None:
    with running(tmp_path, patience=0.2):
        wait_for(
            lambda: "these do not serve: one, two, sender" in (tmp_path / "log").read_text(), SECONDS, "it"
        )
        assert told.nothing() and not (tmp_path / "announced").exists()
        wait_start(tmp_path)
        go(tmp_path, "one", "two", "sender")
        assert told.next() == "READY=1\nSTATUS=serving"


def test_one_that_never_starts_does_not_hide_the_others(tmp_path: Path, told: Told) -> None:
    """Nobody served in time; later some do, and one never will."""
    with running(tmp_path, patience=0.2):
        wait_for(
            lambda: "these do not serve: one, two, sender" in (tmp_path / "log").read_text(), SECONDS, "it"
        )
        go(tmp_path, "one", "two")
        found = told.next()
        while found != "READY=1\nSTATUS=serving without sender":
            assert found.startswith("READY=1\nSTATUS=serving without ")
            found = told.next()
        assert (tmp_path / "announced").exists()
        assert "these do not serve: sender\n" in (tmp_path / "log").read_text()
        go(tmp_path, "sender")
        assert told.next() == "READY=1\nSTATUS=serving"


def test_a_sender_that_does_not_end_is_killed_when_it_is_replaced(tmp_path: Path, told: Told) -> None:
    go(tmp_path, "one", "two", "sender")
    (tmp_path / "deaf").touch()
    with running(tmp_path) as group:
        assert told.next() == "READY=1\nSTATUS=serving"
        (tmp_path / "deaf").unlink()
        group.send_signal(signal.SIGHUP)
        assert told.next().startswith("RELOADING=1")
        assert told.next() == "READY=1\nSTATUS=serving"
    assert "process sender did not end within 1 s and is killed" in (tmp_path / "log").read_text()


def test_a_reload_is_over_when_the_new_generation_serves(tmp_path: Path, told: Told) -> None:
    go(tmp_path, "one", "two", "sender")
    with running(tmp_path) as group:
        assert told.next().startswith("READY=1")
        (tmp_path / "two.go").unlink()
        group.send_signal(signal.SIGHUP)
        assert told.next().startswith("RELOADING=1\nMONOTONIC_USEC=")
        wait_start(tmp_path, 2)
        assert told.nothing()
        go(tmp_path, "two")
        assert told.next() == "READY=1\nSTATUS=serving"


def test_the_server_greets_at_once_when_it_says_so(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "NOTIFY_SOCKET", str(tmp_path / "notify"))
    with Server(people=("ann",), server="workers = 2") as server:
        assert told.next() == "READY=1\nSTATUS=serving"
        wait_for(lambda: "is serving" in server.log(), SECONDS, "the line")
        began = time.monotonic()
        raw = Raw(server.ports["smtp"])
        assert raw.reply()[0] == 220
        raw.close()
        print(f"greeted after {time.monotonic() - began:.3f} s")
        os.kill(server.process.pid, signal.SIGHUP)  # type: ignore[union-attr]  # it runs
        assert told.next().startswith("RELOADING=1")
        assert told.next() == "READY=1\nSTATUS=serving"
