"""Scanners: absent, failing, and the real ones with a signature file and rules of our own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import corpus
from tests.e2e.server import DOMAIN, Server, mail, wait_for

pytestmark = pytest.mark.e2e

# In two pieces each, so that no scanner stops at this file.
EICAR = "X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-" + "ANTIVIRUS-TEST-FILE!$H+H*"
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-" + "ANTI-UBE-TEST-EMAIL*C.34X"


def told(server: Server, trace: str) -> str:
    def text() -> str:
        return server.command("explain", trace).stdout.decode()

    wait_for(text, 5, "the trace")
    return text()


def handed_in(server: Server, data: bytes, person: str = "ann") -> tuple[int, str]:
    with server.smtp() as smtp:
        smtp.mail("orders@shop.example")
        smtp.rcpt(f"{person}@{DOMAIN}")
        code, text = smtp.data(data)
    return code, text.decode()


def test_absent_scanners_are_skipped_and_that_is_said() -> None:
    extra = '[stage.clamav]\nsocket = "unix:/nowhere/clamd.ctl"\n[stage.spamassassin]\nsocket = "unix:/nowhere/spamd"\n'
    with Server(people=("ann",), extra=extra, server="workers = 1") as server:
        trace = server.send(mail("a virus", EICAR), f"ann@{DOMAIN}")
        text = told(server, trace)
        assert "not scanned: no clamd here" in text and "no spamd here" in text
        data = next(iter(server.read("ann")["INBOX"].values()))
        assert EICAR.encode() in data and trace.encode() in data
        assert b"X-Virus" not in data and b"X-Spam" not in data  # nobody claims to have looked


@pytest.mark.parametrize(("on_error", "code"), (("defer", 451), ("accept", 250), ("reject", 554)))
def test_a_configured_scanner_that_fails_takes_its_on_error(on_error: str, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # accepts and never says a word
        port = nobody.getsockname()[1]
        extra = f'[stage.clamav]\nenabled = "on"\nsocket = "inet:{port}@127.0.0.1"\ntimeout = "1s"\non_error = "{on_error}"\n'
        with Server(people=("ann",), extra=extra, server="workers = 1") as server:
            began = time.monotonic()
            got, text = handed_in(server, mail("hello"))
            assert time.monotonic() - began < 5
            assert got == code or (on_error == "reject" and 500 <= got < 600), text
            assert len(server.read("ann")["INBOX"]) == (1 if code == 250 else 0)


@pytest.fixture(scope="module")
def clamd() -> Iterator[str]:
    program = shutil.which("clamd") or ("/usr/sbin/clamd" if os.path.exists("/usr/sbin/clamd") else "")
    if not program:
        pytest.skip("clamd is not installed")
    with tempfile.TemporaryDirectory(prefix="clamd-") as name:
        folder = Path(name)
        (folder / "db").mkdir()
        signatures = {"Test.Eicar": EICAR, "Test.Word": "forbidden-word-17"}
        lines = [f"{name}:0:*:{text.encode().hex()}\n" for name, text in signatures.items()]
        (folder / "db" / "own.ndb").write_text("".join(lines))
        config = folder / "clamd.conf"
        user = pwd.getpwuid(os.geteuid()).pw_name
        config.write_text(
            f"Foreground yes\nLocalSocket {folder}/clamd.ctl\nDatabaseDirectory {folder}/db\nUser {user}\n"
            f"LogFile {folder}/log\nOfficialDatabaseOnly no\n"
        )
        process = subprocess.Popen(
            [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: _answers(f"{folder}/clamd.ctl") or process.poll() is not None, 60, "clamd")
            if process.poll() is not None:
                pytest.skip("clamd does not start here")
            yield f"unix:{folder}/clamd.ctl"
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def spamd() -> Iterator[str]:
    program = shutil.which("spamd") or ("/usr/sbin/spamd" if os.path.exists("/usr/sbin/spamd") else "")
    if not program:
        pytest.skip("spamd is not installed")
    with tempfile.TemporaryDirectory(prefix="spamd-") as name:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with open(f"{name}/log", "wb") as log:
            process = subprocess.Popen(
                [program, "-L", "-x", "-i", "127.0.0.1", "-p", str(port), "--max-children", "2", "-H", name, "--nouser-config"],
                stdout=log, stderr=log, env={**os.environ, "HOME": name},
            )  # fmt: skip
        try:
            wait_for(lambda: _answers(port) or process.poll() is not None, 60, "spamd")
            if process.poll() is not None:
                pytest.skip(f"spamd does not start here: {Path(name, 'log').read_text()[-300:]}")
            yield f"inet:{port}@127.0.0.1"
        finally:
            process.terminate()
            process.wait(20)


def _answers(where: str | int) -> bool:
    with contextlib.suppress(OSError):
        if isinstance(where, int):
            with socket.create_connection(("127.0.0.1", where), 1):
                return True
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(where)
            return True
    return False


@pytest.mark.peer
@pytest.mark.slow
def test_real_scanners_judge_a_part_of_the_corpus(clamd: str, spamd: str) -> None:
    extra = f"""[stage.clamav]
enabled = "on"
socket = "{clamd}"
timeout = "30s"
[stage.spamassassin]
enabled = "on"
socket = "{spamd}"
timeout = "60s"
on_error = "defer"
[pipeline]
time_budget = "100s"
"""
    with Server(people=("ann",), extra=extra, server="workers = 1") as server:
        code, text = handed_in(server, mail("virus", EICAR))
        assert code == 550 and "5.7" in text, text
        code, text = handed_in(server, mail("a word", "forbidden-word-17"))
        assert code == 550, text
        code, text = handed_in(server, mail("gtube", GTUBE))
        assert code == 550, text  # a thousand points are over reject_at
        texts = [corpus.as_sent(data) for data in corpus.messages(30)]
        traces = {}
        for data in texts:
            code, text = handed_in(server, data)
            assert code in (250, 550), text
            if code == 250:
                traces[text.split()[-1]] = data
        assert len(traces) > 15
        found = [(folder, data) for folder, all_ in server.read("ann").items() for data in all_.values()]
        assert len(found) == len(traces)
        for folder, data in found:
            trace = data.partition(b"X-Filterd-Trace: ")[2][:11].decode()
            assert data.endswith(traces[trace])
            head = data[: len(data) - len(traces[trace])]
            spam = b"X-Spam-Flag: YES" in head
            assert b"X-Spam-Status: " in head and folder == ("Junk" if spam else "INBOX"), head
        last = told(server, trace)
        assert "clean" in last and "spamassassin" in last and " of 5" in last
