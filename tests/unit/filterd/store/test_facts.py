"""Columns beside a snapshot say what the rows say, whatever happened; reading together is reading one by one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from filterd.store.base import COLD_FIELDS, HOT_FIELDS, AccountStore, NewMessage
from filterd.store.shelf import Shelf
from rules.comparator import search_form
from rules.mail import header, words

if TYPE_CHECKING:
    from tests.unit.filterd.store.conftest import World

SUBJECTS = [
    "plain",
    "=?utf-8?q?gr=C3=BC=C3=9Fe?=",
    "two\r\n lines",
    "=?utf-8?b?5pel5pys6Kqe?= x",
    "",
    "a\tb",
    "ÄRGER",
]
FIELDS = (b"from", b"subject", b"to", b"list-id")


def message(pick: random.Random) -> bytes:
    lines = []
    for name in pick.sample(["From", "SUBJECT", "Subject", "To", "tO ", "Topic", "List-Id", "X-Other"], 5):
        lines.append(f"{name}: {pick.choice(SUBJECTS)}\r\n")
    if pick.random() < 0.05:
        lines.append("To: " + "x@y.z,\r\n " * 2000 + "\r\n")
    return ("".join(lines) + "\r\nbody " + "x" * pick.randint(0, 99) + "\r\n").encode()


def folded(text: bytes, name: bytes) -> bytes:
    values = header.scan(text).get_all(name)
    return b"".join(b"\n" + search_form(words.decode(value)).encode() for value in values)


def check(account: AccountStore, mailbox: str) -> None:
    snapshot = account.snapshot(mailbox)
    rows = account.rows(mailbox, snapshot.uids, cold=True)
    facts = account.facts(snapshot)
    assert facts is not None
    assert list(facts.sizes) == [row.size for row in rows]
    assert list(facts.dates) == [row.date for row in rows]
    texts = account.read_many(mailbox, snapshot.uids, 10**9)
    assert texts == [account.read(mailbox, uid) for uid in snapshot.uids]
    for name in FIELDS:
        column = account.header_texts(snapshot, name)
        assert column is not None
        assert len(column.starts) == len(snapshot.uids) + 1
        for at, text in enumerate(texts):
            got = column.text[column.starts[at] : column.starts[at + 1]]
            assert text is not None and got == folded(text, name), name
    for wanted in (
        ("size",),
        ("envelope", "headers"),
        tuple(HOT_FIELDS),
        tuple(COLD_FIELDS),
        ("flags", "body"),
    ):
        some = list(snapshot.uids)[::2]
        expected = [(row.uid, *[getattr(row, name) for name in wanted]) for row in rows if row.uid in some]
        assert account.fields(mailbox, some, wanted) == expected


def test_columns_follow_the_mailbox(maildir: World) -> None:
    pick = random.Random(11)
    account, other = maildir.account(), maildir.account()
    account.create("b")
    for turn in range(8):
        writer = (account, other)[turn % 2]
        writer.append("INBOX", [NewMessage(message(pick), date=pick.randint(0, 2**31)) for _ in range(20)])
        check(account, "INBOX")
        some = pick.sample(list(account.snapshot("INBOX").uids), 8)
        writer.set_flags("INBOX", some, "add", ["\\Seen"])
        check(account, "INBOX")
        writer.move("INBOX", some[:2], "b")
        writer.set_flags("INBOX", some[2:4], "add", ["\\Deleted"])
        writer.expunge("INBOX")
        check(account, "INBOX")
        check(account, "b")


def test_a_replaced_file_changes_its_columns(maildir: World) -> None:
    account = maildir.account()
    account.append("INBOX", [NewMessage(b"Subject: old\r\n\r\n"), NewMessage(b"Subject: other\r\n\r\n")])
    check(account, "INBOX")
    path = next(each for each in (maildir.maildir / "new").iterdir() if b"old" in each.read_bytes())
    fresh = path.with_name("fresh")
    fresh.write_bytes(b"Subject: newer\r\n\r\n")
    fresh.replace(path)
    texts = account.read_many("INBOX", [1, 2], 10**6)
    assert texts[0] == b"Subject: newer\r\n\r\n"
    check(account, "INBOX")


def test_a_snapshot_that_is_past_has_no_columns(maildir: World) -> None:
    account, other = maildir.account(), maildir.account()
    account.append(
        "INBOX", [NewMessage(b"Subject: a\r\n\r\n", ("\\Deleted",)), NewMessage(b"Subject: b\r\n\r\n")]
    )
    old = account.snapshot("INBOX")
    other.expunge("INBOX")
    assert account.facts(old) is None and account.header_texts(old, b"subject") is None
    assert account.read_many("INBOX", [1, 2], 100) == [None, b"Subject: b\r\n\r\n"]
    assert account.header_texts(account.snapshot("INBOX"), b"x-not-cached") is None


def test_read_many_stops_when_it_has_enough(maildir: World) -> None:
    account = maildir.account()
    account.append("INBOX", [NewMessage(b"Subject: %d\r\n\r\n" % n + b"x" * 100) for n in range(50)])
    assert len(account.read_many("INBOX", range(1, 51), 250)) == 3
    assert len(account.read_many("INBOX", range(1, 51), 10**6)) == 50


def test_the_shelf_keeps_within_its_bound() -> None:
    shelf = Shelf(limit=100)
    shelf.put(("a", "b", "c"), 1, 60)
    shelf.put(("a", "b", "d"), 2, 40)
    assert shelf.get(("a", "b", "c")) == 1
    shelf.put(("a", "b", "e"), 3, 40)
    assert shelf.get(("a", "b", "d")) is None
    assert shelf.get(("a", "b", "c")) == 1
    shelf.put(("a", "b", "c"), 4, 101)
    assert shelf.get(("a", "b", "c")) is None
    assert shelf.get(("a", "b", "e")) == 3


def test_what_was_shown_of_the_first_ones_stays_when_more_come(maildir: World) -> None:
    account = maildir.account()
    account.append("INBOX", [NewMessage(b"Subject: %d\r\n\r\nx" % n, date=n) for n in range(1, 4)])
    facts = account.facts(account.snapshot("INBOX"))
    assert facts is not None
    facts.shown = [b"one", b"two", b"three"]
    account.append("INBOX", [NewMessage(b"Subject: more\r\n\r\nxyz", date=77)])
    longer = account.facts(account.snapshot("INBOX"))
    assert longer is not None and longer is not facts
    assert (list(longer.dates), longer.sizes[-1]) == ([1, 2, 3, 77], 20)
    assert longer.shown == [b"one", b"two", b"three"]
    account.set_flags("INBOX", [1], "add", ["\\Deleted"])
    account.expunge("INBOX")
    account.append("INBOX", [NewMessage(b"Subject: more\r\n\r\nxyz", date=78)])
    shorter = account.facts(account.snapshot("INBOX"))
    assert shorter is not None and (list(shorter.dates), shorter.shown) == ([2, 3, 77, 78], None)
