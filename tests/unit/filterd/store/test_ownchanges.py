"""A snapshot that follows our own changes is the one that the index would give."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

import pytest

from filterd.store import views
from filterd.store.base import MailboxInfo, NewMessage, Snapshot
from filterd.store.maildir import MaildirAccount, MaildirStore
from filterd.store.ownchanges import MAILBOXES, MOST, OwnChanges

ACCOUNT = "ann@example.org"


def snapshot(uids: list[int], flags: list[int], modseq: int) -> Snapshot:
    return Snapshot(
        MailboxInfo("m", "INBOX", 1, "", True), modseq, 100, array("I", uids), array("Q", flags), ()
    )


def arrays(
    found: tuple[list[int], tuple[array[int], array[int]]] | None,
) -> tuple[list[int], list[int], list[int]]:
    assert found is not None
    return found[0], list(found[1][0]), list(found[1][1])


def test_a_chain() -> None:
    own, seen = OwnChanges(), snapshot([2, 3, 5, 9], [0, 1, 0, 1], 7)
    own.note(1, 7, 8, [3, 5], [2, 2])
    own.note(1, 8, 9, [2, 9], [4, 4])
    own.note(1, 9, 10, [5, 9], None)
    assert arrays(own.forward(1, 10, seen)) == ([3, 5, 2, 9, 5, 9], [2, 3], [4, 2])
    assert (list(seen.uids), list(seen.flags)) == ([2, 3, 5, 9], [0, 1, 0, 1])
    assert own.forward(1, 10, seen) is None  # once


def test_of_flags_alone_the_uids_are_the_same() -> None:
    """What is kept beside them (sizes, dates, header texts) is still right."""
    own, seen = OwnChanges(), snapshot([2, 3], [0, 1], 7)
    own.note(1, 7, 8, [3], [2])
    found = own.forward(1, 8, seen)
    assert found is not None and found[1][0] is seen.uids


@pytest.mark.parametrize(
    ("before", "after", "now", "uids", "why"),
    [
        (8, 9, 9, [3], "something happened before"),
        (7, 8, 9, [3], "something happened since"),
        (7, 8, 8, [4], "of a message that is not known"),
        (7, 8, 8, [9, 10], "of a message that is not known, at the end"),
    ],
)
def test_the_index_is_asked(before: int, after: int, now: int, uids: list[int], why: str) -> None:
    for masks in ([0] * len(uids), None):
        own = OwnChanges()
        own.note(1, before, after, uids, masks)
        assert own.forward(1, now, snapshot([2, 3, 5, 9], [0, 1, 0, 1], 7)) is None, why
        assert own.forward(2, now, snapshot([2], [0], 7)) is None


def test_a_gap_begins_anew() -> None:
    own = OwnChanges()
    own.note(1, 3, 4, [2], [1])
    own.note(1, 7, 8, [3], [2])
    assert arrays(own.forward(1, 8, snapshot([2, 3], [0, 0], 7))) == ([3], [2, 3], [0, 2])


def test_a_snapshot_from_within_the_chain() -> None:
    own = OwnChanges()
    own.note(1, 6, 7, [2], [1])
    own.note(1, 7, 8, [3], [2])
    assert arrays(own.forward(1, 8, snapshot([2, 3], [1, 0], 7)))[1:] == ([2, 3], [1, 2])
    own.note(1, 6, 7, [2], None)
    own.note(1, 7, 8, [3], [2])
    assert own.forward(1, 8, snapshot([3, 4], [1, 0], 7)) is None


def test_bounds() -> None:
    own = OwnChanges()
    for mailbox in range(MAILBOXES + 1):
        own.note(mailbox, 1, 2, [2], [1])
    assert own.forward(0, 2, snapshot([2], [0], 1)) is None
    assert own.forward(1, 2, snapshot([2], [0], 1)) is not None
    own.note(1, 1, 2, range(1, MOST + 1), [0] * MOST)
    own.note(1, 2, 3, [2], [1])
    assert own.forward(1, 3, snapshot([2], [0], 1)) is None


@pytest.mark.parametrize("seed", range(4))
def test_as_the_index_has_it(new_store: Callable[[], MaildirStore], seed: int) -> None:
    """Two processes' stores change the same mailbox in any order; a third one, opened afterwards, has seen nothing of it."""
    pick = random.Random(seed)
    one, two = new_store().account(ACCOUNT), new_store().account(ACCOUNT)
    one.append("INBOX", [NewMessage(b"a: %d\r\n\r\n" % n) for n in range(40)])
    for _ in range(25):
        for account in (one, two):
            uids = account.snapshot("INBOX").uids
            some = sorted(pick.sample(list(uids), min(len(uids), pick.randrange(6))))
            match pick.randrange(8):
                case 0 | 1 | 2:
                    account.set_flags(
                        "INBOX", some, pick.choice(("add", "remove", "set")), ("\\Seen", f"$k{seed}")
                    )
                case 3 | 4:
                    first = pick.randrange(len(uids) + 1)
                    account.set_flags("INBOX", uids[first : first + 9], "add", ("\\Flagged",))
                case 5:
                    account.set_flags("INBOX", some, "add", ("\\Deleted",))
                    account.expunge("INBOX", some)
                case 6:
                    account.append("INBOX", [NewMessage(b"b: c\r\n\r\n")])
                case _:
                    continue  # and sees nothing of what comes before it looks again
            if pick.random() < 0.6:
                seen = account.snapshot("INBOX")
                fresh = new_store().account(ACCOUNT).snapshot("INBOX")
                assert seen == fresh
                facts = account.facts(seen)
                assert facts is not None and len(facts.sizes) == len(seen.uids)


def test_the_index_is_not_asked_for_what_we_did(
    new_store: Callable[[], MaildirStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    account: MaildirAccount = new_store().account(ACCOUNT)
    account.append("INBOX", [NewMessage(b"a: %d\r\n\r\n" % n) for n in range(9)])
    account.snapshot("INBOX")
    monkeypatch.setattr(views, "_forward", None)
    account.set_flags("INBOX", range(1, 8), "add", ("\\Deleted",))
    account.set_flags("INBOX", [3], "add", ("\\Seen",))
    assert list(account.snapshot("INBOX").flags) == [8, 8, 9, 8, 8, 8, 8, 0, 0]
    account.expunge("INBOX", [1, 2, 5])
    assert list(account.snapshot("INBOX").uids) == [3, 4, 6, 7, 8, 9]
