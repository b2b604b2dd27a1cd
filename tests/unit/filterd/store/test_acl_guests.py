"""Accounts opened for guests: beside the owner's own, from many threads, and never made by a guest."""

from __future__ import annotations

import random
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from filterd.imap.shared import SharedStore
from filterd.imap.sharing import Sharing
from filterd.ports import SystemClock, SystemIds
from filterd.store.acl import ENTRY
from filterd.store.acl_guests import Guests, both
from filterd.store.acl_shares import SharesFile
from filterd.store.base import FlagChange, NewMessage, NoSuchMailbox, StoreUnavailable
from filterd.store.maildir import OPEN_ACCOUNTS, MaildirAccount, MaildirStore
from filterd.store.memory import MemoryStore

from .conftest import HandClock, World

ANN, BOB = "ann@example.org", "bob@example.org"


def text(number: int) -> bytes:
    return b"Subject: %d\r\n\r\nbody %d\r\n" % (number, number)


def test_a_guest_makes_nothing(maildir: World) -> None:
    guests = Guests(maildir.store())
    with pytest.raises(NoSuchMailbox), guests.use("nobody@example.org"):
        raise AssertionError("never")
    assert not list(maildir.root.glob("example.org/*"))


def test_an_error_inside_lets_go(maildir: World) -> None:
    maildir.account()
    guests = Guests(maildir.store())
    with pytest.raises(ZeroDivisionError), guests.use(ANN):
        raise ZeroDivisionError
    with guests.use(ANN) as account:
        assert account.info("INBOX").name == "INBOX"
    guests.close()


