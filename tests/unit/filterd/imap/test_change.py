"""STORE, COPY, MOVE, APPEND, EXPUNGE, REPLACE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from filterd.imap.config import ImapServerConfig
from filterd.store.base import NewMessage
from filterd.store.memory import MemoryAccount

from .conftest import Client, message

Connect = Callable[..., Client]
Fill = Callable[..., None]


def test_store(connect: Connect, fill: Fill) -> None:
    fill(3)
    client = connect()
    assert client.ok("STORE 1 FLAGS \\Seen \\Flagged") == ["* 1 FETCH (FLAGS (\\Seen \\Flagged))"]
    assert client.ok("UID STORE 2:3 +FLAGS.SILENT (\\Answered)") == []
    assert client.ok("STORE 1 -FLAGS (\\Seen)") == ["* 1 FETCH (FLAGS (\\Flagged))"]
    assert client.ok("STORE 1 FLAGS ()") == ["* 1 FETCH (FLAGS ())"]
    for bad in (
        "STORE 1 FLAGS",
        "STORE 1 FOO (\\Seen)",
        "STORE 1 FLAGS (\\Foo)",
        "STORE 9 FLAGS ()",
        "STORE 1 FLAGS (a(b)",
    ):
        assert client(bad)[-1].startswith("BAD"), bad


def test_store_unchangedsince(connect: Connect, fill: Fill, account: MemoryAccount) -> None:
    fill(3)
    client = connect()
    since = account.snapshot("INBOX").modseq
    client.ok("STORE 2 +FLAGS (\\Seen)")
    lines = client(f"STORE 1:3 (UNCHANGEDSINCE {since}) +FLAGS.SILENT (\\Flagged)")
    assert lines[-1].startswith("OK [MODIFIED 2]")
    assert [line.split(" MODSEQ")[0] for line in lines[:-1]] == ["* 1 FETCH (UID 1", "* 3 FETCH (UID 3"]
    assert client("UID STORE 2 (UNCHANGEDSINCE 0) +FLAGS (x)")[-1].startswith("OK [MODIFIED 2]")


def test_copy_and_move(connect: Connect, fill: Fill, account: MemoryAccount) -> None:
    fill(5)
    client = connect()
    assert client("COPY 1 nix")[-1].startswith("NO [TRYCREATE]")
    client.ok("CREATE x")
    uidvalidity = account.info("x").uidvalidity
    assert client("COPY 2:3 x")[-1].startswith(f"OK [COPYUID {uidvalidity} 2:3 1:2]")
    lines = client("UID MOVE 4,1 x")
    assert lines == [f"* OK [COPYUID {uidvalidity} 1,4 3:4] Moved", "* 1 EXPUNGE", "* 3 EXPUNGE", "OK Moved"]
    assert client("UID MOVE 99 x") == ["OK Nothing to do"]
    assert client("MOVE 1 INBOX")[-1].startswith("NO [CANNOT]")
    assert account.status("INBOX").messages == 3


def test_two_sessions_moving_the_same_message(connect: Connect, fill: Fill, account: MemoryAccount) -> None:
    fill(1)
    one, other = connect(), connect()
    one.ok("CREATE x")
    one.ok("MOVE 1 x")
    assert other("MOVE 1 x")[-1].startswith("NO [EXPUNGEISSUED]")
    assert account.status("x").messages == 1


def test_append(connect: Connect, account: MemoryAccount) -> None:
    client = connect()
    text = message(1)
    lines = client(b'APPEND INBOX (\\Seen work) "17-Jul-1996 02:44:25 -0700" {%d+}\r\n%b' % (len(text), text))
    assert lines[-1].startswith(f"OK [APPENDUID {account.info('INBOX').uidvalidity} 1]")
    assert "* 1 EXISTS" in lines
    assert account.read("INBOX", 1) == text
    assert client.ok("FETCH 1 (FLAGS INTERNALDATE)") == [
        '* 1 FETCH (FLAGS (\\Seen work) INTERNALDATE "17-Jul-1996 09:44:25 +0000")'
    ]
    assert client(b"APPEND nix {3+}\r\nabc")[-1].startswith("NO [TRYCREATE]")
    assert client(b"APPEND INBOX {0+}\r\n")[-1].startswith("NO")
    assert client(b"APPEND INBOX")[-1].startswith("BAD")
    assert client(b'APPEND INBOX "x" {3+}\r\nabc')[-1].startswith("BAD")
    assert client.raw(b"a APPEND INBOX {100001}\r\n").startswith(b"a NO [TOOBIG]")
    assert client.raw(b"a APPEND INBOX {100000}\r\n") == b"+ OK\r\n"
    assert client.raw(b"x" * 100_000 + b"\r\n").count(b"a OK [APPENDUID") == 1
    assert client(b"APPEND INBOX ~{5+}\r\na\0b\r\n")[-1].startswith("OK")
    assert client(b"APPEND INBOX {5+}\r\na\0b\r\n")[-1].startswith("NO [UNKNOWN-CTE]")
    assert client("APPEND INBOX UTF8 (~{5+}\r\nä\r\n )".replace("\n )", "\n)"))[-1].startswith("BAD")


def test_multiappend_and_catenate(connect: Connect, account: MemoryAccount) -> None:
    account.append("INBOX", [NewMessage(message(1))])
    client = connect()
    lines = client(b"APPEND INBOX (\\Seen) {3+}\r\nabc {3+}\r\ndef")
    assert lines[-1].startswith("OK [APPENDUID") and " 2:3]" in lines[-1]
    text = b'APPEND INBOX CATENATE (TEXT {14+}\r\nSubject: cat\r\n URL "/INBOX;UID=1/;SECTION=TEXT" TEXT {2+}\r\n\r\n)'
    client.ok(text)
    assert account.read("INBOX", 4) == b"Subject: cat\r\nBody 1\r\n\r\n"
    assert client(b'APPEND INBOX CATENATE (URL "/INBOX;UID=99")')[-1].startswith(
        'NO [BADURL "/INBOX;UID=99"]'
    )
    assert client(b'APPEND INBOX CATENATE (URL "imap://other/INBOX;UID=1")')[-1].startswith("NO [BADURL")


def test_quota(fill: Fill, account: MemoryAccount, connect: Connect) -> None:
    account._limit = lambda: 2_000
    client = connect(config=ImapServerConfig())
    assert client(b"APPEND INBOX {3000+}\r\n" + b"x" * 3000)[-1].startswith("NO [OVERQUOTA]")
    assert client.ok('GETQUOTA "User quota"') == ['* QUOTA "User quota" (STORAGE 0 1)']


def test_expunge(connect: Connect, fill: Fill) -> None:
    fill(6)
    client = connect()
    client.ok("STORE 1,3,5 +FLAGS.SILENT (\\Deleted)")
    assert client.ok("UID EXPUNGE 3:4") == ["* 3 EXPUNGE"]
    assert client.ok("EXPUNGE") == ["* 1 EXPUNGE", "* 3 EXPUNGE"]
    client.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
    client.ok("CLOSE")
    assert "* 2 EXISTS" in client.ok("SELECT INBOX")


def test_replace(connect: Connect, fill: Fill, account: MemoryAccount) -> None:
    fill(2)
    client = connect()
    lines = client(b"REPLACE 1 INBOX (\\Draft) {3+}\r\nabc")
    assert lines[0].startswith("* OK [APPENDUID ") and "* 3 EXISTS" in lines and "* 1 EXPUNGE" in lines
    assert account.read("INBOX", 3) == b"abc" and account.read("INBOX", 1) is None
    assert client(b"UID REPLACE 99 INBOX {3+}\r\nabc")[-1].startswith("NO")
    assert client(b"REPLACE 1:2 INBOX {3+}\r\nabc")[-1].startswith("BAD")


def test_replace_or_move_by_another(connect: Connect, fill: Fill, account: MemoryAccount) -> None:
    """Either has the message, never both: between the look and the store another process comes to its turn."""
    fill(1)
    account.create("Other")
    client = connect()

    class Store:
        """The account as it is when somebody waits for it."""

        held = False

        def __getattr__(self, name: str) -> object:
            if name in ("append", "expunge"):
                assert self.held, "another session may move the message now"
            return getattr(account, name)

        @contextmanager
        def hold(self) -> Iterator[None]:
            if account.read("INBOX", 2) is None and not account.snapshot("Other").uids:
                account.move("INBOX", [1], "Other")  # the other one was faster
            self.held = True
            yield
            self.held = False

    client.account = Store()  # type: ignore[assignment]  # all that is asked of it
    assert client(b"REPLACE 1 INBOX {3+}\r\nabc")[-1] == "NO No such message"
    assert not account.snapshot("INBOX").uids
    fill(1, first=2)
    client.ok("NOOP")
    assert client(b"REPLACE 1 INBOX {3+}\r\nabc")[-1].startswith("OK")


@pytest.mark.parametrize(
    "command", ["COPY", "COPY 1", "MOVE 1 x y", "EXPUNGE 1", "UID EXPUNGE", "UID NOOP", "UID", "UID COPY 1"]
)
def test_bad(connect: Connect, fill: Fill, command: str) -> None:
    fill(1)
    assert connect()(command)[-1].startswith("BAD")
