"""Accounts whose mail lies in mbox files, behind the same doors: LMTP, Sieve, IMAP, POP3, and over to Maildir and back."""

from __future__ import annotations

import mailbox
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, Server, mail

pytestmark = pytest.mark.e2e

SCRIPT = 'require ["fileinto", "mailbox"]; if header :contains "subject" "list" { fileinto :create "Lists"; }'


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(
        people=("ann",), server="workers = 2", extra='[store]\nformat = "mbox"\n', scripts={"ann": SCRIPT}
    ) as running:
        yield running


def home(server: Server) -> Path:
    shown = server.command("account", "show", f"ann@{DOMAIN}", "--json")
    found = re.search(r'"maildir": *"([^"]+)"', shown.stdout.decode())
    assert found, shown
    return Path(found.group(1))


def test_all_doors_work_on_mbox_files(server: Server) -> None:
    server.send(mail("one"), f"ann@{DOMAIN}")
    server.send(mail("list two"), f"ann@{DOMAIN}")
    server.send(mail("three") + b"From the start of a line\r\n>From quoted\r\n", f"ann@{DOMAIN}")
    with server.imap("ann") as imap:
        assert imap.select("INBOX")[1] == [b"2"]
        assert imap.append("INBOX", r"(\Seen $Label)", None, mail("four"))[0] == "OK"  # type: ignore[arg-type]  # None: now
        assert imap.uid("STORE", "1", "+FLAGS", r"(\Flagged)")[0] == "OK"
        text = imap.uid("FETCH", "2", "(BODY.PEEK[TEXT])")[1][0][1]
        assert text.endswith(b"From the start of a line\r\n>From quoted\r\n")
        assert imap.uid("COPY", "2", "Archive")[0] == "OK"
        assert imap.uid("MOVE", "2", "Junk")[0] == "OK"
        assert imap.uid("SEARCH", "KEYWORD", "$Label")[1] == [b"3"]
        assert imap.uid("SEARCH", "TEXT", "four")[1] == [b"3"]
    with server.pop3("ann") as pop:
        numbers = pop.list()[1]
        assert len(numbers) == 2
        pop.dele(1)
    before = server.read("ann")
    assert {name: len(found) for name, found in before.items() if found} == {
        "INBOX": 1, "Lists": 1, "Archive": 1, "Junk": 1,
    }  # fmt: skip
    files = [path for path in home(server).rglob("*") if path.is_file() and path.read_bytes()[:5] == b"From "]
    assert sum(len(mailbox.mbox(str(path))) for path in files) >= 4

    server.stop()
    for kind in ("maildir", "mbox"):
        done = server.command("store", "convert", f"ann@{DOMAIN}", "--to", kind)
        assert done.returncode == 0, done
        server.start()
        assert server.read("ann") == before
        server.send(mail(f"after {kind}"), f"ann@{DOMAIN}")
        before = server.read("ann")
        assert len(before["INBOX"]) == (2 if kind == "maildir" else 3)
        server.stop()


def test_killed_under_load(server: Server) -> None:
    """What was answered is there, once."""
    for number in range(20):
        server.send(mail(f"n{number}"), f"ann@{DOMAIN}")
    server.kill()
    server.start()
    assert len(server.read("ann")["INBOX"]) == 20
