"""The core: states, logins, limits of patience, IDLE, ENABLE, and that nothing raises."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from filterd.imap.config import ImapLimits, ImapServerConfig
from filterd.imap.session import Session
from filterd.imap.work import Work
from filterd.store.base import NewMessage, StoreUnavailable
from filterd.store.memory import MemoryAccount

from .conftest import Client, FakeClock, message


def test_before_login(account: MemoryAccount) -> None:
    client = Client(account, ImapServerConfig(tls=True), tls=False)
    assert client.greeting.startswith(b"* OK [CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+")
    (caps, _) = client("CAPABILITY")
    words = caps.split()
    assert (
        "STARTTLS" in words and "LOGINDISABLED" in words and "AUTH=PLAIN" not in words and "SORT" not in words
    )
    assert client("LOGIN ann pw") == ["NO [PRIVACYREQUIRED] Use TLS first"]
    assert client("AUTHENTICATE PLAIN")[-1].startswith("NO [PRIVACYREQUIRED]")
    assert client("SELECT INBOX")[-1].startswith("BAD")
    assert client("XYZZY")[-1].startswith("BAD")
    assert client("NOOP") == ["OK Completed"]


def test_starttls_drops_what_came_with_it(account: MemoryAccount) -> None:
    client = Client(account, ImapServerConfig(tls=True), tls=False)
    assert client.raw(b"a STARTTLS\r\nb LOGIN ann pw\r\n").startswith(b"a OK")
    assert client.session.account is None
    words = client("CAPABILITY")[0].split()
    assert "STARTTLS" not in words and "LOGINDISABLED" not in words and "AUTH=PLAIN" in words
    assert client("STARTTLS")[-1].startswith("BAD")
    client.ok("LOGIN ann pw")


def test_login_and_authenticate(account: MemoryAccount) -> None:
    client = Client(account, ImapServerConfig())
    assert client("LOGIN ann wrong") == ["NO [AUTHENTICATIONFAILED] Invalid credentials"]
    assert client.raw(b"a AUTHENTICATE PLAIN\r\n") == b"+ \r\n"
    assert client.raw(b"*\r\n").startswith(b"a BAD")
    assert client.raw(b"b AUTHENTICATE plain\r\n") == b"+ \r\n"
    assert client.raw(base64.b64encode(b"\0ann\0pw") + b"\r\n").startswith(b"b OK [CAPABILITY ")
    assert client("LOGIN ann pw")[-1].startswith("BAD")
    other = Client(account, ImapServerConfig())
    other.ok(b"AUTHENTICATE PLAIN " + base64.b64encode(b"ann\0ann\0pw"))
    other = Client(account, ImapServerConfig())
    other.ok(b"LOGIN {3}\r\nann {2+}\r\npw".replace(b"{3}", b"{3+}"))


def test_failed_logins_and_nonsense_end_the_connection(account: MemoryAccount) -> None:
    client = Client(account, ImapServerConfig(limits=ImapLimits(bad_before_login=3)))
    client("LOGIN a b")
    client("LOGIN a b")
    assert client("LOGIN a b")[-1].startswith("* BYE")
    assert client.closed
    logged_in = Client(account, ImapServerConfig(limits=ImapLimits(bad=3)))
    logged_in.ok("LOGIN a pw")
    for _ in range(4):  # a good command in between starts the count anew
        logged_in("FOO")
        logged_in("BAR")
        logged_in.ok("NOOP")
    logged_in("FOO")
    logged_in("FOO")
    assert logged_in("FOO")[-1].startswith("* BYE") and logged_in.closed


def test_logout(connect: Callable[..., Client]) -> None:
    client = connect()
    lines = client("LOGOUT")
    assert lines[0].startswith("* BYE") and lines[1].startswith("OK") and client.closed
    assert client.raw(b"x NOOP\r\n") == b""


def test_unauthenticate(connect: Callable[..., Client]) -> None:
    client = connect(enable="CONDSTORE")
    client.ok("UNAUTHENTICATE")
    assert client("SELECT INBOX")[-1].startswith("BAD")
    assert not client.session.condstore
    client.ok("LOGIN ann pw")


def test_idle(connect: Callable[..., Client], fill: Callable[..., None]) -> None:
    fill(2)
    client, other = connect(), connect()
    assert client.raw(b"i IDLE\r\n") == b"+ idling\r\n"
    fill(1)
    other.ok("STORE 1 +FLAGS (\\Deleted)")
    other.ok("EXPUNGE")
    assert client.raw(b"") == b""
    client.session.wake()
    assert client.pump() == b"* 3 EXISTS\r\n* 1 EXPUNGE\r\n"
    client.session.wake(alive=True)
    assert client.pump() == b"* OK Still here\r\n"
    assert client.raw(b"DONE\r\nx NOOP\r\n") == b"i OK IDLE completed\r\nx OK Completed\r\n"
    assert client.events == ["Idle", "IdleEnd"]
    client.raw(b"j IDLE\r\n")
    assert client.raw(b"k NOOP\r\n").startswith(b"j BAD")


def test_cut_while_idling(connect: Callable[..., Client]) -> None:
    client = connect()
    client.raw(b"i IDLE\r\n")
    client.session.lost()
    client.pump()
    assert client.events == ["Idle", "IdleEnd"]


def test_what_was_sent_before_the_end_is_still_done(connect: Callable[..., Client]) -> None:
    client = connect()
    client.session.receive_data(b"a CREATE x\r\nb NOOP\r\nc NO")
    client.session.receive_eof()
    assert client.pump().endswith(b"b OK Completed\r\n")
    assert client.closed
    idling = connect()
    idling.raw(b"i IDLE\r\n")
    idling.session.receive_eof()
    idling.pump()
    assert idling.closed and idling.events == ["Idle", "IdleEnd"]


def test_a_failing_store_is_unavailable(connect: Callable[..., Client]) -> None:
    client = connect()
    client.session.receive_data(b"a NOOP\r\nb NOOP\r\n")
    event = client.session.next_event()
    assert isinstance(event, Work)
    client.session.unavailable()
    assert client.pump() == b"a NO [UNAVAILABLE] Try again later\r\nb OK Completed\r\n"
    client.session.receive_data(b"c NOOP\r\n")
    client.session.next_event()
    client.session.internal_error()
    assert client.pump() == b"c NO [SERVERBUG] Internal error\r\n"


def test_store_errors_have_their_codes(
    connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect("")

    def broken(mailbox: str) -> None:
        raise StoreUnavailable("disk")

    monkeypatch.setattr(client.account, "status", broken)
    assert client("STATUS INBOX (MESSAGES)")[-1].startswith("NO [UNAVAILABLE]")


def test_a_deleted_mailbox_ends_the_session_that_has_it(connect: Callable[..., Client]) -> None:
    one, other = connect(""), connect("")
    other.ok("CREATE x")
    one.ok("SELECT x")
    other.ok("DELETE x")
    assert one("NOOP")[-1].startswith("* BYE") and one.closed


def test_a_renamed_mailbox_is_followed(connect: Callable[..., Client]) -> None:
    one, other = connect(""), connect("")
    other.ok("CREATE x")
    one.ok("SELECT x")
    other.ok("RENAME x y")
    other.account.append("y", [NewMessage(message(1))])
    assert one.ok("NOOP") == ["* 1 EXISTS"]


def test_large_answers_come_in_steps(connect: Callable[..., Client], fill: Callable[..., None]) -> None:
    fill(50)
    config = ImapServerConfig(limits=replace(ImapLimits(), step=2_000, rows=10))
    client = connect(config=config)
    client.session.receive_data(b"a FETCH 1:* (UID BODY.PEEK[])\r\nb FETCH 1:* ENVELOPE\r\n")
    for tag in (b"a", b"b"):
        event = client.session.next_event()
        assert isinstance(event, Work)
        steps = []
        while not event.done:
            steps.append(sum(map(len, event.step(client.account))))
        client.session.work_done(event)
        assert len(steps) > 3 and max(steps) < 6_000, tag


def test_id_namespace_quota(connect: Callable[..., Client]) -> None:
    client = connect()
    assert client.ok('ID ("name" "x" "version" NIL)') == ['* ID ("name" "filterd")']
    client.ok("ID NIL")
    assert client.ok("NAMESPACE") == ['* NAMESPACE (("" "/")) NIL NIL']
    assert client.ok("GETQUOTAROOT INBOX") == ['* QUOTAROOT "INBOX" "User quota"', '* QUOTA "User quota" ()']
    assert client("GETQUOTA other")[-1].startswith("NO")


def test_metadata(connect: Callable[..., Client]) -> None:
    client = connect()
    assert client.ok("GETMETADATA INBOX /private/comment") == ['* METADATA "INBOX" (/private/comment NIL)']
    client.ok('SETMETADATA INBOX (/private/comment "mine" /shared/vendor/x/y "deep" /shared/vendor/z "flat")')
    assert client.ok("GETMETADATA INBOX (/private/comment)") == [
        '* METADATA "INBOX" (/private/comment "mine")'
    ]
    assert client.ok("GETMETADATA (DEPTH 1) INBOX /shared/vendor") == [
        '* METADATA "INBOX" (/shared/vendor/z "flat")'
    ]
    (line,) = client.ok("GETMETADATA (DEPTH infinity) INBOX /shared/vendor")
    assert '/shared/vendor/x/y "deep"' in line and '/shared/vendor/z "flat"' in line
    assert client("GETMETADATA (MAXSIZE 2) INBOX /private/comment") == [
        "OK [METADATA LONGENTRIES 4] GETMETADATA completed"
    ]
    client.ok("SETMETADATA INBOX (/shared/vendor/x/y NIL)")
    assert client.ok("GETMETADATA (DEPTH infinity) INBOX /shared/vendor/x") == []
    client.ok(b'SETMETADATA "" (/shared/admin {5+}\r\na@b.c)')
    assert client.ok('GETMETADATA "" /shared/admin') == ['* METADATA "" (/shared/admin "a@b.c")']
    assert client("GETMETADATA nix /private/comment")[-1].startswith("NO [NONEXISTENT]")
    for bad in ("/.names", "/", "/private//x", "/other/x", "/private/x/", "/private/*"):
        assert client(f'GETMETADATA INBOX "{bad}"')[-1].startswith("BAD"), bad
    big = b"x" * 65_537
    assert client(b"SETMETADATA INBOX (/private/x {%d+}\r\n%b)" % (len(big), big))[-1].startswith(
        ("NO", "BAD")
    )


FUZZ_WORDS = (
    "a b FETCH STORE SEARCH UID SELECT INBOX LIST LSUB APPEND COPY MOVE SORT THREAD STATUS IDLE DONE EXPUNGE ENABLE "
    'QRESYNC UIDONLY IMAP4rev2 1:* 1 * $ 2,3 ( ) (( )) "x" " BODY[] BODY[1.MIME]<0.5> BINARY[1] FLAGS +FLAGS \\Seen '
    "(\\Seen) RETURN (ALL) (SAVE) NOT OR ALL TEXT KEYWORD x HEADER SUBJECT UTF-8 CHARSET (DATE) REFERENCES {3+}\r\nabc "
    "~{2+}\r\n\0x {0} (MESSAGES) %* &- PREVIEW (CHANGEDSINCE 1 VANISHED) CATENATE (TEXT {1+}\r\nx) "
    "GETMETADATA SETMETADATA /private/x COMPRESS UNSELECT CLOSE CREATE DELETE RENAME REPLACE PARTIAL 1:2 -1:-2 "
    "NOTIFY SET (SELECTED (MessageNew MessageExpunge)) (PERSONAL NONE) ESEARCH IN (INBOXES) (UPDATE) CANCELUPDATE FILTER SIEVE"
)


@pytest.mark.fuzz
def test_random_commands_never_raise(account: MemoryAccount) -> None:
    account.append("INBOX", [NewMessage(message(number)) for number in range(3)])
    words = FUZZ_WORDS.split(" ")
    for seed in range(300):
        rng = random.Random(seed)
        client = Client(account, ImapServerConfig())
        client.ok("LOGIN ann pw")
        client.raw(b"s SELECT INBOX\r\n")
        for _ in range(20):
            line = " ".join(rng.choice(words) for _ in range(rng.randint(1, 7)))
            client.raw(b"x " + line.encode() + b"\r\n")
            if client.closed:
                break


def test_greeting_of_a_new_core_is_small() -> None:
    session = Session(ImapServerConfig(), FakeClock())
    assert len(session) == 0 and session.next_event() is None
