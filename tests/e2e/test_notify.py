"""NOTIFY and kept search results across real processes: what one worker's client does, another worker's client is told."""

from __future__ import annotations

import imaplib
import socket
from collections.abc import Iterator

import pytest

from tests.e2e.server import DOMAIN, INSECURE, PASSWORD, Server, mail

pytestmark = pytest.mark.e2e


class Line:
    """One IMAP connection, a line at a time."""

    def __init__(self, server: Server) -> None:
        raw = socket.create_connection(("127.0.0.1", server.ports["imaps"]), timeout=20)
        self.socket = INSECURE.wrap_socket(raw)
        self.file = self.socket.makefile("rb")
        self.line()
        self.do(f'LOGIN ann@{DOMAIN} "{PASSWORD}"')

    def line(self) -> str:
        return self.file.readline().decode().rstrip("\r\n")

    def do(self, command: str) -> list[str]:
        self.socket.sendall(f"t {command}\r\n".encode())
        lines = [self.line()]
        while not lines[-1].startswith("t "):
            lines.append(self.line())
        assert lines[-1].startswith("t OK"), lines
        return lines[:-1]

    def until(self, start: str) -> str:
        """The next line that begins so; the socket's time-out is the limit."""
        while not (line := self.line()).startswith(start):
            assert line, "the connection ended"
        return line

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(people=("ann",), server="workers = 2") as running:
        yield running


@pytest.fixture
def listeners(server: Server) -> Iterator[list[Line]]:
    """Several, so that both workers have some."""
    found = [Line(server) for _ in range(4)]
    yield found
    for line in found:
        line.close()


def test_all_workers_tell(server: Server, listeners: list[Line]) -> None:
    imap = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE, timeout=20)
    imap.login(f"ann@{DOMAIN}", PASSWORD)
    assert imap.create("Lists")[0] == "OK"
    for line in listeners:
        line.do("SELECT INBOX")
        line.do(
            "NOTIFY SET (SELECTED (MessageNew (UID FLAGS) MessageExpunge FlagChange)) (PERSONAL "
            "(MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange MailboxMetadataChange))"
        )
    server.send(mail("one"), f"ann@{DOMAIN}")
    assert [line.until("* 1 FETCH") for line in listeners] == ["* 1 FETCH (UID 1 FLAGS ())"] * 4
    assert imap.select("INBOX")[0] == "OK"
    assert imap.store("1", "+FLAGS", r"(\Seen \Deleted)")[0] == "OK"
    for line in listeners:
        assert r"\Seen \Deleted" in line.until("* 1 FETCH")
    assert imap.append("Lists", "", None, mail("two"))[0] == "OK"
    for line in listeners:
        assert "MESSAGES 1 UIDNEXT 2" in line.until('* STATUS "Lists"')
    assert imap.expunge()[0] == "OK"
    for line in listeners:
        line.until("* 1 EXPUNGE")
    assert imap.rename("Lists", "Friends")[0] == "OK"
    for line in listeners:
        assert '"Friends" ("OLDNAME" ("Lists"))' in line.until("* LIST")
    assert imap.subscribe("Friends")[0] == "OK"
    for line in listeners:
        assert line.until("* LIST") == r'* LIST (\Subscribed) "/" "Friends"'
    assert imap.append("Friends", "", None, mail("three"))[0] == "OK"
    for line in listeners:
        assert "MESSAGES 2" in line.until('* STATUS "Friends"')
    assert imap.xatom("SETMETADATA", "Friends", '(/private/comment "x")')[0] == "OK"
    for line in listeners:
        assert line.until("* METADATA") == '* METADATA "Friends" /private/comment'
    assert imap.delete("Friends")[0] == "OK"
    for line in listeners:
        assert line.until("* LIST").startswith(r"* LIST (\NonExistent")
    imap.logout()


def test_while_idling(server: Server, listeners: list[Line]) -> None:
    for line in listeners:
        line.do("SELECT INBOX")
        line.do("NOTIFY SET (SELECTED-DELAYED (MessageNew (UID) MessageExpunge)) (PERSONAL (MailboxName))")
        line.socket.sendall(b"t IDLE\r\n")
        line.until("+ idling")
    server.send(mail("one"), f"ann@{DOMAIN}")
    for line in listeners:
        line.until("* 1 FETCH (UID 1)")
        line.socket.sendall(b"DONE\r\n")
        line.until("t OK")
