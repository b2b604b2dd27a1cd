"""Scripts that file into other people's mailboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from filterd.imap.sharing import Sharing
from filterd.queue.base import PendingStore
from filterd.store.acl import ENTRY
from filterd.store.acl_guests import Guests
from filterd.store.acl_shares import MemoryShares, note
from filterd.store.base import NewMessage, Stored
from pipeline.reply import Reply
from tests.house import DOMAIN, House

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
BOX = f"user/{BOB}/Work"
SCRIPT = 'require ["fileinto", "mailbox", "duplicate"];\n'


@pytest.fixture
def house() -> House:
    made = House()
    sharing = Sharing(Guests(made.store), MemoryShares())
    made.delivery.performer.sharing = sharing
    bob = made.store.account(BOB)
    bob.create("Work")
    made.script("ann", SCRIPT + f'fileinto "{BOX}";')
    return made


def grant(house: House, rights: str) -> None:
    bob = house.store.account(BOB)
    bob.set_metadata("Work", ENTRY, f"{ANN}\t{rights}")
    assert house.delivery.performer.sharing is not None
    note(house.delivery.performer.sharing.shares, BOB, bob)


def send(house: House, *recipients: str, **options: bytes) -> list[Reply]:
    return asyncio.run(house.send(*recipients, **options))  # type: ignore[arg-type]  # data


def count(house: House, account: str, mailbox: str) -> int:
    return house.store.account(account).status(mailbox).messages


@pytest.mark.parametrize("rights", ["i", "p", "lrswip"])
def test_with_the_right(house: House, rights: str) -> None:
    grant(house, rights)
    (reply,) = send(house, ANN)
    assert reply.positive
    assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (1, 0)
    row = house.store.account(BOB).rows("Work", [1], cold=True)[0]
    assert not row.trace and not row.decision


@pytest.mark.parametrize("rights", ["", "lrswkxtea"])
def test_without_it_the_message_is_kept(house: House, rights: str) -> None:
    if rights:
        grant(house, rights)
    (reply,) = send(house, ANN)
    assert reply.positive
    assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (0, 1)
    assert [info.name for info in house.store.account(ANN).mailboxes()] == ["INBOX"]


def test_an_owner_without_room_does_not_keep_the_message_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(house, "i")
    bob = house.store.account(BOB)
    bob.append("INBOX", [NewMessage(b"A: b\r\n\r\n" + 80_000 * b"x")])
    monkeypatch.setattr(bob, "_limit", lambda: 80_100)
    (reply,) = send(house, ANN)
    assert reply.positive
    assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (0, 1)


def test_each_account_must_have_room_for_its_own_copies(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(house, "i")
    house.script("ann", SCRIPT + f'fileinto "{BOX}"; keep;')
    large = b"Subject: large\r\n\r\n" + 800 * (98 * b"x" + b"\r\n")
    monkeypatch.setattr(house.store.account(BOB), "_limit", lambda: 100_000)  # room for one
    (reply,) = send(house, ANN, data=large)
    assert reply.positive
    assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (1, 1)
    monkeypatch.setattr(house.store.account(BOB), "_limit", lambda: 1_000_000)
    monkeypatch.setattr(house.store.account(ANN), "_limit", lambda: 100_000)
    (reply,) = send(house, ANN, data=large.replace(b"large", b"another"))
    assert reply.code == 452
    assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (1, 1)


def test_a_made_up_name_makes_nothing(house: House) -> None:
    house.script("ann", SCRIPT + 'fileinto :create "user/nobody@example.org/INBOX";')
    send(house, ANN)
    assert count(house, ANN, "INBOX") == 1
    assert [info.name for info in house.store.account(ANN).mailboxes()] == ["INBOX"]


def test_ones_own_mailbox_of_that_name(house: House) -> None:
    grant(house, "i")
    house.store.account(ANN).create(BOX)
    send(house, ANN)
    assert (count(house, BOB, "Work"), count(house, ANN, BOX)) == (0, 1)


def test_what_the_script_remembers_is_its_owners(house: House) -> None:
    grant(house, "i")
    house.script("ann", SCRIPT + f'if duplicate {{ discard; }} else {{ fileinto "{BOX}"; }}')

    async def twice() -> None:
        for _ in range(2):
            session = await house.session()
            await house.send(ANN, session=session)
            house.reception.acknowledged(session)

    asyncio.run(twice())
    assert count(house, BOB, "Work") == 1


def test_does_the_mailbox_exist(house: House) -> None:
    house.script("ann", SCRIPT + f'if mailboxexists "{BOX}" {{ fileinto "{BOX}"; }}')
    grant(house, "l")
    send(house, ANN)
    assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (0, 1)
    grant(house, "lp")
    house.store.account(ANN).append("INBOX", [NewMessage(b"A: b\r\n\r\n")])
    send(house, ANN, data=b"Subject: another\r\n\r\ntext\r\n")
    assert count(house, BOB, "Work") == 1


def at_the_store(house: House, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Somebody does this once it is known where the message goes, before it is there."""
    jobs = house.delivery.performer._jobs
    deliver, done = jobs.deliver, list[bool]()

    async def late(account: str, *rest: object) -> Stored:
        if account == BOB and not done:
            done.append(True)
            act()
        return await deliver(account, *rest)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(jobs, "deliver", late)


