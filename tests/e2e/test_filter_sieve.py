"""FILTER=SIEVE through real doors: a script over mail that is here already."""

from __future__ import annotations

import imaplib
import re
from collections.abc import Iterator

import pytest

from tests.e2e.server import Server, wait_for

pytestmark = pytest.mark.e2e

ACTIVE = """require ["fileinto", "vacation"];
vacation "I am away";
if header :contains "subject" "late" { fileinto "Late"; }
"""
ONE = (
    'require ["imap4flags", "fileinto", "mailbox", "copy"]; '
    'if header :contains "subject" "bill" { fileinto :create "Bills"; } '
    'elsif header :contains "subject" "flag" { addflag "\\\\Flagged"; keep; } '
    'elsif header :contains "subject" "copy" { fileinto :copy :create "Copies"; } '
    'elsif header :contains "subject" "send" { redirect :copy "bob@home.example"; }'
)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(people=("ann", "bob"), scripts={"ann": ACTIVE}) as running:
        yield running


def mail(subject: str) -> bytes:
    return f"From: shop@shop.example\r\nSubject: {subject}\r\n\r\nBody\r\n".encode()


def run(imap: imaplib.IMAP4, command: str, script: str = "", keys: str = "ALL") -> tuple[str, str]:
    """The tagged line and all lines before it."""
    tag = imap._new_tag()  # type: ignore[attr-defined]  # imaplib has no way to send a literal in the middle
    raw = script.encode()
    middle = b"{%d+}\r\n%b " % (len(raw), raw) if script else b""
    imap.send(tag + b" " + command.encode() + b" " + middle + keys.encode() + b"\r\n")
    lines: list[str] = []
    while not lines or not lines[-1].startswith(tag.decode()):
        lines.append(imap.readline().decode().rstrip("\r\n"))
    return lines[-1].removeprefix(tag.decode() + " "), "\n".join(
        re.sub(r'\(TAG "\w+"\) ', "", one) for one in lines[:-1]
    )


def test_a_script_over_what_is_here(server: Server) -> None:
    with server.imap("ann") as imap:
        assert "FILTER=SIEVE" in capabilities(imap)
        for subject in ("a bill", "a flag", "a copy", "nothing", "a late one", "send"):
            imap.append("INBOX", None, None, mail(subject))
        imap.select("INBOX")
        end, told = run(imap, "FILTER SIEVE SCRIPT", ONE)
        assert end.startswith("OK"), end
        found = [line for line in told.split("\n") if "FILTERED" in line]
        assert found == [f"* {n} FILTERED UID {n} OK" for n in (1, 2, 3, 6)]
        assert r"* 1 FETCH (FLAGS (\Deleted))" in told
        assert r"* 2 FETCH (FLAGS (\Flagged))" in told
        assert imap.select("Bills", readonly=True)[1] == [b"1"]
        assert imap.select("Copies", readonly=True)[1] == [b"1"]
        imap.select("INBOX")
        end, told = run(imap, "UID FILTER SIEVE DELIVERY", keys="UID 4:5")
        assert end.startswith("OK"), end
        assert "* 5 FILTERED UID 5 OK" in told and "4 FILTERED" not in told
        assert imap.select("Late", readonly=True)[1] == [b"1"]
        imap.select("INBOX")
        end, told = run(imap, 'FILTER SIEVE PERSONAL "main"', keys="SUBJECT late")
        assert end.startswith("OK") and "* 5 FILTERED UID 5 OK" in told
    with server.imap("bob") as imap:
        wait_for(lambda: imap.select("INBOX")[1] == [b"1"], what="what the script sent on")


def test_what_cannot_be_run(server: Server) -> None:
    with server.imap("ann") as imap:
        imap.append("INBOX", None, None, mail("one"))
        assert run(imap, "FILTER SIEVE DELIVERY")[0].startswith("BAD")
        imap.select("INBOX")
        end, told = run(imap, "FILTER SIEVE SCRIPT", 'if true { fileinto "x" }')
        assert end.startswith("NO") and told.startswith("* FILTER ERRORS {")
        assert run(imap, "FILTER SIEVE PERSONAL nowhere")[0].startswith("NO [NONEXISTENT]")
        assert run(imap, "FILTER SIEVE GLOBAL nowhere")[0].startswith("NO [NONEXISTENT]")
        assert run(imap, "FILTER SIEVE OTHER")[0].startswith("BAD")
        redirects = "".join(f'redirect "a{n}@elsewhere.example";' for n in range(9))
        end, told = run(imap, "FILTER SIEVE SCRIPT", redirects)
        assert end.startswith("OK") and "* 1 FILTERED UID 1 ERRORS {" in told
        assert "Deleted" not in told
        # draft-bosch-imap-filter-sieve 4.10: what answers or refuses new mail is passed over without an error, as by Pigeonhole
        for passed_over in ('require "reject"; reject "no";', 'require "vacation"; vacation "away";'):
            end, told = run(imap, "FILTER SIEVE SCRIPT", passed_over)
            assert end.startswith("OK") and not told, told
        imap.select("INBOX", readonly=True)
        assert run(imap, "FILTER SIEVE DELIVERY")[0].startswith("NO")


def capabilities(imap: imaplib.IMAP4) -> list[str]:
    return imap.capability()[1][0].decode().split()
