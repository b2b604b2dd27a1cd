"""Sieve on IMAP events, through real doors: METADATA names the script, ManageSieve brings it, COPY and APPEND run it."""

from __future__ import annotations

import imaplib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.cli.managesieve_client import RemoteScripts
from filterd.cli.managesieve_client import Server as SieveServer
from tests.e2e.server import DOMAIN, PASSWORD, Server, folders, wait_for

pytestmark = pytest.mark.e2e

SCRIPT = """require ["imapsieve", "environment", "imap4flags", "fileinto", "copy", "variables"];
if environment "imap.cause" "FLAG" {
    if environment :contains "imap.changedflags" "$Pay" { addflag "Paid"; }
    if environment :contains "imap.changedflags" "\\\\Seen" { addflag "Read"; }
} elsif environment "imap.mailbox" "Bills" {
    if environment :matches "imap.cause" "*" { addflag "by-${1}"; }
    if environment "imap.user" "ann@home.example" { addflag "by-ann"; }
    if header :contains "subject" "twice" { fileinto :copy "Bills/Copies"; }
    if header :contains "subject" "away" { fileinto "Elsewhere"; }
    if header :contains "subject" "on" { redirect :copy "bob@home.example"; }
}
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(people=("ann", "bob")) as running:
        yield running


def mail(subject: str) -> bytes:
    return f"From: shop@shop.example\r\nSubject: {subject}\r\n\r\nBody\r\n".encode()


def flags_of(imap: imaplib.IMAP4, box: str) -> list[set[str]]:
    code, data = imap.select(f'"{box}"', readonly=True)
    assert code == "OK", data
    found = imap.uid("FETCH", "1:*", "(FLAGS)")[1]
    lines = [line for line in found if isinstance(line, bytes)]
    return [
        set(match[1].decode().split()) for line in lines if (match := re.search(rb"FLAGS \(([^)]*)\)", line))
    ]


def test_copy_append_move_and_flags(server: Server, tmp_path: Path) -> None:
    upload(server, tmp_path, "events", SCRIPT)
    with server.imap("ann") as imap:
        assert any(word.startswith("IMAPSIEVE=SIEVE://MX.HOME.EXAMPLE:") for word in capabilities(imap))
        imap.create("Bills")
        assert imap.xatom("SETMETADATA", "Bills", '(/shared/imapsieve/script "events")')[0] == "OK"
        imap.append("INBOX", None, None, mail("plain"))
        assert flags_of(imap, "INBOX") == [set()], "no script for this mailbox"
        imap.select("INBOX")
        assert imap.uid("COPY", "1", "Bills")[0] == "OK"
        assert flags_of(imap, "Bills") == [{"by-COPY", "by-ann"}]

        imap.append("Bills", None, None, mail("twice"))
        assert flags_of(imap, "Bills")[1] == {"by-APPEND", "by-ann"}
        assert len(flags_of(imap, "Bills/Copies")) == 1

        imap.select("INBOX")
        assert imap.uid("MOVE", "1", "Bills")[0] == "OK"
        assert flags_of(imap, "Bills")[2] == {"by-COPY", "by-ann"}

        imap.append("Bills", None, None, mail("away"))
        assert "\\Deleted" in flags_of(imap, "Bills")[3]
        assert len(flags_of(imap, "Elsewhere")) == 1

        imap.select("Bills")
        imap.uid("STORE", "1", "+FLAGS", "($Pay)")
        assert flags_of(imap, "Bills")[0] == {"by-COPY", "by-ann", "$Pay", "Paid"}
        imap.select("Bills")
        imap.uid("STORE", "1", "+FLAGS", "($Pay)")
        assert flags_of(imap, "Bills")[0] == {"by-COPY", "by-ann", "$Pay", "Paid"}

        imap.select("Bills")
        imap.uid("FETCH", "2", "(BODY[])")  # sets \Seen on the way: a change of flags like any other
        assert flags_of(imap, "Bills")[1] == {"by-APPEND", "by-ann", "\\Seen", "Read"}

        imap.append("Bills", None, None, mail("on"))
    wait_for(lambda: any(b"Subject: on" in text for text in server.read("bob")["INBOX"].values()), 10, "bob")
    text = next(iter(server.read("bob")["INBOX"].values()))
    assert b"Return-Path: <ann@home.example>" in text


def test_a_broken_script_leaves_the_message(server: Server, tmp_path: Path) -> None:
    upload(server, tmp_path, "bad", 'require "reject"; reject "no";')
    with server.imap("ann") as imap:
        imap.xatom("SETMETADATA", '""', '(/shared/imapsieve/script "bad")')
        assert imap.append("INBOX", "(\\Seen)", None, mail("kept"))[0] == "OK"
        assert flags_of(imap, "INBOX") == [{"\\Seen"}, set()], (
            "the message as it was, and a notice to its owner"
        )
        imap.unselect()
        imap.xatom("SETMETADATA", '""', '(/shared/imapsieve/script "gone")')
        assert imap.append("INBOX", None, None, mail("kept"))[0] == "OK"
        assert len(flags_of(imap, "INBOX")) == 3
        assert "INBOX" in folders(imap)


def capabilities(imap: imaplib.IMAP4) -> list[str]:
    return [word.upper() for word in imap.capability()[1][0].decode().split()]


def upload(server: Server, folder: Path, name: str, text: str) -> None:
    certificate = server.data / "tls" / "self-signed.crt"
    remote = RemoteScripts(
        SieveServer("localhost", server.ports["sieve"], f"ann@{DOMAIN}", PASSWORD, str(certificate))
    )
    remote.put(name, text)
    remote.close()
