"""Real programs beside the tests: started on a port of their own, waited for, ended."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import faultserver

START_SECONDS = 60.0


@contextmanager
def running(command: Sequence[str], port: int, log: Path, seconds: float = START_SECONDS) -> Iterator[None]:
    """While it runs and takes connections on a loopback port. ``log``: the file that gets what it prints."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{Path(command[0]).name} did not start: {log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def no_namespaces(*which: str, command: Sequence[str] = ("true",)) -> str:
    """What the system says when util-linux is asked to run ``command`` in namespaces of its own (``--net``, ``--mount``,
    ``--uts``); "": it does it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return "unshare is not installed (Debian: util-linux)"
    words = [unshare, *([] if os.geteuid() == 0 else ["--map-root-user"]), *which, *command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit status {done.returncode}"


@contextmanager
def spamd(home: Path, *more: str) -> Iterator[str]:
    """``127.0.0.1:port`` of the real one, with local rules only; skips where it is not installed. ``more``: further arguments."""
    program = shutil.which("spamd") or "/usr/sbin/spamd"
    if not Path(program).exists():
        pytest.skip("spamd is not installed (Debian: spamd, formerly part of spamassassin)")
    where = faultserver.refused()
    port = where.rpartition(":")[2]
    command = [program, "-L", "-i", "127.0.0.1", "-p", port, "--max-children", "1"]
    command += ["-x", "-H", str(home), "-s", str(home / "log"), "-r", str(home / "pid"), *more]
    with running(command, int(port), home / "out"):
        yield where


@contextmanager
def clamd(home: Path, signatures: str) -> Iterator[str]:
    """``unix:PATH`` of the real one with a signature file (.ndb) of our own; skips where it is not installed."""
    program = shutil.which("clamd") or "/usr/sbin/clamd"
    if not Path(program).exists():
        pytest.skip("clamd is not installed (Debian: clamav-daemon)")
    database, port = home / "db", int(faultserver.refused().rpartition(":")[2])
    database.mkdir()
    (database / "own.ndb").write_text(signatures)
    config = home / "clamd.conf"
    config.write_text(
        f"LocalSocket {home}/ctl\nTCPSocket {port}\nTCPAddr 127.0.0.1\nDatabaseDirectory {database}\nForeground yes\n"
        f"User {pwd.getpwuid(os.getuid()).pw_name}\nLogFile {home}/log\nTemporaryDirectory {home}\n"
        "ConcurrentDatabaseReload no\nSelfCheck 0\n"
    )
    with running([program, "-c", str(config)], port, home / "out"):
        yield f"unix:{home}/ctl"


@contextmanager
def clamav_milter(home: Path, clamd: str, infected: str = "Reject") -> Iterator[str]:
    """``127.0.0.1:port`` of Debian's clamav-milter asking ``clamd`` (``unix:PATH``); skips where it is not installed."""
    program = shutil.which("clamav-milter") or "/usr/sbin/clamav-milter"
    if not Path(program).exists():
        pytest.skip("clamav-milter is not installed (Debian: clamav-milter)")
    port = int(faultserver.refused().rpartition(":")[2])
    config = home / "clamav-milter.conf"
    config.write_text(
        f"MilterSocket inet:{port}@127.0.0.1\nForeground yes\nUser {pwd.getpwuid(os.getuid()).pw_name}\n"
        f"ClamdSocket {clamd}\nOnInfected {infected}\nOnFail Defer\nAddHeader Replace\nLogFile {home}/milter.log\n"
        f"TemporaryDirectory {home}\nRejectMsg Refused: %v\n"
    )
    with running([program, "-c", str(config)], port, home / "milter.out"):
        yield f"127.0.0.1:{port}"


@contextmanager
def spamass_milter(home: Path, spamd: str, *more: str) -> Iterator[str]:
    """``127.0.0.1:port`` of Debian's spamass-milter asking ``spamd`` (HOST:PORT); skips where it is not installed."""
    program = shutil.which("spamass-milter") or "/usr/sbin/spamass-milter"
    if not Path(program).exists() or shutil.which("spamc") is None:
        pytest.skip("spamass-milter is not installed (Debian: spamass-milter, spamc)")
    port = int(faultserver.refused().rpartition(":")[2])
    host, _, where = spamd.rpartition(":")
    command = [program, "-p", f"inet:{port}@127.0.0.1", *more, "--", "-d", host, "-p", where]
    with running(command, port, home / "spamass.out"):
        yield f"127.0.0.1:{port}"
