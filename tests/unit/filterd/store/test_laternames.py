"""Names of files that follow their flags: many messages at once, and what may happen in between."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from filterd.store import durable
from filterd.store.base import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN, NewMessage
from filterd.store.export import export_dovecot
from filterd.store.flags import NAMED_MASK, mask_of_letters, merged, split_name
from filterd.store.latenotes import MANY
from filterd.store.laternames import name_of
from filterd.store.maildir import MaildirAccount, MaildirStore

if TYPE_CHECKING:
    from tests.unit.filterd.store.conftest import World

COUNT = MANY + 40


def text(number: int) -> bytes:
    return b"Subject: %d\r\n\r\nbody\r\n" % number


def filled(account: object, flags: tuple[str, ...] = ("\\Draft",)) -> MaildirAccount:
    assert isinstance(account, MaildirAccount)
    account.append("INBOX", [NewMessage(text(number), flags) for number in range(COUNT)])
    return account


def uid_of(name: str) -> int:
    return int(name.rpartition(",U=")[2].split(":")[0].split(".")[1])


def letters(folder: Path) -> dict[int, str]:
    return {uid_of(name): split_name(name)[1] for name in os.listdir(folder / "cur")}


def everything(maildir: World) -> tuple[MaildirAccount, list[int]]:
    account = filled(maildir.account())
    return account, list(account.snapshot("INBOX").uids)


def work(account: MaildirAccount) -> None:
    for _ in range(50):
        if account.unfinished != 0.0:
            return
        account.step(1.0)
    raise AssertionError("the work has no end")


def flags(account: MaildirAccount) -> dict[int, int]:
    snapshot = account.snapshot("INBOX")
    return dict(zip(snapshot.uids, snapshot.flags, strict=True))


def test_flags_are_there_at_once_and_names_follow(maildir: World) -> None:
    account, uids = everything(maildir)
    before = account.snapshot("INBOX").modseq
    result = account.set_flags("INBOX", uids, "add", ("\\Seen", "word"))
    assert [uid for uid, _, _ in result.changed] == uids
    assert set(flags(account).values()) == {SEEN | DRAFT | 32}
    assert set(letters(maildir.maildir).values()) == {"D"}
    assert account.unfinished == 0.0
    maildir.notices.clear()
    modseq = account.snapshot("INBOX").modseq
    work(account)
    assert set(letters(maildir.maildir).values()) == {"DSa"}
    assert account.snapshot("INBOX").modseq == modseq > before
    assert not maildir.notices  # nothing that anybody could see has changed
    assert account.changes("INBOX", modseq).flags == ()
    assert account.read("INBOX", uids[7]) == text(7)


def test_a_few_messages_are_renamed_before_the_answer(maildir: World) -> None:
    account, uids = everything(maildir)
    account.set_flags("INBOX", uids[: MANY - 1], "add", ("\\Seen",))
    found = letters(maildir.maildir)
    assert {found[uid] for uid in uids[: MANY - 1]} == {"DS"}


def test_there_and_back_again_renames_nothing(maildir: World) -> None:
    account, uids = everything(maildir)
    names = sorted(os.listdir(maildir.maildir / "cur"))
    account.set_flags("INBOX", uids, "add", ("\\Seen",))
    account.set_flags("INBOX", uids, "remove", ("\\Seen",))
    work(account)
    assert sorted(os.listdir(maildir.maildir / "cur")) == names
    assert set(flags(account).values()) == {DRAFT}


def test_texts_are_read_meanwhile_and_afterwards(maildir: World) -> None:
    account, uids = everything(maildir)
    assert account.read_many("INBOX", uids[:20], 1 << 20) == [text(n) for n in range(20)]
    account.set_flags("INBOX", uids, "add", ("\\Seen",))
    assert account.read_many("INBOX", uids[20:40], 1 << 20) == [text(n) for n in range(20, 40)]
    work(account)
    assert account.read_many("INBOX", uids[30:60], 1 << 20) == [text(n) for n in range(30, 60)]


def test_a_name_that_another_program_changes_meanwhile_is_merged(maildir: World) -> None:
    account, uids = everything(maildir)
    account.set_flags("INBOX", uids, "add", ("\\Seen",))
    cur = maildir.maildir / "cur"
    for path in cur.iterdir():
        if uid_of(path.name) == uids[3]:  # draft no more, but answered: of \Seen it knows nothing
            path.rename(cur / f"{split_name(path.name)[0]}:2,R")
    assert flags(account)[uids[3]] == SEEN | ANSWERED
    work(account)
    found = letters(maildir.maildir)
    assert found.pop(uids[3]) == "RS"
    assert set(found.values()) == {"DS"}
    assert flags(account)[uids[3]] == SEEN | ANSWERED


def test_the_work_itself_finds_names_that_others_changed(maildir: World) -> None:
    account, uids = everything(maildir)
    account.set_flags("INBOX", uids, "add", ("\\Seen",))
    cur = maildir.maildir / "cur"
    names = {uid_of(name): name for name in os.listdir(cur)}
    os.rename(cur / names[uids[0]], cur / names[uids[0]].replace(":2,D", ":2,DF"))
    os.unlink(cur / names[uids[1]])
    work(account)
    found = letters(maildir.maildir)
    assert found[uids[0]] == "DFS"
    assert uids[1] not in found
    assert flags(account) == {
        uid: SEEN | DRAFT | (FLAGGED if uid == uids[0] else 0) for uid in uids if uid != uids[1]
    }


def test_single_changes_moves_copies_and_removals_in_between(maildir: World) -> None:
    account, uids = everything(maildir)
    account.create("b")
    account.set_flags("INBOX", uids, "add", ("\\Seen",))
    account.set_flags("INBOX", uids[:1], "remove", ("\\Draft",))
    account.move("INBOX", uids[1:3], "b")
    account.copy("INBOX", uids[3:5], "b")
    account.set_flags("INBOX", uids[5:7], "add", ("\\Deleted",))
    assert account.expunge("INBOX", None) == tuple(uids[5:7])
    assert letters(maildir.maildir)[uids[0]] == "S"
    assert set(letters(maildir.maildir / ".b").values()) == {"DS"}
    work(account)
    found = letters(maildir.maildir)
    assert found.pop(uids[0]) == "S"
    assert set(found.values()) == {"DS"}
    assert len(found) == COUNT - 5
    assert set(letters(maildir.maildir / ".b").values()) == {"DS"}


def test_a_mailbox_that_goes_or_gets_another_name_meanwhile(maildir: World) -> None:
    account, uids = everything(maildir)
    for name in ("b", "c"):
        account.create(name)
        account.copy("INBOX", uids, name)
        account.set_flags(name, list(account.snapshot(name).uids), "add", ("\\Seen",))
    account.delete("b")
    account.rename("c", "d")
    work(account)
    assert set(letters(maildir.maildir / ".d").values()) == {"DS"}


def test_closing_finishes_them(maildir: World) -> None:
    account, uids = everything(maildir)
    account.set_flags("INBOX", uids, "add", ("\\Flagged",))
    maildir.close()
    assert set(letters(maildir.maildir).values()) == {"DF"}


def test_after_a_kill_the_next_process_does_it(maildir: World) -> None:
    account, uids = everything(maildir)
    account.set_flags("INBOX", uids, "set", ("\\Flagged",))
    again = maildir.account()  # the first store is never closed
    assert isinstance(again, MaildirAccount)
    assert set(flags(again).values()) == {FLAGGED}
    work(again)
    assert set(letters(maildir.maildir).values()) == {"F"}
    assert set(flags(account).values()) == {FLAGGED}
    work(account)


def test_a_process_that_has_the_account_open_does_it_for_one_that_was_killed(maildir: World) -> None:
    account, uids = everything(maildir)
    other = maildir.account()
    assert isinstance(other, MaildirAccount)
    other.snapshot("INBOX")
    assert other.unfinished != 0.0
    account.set_flags("INBOX", uids, "set", ("\\Flagged",))
    assert set(flags(other).values()) == {FLAGGED}
    assert other.unfinished == 0.0
    work(other)
    assert set(letters(maildir.maildir).values()) == {"F"}


def test_an_index_that_is_lost_meanwhile_goes_by_the_names(maildir: World) -> None:
    """As after a power failure: a change of flags of the last seconds may be undone, never half done."""
    account, uids = everything(maildir)
    account.set_flags("INBOX", uids, "add", ("\\Flagged",))
    other = maildir.root.parent / "copy"
    shutil.copytree(maildir.root, other)
    shutil.rmtree(other / "example.org" / "ann" / ".filterd")
    store = MaildirStore(other, "h", "crlf", lambda name: 0, maildir.clock, maildir.ids)
    again = store.account("ann@example.org")
    assert isinstance(again, MaildirAccount)
    assert list(again.snapshot("INBOX").uids) == uids
    assert set(flags(again).values()) == {DRAFT}
    store.close()


def test_a_directory_that_takes_no_names(maildir: World, caplog: pytest.LogCaptureFixture) -> None:
    class Unwilling(durable.RealDisk):
        willing = 1 << 30

        def rename(self, source: durable.Dir, name: str, target: durable.Dir, new: str) -> None:
            self.willing -= 1
            if self.willing < 0:
                raise PermissionError(13, "Permission denied")
            super().rename(source, name, target, new)

    disk = Unwilling()
    store = MaildirStore(maildir.root, "h", "crlf", lambda name: 0, maildir.clock, maildir.ids, disk=disk)
    account = filled(store.account("ann@example.org"))
    disk.willing = 10
    account.set_flags("INBOX", list(account.snapshot("INBOX").uids), "add", ("\\Seen",))
    with caplog.at_level(logging.WARNING):
        account.step(1.0)
    assert "do not follow" in caplog.text
    work(account)  # it does not try again and again
    assert sorted(letters(maildir.maildir).values()).count("DS") == 10
    assert set(flags(account).values()) == {SEEN | DRAFT}
    store.close()
    again = maildir.account()
    assert isinstance(again, MaildirAccount)
    assert set(flags(again).values()) == {SEEN | DRAFT}
    work(again)
    assert set(letters(maildir.maildir).values()) == {"DS"}


def test_a_file_that_cannot_have_the_name_costs_itself_only(
    maildir: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Short(durable.RealDisk):
        def rename(self, source: durable.Dir, name: str, target: durable.Dir, new: str) -> None:
            if ",U=" in new and uid_of(new) == 5 and "S" in split_name(new)[1]:
                raise OSError(errno.ENAMETOOLONG, "File name too long")
            super().rename(source, name, target, new)

    store = MaildirStore(maildir.root, "h", "crlf", lambda name: 0, maildir.clock, maildir.ids, disk=Short())
    account = filled(store.account("ann@example.org"))
    uids = list(account.snapshot("INBOX").uids)
    account.set_flags("INBOX", uids, "add", ("\\Seen",))
    with caplog.at_level(logging.WARNING):
        work(account)
    assert "1 files keep names" in caplog.text
    found = letters(maildir.maildir)
    assert found.pop(5) == "D"
    assert set(found.values()) == {"DS"}
    assert set(flags(account).values()) == {SEEN | DRAFT}
    account.set_flags("INBOX", uids, "remove", ("\\Seen",))
    work(account)
    assert set(letters(maildir.maildir).values()) == {"D"}
    store.close()


def test_an_export_in_place_waits_for_them(maildir: World) -> None:
    account, uids = everything(maildir)
    account.set_flags("INBOX", uids, "add", ("\\Flagged",))
    maildir.opened.clear()
    store = maildir.store()
    assert isinstance(store, MaildirStore)
    core = store.core("ann@example.org")
    export_dovecot(core, "")
    core.close()
    assert set(letters(maildir.maildir).values()) == {"DF"}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_in_between(
    new_store: Callable[[], MaildirStore], tmp_path: Path, seed: int
) -> None:
    """Two processes, another program, changes of many and of few, work now and then: flags are what was last said of each."""
    pick = random.Random(seed)
    sides = [filled(new_store().account("ann@example.org"))]
    other = new_store().account("ann@example.org")
    assert isinstance(other, MaildirAccount)
    sides.append(other)
    wanted = dict.fromkeys(sides[0].snapshot("INBOX").uids, DRAFT)
    names = {
        "\\Answered": ANSWERED,
        "\\Flagged": FLAGGED,
        "\\Draft": DRAFT,
        "\\Seen": SEEN,
        "\\Deleted": DELETED,
    }
    cur = tmp_path / "example.org" / "ann" / "cur"

    def told(uids: Iterable[int], mode: str, mask: int) -> None:
        for uid in uids:
            old = wanted[uid]
            wanted[uid] = mask if mode == "set" else old | mask if mode == "add" else old & ~mask

    for _ in range(40):
        account = pick.choice(sides)
        what = pick.random()
        if what < 0.6:
            some = pick.sample(list(names), pick.randint(1, 2))
            mode = pick.choice(["set", "add", "remove"])
            first = pick.randrange(20)
            uids = list(wanted)[first:] if pick.random() < 0.7 else pick.sample(list(wanted), 5)
            account.set_flags("INBOX", sorted(uids), mode, some)
            told(uids, mode, sum(names[name] for name in some))
        elif what < 0.8:
            for name in pick.sample(os.listdir(cur), 3):
                flipped = pick.choice("DFRST")
                said = split_name(name)[1]
                new = "".join(sorted(set(said) ^ {flipped}))
                os.rename(cur / name, cur / f"{split_name(name)[0]}:2,{new}")
                told([uid_of(name)], "remove" if flipped in said else "add", mask_of_letters(flipped)[0])
            for side in sides:
                side.status("INBOX")
                side.snapshot("INBOX")
        else:
            account.step(0.001)
    assert flags(sides[0]) == flags(sides[1]) == wanted
    for side in sides:
        work(side)
    assert {uid: mask_of_letters(said)[0] for uid, said in letters(cur.parent).items()} == wanted
    assert flags(sides[1]) == wanted


def test_a_name_says_flags_in_any_order_and_keeps_what_is_not_ours() -> None:
    assert name_of("a:2,SF", SEEN | FLAGGED) == "a:2,SF"
    assert name_of("a:2,PS", FLAGGED) == "a:2,FP"
    assert name_of("a", SEEN) == "a:2,S"
    assert name_of("a:2,S", SEEN | 1 << 40) == "a:2,S"  # a keyword that names cannot say


def test_what_a_name_changed_is_changed_and_nothing_else() -> None:
    for ours in (0, SEEN, SEEN | DRAFT, FLAGGED):
        for before in (0, SEEN, DRAFT, SEEN | FLAGGED):
            assert merged(ours, before, before) == ours
            assert merged(before, before, ours) == ours  # nothing was late: the name is the truth
    assert merged(SEEN | 1 << 40, SEEN, 0) == 1 << 40
    assert NAMED_MASK.bit_length() == 31
