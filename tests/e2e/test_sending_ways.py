"""The real server: mail left in the maildrop by another user while it is down, and routes with the operator's hand on them."""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.cli import sendmail
from filterd.demo.lab import NextHop
from rules.mail.header import scan
from tests.e2e.server import DOMAIN, Server, mail, wait_for

pytestmark = pytest.mark.e2e

NOBODY = 65534


def as_user(uid: int, data: bytes, *words: str) -> int:
    """The command's exit code; a process of its own with the rights of ``uid`` (0: ours)."""
    pid = os.fork()
    if not pid:
        code = 99
        with contextlib.suppress(BaseException):
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            sys.stdin = io.TextIOWrapper(io.BytesIO(data))
            code = sendmail.main(words)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def dropped() -> Iterator[tuple[Server, str]]:
    folder = Path(tempfile.mkdtemp(prefix="filterd-drop-"))
    folder.chmod(0o755)
    server = Server(
        people=("ann",), server=f'workers = 1\nmaildrop = "{folder}/maildrop"', doors=("smtp", "imaps")
    )
    server.folder.chmod(0o755)
    server.config.chmod(0o644)
    try:
        yield server, f"{folder}/maildrop"
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_mail_of_another_user_while_the_server_is_down(dropped: tuple[Server, str]) -> None:
    server, folder = dropped
    server.start()
    server.stop()
    assert os.stat(folder).st_mode & 0o7777 == 0o1733
    words = ("-C", str(server.config), "-i", "-N", "failure", "ann", "far@elsewhere.example", "nobody-here")
    assert as_user(NOBODY, b"Subject: from nobody\n\nhello\n", *words) == 0
    (name,) = os.listdir(folder)
    assert os.stat(f"{folder}/{name}").st_uid == NOBODY
    server.start()
    login = pwd.getpwuid(NOBODY).pw_name
    wait_for(lambda: not os.listdir(folder), 20, "the maildrop to be emptied")
    wait_for(lambda: server.hop.arrivals, 20, "what leaves")
    sent = server.hop.arrivals[0]
    assert sent.reverse_path == f"{login}@{DOMAIN}" and b"Subject: from nobody" in sent.data
    texts = list(server.read("ann")["INBOX"].values())
    assert len(texts) == 1 and (scan(texts[0]).first(b"from") or b"").endswith(f"<{login}@{DOMAIN}>".encode())
    assert as_user(NOBODY, b"Subject: two\n\nx\n", "-C", str(server.config), "ann") == 0  # and while it runs
    for mode in ("-bp", "-q"):  # not "empty": he may not look
        assert as_user(NOBODY, b"", "-C", str(server.config), mode) == 77
    wait_for(lambda: len(server.read("ann")["INBOX"]) == 2, 20, "the second message")


def test_routes_and_a_change_of_mind() -> None:
    special, other = NextHop(), NextHop()
    special.start(), other.start()
    extra = f"""[queue]
relay = "smtp://127.0.0.1:1"
[[queue.route]]
senders = ["ann@{DOMAIN}"]
recipients = ["special.example"]
via = "smtp://127.0.0.1:{special.port}"
bind = ["127.0.0.1"]
"""
    try:
        with Server(people=("ann",), server="workers = 1", extra=extra) as server:
            for sender, to in (
                (f"ann@{DOMAIN}", "x@special.example"),
                (f"ann@{DOMAIN}", "y@elsewhere.example"),
            ):
                done = server.command("sendmail", "-f", sender, to, stdin=mail(f"to {to}").decode())
                assert done.returncode == 0, done.stderr
            wait_for(lambda: special.arrivals, 20, "the route")
            assert b"Subject: to x@special.example" in special.arrivals[0].data
            moved = server.command(
                "queue", "reroute", "--domain", "elsewhere.example", "--to", f"smtp://127.0.0.1:{other.port}"
            )
            assert moved.returncode == 0, moved.stderr
            wait_for(lambda: other.arrivals, 20, "the new way")
            assert len(special.arrivals) == len(other.arrivals) == 1
    finally:
        special.close()
        other.close()


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_a_script_that_says_the_same_each_time_sends_it_each_time(newline: str) -> None:
    """``sendmail -bs`` with all commands in one write, QUIT among them: nobody waits for the reply, and it is no retry."""
    lines = ("EHLO me.example", f"MAIL FROM:<ann@{DOMAIN}>", "RCPT TO:<x@elsewhere.example>", f"RCPT TO:<ann@{DOMAIN}>",
             "DATA", "Subject: disk ok", "", "all is well", ".", "QUIT", "")  # fmt: skip
    with Server(people=("ann",), server="workers = 1", doors=("smtp", "imaps")) as server:
        for count in (1, 2, 3):
            done = server.command(
                "-bs",
                program="filterd-sendmail",
                stdin=newline.join(lines[: -2 if count == 2 else None] + ("",)),
            )
            assert done.returncode == 0 and done.stdout.count(b"250 2.0.0 Ok") == 1, done
            server.arrived(count, 20)
            wait_for(lambda count=count: len(server.read("ann")["INBOX"]) == count, 20, f"copy {count}")  # type: ignore[misc]  # bound
