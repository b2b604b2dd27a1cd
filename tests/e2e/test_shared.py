"""Shared mailboxes with the real server: by the command and by IMAP, over all workers, over a kill."""

from __future__ import annotations

import imaplib
import json
import time
from collections.abc import Iterator

import pytest

from tests.e2e.server import DOMAIN, INSECURE, Server, mail, wait_for

pytestmark = pytest.mark.e2e

BOX = f"user/bob@{DOMAIN}/Work"
EXTRA = f'[sharing]\npublic = "team@{DOMAIN}"\n'


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(people=("ann", "bob", "carol", "team"), extra=EXTRA) as made:
        yield made


def ask(imap: imaplib.IMAP4, command: str) -> list[bytes]:
    """Untagged lines and the tagged one."""
    tag = imap._new_tag()
    imap.send(tag + b" " + command.encode() + b"\r\n")
    lines: list[bytes] = []
    while not (lines and lines[-1].startswith(tag)):
        lines.append(imap.readline().rstrip(b"\r\n"))
    return lines


def done(imap: imaplib.IMAP4, command: str) -> list[bytes]:
    lines = ask(imap, command)
    assert b" OK" in lines[-1], lines
    return lines[:-1]


def fill(imap: imaplib.IMAP4, mailbox: str, count: int) -> None:
    imap.create(mailbox)
    for number in range(count):
        assert imap.append(mailbox, "", "", mail(f"number {number}"))[0] == "OK"


def test_sharing_by_imap(server: Server) -> None:
    with server.imap("bob") as bob, server.imap("ann") as ann, server.imap("carol") as carol:
        fill(bob, "Work", 3)
        assert b"NO [NONEXISTENT]" in ask(ann, f'SELECT "{BOX}"')[-1]
        done(bob, "SETACL Work ann lrsit")
        assert done(ann, f'MYRIGHTS "{BOX}"') == [f'* MYRIGHTS "{BOX}" lrsitd'.encode()]
        assert f'* LIST (\\HasNoChildren) "/" "{BOX}"'.encode() in done(ann, 'LIST "" *')
        assert not any(b"user/" in line for line in done(carol, 'LIST "" *'))
        done(ann, f'SELECT "{BOX}"')
        assert any(b"number 1" in line for line in done(ann, "FETCH 2 BODY[HEADER.FIELDS (SUBJECT)]"))
        done(ann, "STORE 2 +FLAGS (\\Seen)")
        done(bob, "SELECT Work")
        assert done(bob, "SEARCH UNSEEN") == [b"* SEARCH 1 2 3"]
        assert done(ann, "SEARCH UNSEEN") == [b"* SEARCH 1 3"]
        assert b"NO [NOPERM]" in ask(ann, "EXPUNGE")[-1]
        done(ann, "COPY 1 INBOX")
        done(ann, "SELECT INBOX")
        done(ann, f'COPY 1 "{BOX}"')
        done(bob, "NOOP")
        assert done(bob, "SEARCH ALL") == [b"* SEARCH 1 2 3 4"]


def test_nothing_is_learnt_of_what_is_not_shared(server: Server) -> None:
    """Word for word, on real files: hidden, not there, no such account; and no account is made by asking."""
    with server.imap("bob") as bob, server.imap("ann") as ann:
        fill(bob, "Hidden", 1)
        fill(bob, "Seen", 1)
        done(bob, "SETACL Seen ann lr")
        names = (
            f"user/bob@{DOMAIN}/Hidden",
            f"user/bob@{DOMAIN}/Nope",
            f"user/bob@{DOMAIN}/../carol",
            f"user/nobody@{DOMAIN}/INBOX",
            f"user/../carol@{DOMAIN}/INBOX",
            "user/x",
            "Public/Hidden",
        )
        commands = ("SELECT {}", "STATUS {} (MESSAGES)", "MYRIGHTS {}", "GETACL {}", "DELETE {}", "CREATE {}",
                    "RENAME {} Mine", "APPEND {} {{4+}}\r\nA: b", "GETMETADATA {} /shared/comment")  # fmt: skip
        for command in commands:
            heard = {ask(ann, command.format(f'"{name}"'))[-1].partition(b" ")[2] for name in names}
            assert len(heard) == 1 and heard.pop().startswith(b"NO"), (command, heard)
    assert not (server.data / "mail" / DOMAIN / "nobody").exists()