def test_no_more_accounts_stay_open_than_allowed(maildir: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filterd.store.maildir.OPEN_ACCOUNTS", 3)
    assert OPEN_ACCOUNTS > 3
    owner, store = maildir.store(), maildir.store()
    assert isinstance(store, MaildirStore)
    guests = Guests(store)
    for number in range(6):
        owner.account(f"u{number}@example.org")
        with guests.use(f"u{number}@example.org") as account:
            account.info("INBOX")
    assert len([n for n in range(6) if store.opened(f"u{n}@example.org")]) == 3
    guests.close()


def test_closing_one_account_keeps_no_other_guest_waiting(
    maildir: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("filterd.store.maildir.OPEN_ACCOUNTS", 1)
    owner, store = maildir.store(), maildir.store()
    for name in (ANN, BOB):
        owner.account(name)
    guests = Guests(store)
    closing, others_came = threading.Event(), threading.Event()
    close, came = MaildirStore.close_account, []

    def slow(self: MaildirStore, account: str) -> None:
        closing.set()
        came.append(others_came.wait(10.0))
        close(self, account)

    def work() -> None:
        for name in (ANN, BOB):
            with guests.use(name):
                pass

    monkeypatch.setattr(MaildirStore, "close_account", slow)
    thread = threading.Thread(target=work)
    thread.start()
    assert closing.wait(10.0)
    with guests._lane(BOB):
        others_came.set()
    thread.join()
    assert came == [True]
    guests.close()


def test_locks_are_taken_in_the_order_of_the_names(maildir: World) -> None:
    """Two threads, each holding its own account's store and a guest's, in both directions."""
    names = (ANN, BOB)
    for name in names:
        maildir.store().account(name)
    failed: list[str] = []

    def work(me: str, other: str) -> None:
        own, guests = maildir.store().account(me), Guests(maildir.store())
        try:
            for number in range(30):
                with guests.use(other) as guest, both(own, me, guest, other):
                    guest.append("INBOX", [NewMessage(text(number))])
                    own.set_metadata(None, "/.x", str(number))
        except BaseException:
            failed.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=pair) for pair in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed and not any(thread.is_alive() for thread in threads)
    assert all(len(maildir.store().account(name).snapshot("INBOX").uids) == 30 for name in names)


def test_the_next_modseq(world: World) -> None:
    account = world.account()
    account.append("INBOX", [NewMessage(text(1))])
    before = account.snapshot("INBOX")
    with account.hold():
        made = account.advance("INBOX")
    after = account.snapshot("INBOX")
    assert after.modseq == made > before.modseq
    changes = account.changes("INBOX", before.modseq)
    assert (changes.modseq, changes.flags, changes.appended, changes.expunged) == (made, (), (), ())
    assert account.set_flags("INBOX", after.uids, "add", ["\\Seen"]).changed[0][2] > made


@pytest.fixture
def sharing(tmp_path: Path) -> Callable[[World], Sharing]:
    def make(world: World) -> Sharing:
        store = world.store()
        shares = SharesFile(tmp_path / "shares.db")
        owner = store.account(BOB)
        owner.append("INBOX", [NewMessage(text(n), ("word",)) for n in range(1, 6)])
        owner.set_metadata("INBOX", ENTRY, f"{ANN}\tlrswite")
        shares.note(BOB, {ANN})
        guest_store = store if isinstance(store, MemoryStore) else world.store()
        return Sharing(Guests(guest_store), shares)

    return make


def test_on_every_kind_of_store(world: World, sharing: Callable[[World], Sharing]) -> None:
    """The same for memory, Maildir and mbox; the owner's store is open beside the guest's."""
    if world.kind == "mbox":
        world.clock = HandClock()
    shared = sharing(world)
    owner_store = world.opened[0]
    owner, own = owner_store.account(BOB), owner_store.account(ANN)
    box = f"user/{BOB}/INBOX"
    mine = SharedStore(shared, ANN).enter(own)
    first = mine.snapshot(box)
    assert first.info.name == box and list(first.uids) == list(owner.snapshot("INBOX").uids)
    assert mine.snapshot(box) is first
    some = list(first.uids)[:2]
    told = mine.set_flags(box, some, "add", ("\\Seen", "\\Flagged", "new"))
    assert all(mask & 1 and mask & 4 for _, mask, _ in told.changed)
    second = mine.snapshot(box)
    assert second.modseq > first.modseq and [mask & 5 for mask in second.flags] == [5, 5, 0, 0, 0]
    assert [mask & 5 for mask in owner.snapshot("INBOX").flags] == [4, 4, 0, 0, 0]
    changes = mine.changes(box, first.modseq)
    assert [uid for uid, _, _ in changes.flags] == some
    assert mine.status(box).unseen == 3 and owner.status("INBOX").unseen == 5
    assert [row[1:] for row in mine.fields(box, some[:1], ("flags", "modseq", "size"))] == [
        (second.flags[0], told.changed[0][2], owner.rows("INBOX", some[:1])[0].size)
    ]
    facts = mine.facts(second)
    assert facts is None or len(facts.sizes) == 5
    assert mine.read(box, some[0]) == text(1)
    assert mine.text_hits(box, "body", False, some) is None or True
    moved = mine.move(box, some, "INBOX")
    assert moved.source_uids == tuple(some) and len(own.snapshot("INBOX").uids) == 2
    assert [mask & 5 for mask in own.snapshot("INBOX").flags] == [5, 5]
    back = mine.move("INBOX", list(moved.uids), box)
    assert back.destination.name == box and not len(own.snapshot("INBOX").uids)
    assert [mask & 5 for mask in mine.snapshot(box).flags] == [0, 0, 0, 5, 5]
    assert [mask & 5 for mask in owner.snapshot("INBOX").flags] == [0, 0, 0, 4, 4]


def test_a_claim_that_failed_when_it_was_done_loses_nothing(
    maildir: World, sharing: Callable[[World], Sharing], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = sharing(maildir)
    own = maildir.opened[0].account(ANN)
    mine = SharedStore(shared, ANN).enter(own)
    box = f"user/{BOB}/INBOX"
    uids = list(mine.snapshot(box).uids)

    def late(store: MaildirAccount, mailbox: str, chosen: Sequence[int] | None = None) -> tuple[int, ...]:
        expunge(store, mailbox, chosen)
        raise StoreUnavailable("only just")

    expunge = MaildirAccount.expunge
    with monkeypatch.context() as patched, pytest.raises(StoreUnavailable):
        patched.setattr(MaildirAccount, "expunge", late)
        mine.move(box, uids[:2], "INBOX")
    there = {mine.read(box, uid) for uid in mine.snapshot(box).uids}
    assert there | {own.read("INBOX", uid) for uid in own.snapshot("INBOX").uids} == set(
        map(text, range(1, 6))
    )


def test_an_expunge_of_the_owner_does_not_take_what_is_moved(
    maildir: World, sharing: Callable[[World], Sharing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move marks what it takes; between the mark and the claim the owner's program empties the mailbox."""
    shared = sharing(maildir)
    owner, own = maildir.opened[0].account(BOB), maildir.opened[0].account(ANN)
    mine = SharedStore(shared, ANN).enter(own)
    box = f"user/{BOB}/INBOX"
    uids = list(mine.snapshot(box).uids)
    taken: list[tuple[int, ...]] = []
    threads: list[threading.Thread] = []

    def marked(store: MaildirAccount, *rest: object) -> FlagChange:
        change = set_flags(store, *rest)  # type: ignore[arg-type]  # passed on as they are
        threads.append(threading.Thread(target=lambda: taken.append(owner.expunge("INBOX"))))
        threads[-1].start()
        threads[-1].join(0.5)
        return change

    set_flags = MaildirAccount.set_flags
    monkeypatch.setattr(MaildirAccount, "set_flags", marked)
    assert mine.move(box, uids[:2], "INBOX").source_uids == tuple(uids[:2])
    for thread in threads:
        thread.join(60)
    assert taken == [()]
    assert {own.read("INBOX", uid) for uid in own.snapshot("INBOX").uids} == {text(1), text(2)}


def test_two_readers_and_the_owner_at_once(maildir: World, sharing: Callable[[World], Sharing]) -> None:
    """Messages wander between three accounts, by threads that know nothing of each other: none is lost, none is doubled."""
    maildir.clock, maildir.ids = SystemClock(), SystemIds()
    shared = sharing(maildir)
    readers = (ANN, "cat@example.org")
    maildir.opened[0].account(BOB).set_metadata("INBOX", ENTRY, "anyone\tlrswite")
    shared.shares.note(BOB, {"anyone"})
    box = f"user/{BOB}/INBOX"
    failed: list[str] = []

    def wander(me: str) -> None:
        pick = random.Random(me)
        mine = SharedStore(shared, me)
        own = maildir.store().account(me)
        try:
            for _ in range(25):
                mine.enter(own)
                source, target = pick.choice([(box, "INBOX"), ("INBOX", box)])
                uids = list(mine.snapshot(source).uids)
                mine.move(source, pick.sample(uids, min(2, len(uids))), target)
                seen = list(mine.snapshot(box).uids)
                mine.set_flags(box, seen[:2], pick.choice(["add", "remove"]), ("\\Seen",))
        except BaseException:
            failed.append(traceback.format_exc())

    threads = [threading.Thread(target=wander, args=(who,)) for who in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed, failed[0]
    found: list[bytes | None] = []
    store = maildir.store()
    for who in (BOB, *readers):
        account = store.account(who)
        found += [account.read("INBOX", uid) for uid in account.snapshot("INBOX").uids]
    assert sorted(one or b"" for one in found) == [text(n) for n in range(1, 6)]