@pytest.mark.parametrize("keep", ["", "keep;"])
def test_a_mailbox_that_is_deleted_meanwhile_is_not_made_anew(
    house: House, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """Alone, and as part of a record."""
    grant(house, "i")
    house.script("ann", SCRIPT + f'fileinto "{BOX}"; {keep}')
    at_the_store(house, monkeypatch, lambda: house.store.account(BOB).delete("Work"))
    (reply,) = send(house, ANN)
    assert reply.positive
    assert [info.name for info in house.store.account(BOB).mailboxes()] == ["INBOX"]
    assert (count(house, BOB, "INBOX"), count(house, ANN, "INBOX")) == (0, 2 if keep else 1)
    (part,) = house.traces.all[-1].recipients
    assert any("INBOX instead" in span.summary for span in part.spans)
    decisions = [row.decision for row in house.store.account(ANN).rows("INBOX", [1], cold=True)]
    assert all(decisions)  # in one's own mailbox one reads why


def test_two_copies_for_one_owner_with_room_for_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    grant(house, "i")
    bob = house.store.account(BOB)
    bob.create("Other")
    bob.set_metadata("Other", ENTRY, f"{ANN}\ti")
    house.script("ann", SCRIPT + f'fileinto "{BOX}"; fileinto "user/{BOB}/Other";')
    large = b"Subject: large\r\n\r\n" + 800 * (98 * b"x" + b"\r\n")
    monkeypatch.setattr(bob, "_limit", lambda: 100_000)
    (reply,) = send(house, ANN, data=large)
    assert reply.positive
    assert (count(house, BOB, "Work"), count(house, BOB, "Other"), count(house, ANN, "INBOX")) == (1, 0, 1)
    monkeypatch.setattr(house.store.account(ANN), "_limit", lambda: 100_000)
    (reply,) = send(house, ANN, data=large.replace(b"large", b"another"))
    assert reply.code == 452  # neither has room


def test_what_waits_in_a_record_goes_where_it_may_go_then(house: House) -> None:
    message = NewMessage(b"A: b\r\n\r\ntext\r\n", key=b"k" * 16, decision="why")
    pending = PendingStore(ANN, BOX, message)
    performer = house.delivery.performer
    grant(house, "i")
    asyncio.run(performer.redo(pending))
    asyncio.run(performer.redo(pending))  # nobody struck it out
    assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (1, 0)
    bob = house.store.account(BOB)
    bob.set_metadata("Work", ENTRY, f"{ANN}\tl")
    asyncio.run(performer.redo(pending))  # nor now, when it may go there no more
    assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (1, 0)
    asyncio.run(performer.redo(replace(pending, message=replace(message, key=b"l" * 16))))
    assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (1, 1)


def test_what_was_stored_before_a_crash_is_not_stored_anew_elsewhere(house: House) -> None:
    """Nobody struck the record out; meanwhile the right was taken away, or given, or the mailbox has another name."""
    message = NewMessage(b"A: b\r\n\r\ntext\r\n", key=b"k" * 16, decision="why")
    there = PendingStore(ANN, BOX, message)
    here = replace(there, message=replace(message, key=b"l" * 16))
    performer, bob = house.delivery.performer, house.store.account(BOB)
    grant(house, "i")
    asyncio.run(performer.redo(there))
    grant(house, "l")
    asyncio.run(performer.redo(here))
    for _ in range(2):
        asyncio.run(performer.redo(there))
        asyncio.run(performer.redo(here))
        assert (count(house, BOB, "Work"), count(house, ANN, "INBOX")) == (1, 1)
        grant(house, "i")
    bob.rename("Work", "Play")
    asyncio.run(performer.redo(there))
    assert (count(house, BOB, "Play"), count(house, ANN, "INBOX")) == (1, 1)
