"""One message's text told on the loop: the very answer of the general way, or none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from filterd.imap.session import Session
from filterd.imap.work import Work
from filterd.store.base import AccountStore, NewMessage
from filterd.store.memory import MemoryAccount
from filterd.store.ready import NotReady

from .conftest import Client, message

Connect = Callable[..., Client]
TOLD = (
    "BODY.PEEK[]",
    "(UID BODY.PEEK[])",
    "(BODY.PEEK[] UID)",
    "(UID RFC822.SIZE FLAGS BODY.PEEK[])",
    "(FLAGS BODY.PEEK[] RFC822.SIZE)",
)
NOT_TOLD = (
    "(UID FLAGS)", "(BODY.PEEK[] ENVELOPE)", "(BODY.PEEK[]<0.5>)", "(BODY.PEEK[TEXT])", "(BODY.PEEK[] MODSEQ)",
    "(BODY.PEEK[] BODY.PEEK[HEADER])", "(BINARY.PEEK[])", "(UID BODY.PEEK[]) (CHANGEDSINCE 1)",
)  # fmt: skip


@pytest.fixture
def client(connect: Connect, account: MemoryAccount) -> Client:
    texts = [message(1), message(2), b"Subject: nul\r\n\r\na\0b\r\n", message(4)]
    account.append("INBOX", [NewMessage(text, ("\\Seen",) if n else ()) for n, text in enumerate(texts)])
    made = connect()
    made.ok("STORE 2 +FLAGS (\\Deleted)")
    made.ok("EXPUNGE")  # numbers are not UIDs
    return made


def works(client: Client, command: bytes) -> Work:
    client.session.receive_data(command)
    work = client.session.next_event()
    assert isinstance(work, Work)
    return work


def short(client: Client, command: bytes) -> bytes | None:
    """The answer, if it was told without the general way."""
    work = works(client, command)
    assert work._short is None or work.quick
    told = work._short(client.account) if work._short is not None else None
    if told is None:
        assert b"".join(work.step(client.account)) and work.done
    else:
        work.close()
    client.session.work_done(work)
    return None if told is None else b"".join(told)


def general(client: Client, command: bytes) -> bytes:
    client.session.fetch_memo = None
    return client.raw(command)


@pytest.mark.parametrize("uid", ["", "UID "])
@pytest.mark.parametrize("items", TOLD)
def test_agrees_with_the_general_way(client: Client, items: str, uid: str) -> None:
    for number in (1, 2, 3):
        uids = client.session.view.uids if client.session.view is not None else ()
        shown = uids[number - 1] if uid else number
        command = f"t {uid}FETCH {shown} {items}\r\n".encode()
        client.raw(f"t {uid}FETCH 1 {items}\r\n".encode())
        told = short(client, command)
        assert told == general(client, command)
        assert told is not None and told.endswith(b"t OK FETCH completed\r\n")


@pytest.mark.parametrize("items", NOT_TOLD)
def test_more_than_that_goes_the_general_way(client: Client, items: str) -> None:
    command = f"t UID FETCH 3 {items}\r\n".encode()
    client.raw(command)
    assert short(client, command) is None


def test_words_are_read_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.raw(b"t FETCH 1 (FLAGS ENVELOPE)\r\n")
    expected = client.raw(b"t FETCH 2 (FLAGS ENVELOPE)\r\n")
    monkeypatch.setattr("filterd.imap.fetch_items.parse", None)
    assert client.raw(b"t FETCH 2 (FLAGS ENVELOPE)\r\n") == expected
    assert client.raw(b"t fetch 2 (FLAGS ENVELOPE)\r\n") == expected


def test_seen_is_set_before_it_is_told(client: Client) -> None:
    client.raw(b"t FETCH 2 BODY[]\r\n")
    assert short(client, b"t FETCH 3 BODY[]\r\n") is not None  # it has been seen
    assert short(client, b"t FETCH 1 BODY[]\r\n") is None
    assert client.account.snapshot("INBOX").flags[0] & 1


def test_news_come_first(client: Client, connect: Connect) -> None:
    client.raw(b"t FETCH 1 BODY.PEEK[]\r\n")
    other = connect()
    other.ok("STORE 3 +FLAGS (\\Flagged)")
    assert short(client, b"t FETCH 1 BODY.PEEK[]\r\n") is None
    assert short(client, b"t FETCH 1 BODY.PEEK[]\r\n") is not None
    other.ok("STORE 3 +FLAGS (\\Deleted)")
    other.ok("EXPUNGE")
    for _ in range(2):  # its number is kept until the client may be told
        told = client.raw(b"t FETCH 1 BODY.PEEK[]\r\n")
        assert b"EXPUNGE" not in told and told.endswith(b"t OK FETCH completed\r\n")
        assert short(client, b"t FETCH 1 BODY.PEEK[]\r\n") is None
    assert b"* 3 EXPUNGE" in client.raw(b"t NOOP\r\n")
    assert short(client, b"t FETCH 1 BODY.PEEK[]\r\n") is not None


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"t FETCH 9 BODY.PEEK[]\r\n", b"t BAD"),
        (b"t FETCH 99999999999 BODY.PEEK[]\r\n", b"t BAD"),
        (b"t FETCH 0 BODY.PEEK[]\r\n", b"t BAD"),
        (b"t UID FETCH 4000000000 BODY.PEEK[]\r\n", b"t OK"),
        (b"t UID FETCH 2 BODY.PEEK[]\r\n", b"t OK"),
        (b"t FETCH  1 BODY.PEEK[]\r\n", b"t BAD"),
    ],
)
def test_no_such_message(client: Client, command: bytes, answer: bytes) -> None:
    client.raw(b"t FETCH 1 BODY.PEEK[]\r\n")
    assert client.raw(command).startswith(answer)
    assert general(client, command).startswith(answer)


def test_no_numbers_after_uidonly(client: Client) -> None:
    client.raw(b"t UID FETCH 1 BODY.PEEK[]\r\n")
    client.ok("ENABLE UIDONLY")
    assert client.raw(b"t FETCH 1 BODY.PEEK[]\r\n").startswith(b"t BAD [UIDREQUIRED]")
    assert client.raw(b"t UID FETCH 1 BODY.PEEK[]\r\n").startswith(b"* 1 UIDFETCH (")


def test_only_in_a_mailbox(client: Client) -> None:
    client.raw(b"t FETCH 1 BODY.PEEK[]\r\n")
    client.ok("UNSELECT")
    assert client.raw(b"t FETCH 1 BODY.PEEK[]\r\n").startswith(b"t BAD")


def test_what_is_not_in_memory_is_left_to_a_job(client: Client) -> None:
    class Nothing:
        def __getattr__(self, name: str) -> object:
            raise NotReady(name)

    client.raw(b"t FETCH 1 BODY.PEEK[]\r\n")
    work = works(client, b"t FETCH 1 BODY.PEEK[]\r\n")
    nothing: AccountStore = Nothing()  # type: ignore[assignment]  # has nothing
    with pytest.raises(NotReady):
        work.attempt(nothing)
    assert not work.done
    assert b"".join(work.step(client.account)).endswith(b"t OK FETCH completed\r\n")


def test_memory_of_a_session(client: Client) -> None:
    client.raw(b"t FETCH 1 BODY.PEEK[]\r\n")
    session: Session = client.session
    assert session.fetch_memo is not None
    client.raw(b"t IDLE\r\n")
    assert session.fetch_memo is None
