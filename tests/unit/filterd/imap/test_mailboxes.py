"""CREATE to LIST: names, hierarchy, special use, subscriptions, STATUS."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from filterd.store.base import NewMessage
from filterd.store.memory import MemoryAccount

from .conftest import Client, message

Connect = Callable[..., Client]


@pytest.fixture
def client(connect: Connect) -> Client:
    client = connect("")
    for name in ("a", "a/b", "a/b/c", "d"):
        client(f"CREATE {name}")
    client.ok("CREATE Junk (USE (\\Junk))")
    client.ok("SUBSCRIBE a/b")
    client.ok("SUBSCRIBE gone/x")
    return client


def test_create_delete_rename(client: Client) -> None:
    assert client("CREATE a")[-1].startswith("NO [ALREADYEXISTS]")
    assert client("CREATE INBOX")[-1].startswith("NO [ALREADYEXISTS]")
    assert client("CREATE x/")[-1].startswith("OK [MAILBOXID (")
    assert client("CREATE J2 (USE (\\Junk))")[-1].startswith("NO [USEATTR]")
    assert client("CREATE J2 (USE (\\All))")[-1].startswith("NO [USEATTR]")
    assert client("CREATE a//b")[-1].startswith("NO [CANNOT]")
    assert client(b'CREATE "a\tb"')[-1].startswith("NO [CANNOT]")
    assert client("CREATE " + "x/" * 40 + "x")[-1].startswith("NO [CANNOT]")
    assert client("CREATE " + "x" * 2000)[-1].startswith("BAD")
    assert client("DELETE INBOX")[-1].startswith("NO [CANNOT]")
    assert client("DELETE nowhere")[-1].startswith("NO [NONEXISTENT]")
    client.ok("DELETE a")
    assert client("DELETE a")[-1].startswith("NO [HASCHILDREN]")
    client.ok("RENAME a/b z/y")
    assert client("RENAME a/b q")[-1].startswith("NO [NONEXISTENT]")
    assert client("RENAME d Junk")[-1].startswith("NO [ALREADYEXISTS]")
    names = [line.split('"')[3] for line in client.ok('LIST "" *')]
    assert names == ["INBOX", "Junk", "d", "x", "z", "z/y", "z/y/c"]


def test_rename_inbox(client: Client, account: MemoryAccount) -> None:
    account.append("INBOX", [NewMessage(message(1))])
    client.ok("RENAME INBOX old")
    assert account.status("old").messages == 1 and account.status("INBOX").messages == 0


def test_list(client: Client) -> None:
    assert client.ok('LIST "" ""') == ['* LIST (\\Noselect) "/" ""']
    assert client.ok('LIST "" %') == [
        '* LIST (\\HasNoChildren) "/" "INBOX"',
        '* LIST (\\HasNoChildren \\Junk) "/" "Junk"',
        '* LIST (\\HasChildren) "/" "a"',
        '* LIST (\\HasNoChildren) "/" "d"',
    ]
    assert client.ok('LIST "a/" %') == ['* LIST (\\HasChildren) "/" "a/b"']
    assert client.ok('LIST "" inbox') == ['* LIST (\\HasNoChildren) "/" "INBOX"']
    client.ok("DELETE a")
    assert client.ok('LIST "" a') == ['* LIST (\\Noselect \\HasChildren) "/" "a"']
    assert client.ok('LIST "" "a" RETURN (CHILDREN)') == ['* LIST (\\NonExistent \\HasChildren) "/" "a"']


def test_list_extended(client: Client) -> None:
    assert client.ok('LIST (SUBSCRIBED) "" *') == [
        '* LIST (\\HasChildren \\Subscribed) "/" "a/b"',
        '* LIST (\\NonExistent \\HasNoChildren \\Subscribed) "/" "gone/x"',
    ]
    assert client.ok('LIST (SUBSCRIBED RECURSIVEMATCH) "" %') == [
        '* LIST (\\HasChildren) "/" "a" ("CHILDINFO" ("SUBSCRIBED"))',
        '* LIST (\\NonExistent \\HasNoChildren) "/" "gone" ("CHILDINFO" ("SUBSCRIBED"))',
    ]
    assert client.ok('LIST (SPECIAL-USE) "" *') == ['* LIST (\\HasNoChildren \\Junk) "/" "Junk"']
    assert client('LIST (RECURSIVEMATCH) "" *')[-1].startswith("BAD")
    assert client('LIST (FOO) "" *')[-1].startswith("BAD")
    lines = client.ok('LIST "" (INBOX d) RETURN (SUBSCRIBED STATUS (MESSAGES))')
    assert lines == [
        '* LIST (\\HasNoChildren) "/" "INBOX"',
        '* STATUS "INBOX" (MESSAGES 0)',
        '* LIST (\\HasNoChildren) "/" "d"',
        '* STATUS "d" (MESSAGES 0)',
    ]


def test_lsub(client: Client) -> None:
    assert client.ok('LSUB "" *') == ['* LSUB () "/" "a/b"', '* LSUB (\\Noselect) "/" "gone/x"']
    assert client.ok('LSUB "" %') == ['* LSUB (\\Noselect) "/" "a"', '* LSUB (\\Noselect) "/" "gone"']
    client.ok("UNSUBSCRIBE a/b")
    assert client.ok('LSUB "" a*') == []


def test_names_in_both_encodings(connect: Connect) -> None:
    old = connect("")
    old.ok("CREATE Entw&APw-rfe")
    old.ok('CREATE "a&-b"')
    assert old("CREATE &bad!")[-1].startswith("BAD")
    assert [line.split('"')[3] for line in old.ok('LIST "" *')] == ["INBOX", "Entw&APw-rfe", "a&-b"]
    new = connect("", enable="UTF8=ACCEPT")
    assert [line.split('"')[3] for line in new.ok('LIST "" *')] == ["INBOX", "Entwürfe", "a&b"]
    new.ok('SELECT "Entwürfe"')
    old.ok('CREATE "q\\"uo\'te"')
    assert '"q\\"uo\'te"' in old.ok('LIST "" q*')[0]


def test_status(client: Client, account: MemoryAccount) -> None:
    account.append("d", [NewMessage(message(1), ("\\Seen", "\\Deleted")), NewMessage(message(2))])
    size = account.status("d").size
    (line,) = client.ok("STATUS d (MESSAGES UNSEEN DELETED SIZE UIDNEXT RECENT APPENDLIMIT)")
    assert line == (
        f'* STATUS "d" (MESSAGES 2 UNSEEN 1 DELETED 1 SIZE {size} UIDNEXT 3 RECENT 0 APPENDLIMIT 100000)'
    )
    assert client("STATUS d ()")[-1].startswith("BAD")
    assert client("STATUS d (FOO)")[-1].startswith("BAD")
    assert client("STATUS nix (MESSAGES)")[-1].startswith("NO [NONEXISTENT]")


def test_select_and_examine(connect: Connect, fill: Callable[..., None]) -> None:
    fill(3)
    client = connect("")
    lines = client.ok("SELECT inbox")
    assert "* 3 EXISTS" in lines and "* 0 RECENT" in lines
    assert any(line.startswith("* OK [UNSEEN 1]") for line in lines)
    assert any(line.startswith("* OK [UIDNEXT 4]") for line in lines)
    assert client("EXAMINE INBOX")[-1] == "OK [READ-ONLY] Opened"
    assert client("STORE 1 +FLAGS (\\Seen)")[-1].startswith("NO")
    assert client("EXPUNGE")[-1].startswith("NO")
    client.ok("FETCH 1 BODY[]")
    assert client.ok("SEARCH SEEN") == ["* SEARCH"]
    client.ok("CLOSE")
    assert client("FETCH 1 FLAGS")[-1].startswith("BAD")
    client.ok("SELECT INBOX")
    assert client("SELECT nowhere")[-1].startswith("NO [NONEXISTENT]")
    assert client("CHECK")[-1].startswith("BAD")  # a failed SELECT leaves nothing selected
    client.ok("SELECT INBOX")
    client.ok("UNSELECT")


def test_rev2(connect: Connect, fill: Callable[..., None]) -> None:
    fill(2)
    client = connect("", enable="IMAP4rev2")
    lines = client.ok("SELECT INBOX")
    assert '* LIST () "/" "INBOX"' in lines and not any(
        "RECENT" in line or "UNSEEN" in line for line in lines
    )
    assert client.ok("SEARCH ALL") == ['* ESEARCH (TAG "t4") ALL 1:2']
    assert any("[CLOSED]" in line for line in client.ok("SELECT INBOX"))


def test_list_with_annotations(connect: Callable[..., Client], account: MemoryAccount) -> None:
    """RFC 9590: values of the asked entries, NIL for those that are not there; nothing for a name without a mailbox."""
    account.create("Work")
    account.subscribe("Gone", True)
    client = connect("")
    client.ok('SETMETADATA Work (/shared/comment "ours" /private/vendor/x/colour "red")')
    lines = client.ok('LIST (SUBSCRIBED) "" * RETURN (METADATA ("/shared/comment"))')
    assert not [line for line in lines if line.startswith("* METADATA")]
    lines = client.ok(
        'LIST "" (INBOX Work) RETURN (SUBSCRIBED METADATA (/shared/comment /private/vendor/x/colour))'
    )
    assert [line for line in lines if line.startswith("* METADATA")] == [
        '* METADATA "INBOX" (/shared/comment NIL /private/vendor/x/colour NIL)',
        '* METADATA "Work" (/shared/comment "ours" /private/vendor/x/colour "red")',
    ]
    assert client('LIST "" * RETURN (METADATA)')[-1].startswith("BAD")
    assert client('LIST "" * RETURN (METADATA (comment))')[-1].startswith("BAD")
