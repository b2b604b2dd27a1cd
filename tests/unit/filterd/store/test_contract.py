"""One suite for every store: what ``filterd.store.base`` promises, on memory, on Maildir with CRLF and with LF files, on mbox."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from filterd.imap.render import header_lines
from filterd.store.base import (
    DELETED,
    FLAGGED,
    SEEN,
    AccountStore,
    BadName,
    LimitReached,
    MailboxExists,
    NewMessage,
    NoSuchMailbox,
    OverQuota,
    SieveState,
)

if TYPE_CHECKING:
    from tests.unit.filterd.store.conftest import World


def text(number: int, size: int = 0) -> bytes:
    head = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: message %d\r\n\r\n" % number
    return head + b"body %d\r\n" % number + b"x" * size


def put(account: AccountStore, count: int, mailbox: str = "INBOX", flags: tuple[str, ...] = ()) -> list[int]:
    return [account.deliver(mailbox, NewMessage(text(number), flags)).uid for number in range(count)]


# -- mailboxes ------------------------------------------------------------------------------------------------------------


def test_inbox_is_there_whatever_its_case(world: World) -> None:
    account = world.account()
    assert [info.name for info in account.mailboxes()] == ["INBOX"]
    assert account.info("inBox").id == account.info("INBOX").id
    with pytest.raises(BadName):
        account.delete("inbox")
    with pytest.raises(MailboxExists):
        account.create("Inbox")


def test_create_makes_parents_and_keeps_identity_over_rename(world: World) -> None:
    account = world.account()
    made = account.create("Work/2026/Dec", "\\Archive")
    assert made.special_use == "\\Archive"
    assert [info.name for info in account.mailboxes()] == ["INBOX", "Work", "Work/2026", "Work/2026/Dec"]
    put(account, 2, "Work/2026/Dec")
    account.rename("Work", "Play")
    assert [info.name for info in account.mailboxes()] == ["INBOX", "Play", "Play/2026", "Play/2026/Dec"]
    after = account.info("Play/2026/Dec")
    assert (after.id, after.uidvalidity, after.special_use) == (made.id, made.uidvalidity, "\\Archive")
    assert list(account.snapshot("Play/2026/Dec").uids) == [1, 2]
    with pytest.raises(NoSuchMailbox):
        account.snapshot("Work/2026/Dec")


def test_delete_leaves_children_and_a_new_one_has_a_greater_uidvalidity(world: World) -> None:
    account = world.account()
    old = account.create("a")
    account.create("a/b")
    put(account, 1, "a")
    account.delete("a")
    assert [info.name for info in account.mailboxes()] == ["INBOX", "a/b"]
    with pytest.raises(NoSuchMailbox):
        account.deliver("a", NewMessage(text(1)))
    new = account.create("a")
    assert new.uidvalidity > old.uidvalidity
    assert new.id != old.id
    assert account.status("a").messages == 0
    with pytest.raises(NoSuchMailbox):
        account.delete("b")


def test_renaming_inbox_moves_its_messages(world: World) -> None:
    account = world.account()
    put(account, 3)
    account.rename("INBOX", "Old/Mail")
    assert list(account.snapshot("INBOX").uids) == []
    assert account.snapshot("INBOX").uidnext == 4
    assert list(account.snapshot("Old/Mail").uids) == [1, 2, 3]


def test_what_rename_refuses(world: World) -> None:
    account = world.account()
    for name in ("a", "a/b", "c", "d/b"):
        account.create(name)
    for old, new, error in (
        ("a", "c", MailboxExists),
        ("a", "a", MailboxExists),
        ("a", "a/x", BadName),
        ("a", "inbox", MailboxExists),
        ("nothing", "x", NoSuchMailbox),
        ("INBOX", "c", MailboxExists),
        ("a", "x//y", BadName),
    ):
        with pytest.raises(error):
            account.rename(old, new)
    assert [info.name for info in account.mailboxes()] == ["INBOX", "a", "a/b", "c", "d", "d/b"]


NAMES = (
    "a.b",
    "Entwürfe",
    "日本語",
    "a&b",
    "a+b~c",
    "..",
    ".",
    "filterd",
    "filterd-mailbox",
    "tmp",
    "new",
    "INBOX/x",
    "😀",
    "a%b",
    " x ",
)


@pytest.mark.parametrize("name", NAMES)
def test_any_sensible_name_works(world: World, name: str) -> None:
    account = world.account()
    account.create(name)
    put(account, 1, name)
    account.close()
    again = world.account() if world.kind != "memory" else account
    assert name in [info.name for info in again.mailboxes()]
    assert again.status(name).messages == 1
    again.delete(name)
    assert name not in [info.name for info in again.mailboxes()]


BAD_NAMES = (
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    "a\0b",
    "a\nb",
    "x" * 241,
    "/".join("abcdefghijklmnopq"),
    "\ud800",
    "é" * 100,
)


@pytest.mark.parametrize("name", BAD_NAMES[:-1])
def test_names_that_are_refused(world: World, name: str) -> None:
    account = world.account()
    with pytest.raises(BadName):
        account.create(name)
    with pytest.raises(NoSuchMailbox):
        account.snapshot(name)


def test_subscriptions(world: World) -> None:
    account = world.account()
    account.create("a.b/c")
    for name in ("a.b/c", "INBOX", "not there", "filterd"):
        account.subscribe(name, True)
    account.subscribe("filterd", False)
    assert account.subscriptions() == ("INBOX", "a.b/c", "not there")
    assert account.info("a.b/c").subscribed
    assert account.snapshot("a.b/c").info.subscribed
    account.subscribe("a.b/c", False)
    assert not account.snapshot("a.b/c").info.subscribed


# -- messages -------------------------------------------------------------------------------------------------------------


def test_a_delivered_message_is_there_whole(world: World) -> None:
    account = world.account()
    data = text(1, 100_000)
    stored = account.deliver("INBOX", NewMessage(data, trace="T1", decision="kept"))
    assert (stored.uid, stored.duplicate) == (1, False)
    assert account.read("INBOX", 1) == data
    row = account.rows("INBOX", [1], cold=True)[0]
    assert (row.size, row.header_size, row.flags) == (len(data), data.index(b"\r\n\r\n") + 4, 0)
    assert (row.date, row.savedate) == (1_790_000_000, 1_790_000_000)
    assert (row.trace, row.decision) == ("T1", "kept")
    assert b'"message 1"' in row.envelope
    assert row.body.startswith(b'("text" "plain"')
    assert header_lines(row.headers) == b"From: a@example.org\r\nTo: b@example.org\r\nSubject: message 1\r\n"
    assert account.rows("INBOX", [1])[0].envelope == b""
    assert account.read("INBOX", 2) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"no header at all",
        b"a: b\r\n\r\n\0\xff\r\n",
        b"a: b\r\n\r\nbare\rcr\r\n",
        b"a: b\r\n\r\n\r\r\n\n",
        b"a: b\n\nlf only\n",
        b"a: b\r\n\r\nmixed\nline\r\n",
    ],
)
def test_octets_are_kept_with_crlf_line_ends(world: World, data: bytes) -> None:
    account = world.account()
    account.deliver("INBOX", NewMessage(data))
    wanted = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert account.read("INBOX", 1) == wanted
    assert account.rows("INBOX", [1])[0].size == len(wanted)
    account.copy("INBOX", [1], "INBOX")
    assert account.read("INBOX", 2) == wanted


def test_append_keeps_flags_and_date_and_is_all_or_none(world: World) -> None:
    account = world.account()
    world.limit = 5000
    done = account.append(
        "INBOX", [NewMessage(text(1), ("\\Seen", "$Label"), date=86_400), NewMessage(text(2), ("\\flagged",))]
    )
    assert [stored.uid for stored in done] == [1, 2]
    view = account.snapshot("INBOX")
    assert list(view.flags) == [SEEN | 32, FLAGGED]
    assert view.keywords == ("$Label",)
    assert account.rows("INBOX", [1])[0].date == 86_400
    with pytest.raises(OverQuota):
        account.append("INBOX", [NewMessage(text(3)), NewMessage(text(4, 6000))])
    with pytest.raises(OverQuota):
        account.append("INBOX", [NewMessage(text(3, 2500)), NewMessage(text(4, 2500))])
    with pytest.raises(NoSuchMailbox):
        account.append("nowhere", [NewMessage(text(3))])
    assert account.append("INBOX", []) == ()
    assert list(account.snapshot("INBOX").uids) == [1, 2]


def test_delivery_key_suppresses_until_acknowledged_or_old(world: World) -> None:
    account = world.account()
    account.create("b")
    first = account.deliver("INBOX", NewMessage(text(1), key=b"key"))
    again = account.deliver("INBOX", NewMessage(text(1), key=b"key"))
    assert (again.uid, again.uidvalidity, again.duplicate) == (first.uid, first.uidvalidity, True)
    assert not account.deliver("b", NewMessage(text(1), key=b"other")).duplicate
    assert account.delivered("INBOX", b"key") and account.delivered("nowhere", b"other")
    assert not account.delivered("INBOX", b"unknown")
    account.acknowledge([b"key", b"unknown"])
    assert not account.delivered("INBOX", b"key")
    assert not account.deliver("INBOX", NewMessage(text(1), key=b"key")).duplicate
    assert account.deliver("INBOX", NewMessage(text(1), key=b"key")).duplicate
    world.clock.now += 86_401
    assert not account.delivered("INBOX", b"key")
    assert not account.deliver("INBOX", NewMessage(text(1), key=b"key")).duplicate
    assert len(account.snapshot("INBOX").uids) == 3


def test_sieve_state_comes_with_the_delivery(world: World) -> None:
    account = world.account()
    account.deliver("INBOX", NewMessage(text(1)), SieveState({b"seen": 60}))
    account.remember(SieveState({b"more": 600}))
    now = world.clock.time()
    assert account.remembered(b"seen", now)
    assert not account.remembered(b"seen", now + 60)
    assert account.remembered(b"more", now + 599)
    assert not account.remembered(b"never", now)


def test_quota(world: World) -> None:
    account = world.account()
    put(account, 2)
    world.limit = account.quota().used + 10
    assert account.quota().messages == 2
    assert account.quota().limit == world.limit
    with pytest.raises(OverQuota):
        account.deliver("INBOX", NewMessage(text(3)))
    with pytest.raises(OverQuota):
        account.copy("INBOX", [1], "INBOX")
    account.set_flags("INBOX", [1], "add", ["\\Deleted"])
    account.expunge("INBOX")
    account.copy("INBOX", [2], "INBOX")
    assert account.quota().messages == 2


# -- flags ------------------------------------------------------------------------------------------------------------------


def test_flags_set_add_remove(world: World) -> None:
    account = world.account()
    put(account, 3)
    start = account.snapshot("INBOX").modseq
    change = account.set_flags("INBOX", [1, 2, 9], "add", ["\\SEEN", "work", "\\Recent", "\\Nonsense"])
    assert [(uid, mask) for uid, mask, _ in change.changed] == [(1, 33), (2, 33)]
    assert all(modseq > start for _, _, modseq in change.changed)
    change = account.set_flags("INBOX", [1], "remove", ["WORK", "unknown"])
    assert change.changed[0][1] == SEEN
    change = account.set_flags("INBOX", [1], "set", ["\\Flagged", "play"])
    assert change.changed[0][1] == FLAGGED | 64
    assert account.snapshot("INBOX").keywords == ("work", "play")
    status = account.status("INBOX")
    assert (status.unseen, status.recent, status.messages) == (2, 1, 3)


def test_unchanged_flags_take_no_modseq(world: World) -> None:
    account = world.account()
    put(account, 1)
    first = account.set_flags("INBOX", [1], "add", ["\\Seen"])
    second = account.set_flags("INBOX", [1], "add", ["\\Seen"])
    assert second.changed == first.changed
    assert account.snapshot("INBOX").modseq == first.changed[0][2]


def test_unchangedsince(world: World) -> None:
    account = world.account()
    put(account, 3)
    known = account.snapshot("INBOX").modseq
    account.set_flags("INBOX", [2], "add", ["\\Flagged"])
    change = account.set_flags("INBOX", [1, 2, 3], "add", ["\\Deleted"], unchanged_since=known)
    assert [uid for uid, _, _ in change.changed] == [1, 3]
    assert change.modified == (2,)
    assert list(account.snapshot("INBOX").flags) == [DELETED, FLAGGED, DELETED]


def test_many_keywords_beyond_the_letters_and_the_limit(world: World) -> None:
    account = world.account()
    put(account, 1)
    words = [f"word{number}" for number in range(58)]
    account.set_flags("INBOX", [1], "add", words)
    view = account.snapshot("INBOX")
    assert view.flags[0] == (1 << 63) - 32
    assert view.keywords == tuple(words)
    with pytest.raises(LimitReached):
        account.set_flags("INBOX", [1], "add", ["one-more"])
    with pytest.raises(LimitReached):
        account.deliver("INBOX", NewMessage(text(1), ("one-more",)))
    account.create("other")
    copied = account.copy("INBOX", [1], "other")
    assert account.snapshot("other").flags[0] == view.flags[0]
    assert copied.uids == (1,)


# -- copy, move, expunge --------------------------------------------------------------------------------------------------


def test_copy_keeps_what_it_must(world: World) -> None:
    account = world.account()
    account.create("b")
    account.append("b", [NewMessage(text(9), ("mine",))])
    account.append("INBOX", [NewMessage(text(1), ("\\Seen", "yours"), date=1000), NewMessage(text(2))])
    world.clock.now += 100
    copied = account.copy("INBOX", [2, 1, 77], "b")
    assert (copied.source_uids, copied.uids) == ((1, 2), (2, 3))
    assert copied.destination.name == "b"
    assert account.snapshot("b").keywords == ("mine", "yours")
    assert list(account.snapshot("b").flags) == [32, SEEN | 64, 0]
    one, other = account.rows("INBOX", [1], cold=True)[0], account.rows("b", [2], cold=True)[0]
    assert (other.email_id, other.date, other.envelope) == (one.email_id, 1000, one.envelope)
    assert other.savedate == one.savedate + 100
    assert account.read("b", 3) == text(2)
    with pytest.raises(NoSuchMailbox):
        account.copy("INBOX", [1], "nowhere")
    assert account.copy("INBOX", [5], "b").uids == ()


def test_move_and_what_changes_tells(world: World) -> None:
    account = world.account()
    account.create("b")
    put(account, 3)
    known, there = account.snapshot("INBOX").modseq, account.snapshot("b").modseq
    moved = account.move("INBOX", [1, 3, 4], "b")
    assert (moved.source_uids, moved.uids) == ((1, 3), (1, 2))
    changes = account.changes("INBOX", known)
    assert (changes.expunged, changes.appended, changes.flags) == ((1, 3), (), ())
    assert account.changes("b", there).appended == ((1, 0), (2, 0))
    assert account.read("INBOX", 1) is None
    assert account.read("b", 2) == text(2)
    same = account.move("b", [1], "b")
    assert (same.source_uids, same.uids) == ((1,), (3,))
    assert list(account.snapshot("b").uids) == [2, 3]


def test_expunge_takes_deleted_ones_only(world: World) -> None:
    account = world.account()
    put(account, 5)
    account.set_flags("INBOX", [1, 2, 4], "add", ["\\Deleted"])
    known = account.snapshot("INBOX").modseq
    assert account.expunge("INBOX", [2, 3, 4]) == (2, 4)
    assert account.expunge("INBOX") == (1,)
    assert account.expunge("INBOX") == ()
    changes = account.changes("INBOX", known)
    assert changes.expunged == (1, 2, 4)
    assert changes.complete
    assert put(account, 1) == [6]
    status = account.status("INBOX")
    assert (status.messages, status.deleted, status.uidnext) == (3, 0, 7)


def test_changes_leaves_out_what_came_and_went_between(world: World) -> None:
    account = world.account()
    known = account.snapshot("INBOX").modseq
    put(account, 2, flags=("\\Deleted",))
    account.expunge("INBOX", [1])
    changes = account.changes("INBOX", known)
    assert (changes.expunged, changes.appended) == ((), ((2, DELETED),))
    assert account.changes("INBOX", changes.modseq).appended == ()


def test_metadata(world: World) -> None:
    account = world.account()
    account.create("a")
    account.set_metadata("a", "/Private/Comment", "mine")
    account.set_metadata(None, "/private/x", "all")
    assert account.get_metadata("a", "/private/comment") == "mine"
    assert account.get_metadata(None, "/private/X") == "all"
    assert account.get_metadata("INBOX", "/private/comment") is None
    account.rename("a", "b")
    assert account.get_metadata("b", "/private/comment") == "mine"
    account.set_metadata("b", "/private/comment", None)
    assert account.get_metadata("b", "/private/comment") is None
    with pytest.raises(NoSuchMailbox):
        account.get_metadata("a", "/private/comment")


# -- any order of operations ------------------------------------------------------------------------------------------------


class Pair:
    """Does the same to two accounts and compares everything that can be seen."""

    def __init__(self, seed: int, one: AccountStore, other: AccountStore) -> None:
        self.random = random.Random(seed)
        self.accounts = (one, other)
        self.views: dict[str, tuple[int, int, dict[int, int]]] = {}
        self.number = 0

    def both(self, act: Callable[[AccountStore], object]) -> None:
        results = []
        for account in self.accounts:
            try:
                results.append(act(account))
            except Exception as error:
                results.append(type(error))
        assert self.plain(results[0]) == self.plain(results[1])

    @staticmethod
    def plain(result: object) -> object:
        """Without what may differ between stores: ids, UIDVALIDITY and modseqs."""
        if hasattr(result, "destination"):
            return result.destination.name, result.source_uids, result.uids
        if hasattr(result, "changed"):
            return [change[:2] for change in result.changed], result.modified
        if isinstance(result, tuple):
            return [Pair.plain(each) for each in result]
        if hasattr(result, "uidvalidity"):
            return [
                getattr(result, name, None) for name in ("mailbox", "name", "uid", "duplicate", "special_use")
            ]
        return result

    def step(self) -> None:
        pick = self.random
        boxes = [info.name for info in self.accounts[0].mailboxes()]
        box, other = pick.choice(boxes), pick.choice(boxes)
        uids = pick.sample(range(1, 40), pick.randint(0, 12))
        flags = pick.sample(
            ["\\Seen", "\\Deleted", "\\Flagged", "\\Answered", "\\Draft", "one", "Two", "three"],
            pick.randint(0, 3),
        )
        self.number += 1
        message = NewMessage(
            text(self.number), tuple(flags), key=b"%d" % pick.randint(0, 20) if pick.random() < 0.3 else b""
        )
        mode = pick.choice(["set", "add", "remove"])
        name = "/".join(pick.choices("abc", k=pick.randint(1, 3)))
        action = pick.choices(
            [
                "deliver",
                "append",
                "flags",
                "copy",
                "move",
                "expunge",
                "create",
                "delete",
                "rename",
                "ack",
                "subscribe",
            ],
            [8, 3, 8, 3, 4, 4, 1, 0.5, 0.7, 1, 0.5],
        )[0]
        acts: dict[str, Callable[[AccountStore], object]] = {
            "deliver": lambda account: account.deliver(box, message),
            "append": lambda account: account.append(box, [message, message]),
            "flags": lambda account: account.set_flags(box, uids, mode, flags),
            "copy": lambda account: account.copy(box, uids, other),
            "move": lambda account: account.move(box, uids, other),
            "expunge": lambda account: account.expunge(box, None if len(uids) > 8 else uids),
            "create": lambda account: account.create(name),
            "delete": lambda account: account.delete(box),
            "rename": lambda account: account.rename(box, name),
            "ack": lambda account: account.acknowledge([b"%d" % number for number in range(10)]),
            "subscribe": lambda account: account.subscribe(box, len(uids) > 6),
        }
        self.both(acts[action])
        self.compare(box)
        self.compare(other)

    def compare(self, box: str) -> None:
        one, other = self.accounts
        assert [i.name for i in one.mailboxes()] == [i.name for i in other.mailboxes()]
        if box not in [info.name for info in one.mailboxes()]:
            return
        view, mirror = one.snapshot(box), other.snapshot(box)
        assert (view.uids, view.flags, view.uidnext, view.keywords) == (
            mirror.uids,
            mirror.flags,
            mirror.uidnext,
            mirror.keywords,
        )
        status, twin = one.status(box), other.status(box)
        for field in ("messages", "unseen", "recent", "uidnext", "size", "deleted"):
            assert getattr(status, field) == getattr(twin, field), field
        self.follow(box)

    def follow(self, box: str) -> None:
        """What ``changes`` tells leads from the view we had to the one there is now."""
        account = self.accounts[1]
        now = account.snapshot(box)
        have = self.views.get(box)
        if have is not None and have[0] == now.info.uidvalidity and self.random.random() < 0.7:
            changes = account.changes(box, have[1])
            assert changes.complete
            known = dict(have[2])
            for uid in changes.expunged:
                del known[uid]
            for uid, mask, _ in changes.flags:
                assert uid in known
                known[uid] = mask
            for uid, mask in changes.appended:
                assert uid not in known
                known[uid] = mask
            assert known == dict(zip(now.uids, now.flags, strict=True))
            assert changes.modseq == now.modseq
        if have is None or have[0] != now.info.uidvalidity or self.random.random() < 0.5:
            self.views[box] = (now.info.uidvalidity, now.modseq, dict(zip(now.uids, now.flags, strict=True)))


@pytest.mark.parametrize("kind", ["maildir-crlf", "maildir-lf", "mbox"])
@pytest.mark.parametrize("seed", range(4))
def test_random_operations_agree_with_the_memory_store(
    new_world: Callable[[str], World], kind: str, seed: int
) -> None:
    one, other = new_world("memory"), new_world(kind)
    tester = Pair(seed, one.account(), other.account())
    for _ in range(120):
        tester.step()
    for info in tester.accounts[0].mailboxes():
        for uid in tester.accounts[0].snapshot(info.name).uids:
            assert tester.accounts[0].read(info.name, uid) == tester.accounts[1].read(info.name, uid)


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["maildir-crlf", "mbox"])
@pytest.mark.parametrize("seed", range(100, 112))
def test_many_random_operations(new_world: Callable[[str], World], kind: str, seed: int) -> None:
    one, other = new_world("memory"), new_world(kind)
    tester = Pair(seed, one.account(), other.account())
    for _ in range(800):
        tester.step()
