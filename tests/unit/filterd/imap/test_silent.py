"""STORE .SILENT keeps back what the client can work out, and nothing else (RFC 9051 6.4.6, "determinate without a race")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filterd.imap.config import ImapServerConfig
from filterd.ports import SystemClock, SystemIds
from filterd.store.base import AccountStore, FlagChange, NewMessage
from filterd.store.maildir import MaildirStore
from filterd.store.memory import MemoryAccount

from .conftest import Client, message

Connect = Callable[..., Client]
Fill = Callable[..., None]


class Neighbour:
    """The account's store; somebody else's change comes between a session's look and its own change."""

    def __init__(self, inner: AccountStore, comes: Callable[[], object]) -> None:
        self._inner = inner
        self._comes: Callable[[], object] | None = comes

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def set_flags(self, *values: object) -> FlagChange:
        comes, self._comes = self._comes, None
        if comes is not None:
            comes()
        change: FlagChange = self._inner.set_flags(*values)  # type: ignore[arg-type]  # handed through
        return change


def between(client: Client, comes: Callable[[], object]) -> None:
    client.account = Neighbour(client.account, comes)


def test_told_at_the_beginning_of_the_same_command(connect: Connect, fill: Fill) -> None:
    """The client cannot know that the first answer was before its own change: it gets the flags as they are."""
    fill(3)
    one, other = connect(), connect()
    other.ok("STORE 2 +FLAGS (\\Flagged)")
    assert one.ok("STORE 1:3 +FLAGS.SILENT (\\Seen)") == [
        "* 2 FETCH (FLAGS (\\Flagged))",
        "* 2 FETCH (FLAGS (\\Seen \\Flagged))",
    ]
    assert one.ok("NOOP") == []
    other.ok("STORE 3 -FLAGS (\\Seen)")
    assert one.ok("UID STORE 3 +FLAGS.SILENT (\\Seen)") == [
        "* 3 FETCH (UID 3 FLAGS ())",
        "* 3 FETCH (UID 3 FLAGS (\\Seen))",
    ]
    assert one.ok("STORE 1:3 -FLAGS.SILENT (\\Seen)") == []


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        ("2 +FLAGS (\\Flagged)", "1:3 +FLAGS.SILENT (\\Seen)", ["* 2 FETCH (FLAGS (\\Seen \\Flagged))"]),
        ("2 +FLAGS (\\Seen \\Flagged)", "2 +FLAGS.SILENT (\\Seen)", ["* 2 FETCH (FLAGS (\\Seen \\Flagged))"]),
        ("1 -FLAGS (\\Draft)", "1:2 -FLAGS.SILENT (\\Draft)", []),  # it is as the client thinks
        ("1 +FLAGS (\\Seen)", "1 FLAGS.SILENT (\\Answered)", []),
        ("1 -FLAGS (\\Draft)", "1:3 +FLAGS.SILENT (\\Seen)", ["* 1 FETCH (FLAGS (\\Seen))"]),
    ],
)
def test_changed_between_the_look_and_the_change(
    connect: Connect, fill: Fill, theirs: str, ours: str, told: list[str]
) -> None:
    fill(3)
    one, other = connect(), connect()
    other.ok("STORE 1 +FLAGS (\\Draft)")
    one.ok("NOOP")
    between(one, lambda: other.ok(f"STORE {theirs}"))
    assert one.ok(f"STORE {ours}") == told
    assert one.ok("NOOP") == []


def test_a_keyword_that_came_between(connect: Connect, fill: Fill) -> None:
    fill(1)
    one, other = connect(), connect()
    between(one, lambda: other.ok("STORE 1 +FLAGS (work)"))
    lines = one.ok("STORE 1 +FLAGS.SILENT (home)")
    assert lines[0].startswith("* FLAGS (") and lines[0].endswith(" work home)")
    assert lines[2:] == ["* 1 FETCH (FLAGS (work home))"]
    assert one.ok("STORE 1 -FLAGS.SILENT (HOME)") == []
    assert one.ok("FETCH 1 FLAGS") == ["* 1 FETCH (FLAGS (work))"]


