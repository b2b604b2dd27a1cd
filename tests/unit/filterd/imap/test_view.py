"""Two sessions on one mailbox: numbers stay until an EXPUNGE says otherwise, and EXPUNGE comes only where it may."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from filterd.store.base import NewMessage
from filterd.store.memory import MemoryAccount

from .conftest import Client, message

Connect = Callable[..., Client]
Fill = Callable[..., None]


def remove(client: Client, uids: str) -> None:
    client.ok(f"UID STORE {uids} +FLAGS.SILENT (\\Deleted)")
    client.ok(f"UID EXPUNGE {uids}")


def test_no_expunge_during_fetch_store_search(connect: Connect, fill: Fill) -> None:
    fill(5)
    one, other = connect(), connect()
    remove(other, "2,4")
    assert one("FETCH 1:3 UID") == [
        "* 1 FETCH (UID 1)",
        "* 2 FETCH (UID 2)",  # the array still knows it
        "* 3 FETCH (UID 3)",
        "OK FETCH completed",
    ]
    assert one("FETCH 1:3 (UID RFC822.SIZE)")[-1].startswith("NO [EXPUNGEISSUED]")
    assert one.ok("SEARCH UID 5") == ["* SEARCH 5"]
    lines = one.ok("STORE 5 +FLAGS (\\Flagged)")
    assert lines == ["* 5 FETCH (FLAGS (\\Flagged))"]
    fill(1, first=9)
    assert one.ok("FETCH 5 FLAGS") == ["* 6 EXISTS", "* 5 FETCH (FLAGS (\\Flagged))"]
    assert one.ok("NOOP") == ["* 2 EXPUNGE", "* 3 EXPUNGE"]
    assert one.ok("FETCH 1:* UID") == [f"* {n} FETCH (UID {u})" for n, u in enumerate((1, 3, 5, 6), 1)]


def test_expunge_may_be_told_by_uid_commands(connect: Connect, fill: Fill) -> None:
    fill(3)
    one, other = connect(), connect()
    remove(other, "1")
    assert one.ok("UID SEARCH ALL") == ["* SEARCH 1 2 3", "* 1 EXPUNGE"]
    remove(other, "2")
    assert one.ok("UID FETCH 3 FLAGS") == ["* 2 FETCH (UID 3 FLAGS ())", "* 1 EXPUNGE"]


def test_flags_of_others_are_told_once(connect: Connect, fill: Fill) -> None:
    fill(3)
    one, other = connect(), connect()
    assert other.ok("STORE 2 +FLAGS (\\Seen work)") == [
        "* FLAGS (\\Seen \\Answered \\Flagged \\Deleted \\Draft work)",
        "* OK [PERMANENTFLAGS (\\Seen \\Answered \\Flagged \\Deleted \\Draft work \\*)] Flags kept",
        "* 2 FETCH (FLAGS (\\Seen work))",
    ]
    lines = one.ok("NOOP")
    assert lines[0].startswith("* FLAGS") and lines[-1] == "* 2 FETCH (FLAGS (\\Seen work))"
    assert one.ok("NOOP") == []
    assert other.ok("NOOP") == []
    assert other.ok("STORE 1 +FLAGS.SILENT (\\Seen)") == []
    assert one.ok("CHECK") == ["* 1 FETCH (FLAGS (\\Seen))"]


def test_only_what_was_seen_is_expunged(connect: Connect, fill: Fill, account: MemoryAccount) -> None:
    fill(2)
    one = connect()
    one.ok("STORE 1 +FLAGS (\\Deleted)")
    assert one.ok("EXPUNGE") == ["* 1 EXPUNGE"]
    account.append("INBOX", [NewMessage(message(7), ("\\Deleted",))])
    assert one.ok("NOOP") == ["* 2 EXISTS"]
    one.ok("CLOSE")
    assert account.status("INBOX").messages == 1


def test_qresync_tells_vanished(connect: Connect, fill: Fill) -> None:
    fill(6)
    one, other = connect(enable="QRESYNC"), connect()
    remove(other, "2:3,5")
    assert one.ok("NOOP") == ["* VANISHED 2:3,5"]
    other.ok("STORE 1 +FLAGS (\\Seen)")
    (line,) = one.ok("NOOP")
    assert line.startswith("* 1 FETCH (UID 1 FLAGS (\\Seen) MODSEQ (")


def test_uidonly(connect: Connect, fill: Fill) -> None:
    fill(3)
    one = connect(enable="UIDONLY")
    assert one("FETCH 1 FLAGS")[-1].startswith("BAD [UIDREQUIRED]")
    assert one("UID SEARCH NOT 1:2")[-1].startswith("BAD [UIDREQUIRED]")
    assert one.ok("UID SEARCH UID 1:2") == ["* SEARCH 1 2"]
    assert one.ok("UID FETCH 2:3 FLAGS") == ["* 2 UIDFETCH (FLAGS ())", "* 3 UIDFETCH (FLAGS ())"]
    assert one.ok("UID FETCH 2 BODY.PEEK[TEXT]")[0].startswith("* 2 UIDFETCH (BODY[TEXT] {")
    assert one.ok("UID STORE 1 +FLAGS (\\Deleted)") == ["* 1 UIDFETCH (FLAGS (\\Deleted))"]
    assert one.ok("EXPUNGE") == ["* VANISHED 1"]


class Mirror:
    """What a careful client believes, from the untagged responses alone."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.uids: list[int | None] = []
        for line in client.ok("FETCH 1:* UID"):
            self.uids.append(int(line.split("UID ")[1].rstrip(")")))

    def hear(self, lines: list[str], *, expunge: bool) -> None:
        for line in lines:
            words = line.split()
            if words[2:3] == ["EXISTS"]:
                assert int(words[1]) >= len(self.uids)
                self.uids += [None] * (int(words[1]) - len(self.uids))
            elif words[2:3] == ["EXPUNGE"]:
                assert expunge, line
                del self.uids[int(words[1]) - 1]
            elif words[2:3] == ["FETCH"] and "UID" in words[3]:
                number, uid = int(words[1]), int(words[4].rstrip(")"))
                assert self.uids[number - 1] in (None, uid), line
                self.uids[number - 1] = uid