def test_the_owner_wakes_a_reader_that_idles(server: Server) -> None:
    """Ten times: whichever workers the two are with."""
    with server.imap("bob") as bob:
        fill(bob, "Idle", 1)
        done(bob, "SETACL Idle ann lr")
        for _ in range(10):
            with server.imap("ann") as ann:
                done(ann, f'SELECT "user/bob@{DOMAIN}/Idle"')
                ann.send(b"i IDLE\r\n")
                assert ann.readline().startswith(b"+")
                server_time = time.monotonic()
                assert bob.append("Idle", "", "", mail("news"))[0] == "OK"
                assert b"EXISTS" in ann.readline()
                assert time.monotonic() - server_time < 30
                ann.send(b"DONE\r\n")
                assert ann.readline().startswith(b"i OK")


def test_the_command(server: Server) -> None:
    with server.imap("team") as team:
        fill(team, "News", 2)
    done_ = server.command("account", "share", f"team@{DOMAIN}", "News", "anyone", "lrs", "--json")
    assert json.loads(done_.stdout)["mailboxes"] == {"News": {"anyone": "lrs"}}
    with server.imap("carol") as carol:
        assert done(carol, "NAMESPACE") == [b'* NAMESPACE (("" "/")) (("user/" "/")) (("Public/" "/"))']
        assert done(carol, "STATUS Public/News (MESSAGES UNSEEN)") == [
            b'* STATUS "Public/News" (MESSAGES 2 UNSEEN 2)'
        ]
    for words in (
        ("account", "share", f"team@{DOMAIN}", "News", "anyone", "lrq"),
        ("account", "share", f"team@{DOMAIN}", "Nope", "anyone", "lr"),
        ("account", "share", f"team@{DOMAIN}", "News", "anyone"),
        ("account", "share", f"team@{DOMAIN}", "News", f"team@{DOMAIN}", "lr"),
    ):
        assert server.command(*words).returncode != 0, words
    assert server.command("account", "share", f"team@{DOMAIN}").stdout == b"News  anyone  lrs\n"
    server.command("account", "share", f"team@{DOMAIN}", "News", "anyone", "none")
    with server.imap("carol") as carol:
        assert b"NO [NONEXISTENT]" in ask(carol, "STATUS Public/News (MESSAGES)")[-1]


def test_rights_and_what_was_seen_survive_a_kill(server: Server) -> None:
    with server.imap("bob") as bob, server.imap("ann") as ann:
        fill(bob, "Kept", 2)
        done(bob, "SETACL Kept ann lrs")
        done(ann, f'SELECT "user/bob@{DOMAIN}/Kept"')
        done(ann, "STORE 1 +FLAGS (\\Seen)")
        server.kill()
    server.start()
    with server.imap("ann") as ann:
        done(ann, f'SELECT "user/bob@{DOMAIN}/Kept"')
        assert done(ann, "SEARCH SEEN") == [b"* SEARCH 1"]
        assert done(ann, f'MYRIGHTS "user/bob@{DOMAIN}/Kept"')[0].endswith(b" lrs")


def test_an_account_that_is_removed_is_forgotten(server: Server) -> None:
    added = server.command("account", "add", f"dora@{DOMAIN}", "--json")
    assert added.returncode == 0
    server.command("account", "share", f"bob@{DOMAIN}", "INBOX", f"dora@{DOMAIN}", "lr")
    server.command("account", "remove", f"dora@{DOMAIN}", "--yes")
    again = server.command("account", "add", f"dora@{DOMAIN}", "--json")
    password = json.loads(again.stdout)["password"]
    dora = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE, timeout=60)
    wait_for(lambda: dora.login(f"dora@{DOMAIN}", password)[0] == "OK", what="the new account")
    assert b"NO [NONEXISTENT]" in ask(dora, f'SELECT "user/bob@{DOMAIN}/INBOX"')[-1]
    dora.logout()