def test_with_condstore_the_others_get_their_modseq(connect: Connect, fill: Fill) -> None:
    fill(3)
    one, other = connect(enable="CONDSTORE"), connect()
    between(one, lambda: other.ok("STORE 2 +FLAGS (\\Flagged)"))
    lines = one.ok("STORE 1:3 +FLAGS.SILENT (\\Seen)")
    assert [line.partition(" MODSEQ (")[0] for line in lines] == [
        "* 2 FETCH (UID 2 FLAGS (\\Seen \\Flagged)",
        "* 1 FETCH (UID 1",
        "* 3 FETCH (UID 3",
    ]
    assert len({line.partition(" MODSEQ (")[2] for line in lines}) == 1


def test_who_wants_no_news_gets_none(connect: Connect, fill: Fill) -> None:
    fill(2)
    one, other = connect(), connect()
    one.ok("NOTIFY NONE")
    other.ok("STORE 1 +FLAGS (\\Flagged)")
    between(one, lambda: other.ok("STORE 2 +FLAGS (\\Flagged)"))
    assert one.ok("STORE 1:2 +FLAGS.SILENT (\\Seen)") == []


def test_a_keyword_that_came_before_seen(connect: Connect, fill: Fill) -> None:
    fill(1)
    one, other = connect(), connect()
    between(one, lambda: other.ok("STORE 1 +FLAGS (work)"))
    text = "\n".join(one.ok("FETCH 1 BODY[HEADER.FIELDS (X)]"))
    assert text.startswith("* FLAGS (") and "* 1 FETCH (FLAGS (\\Seen work) BODY[" in text
    assert one.ok("NOOP") == []


def test_seen_is_told_although_the_fetch_was_refused(connect: Connect, account: MemoryAccount) -> None:
    """RFC 3501 6.4.5: a change of \\Seen is told; that one message cannot be decoded does not take it from the others."""
    strange = message(1, Content_Transfer_Encoding="x-unknown")
    account.append("INBOX", [NewMessage(message(0)), NewMessage(strange), NewMessage(message(2))])
    one = connect()
    lines = one("FETCH 1:3 BINARY[1]")
    assert lines[-1].startswith("NO [UNKNOWN-CTE]")
    text = "\n".join([*lines, *one.ok("NOOP")])
    for number, uid in enumerate(account.snapshot("INBOX").uids, 1):
        assert account.snapshot("INBOX").flags[number - 1] & 1, uid
        assert f"* {number} FETCH (FLAGS (\\Seen)" in text


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[[], Client]]:
    """Clients of as many processes, on the same files."""
    stores: list[MaildirStore] = []

    def make() -> Client:
        stores.append(MaildirStore(tmp_path, "host", "crlf", lambda account: 0, SystemClock(), SystemIds()))
        account = stores[-1].account("ann@example.org")
        client = Client(account, ImapServerConfig(message_size=100_000))
        client.ok("LOGIN ann@example.org pw")
        return client

    yield make
    for store in stores:
        store.close()


def test_of_two_processes_the_last_word_is_right(processes: Callable[[], Client]) -> None:
    one, other = processes(), processes()
    one.account.append("INBOX", [NewMessage(message(number)) for number in range(3)])
    for client in (one, other):
        client.ok("SELECT INBOX")
    other.ok("STORE 1:2 +FLAGS.SILENT (\\Flagged)")
    between(one, lambda: other.ok("STORE 2:3 +FLAGS.SILENT (\\Answered)"))
    assert one.ok("STORE 1:3 +FLAGS.SILENT (\\Seen)") == [
        "* 1 FETCH (FLAGS (\\Flagged))",
        "* 2 FETCH (FLAGS (\\Flagged))",
        "* 1 FETCH (FLAGS (\\Seen \\Flagged))",
        "* 2 FETCH (FLAGS (\\Seen \\Answered \\Flagged))",
        "* 3 FETCH (FLAGS (\\Seen \\Answered))",
    ]
    assert one.ok("NOOP") == []
    assert other.ok("NOOP")[-3:] == [
        "* 1 FETCH (FLAGS (\\Seen \\Flagged))",
        "* 2 FETCH (FLAGS (\\Seen \\Answered \\Flagged))",
        "* 3 FETCH (FLAGS (\\Seen \\Answered))",
    ]
