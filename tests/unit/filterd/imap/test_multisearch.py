"""ESEARCH in many mailboxes (RFC 7377), and reports about long commands (RFC 9585)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from filterd.imap.config import ImapLimits, ImapServerConfig
from filterd.store.memory import MemoryAccount

from .conftest import Client


@pytest.fixture
def client(connect: Callable[..., Client], fill: Callable[..., None], account: MemoryAccount) -> Client:
    fill(3)
    for name, count in (("Lists", 2), ("Lists/Cats", 3), ("Lists/Cats/Old", 1), ("Empty", 0)):
        account.create(name)
        fill(count, name)
    account.subscribe("Lists/Cats", True)
    account.set_flags("Lists/Cats", [2], "add", ("\\Seen",))
    return connect()


def found(client: Client, command: str) -> list[str]:
    """The responses without their tags and UIDVALIDITY."""
    lines = client.ok(command)
    return [re.sub(r"\(TAG \"\w+\" MAILBOX (\S+) UIDVALIDITY \d+\)", r"\1", line) for line in lines]


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        ("(SELECTED)", ["INBOX 1:3"]),
        ("(SUBSCRIBED)", ["Lists/Cats 1,3"]),
        ("(SUBTREE Lists)", ["Lists 1:2", "Lists/Cats 1,3", "Lists/Cats/Old 1"]),
        ("(SUBTREE-ONE (Lists))", ["Lists 1:2", "Lists/Cats 1,3"]),
        ("(MAILBOXES (Lists Nowhere Empty))", ["Lists 1:2"]),
        ("(PERSONAL SELECTED)", ["INBOX 1:3", "Lists 1:2", "Lists/Cats 1,3", "Lists/Cats/Old 1"]),
        ("(INBOXES)", ["INBOX 1:3", "Lists 1:2", "Lists/Cats 1,3", "Lists/Cats/Old 1"]),
    ],
)
def test_where(client: Client, where: str, answer: list[str]) -> None:
    expected = [f'* ESEARCH "{name}" UID ALL {uids}' for name, uids in map(str.split, answer)]
    assert found(client, f"ESEARCH IN {where} RETURN () UNSEEN") == expected


def test_options_and_charset(client: Client) -> None:
    assert found(client, "ESEARCH IN (SUBTREE Lists) RETURN (COUNT MIN MAX) CHARSET UTF-8 SUBJECT 2") == [
        '* ESEARCH "Lists" UID MIN 2 MAX 2 COUNT 1',
        '* ESEARCH "Lists/Cats" UID MIN 2 MAX 2 COUNT 1',
    ]
    assert found(client, "ESEARCH RETURN (ALL) BODY 3") == ['* ESEARCH "INBOX" UID ALL 3']
    assert found(client, "ESEARCH IN (SELECTED) RETURN (SAVE) UID 2:3") == []
    assert client.ok("UID SEARCH $") == ["* SEARCH 2 3"]
    assert found(client, "ESEARCH IN (PERSONAL) RETURN (ALL) MODSEQ 1 UID 1")[0].startswith(
        '* ESEARCH "INBOX" UID ALL 1 MODSEQ '
    )


def test_refused(client: Client, connect: Callable[..., Client]) -> None:
    for command in (
        "ESEARCH IN () ALL",
        "ESEARCH IN (ELSEWHERE) ALL",
        "ESEARCH IN (SELECTED-DELAYED) ALL",
        'ESEARCH IN ("SELECTED") ALL',
        "ESEARCH IN (SUBTREE-ONE) ALL",
        "ESEARCH IN (SUBTREE-ONE (Lists) ) ALL",
        "ESEARCH IN (PERSONAL) RETURN (SAVE) ALL",
        "ESEARCH IN (PERSONAL) 1:2",
        "ESEARCH",
    ):
        assert client(command)[-1].startswith("BAD"), command
    assert client("ESEARCH IN (MAILBOXES Lists) $")[-1].startswith("NO")
    fresh = connect("")
    assert fresh("ESEARCH ALL")[-1].startswith("BAD")
    assert fresh("ESEARCH IN (SELECTED) ALL")[-1].startswith("BAD")
    assert len(fresh.ok("ESEARCH IN (PERSONAL) ALL")) == 4


def test_a_long_command_says_how_far_it_is(connect: Callable[..., Client], fill: Callable[..., None]) -> None:
    fill(30)
    client = connect(config=ImapServerConfig(limits=ImapLimits(progress=0.0, step=200)))
    lines = client.ok("FETCH 1:* BODY.PEEK[]")
    reports = [line for line in lines if "INPROGRESS" in line]
    assert reports
    assert all(re.match(r'\* OK \[INPROGRESS \("t3" (NIL NIL|\d+ 30)\)\] ', line) for line in reports)
    calm = connect(config=ImapServerConfig(limits=ImapLimits(step=200)))
    assert not [line for line in calm.ok("FETCH 1:* BODY.PEEK[]") if "INPROGRESS" in line]
