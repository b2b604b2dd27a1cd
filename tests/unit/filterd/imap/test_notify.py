"""NOTIFY over the memory store: the notices are given by hand, what is told of them is what counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from filterd.imap.config import ImapLimits, ImapServerConfig
from filterd.imap.notify import ACCOUNT, INDEX
from filterd.store.memory import MemoryAccount

from .conftest import Client


def news(client: Client, *mailboxes: str) -> list[str]:
    """What is told after notices about these."""
    for mailbox in mailboxes:
        client.session.mailbox_changed(mailbox)
    return client.pump().decode().split("\r\n")[:-1]


def test_selected_hears_of_all_at_once(connect: Callable[..., Client], fill: Callable[..., None]) -> None:
    fill(2)
    client, other = connect(), connect()
    client.ok(
        "NOTIFY SET (SELECTED (MessageNew (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)]) MessageExpunge FlagChange))"
    )
    fill(1, first=3)
    told = news(client, "INBOX")
    assert told[0] == "* 3 EXISTS"
    assert told[1].startswith("* 3 FETCH (UID 3 BODY[HEADER.FIELDS (SUBJECT)] {")
    assert "Subject: Subject 3" in told
    other.ok(r"STORE 1 +FLAGS (\Deleted \Seen)")
    assert news(client, "INBOX") == [r"* 1 FETCH (FLAGS (\Seen \Deleted))"]
    other.ok("EXPUNGE")
    assert news(client, "INBOX") == ["* 1 EXPUNGE"]
    assert news(client, "INBOX") == []


def test_body_of_new_messages_does_not_mark_them_seen(
    connect: Callable[..., Client], fill: Callable[..., None]
) -> None:
    client = connect()
    client.ok("NOTIFY SET (SELECTED (MessageNew (BODY[TEXT]) MessageExpunge))")
    fill(1)
    assert "* 1 FETCH (UID 1 BODY[TEXT] {8}" in news(client, "INBOX")
    assert client.ok("FETCH 1 FLAGS") == ["* 1 FETCH (FLAGS ())"]


def test_delayed_holds_expunges_for_a_command(
    connect: Callable[..., Client], fill: Callable[..., None]
) -> None:
    fill(2)
    client, other = connect(), connect()
    client.ok("NOTIFY SET (SELECTED-DELAYED (MessageNew MessageExpunge))")
    other.ok(r"STORE 1 +FLAGS.SILENT (\Deleted)")
    other.ok("EXPUNGE")
    fill(1, first=3)
    assert news(client, "INBOX") == ["* 3 EXISTS"]  # and no word of flags
    assert client.ok("FETCH 2 UID") == ["* 2 FETCH (UID 2)"]
    assert client.ok("NOOP") == ["* 1 EXPUNGE"]


def test_none_is_silence_until_the_client_does_something(
    connect: Callable[..., Client], fill: Callable[..., None]
) -> None:
    fill(2)
    client, other = connect(), connect()
    client.ok("NOTIFY NONE")
    fill(1, first=3)
    other.ok(r"STORE 1 +FLAGS.SILENT (\Deleted)")
    other.ok("EXPUNGE")
    assert news(client, "INBOX", ACCOUNT) == []
    assert client.ok("NOOP") == []
    client.ok(r"STORE 2 +FLAGS.SILENT (\Deleted)")
    assert client.ok("EXPUNGE") == ["* 3 EXISTS", "* 1 EXPUNGE", "* 1 EXPUNGE"]
    client.ok("SELECT INBOX")
    assert client.ok("FETCH 1 UID") == ["* 1 FETCH (UID 3)"]


def test_other_mailboxes_are_told_by_status(
    connect: Callable[..., Client], fill: Callable[..., None], account: MemoryAccount
) -> None:
    account.create("Lists/Cats")
    account.create("Work")
    client = connect()
    told = client.ok(
        "NOTIFY SET STATUS (SELECTED (MessageNew MessageExpunge)) "
        "(SUBTREE Lists (MessageNew MessageExpunge FlagChange)) (PERSONAL (MessageNew MessageExpunge))"
    )
    assert [line.split(" (")[0] for line in told] == [
        '* STATUS "Lists"',
        '* STATUS "Lists/Cats"',
        '* STATUS "Work"',
    ]
    fill(1, "Lists/Cats")
    fill(1, "Work")
    told = news(client, "Lists/Cats", "Work")
    assert told[0].startswith('* STATUS "Lists/Cats" (MESSAGES 1 UIDNEXT 2 UIDVALIDITY ')
    assert told[1].startswith('* STATUS "Work" (MESSAGES 1 UIDNEXT 2 UIDVALIDITY ')
    assert news(client, "Lists/Cats", "Work") == []
    account.set_flags("Lists/Cats", [1], "add", ("\\Seen",))
    account.set_flags("Work", [1], "add", ("\\Seen",))
    told = news(client, "Lists/Cats", "Work")
    assert len(told) == 1 and '"Lists/Cats"' in told[0] and "UNSEEN 0" in told[0]


def test_names_subscriptions_and_metadata(connect: Callable[..., Client], account: MemoryAccount) -> None:
    account.create("Old")
    client = connect("")
    client.ok(
        "NOTIFY SET (PERSONAL (MailboxName SubscriptionChange MailboxMetadataChange ServerMetadataChange))"
    )
    account.create("New")
    account.rename("Old", "Renamed")
    assert sorted(news(client, ACCOUNT)) == [
        '* LIST () "/" "New"',
        '* LIST () "/" "Renamed" ("OLDNAME" ("Old"))',
    ]
    account.subscribe("New", True)
    assert news(client, ACCOUNT) == [r'* LIST (\Subscribed) "/" "New"']
    account.subscribe("New", False)
    account.delete("Renamed")
    assert news(client, ACCOUNT) == [r'* LIST (\NonExistent) "/" "Renamed"', '* LIST () "/" "New"']
    other = connect("")
    other.ok('SETMETADATA New (/shared/comment "x")')
    other.ok('SETMETADATA "" (/shared/admin "y")')
    assert news(client, ACCOUNT) == ['* METADATA "" /shared/admin', '* METADATA "New" /shared/comment']
    assert news(client, ACCOUNT) == []
    account.set_metadata("New", INDEX, "/shared/comment\n/shared/next")  # the value comes a moment later
    assert news(client, ACCOUNT) == []
    account.set_metadata("New", "/shared/next", "z")
    assert news(client, ACCOUNT) == ['* METADATA "New" /shared/next']


def test_the_first_group_that_has_a_mailbox_decides(
    connect: Callable[..., Client], fill: Callable[..., None], account: MemoryAccount
) -> None:
    account.create("Quiet")
    client = connect("")
    client.ok("NOTIFY SET (MAILBOXES Quiet NONE) (INBOXES (MessageNew MessageExpunge))")
    fill(1, "Quiet")
    fill(1)
    assert [line.split(" (")[0] for line in news(client, "Quiet", "INBOX")] == ['* STATUS "INBOX"']


def test_too_many_mailboxes(connect: Callable[..., Client], account: MemoryAccount) -> None:
    limited = ImapServerConfig(limits=ImapLimits(notify_mailboxes=2))
    client = connect("", config=limited)
    assert client.ok("NOTIFY SET (PERSONAL (MessageNew MessageExpunge))") == []
    account.create("a/b/c")
    assert "NOTIFICATIONOVERFLOW" in news(client, ACCOUNT)[0]
    assert "NOTIFICATIONOVERFLOW" in client.ok("NOTIFY SET (PERSONAL (MessageNew MessageExpunge))")[0]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("NOTIFY", "BAD"),
        ("NOTIFY SET", "BAD"),
        ("NOTIFY SET (SELECTED (MessageNew))", "BAD"),
        ("NOTIFY SET (SELECTED (MessageExpunge))", "BAD"),
        ("NOTIFY SET (PERSONAL (FlagChange))", "BAD"),
        ("NOTIFY SET (SELECTED (MailboxName))", "BAD"),
        ("NOTIFY SET (SELECTED NONE) (SELECTED-DELAYED NONE)", "BAD"),
        ("NOTIFY SET (PERSONAL (MessageNew (UID) MessageExpunge))", "BAD"),
        ("NOTIFY SET (MAILBOXES () (MailboxName))", "BAD"),
        ("NOTIFY SET (ELSEWHERE (MailboxName))", "BAD"),
        ("NOTIFY SET (PERSONAL (AnnotationChange))", "NO [BADEVENT (MessageNew MessageExpunge FlagChange"),
        ("notify set (selected-delayed (messagenew messageexpunge flagchange))", "OK"),
        ("NOTIFY SET STATUS (MAILBOXES (INBOX Nowhere) (MessageNew MessageExpunge))", "OK"),
        ("NOTIFY SET (SUBSCRIBED NONE)", "OK"),
    ],
)
def test_grammar(connect: Callable[..., Client], command: str, answer: str) -> None:
    assert connect()(command)[-1].startswith(answer)