@pytest.mark.slow
def test_random_operations_keep_every_mirror_right(
    connect: Connect, fill: Fill, account: MemoryAccount
) -> None:
    fill(10)
    rng = random.Random(1)
    mirrors = [Mirror(connect()) for _ in range(5)]
    for step in range(3_000):
        mirror = rng.choice(mirrors)
        client, count = mirror.client, len(mirror.uids)
        some = f"{rng.randint(1, count)}:{rng.randint(1, count)}" if count else "1"
        choice = rng.randrange(8)
        if choice == 0 or count == 0:
            fill(rng.randint(1, 3), first=step)
            mirror.hear(client.ok("NOOP"), expunge=True)
            if rng.random() < 0.5:
                mirror.hear(client("FETCH 1:* (UID FLAGS)")[:-1], expunge=False)
        elif choice == 1:
            mirror.hear(client(f"STORE {some} +FLAGS.SILENT (\\Deleted)")[:-1], expunge=False)
        elif choice == 2 and rng.random() < 0.3:
            mirror.hear(client.ok("EXPUNGE"), expunge=True)
        elif choice == 3:
            mirror.hear(client(f"FETCH {some} (UID RFC822.SIZE)")[:-1], expunge=False)
        elif choice == 4:
            mirror.hear(client(f"STORE {some} -FLAGS (\\Deleted)")[:-1], expunge=False)
        elif choice == 5:
            mirror.hear(client(f"COPY {some} INBOX")[:-1], expunge=True)
        elif choice == 6:
            mirror.hear(client.ok("UID SEARCH ALL"), expunge=True)
        else:
            mirror.hear(client.ok("SEARCH DELETED"), expunge=False)
        if account.status("INBOX").messages > 200:
            mirror.hear(client("STORE 1:100 +FLAGS.SILENT (\\Deleted)")[:-1], expunge=False)
            mirror.hear(client.ok("EXPUNGE"), expunge=True)
    for mirror in mirrors:
        mirror.hear(mirror.client.ok("NOOP"), expunge=True)
        mirror.hear(mirror.client.ok("FETCH 1:* UID"), expunge=False)
        assert mirror.uids == list(account.snapshot("INBOX").uids)
