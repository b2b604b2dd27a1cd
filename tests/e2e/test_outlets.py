"""Aliases that lead to programs and files, with the real server and filterd-exec: once each, retried, bounced, explained."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from filterd.workers import die_with
from tests.e2e.server import DOMAIN, ENVIRONMENT, Server, mail, wait_for

pytestmark = pytest.mark.e2e

PROGRAMS = {
    "take": 'exec cat >> "$(dirname "$0")/../out/$1"',
    "refuse": "cat > /dev/null; exit 67",
    "later": 'f="$(dirname "$0")/../out/tries"; cat > /dev/null; echo x >> "$f"; test "$(wc -l < "$f")" -ge 2 || exit 75',
}
ALIASES = """robot: "|take 'one two'"
team: ann, "|{programs}/take team", {files}/team
stubborn: |refuse
patient: |later
archive: {files}/archive
folder: {files}/Mail/
gone: /dev/null
each: {files}/each, {files}/Each/, |take each
out: /etc/passwd
shell: "|take x; rm -rf /"
"""


class House:
    """Programs, files, the service, the server."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-outlets-"))
        self.folder.chmod(0o755)
        self.programs, self.files, self.out = (self.folder / name for name in ("programs", "files", "out"))
        for one in (self.programs, self.files, self.out):
            one.mkdir(mode=0o755)
        self.out.chmod(0o777)
        for name, text in PROGRAMS.items():
            (self.programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (self.programs / name).chmod(0o755)
        aliases = self.folder / "aliases"
        aliases.write_text(ALIASES.format(programs=self.programs, files=self.files))
        user = "nobody" if os.geteuid() == 0 else ""
        self.server = Server(
            people=("ann", "nobody"),
            domain=f'alias_files = ["aliases:{aliases}"]\n',
            # the first line still belongs to the [queue] that the server writes
            extra=f"""retry = ["1s"]
[limits]
connections = {{ total = 2000, per_ip = 400 }}
[exec]
socket = "{self.folder}/socket"
directory = "{self.programs}"
user = "{user}"
isolation = "best-effort"
[accounts.allow]
mail_to_commands = ["alias", "forward"]
mail_to_files = ["alias", "forward"]
mail_to_files_in = ["{self.files}", "{self.files}/%{{user}}"]
[accounts.forward]
enabled = true
path = "{self.folder}/forwards/%{{user}}"
""",
            doors=("smtp", "imaps"),
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.trace = ""

    def serve_programs(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "filterd", "exec", "serve", "-c", str(self.server.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            preexec_fn=partial(die_with, os.getpid()),
        )
        process = self.process
        wait_for(lambda: (self.folder / "socket").exists() or process.poll() is not None, 60, "the socket")
        assert process.poll() is None

    def stop_programs(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=10)
            self.process = None

    def close(self) -> None:
        self.server.close()
        self.stop_programs()
        shutil.rmtree(self.folder, ignore_errors=True)

    def refusal(self, name: str) -> str:
        """What RCPT says to a mail for it, "" when it is taken."""
        try:
            self.trace = self.server.send(mail(f"for {name}"), f"{name}@{DOMAIN}")
        except AssertionError as error:
            return str(error.args[0][1])
        return ""

    def taken(self, name: str) -> bytes:
        path = self.out / name
        return path.read_bytes() if path.exists() else b""


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    one = House()
    try:
        one.serve_programs()
        one.server.start()
        yield one
    finally:
        one.close()


def test_a_program_gets_the_message_as_other_servers_give_it(house: House) -> None:
    assert house.refusal("robot") == ""
    wait_for(lambda: b"for robot" in house.taken("one two"), 60, "the program")
    text = house.taken("one two")
    assert text.startswith(b"From orders@shop.example ") and b"\r" not in text
    assert f"\nDelivered-To: robot@{DOMAIN}\n".encode() in text and b"\nReturn-Path: <" in text


def test_a_group_of_everything(house: House) -> None:
    assert house.refusal("team") == ""
    wait_for(lambda: house.taken("team") and (house.files / "team").exists(), 60, "both")
    assert (house.files / "team").read_bytes().count(b"Subject: for team") == 1
    assert any(b"for team" in text for texts in house.server.read("ann").values() for text in texts.values())


def test_a_refusal_comes_back_and_a_defer_is_tried_again(house: House) -> None:
    assert house.refusal("patient") == ""
    wait_for(lambda: house.taken("tries").count(b"x") == 2, 60, "the second try")
    assert house.refusal("stubborn") == ""
    wait_for(lambda: any(b"5.1.1" in arrival.data for arrival in house.server.hop.arrivals), 60, "the report")
    (report,) = [one.data for one in house.server.hop.arrivals if b"5.1.1" in one.data]
    assert f"stubborn@{DOMAIN}".encode() in report and str(house.programs).encode() not in report


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: cannot write a file that the user's .forward may be")
def test_a_forward_of_a_user(house: House) -> None:
    forwards, own = house.folder / "forwards", house.files / "nobody"
    for folder in (forwards, own):
        folder.mkdir(mode=0o755)
    (forwards / "nobody").write_text(f'\\nobody, {own}/copy\n"|take forwarded"\n')
    assert house.refusal("nobody") == ""
    wait_for(lambda: (own / "copy").exists() and house.taken("forwarded"), 60, "both")
    assert b"Subject: for nobody" in (own / "copy").read_bytes()
    assert any(b"for nobody" in text for text in house.server.read("nobody")["INBOX"].values())
    (forwards / "nobody").write_text(f"{house.files}/archive2\n")  # of the alias files, and nobody's
    done = house.server.command("route", f"nobody@{DOMAIN}")
    assert b"not below a folder" in done.stdout and b"mailbox here" in done.stdout


def test_files(house: House) -> None:
    for name in ("archive", "folder", "gone", "archive"):
        assert house.refusal(name) == ""
    box = house.files / "archive"
    wait_for(lambda: box.exists() and box.read_bytes().count(b"\nSubject: for archive") == 2, 60, "the mbox")
    assert box.stat().st_mode & 0o777 == 0o600
    wait_for(lambda: list((house.files / "Mail" / "new").iterdir()), 60, "the Maildir")
    assert house.refusal("out") == house.refusal("shell") == "550"


def test_route_explain_and_check_tell_it(house: House) -> None:
    def told(name: str) -> tuple[int, dict[str, str]]:
        done = house.server.command("route", f"{name}@{DOMAIN}", "--json")
        return done.returncode, {step["kind"]: step["text"] for step in json.loads(done.stdout)["steps"]}

    assert told("robot") == (0, {"alias": told("robot")[1]["alias"], "program": "|take 'one two'"})
    assert told("gone")[1]["file"] == "/dev/null: thrown away"
    (house.files / "archive").chmod(0o620)
    code, steps = told("archive")
    assert code == 75 and "others may write there" in steps["file"]
    (house.files / "archive").chmod(0o600)
    checked = house.server.command("config", "check")
    said = (checked.stdout + checked.stderr).decode()
    assert "aliases:9" in said and "column 6" in said and "needs a shell (;)" in said
    assert house.refusal("robot") == ""

    def explained() -> bytes:
        return house.server.command("explain", house.trace).stdout

    wait_for(lambda: b"at |take 'one two': " in explained(), 60, "the story's end")
    assert f"because robot@{DOMAIN} leads there".encode() in explained()


def test_killed_at_any_moment(house: House) -> None:
    """A client that sends again until it has its reply, and a server that dies: each file has each message once."""
    count, done = 24, threading.Event()
    taken: list[int] = []

    def client() -> None:
        for number in range(count):
            text = mail(f"each {number:03}")
            while not done.is_set():
                with contextlib.suppress(OSError, smtplib.SMTPException, AssertionError):
                    house.server.send(text, f"each@{DOMAIN}")
                    taken.append(number)
                    break
                time.sleep(0.05)

    sender = threading.Thread(target=client)
    sender.start()
    try:
        for at in (3, 9, 15, 20):
            wait_for(lambda at=at: len(taken) > at, 60, "messages")  # type: ignore[misc]  # lambda defaults
            house.server.kill()
            house.server.start()
        sender.join(120)
    finally:
        done.set()
        sender.join(30)
    assert len(taken) == count

    def waiting() -> object:
        return json.loads(house.server.command("queue", "list", "--json").stdout)

    wait_for(lambda: not waiting(), 60, "an empty queue")
    wanted = Counter({f"each {number:03}": 1 for number in range(count)})
    subject = re.compile(rb"^Subject: (each [0-9]+)", re.MULTILINE)

    def subjects(text: bytes) -> Counter[str]:
        return Counter(found.decode() for found in subject.findall(text))

    assert subjects((house.files / "each").read_bytes()) == wanted
    files = (house.files / "Each" / "new").iterdir()
    assert subjects(b"\n".join(one.read_bytes() for one in files)) == wanted
    ran = subjects(house.taken("each"))
    assert set(ran) == set(wanted) and ran.total() <= count + 20, "five at a time may have been at their ends"


def test_without_the_service_mail_for_programs_waits(house: House) -> None:
    house.stop_programs()
    assert house.refusal("robot") == "451"
    assert house.refusal("archive") == ""
    done = house.server.command("route", f"robot@{DOMAIN}")
    assert done.returncode == 75 and b"filterd-exec does not answer" in done.stdout
    house.serve_programs()
    wait_for(lambda: house.refusal("robot") == "", 60, "the service")
