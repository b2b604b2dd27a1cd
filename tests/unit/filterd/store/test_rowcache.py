"""Rows kept for who asks for one message after the other are those of the index, whatever anybody does meanwhile."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.store import rowcache
from filterd.store.base import NewMessage
from filterd.store.maildir import MaildirAccount, MaildirStore
from filterd.store.ready import NotReady

ACCOUNT = "ann@example.org"
COUNT = 3 * rowcache.BLOCK
pytestmark = pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="no preadv2 with RWF_NOWAIT: not Linux")


def text(number: int) -> bytes:
    return b"Subject: number %d\r\n\r\nwords\r\n" % number


@pytest.fixture
def ann(new_store: Callable[[], MaildirStore]) -> MaildirAccount:
    account = new_store().account(ACCOUNT)
    account.append("INBOX", [NewMessage(text(number)) for number in range(1, COUNT + 1)])
    return account


WANTED = (("size",), ("size", "flags", "modseq"), ("envelope", "bodystructure"), ("email_id", "envelope"))


def octets(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def settle(account: MaildirAccount) -> None:
    """The second look is the first that no confirming scan disturbs."""
    account.snapshot("INBOX")
    account.snapshot("INBOX")


def agree(account: MaildirAccount) -> int:
    """How much is told at once; all of it is what a job tells, and never of a state that is over."""
    settle(account)
    told = 0
    for wanted in WANTED:
        for uid in (1, 2, 7, rowcache.BLOCK, COUNT):
            try:
                at_once = account.ready().fields("INBOX", [uid], wanted)
            except NotReady:
                at_once = None
            found = account.fields("INBOX", [uid], wanted)
            assert at_once is None or at_once == found
            told += at_once is not None
    return told


def test_neighbours_are_told_at_once(ann: MaildirAccount) -> None:
    settle(ann)
    with pytest.raises(NotReady):
        ann.ready().fields("INBOX", [7], ("envelope",))
    (row,) = ann.fields("INBOX", [7], ("envelope",))
    assert row[0] == 7 and b"number 7" in octets(row[1])
    found = ann.ready().fields("INBOX", [3, 2], ("envelope",))
    assert [uid for uid, _ in found] == [2, 3]
    with pytest.raises(NotReady):
        ann.ready().fields("INBOX", [7], ("bodystructure",))
    with pytest.raises(NotReady):
        ann.ready().fields("INBOX", [2 * rowcache.BLOCK], ("envelope",))


def test_many_at_once_are_not_kept(ann: MaildirAccount) -> None:
    settle(ann)
    assert len(ann.fields("INBOX", range(1, COUNT + 1), ("size",))) == COUNT
    with pytest.raises(NotReady):
        ann.ready().fields("INBOX", [7], ("size",))


def replaced(account: MaildirAccount, root: Path) -> None:
    """Another program writes other text into the file of message 7; somebody reads it."""
    inbox = root / "example.org" / "ann"
    (path,) = [path for path in inbox.glob("*/*,U=*") if path.name.partition(":")[0].endswith(".7")]
    path.write_bytes(text(77_777))
    assert account.read("INBOX", 7) == text(77_777)


CHANGES: dict[str, Callable[[MaildirAccount, Path], object]] = {
    "flags": lambda account, root: account.set_flags("INBOX", [7], "add", ["\\Flagged"]),
    "all flags": lambda account, root: account.set_flags("INBOX", range(1, COUNT + 1), "add", ["\\Seen"]),
    "expunge": lambda account, root: (
        account.set_flags("INBOX", [7], "add", ["\\Deleted"]),
        account.expunge("INBOX"),
    ),
    "append": lambda account, root: account.append("INBOX", [NewMessage(text(1))]),
    "replaced": replaced,
    "index lost": lambda account, root: (root / "example.org/ann/.filterd/index.db").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("other", [True, False], ids=["other process", "same process"])
def test_never_a_row_of_yesterday(
    ann: MaildirAccount, new_store: Callable[[], MaildirStore], tmp_path: Path, change: str, other: bool
) -> None:
    agree(ann)
    assert agree(ann) == 20
    actor = new_store().account(ACCOUNT) if other else ann
    CHANGES[change](actor, tmp_path)
    agree(ann)
    agree(ann)


def test_more_changes_than_are_looked_at(ann: MaildirAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    agree(ann)
    monkeypatch.setattr(rowcache, "MOST_CHANGES", 3)
    ann.set_flags("INBOX", range(1, 10), "add", ["\\Seen"])
    assert agree(ann) < 20
    assert agree(ann) == 20


def test_it_does_not_grow_for_ever(ann: MaildirAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowcache, "MAX_OCTETS", 1)
    agree(ann)
    kept = ann._core.settings.shelf.get((ACCOUNT, ann.info("INBOX").id, "rows"))
    assert isinstance(kept, rowcache.Rows)
    assert sum(map(len, kept.kept.values())) <= rowcache.BLOCK


@pytest.mark.parametrize("seed", range(3))
def test_any_set_is_removed_and_copied_whole(ann: MaildirAccount, seed: int) -> None:
    """Runs of UIDs go in one statement, what has gaps by name: no row more, none less."""
    pick = random.Random(seed)
    ann.append("INBOX", [NewMessage(text(number)) for number in range(COUNT + 1, 3 * COUNT + 1)])
    ann.create("other")
    uids = list(ann.snapshot("INBOX").uids)
    gaps = set(pick.sample(uids, 20))
    doomed = [uid for uid in uids if uid not in gaps and (uid < 2 * COUNT or pick.random() < 0.5)]
    copied = ann.copy("INBOX", doomed, "other")
    for source, uid in zip(copied.source_uids, copied.uids, strict=True):
        assert b"number %d" % source in octets(ann.fields("other", [uid], ("envelope",))[0][1])
    before = ann.snapshot("INBOX").modseq
    ann.set_flags("INBOX", doomed, "add", ["\\Deleted"])
    assert ann.expunge("INBOX") == tuple(doomed)
    left = [uid for uid in uids if uid not in set(doomed)]
    assert list(ann.snapshot("INBOX").uids) == left
    assert ann.changes("INBOX", before).expunged == tuple(doomed)
    status, moved = ann.status("INBOX"), ann.move("other", copied.uids, "INBOX")
    assert (status.messages, status.deleted, status.unseen) == (len(left), 0, len(left))
    assert status.size == sum(len(text(uid)) for uid in left)
    assert len(moved.uids) == len(doomed) and ann.status("other").messages == ann.status("other").size == 0
    while ann.unfinished == 0.0:  # rendered rows of what went wait for idle times
        ann.step(1.0)
    assert ann._core.index.query("select count(*) from cold") == [(len(uids),)]
