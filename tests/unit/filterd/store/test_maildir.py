"""What only a Maildir has: other programs in the same folders, odd files, a lost index, unclean stops."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from filterd.store.base import (
    ANSWERED,
    FLAGGED,
    SEEN,
    AccountStore,
    NewMessage,
    Stored,
    StoreError,
    StoreUnavailable,
)
from filterd.store.maildir import MaildirAccount

if TYPE_CHECKING:
    from tests.unit.filterd.store.conftest import World


def text(number: int) -> bytes:
    return b"Subject: %d\r\nFrom: a@example.org\r\n\r\nbody\r\n" % number


def put(account: AccountStore, count: int, mailbox: str = "INBOX", flags: tuple[str, ...] = ()) -> None:
    for number in range(count):
        account.deliver(mailbox, NewMessage(text(number), flags, key=os.urandom(8)))


def files(world: World, place: str = "") -> list[Path]:
    root = world.maildir / place
    return sorted([*(root / "new").iterdir(), *(root / "cur").iterdir()], key=lambda path: path.name)


def uid_of(path: Path) -> int:
    return int(path.name.rpartition(",U=")[2].split(":")[0].split(".")[1])


def drop(world: World, name: str, data: bytes, place: str = "new") -> Path:
    path = world.maildir / place / name
    path.write_bytes(data)
    return path


def lose_index(world: World) -> None:
    world.close()
    for path in (world.maildir / ".filterd").iterdir():
        path.unlink()


# -- names -------------------------------------------------------------------------------------------------------------


def test_file_names_say_what_they_should(maildir: World) -> None:
    account = maildir.account()
    account.deliver("INBOX", NewMessage(text(1), key=b"k"))
    account.append("INBOX", [NewMessage(text(2), ("\\Seen", "\\Flagged", "word"), date=99)])
    names = {path.parent.name: path.name for path in files(maildir)}
    mid = account.info("INBOX").id
    assert names["new"].startswith("1790000000.M250000P")
    assert f",S={len(text(1))},W={len(text(1))},U={mid}.1" in names["new"]
    assert ":" not in names["new"]
    assert "K" in names["new"].split(".")[1]
    assert names["cur"].endswith(f",U={mid}.2:2,FSa")
    assert int((maildir.maildir / "cur" / names["cur"]).stat().st_mtime) == 99
    assert (maildir.maildir / "filterd-keywords").read_text() == "0 word\n"
    assert not list((maildir.maildir / "tmp").iterdir())


def test_lf_files(new_world: Callable[[str], World]) -> None:
    world = new_world("maildir-lf")
    account = world.account()
    account.deliver("INBOX", NewMessage(text(1)))
    path = files(world)[0]
    assert path.read_bytes() == text(1).replace(b"\r\n", b"\n")
    assert f",S={len(text(1)) - 4},W={len(text(1))}," in path.name
    assert account.read("INBOX", 1) == text(1)
    account.deliver("INBOX", NewMessage(b"a: b\r\n\r\nbare\rcr\r\n"))
    assert account.read("INBOX", 2) == b"a: b\r\n\r\nbare\rcr\r\n"


def test_account_names_cannot_lead_out(maildir: World) -> None:
    store = maildir.store()
    for bad in ("../x@y", "a/b@c", "@", "a@", "a@..", ".a@b", "a\0@b", ""):
        with pytest.raises(StoreUnavailable):
            store.account(bad)


# -- other programs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [text(7), text(7).replace(b"\r\n", b"\n"), b"Subject: 7\nFrom: a@example.org\r\n\nbody\r\n"]
)
def test_a_dropped_file_gets_a_uid_that_it_carries(maildir: World, data: bytes) -> None:
    account = maildir.account()
    put(account, 1)
    account.snapshot("INBOX")
    drop(maildir, "1700000000.P1.other", data)
    assert list(account.snapshot("INBOX").uids) == [1, 2]
    assert account.read("INBOX", 2) == text(7)
    row = account.rows("INBOX", [2], cold=True)[0]
    assert row.size == len(text(7))
    assert b'"7"' in row.envelope
    assert [uid_of(path) for path in files(maildir)] == [2, 1]
    assert files(maildir)[0].read_bytes() == data


def test_dropped_files_are_numbered_in_the_order_of_their_names_times(maildir: World) -> None:
    account = maildir.account()
    for number in (30, 9, 100):
        drop(maildir, f"{number}.P1.other", text(number))
    drop(maildir, "20.P1.other:2,RS", text(20), "cur")
    account.snapshot("INBOX")
    found = [account.read("INBOX", uid) for uid in (1, 2, 3, 4)]
    assert found == [text(9), text(20), text(30), text(100)]
    assert account.snapshot("INBOX").flags[1] == SEEN | ANSWERED


def test_renaming_by_others_changes_flags_and_keeps_the_uid(maildir: World) -> None:
    account = maildir.account()
    put(account, 2)
    before = account.snapshot("INBOX")
    path = files(maildir)[0]
    path.rename(maildir.maildir / "cur" / (path.name + ":2,PFS"))
    changes = account.changes("INBOX", before.modseq)
    assert [(uid, mask) for uid, mask, _ in changes.flags] == [(1, SEEN | FLAGGED)]
    assert changes.appended == changes.expunged == ()
    account.set_flags("INBOX", [1], "remove", ["\\Seen"])
    assert files(maildir)[0].name.endswith(":2,FP") or files(maildir)[1].name.endswith(":2,FP")


def test_a_file_renamed_just_before_an_operation_is_found_again(maildir: World) -> None:
    account = maildir.account()
    account.create("b")
    put(account, 4)
    account.snapshot("INBOX")
    for path in files(maildir):
        path.rename(maildir.maildir / "cur" / (path.name + ":2,S"))
    assert account.read("INBOX", 1) == text(0)
    for path in files(maildir):
        path.rename(path.with_name(path.name.replace(":2,S", ":2,RS")))
    assert [uid for uid, _, _ in account.set_flags("INBOX", [1, 2], "add", ["\\Deleted"]).changed] == [1, 2]
    for path in files(maildir):
        path.rename(path.with_name(path.name.replace(":2,R", ":2,DR")))
    assert account.copy("INBOX", [3], "b").source_uids == (3,)
    for path in files(maildir):
        path.rename(path.with_name(path.name.replace(":2,D", ":2,DF")))
    assert account.move("INBOX", [4], "b").source_uids == (4,)
    for path in files(maildir):
        path.rename(path.with_name(path.name.replace(":2,DF", ":2,F")))
    assert account.expunge("INBOX") == (1, 2)
    assert list(account.snapshot("INBOX").uids) == [3]


def test_removal_by_others_is_an_expunge(maildir: World) -> None:
    account = maildir.account()
    put(account, 3)
    before = account.snapshot("INBOX")
    next(path for path in files(maildir) if uid_of(path) == 2).unlink()
    assert account.read("INBOX", 2) is None
    assert account.changes("INBOX", before.modseq).expunged == (2,)
    status = account.status("INBOX")
    assert (status.messages, status.unseen, status.recent) == (2, 2, 2)


def test_a_file_copied_by_others_is_a_new_message(maildir: World) -> None:
    account = maildir.account()
    account.create("b")
    put(account, 1)
    path = files(maildir)[0]
    shutil.copy(path, maildir.maildir / ".b" / "cur" / (path.name + ":2,S"))
    shutil.copy(path, maildir.maildir / "cur" / ("copy-" + path.name + ":2,S"))
    assert list(account.snapshot("b").uids) == [1]
    assert list(account.snapshot("INBOX").uids) == [1, 2]
    assert account.read("b", 1) == text(0)
    assert sorted(uid_of(each) for each in files(maildir)) == [1, 2]


def test_a_file_that_comes_back_does_not_get_its_old_uid(maildir: World) -> None:
    account = maildir.account()
    put(account, 2)
    path = files(maildir)[0]
    kept = path.read_bytes()
    account.set_flags("INBOX", [1], "add", ["\\Deleted"])
    assert account.expunge("INBOX") == (1,)
    drop(maildir, path.name, kept)
    assert list(account.snapshot("INBOX").uids) == [2, 3]


def test_content_changed_by_others_is_rendered_anew_under_the_same_uid(maildir: World) -> None:
    account = maildir.account()
    put(account, 1)
    before = account.snapshot("INBOX")
    path = files(maildir)[0]
    fresh = path.with_name("x")
    fresh.write_bytes(b"Subject: changed\n\nnew\n")
    fresh.replace(path)
    assert account.read("INBOX", 1) == b"Subject: changed\r\n\r\nnew\r\n"
    row = account.rows("INBOX", [1], cold=True)[0]
    assert b'"changed"' in row.envelope
    assert row.size == len(b"Subject: changed\r\n\r\nnew\r\n")
    assert account.changes("INBOX", before.modseq).flags[0][0] == 1


ODD_NAMES = (
    b"no-info",
    b"1.x:2,",
    b"1.x:2,ZZ!\xff",
    b"caf\xe9:2,S",
    b":2,S",
    b"x:1,experimental",
    b"y" * 240,
    b"a b:2,S",
    b"line\nbreak:2,F",
    b"1.x,U=0000000000000001.5:2,S",
    b"1.x,U=zz:2,S",
    b"2.x,S=99999,W=1:2,S",
    b"3.x:2,SS:2,F",
    b"\xff\xfe",
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_cost_at_most_their_own_message(maildir: World, name: bytes) -> None:
    account = maildir.account()
    put(account, 1)
    with open(os.path.join(os.fsencode(maildir.maildir), b"cur", name), "wb") as file:
        file.write(text(5))
    view = account.snapshot("INBOX")
    assert len(view.uids) == 2
    assert account.read("INBOX", view.uids[1]) == text(5)
    account.set_flags("INBOX", list(view.uids), "add", ["\\Flagged"])
    assert all(mask & FLAGGED for mask in account.snapshot("INBOX").flags)
    lose_index(maildir)
    again = maildir.account()
    assert list(again.snapshot("INBOX").uids) == list(view.uids)


def test_odd_info_of_a_known_message(maildir: World) -> None:
    account = maildir.account()
    put(account, 1)
    account.snapshot("INBOX")
    path = os.fsencode(files(maildir)[0])
    os.rename(path, path.replace(b"/new/", b"/cur/") + b":2,S\xff\n!x")
    view = account.snapshot("INBOX")
    assert (list(view.uids), list(view.flags)) == ([1], [SEEN])
    assert account.read("INBOX", 1) == text(0)


def test_what_is_no_mail_file_is_left_alone(maildir: World) -> None:
    account = maildir.account()
    put(account, 1)
    cur = maildir.maildir / "cur"
    (cur / "directory:2,S").mkdir()
    (cur / "link:2,S").symlink_to("/etc/passwd")
    os.mkfifo(cur / "pipe:2,S")
    drop(maildir, ".hidden", b"x")
    drop(maildir, "empty:2,S", b"", "cur")
    view = account.snapshot("INBOX")
    assert len(view.uids) == 2
    assert account.read("INBOX", 2) == b""
    put(account, 1)
    assert len(account.snapshot("INBOX").uids) == 3


def test_an_own_change_does_not_hide_a_foreign_one_for_long(maildir: World) -> None:
    account = maildir.account()
    put(account, 1)
    account.snapshot("INBOX")
    new = maildir.maildir / "new"
    drop(maildir, "1.x", text(9))
    stamp = time.time_ns() - 10_000_000_000
    database = sqlite3.connect(maildir.maildir / ".filterd" / "index.db")
    os.utime(new, ns=(stamp, stamp))  # as if within the same tick as our own change
    database.execute("update mailbox set new_mtime=?, unsure=1", (stamp,))
    database.commit()
    database.close()
    os.utime(maildir.maildir / "cur", ns=(stamp, stamp))
    with sqlite3.connect(maildir.maildir / ".filterd" / "index.db") as again:
        again.execute("update mailbox set cur_mtime=?", (stamp,))
    maildir.clock.now += 3.0
    assert len(account.snapshot("INBOX").uids) == 2


def test_folders_made_renamed_and_removed_by_others(maildir: World) -> None:
    account = maildir.account()
    account.create("mine")
    put(account, 1, "mine")
    for part in ("cur", "new", "tmp"):
        (maildir.maildir / ".Entw&APw-rfe.x" / part).mkdir(parents=True)
    (maildir.maildir / ".no-mailbox").mkdir()
    drop(maildir, "1.x", text(3), ".Entw&APw-rfe.x/new")
    assert [info.name for info in account.mailboxes()] == ["INBOX", "Entwürfe/x", "mine"]
    assert list(account.snapshot("Entwürfe/x").uids) == [1]
    assert account.read("Entwürfe/x", 1) == text(3)
    known = account.info("mine")
    (maildir.maildir / ".mine").rename(maildir.maildir / ".yours")
    assert account.info("yours").id == known.id
    assert account.read("yours", 1) == text(0)
    with pytest.raises(StoreError):
        account.read("mine", 1)
    shutil.copytree(maildir.maildir / ".yours", maildir.maildir / ".copied")
    assert account.info("copied").id != known.id
    assert list(account.snapshot("copied").uids) == [1]
    assert account.read("copied", 1) == text(0)
    shutil.rmtree(maildir.maildir / ".yours")
    assert [info.name for info in account.mailboxes()] == ["INBOX", "Entwürfe/x", "copied"]


def test_a_folder_replaced_under_an_open_store(maildir: World) -> None:
    account = maildir.account()
    account.create("a")
    put(account, 1, "a")
    shutil.rmtree(maildir.maildir / ".a")
    for part in ("cur", "new", "tmp"):
        (maildir.maildir / ".a" / part).mkdir(parents=True)
    results = []
    for number in range(3):
        try:
            results.append(account.deliver("a", NewMessage(text(number))))
        except StoreError:
            continue
    assert len(results) >= 2
    assert [account.read("a", stored.uid) for stored in results[-2:]] == [text(1), text(2)]
    assert len(files(maildir, ".a")) == len(account.snapshot("a").uids) == len(results)


# -- the index is lost, or stopped in the middle -----------------------------------------------------------------------


def test_a_lost_index_comes_back_with_uids_flags_and_keywords(maildir: World) -> None:
    account = maildir.account()
    account.create("Work", "\\Archive")
    put(account, 5)
    put(account, 2, "Work")
    account.set_flags("INBOX", [1], "add", ["\\Deleted"])
    account.set_flags("INBOX", [4], "add", ["\\Seen", "first", "second"])
    account.expunge("INBOX")
    before = {info.name: (info, list(account.snapshot(info.name).uids)) for info in account.mailboxes()}
    flags = list(account.snapshot("INBOX").flags)
    modseq = account.snapshot("INBOX").modseq
    lose_index(maildir)
    again = maildir.account()
    assert {info.name: (info, list(again.snapshot(info.name).uids)) for info in again.mailboxes()} == before
    view = again.snapshot("INBOX")
    assert list(view.flags) == flags
    assert view.keywords == ("first", "second")
    assert view.modseq > modseq
    assert not again.changes("INBOX", modseq).complete
    assert again.deliver("INBOX", NewMessage(text(9))).uid >= 1001
    status = again.status("INBOX")
    assert (status.messages, status.unseen) == (5, 4)


def test_a_lost_index_knows_young_delivery_keys_again(maildir: World) -> None:
    account = maildir.account()
    account.deliver("INBOX", NewMessage(text(1), key=b"young"))
    lose_index(maildir)
    again = maildir.account()
    assert again.deliver("INBOX", NewMessage(text(1), key=b"young")).duplicate
    lose_index(maildir)
    maildir.clock.now += 86_500
    assert not maildir.account().deliver("INBOX", NewMessage(text(1), key=b"young")).duplicate


def test_the_index_may_be_removed_or_broken_under_an_open_store(maildir: World) -> None:
    account = maildir.account()
    put(account, 3)
    for path in (maildir.maildir / ".filterd").glob("index.db*"):
        path.unlink()
    assert list(account.snapshot("INBOX").uids) == [1, 2, 3]
    maildir.close()
    (maildir.maildir / ".filterd" / "index.db").write_bytes(b"this is no database" * 1000)
    again = maildir.account()
    assert list(again.snapshot("INBOX").uids) == [1, 2, 3]
    assert list((maildir.maildir / ".filterd").glob("broken.*"))


def test_after_a_power_failure_numbering_goes_on_at_the_mark(maildir: World) -> None:
    account = maildir.account(boot="one")
    put(account, 3)
    modseq = account.snapshot("INBOX").modseq
    maildir.close()
    again = maildir.account(boot="two")
    view = again.snapshot("INBOX")
    assert list(view.uids) == [1, 2, 3]
    assert view.uidnext == 1001
    assert view.modseq > modseq
    assert again.deliver("INBOX", NewMessage(text(9))).uid == 1001
    maildir.close()
    third = maildir.account(boot="two")
    assert third.deliver("INBOX", NewMessage(text(9))).uid == 1002


def test_blocks_are_reserved_before_they_are_used(maildir: World) -> None:
    account = maildir.account()
    account.append("INBOX", [NewMessage(b"x")] * 1100)
    lines = dict(line.split(" ") for line in (maildir.maildir / ".filterd-mailbox").read_text().splitlines())
    assert int(lines["uids"]) > 1100
    assert account.snapshot("INBOX").uidnext == 1101


def test_a_writer_killed_between_names_and_index_is_healed(maildir: World) -> None:
    """As after SIGKILL: files are named, the note is in the lock file, the index knows nothing."""
    account = maildir.account()
    put(account, 2)
    before = account.snapshot("INBOX")
    mid = before.info.id
    drop(maildir, f"1790000000.M1P1Q9K0123456789abcdef.h,S=1,W=1,U={mid}.3", text(3))
    (maildir.maildir / ".filterd" / "lock").write_bytes(b"1\0\0")
    view = account.snapshot("INBOX")
    assert list(view.uids) == [1, 2, 3]
    account.deliver("INBOX", NewMessage(text(4)))
    assert list(account.snapshot("INBOX").uids) == [1, 2, 3, 1001]
    assert account.read("INBOX", 3) == text(3)
    assert account.changes("INBOX", before.modseq).complete


def test_an_unfinished_rename_of_a_tree_is_finished(maildir: World) -> None:
    account = maildir.account()
    for name in ("a", "a/b", "a/c"):
        account.create(name)
        put(account, 1, name)
    maildir.close()
    (maildir.maildir / ".filterd" / "rename").write_text(".a\t.z\n.a.b\t.z.b\n.a.c\t.z.c\n")
    (maildir.maildir / ".a").rename(maildir.maildir / ".z")
    again = maildir.account()
    assert [info.name for info in again.mailboxes()] == ["INBOX", "z", "z/b", "z/c"]
    assert again.read("z/c", 1) == text(0)
    assert not (maildir.maildir / ".filterd" / "rename").exists()


def test_errors_leave_nothing_visible(maildir: World, monkeypatch: pytest.MonkeyPatch) -> None:
    account = maildir.account()
    put(account, 1)
    store = maildir.opened[0]
    disk = store._settings.disk  # type: ignore[attr-defined]  # a fault is put into the disk

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for primitive in ("write_new", "sync", "publish", "sync_dir"):
        with monkeypatch.context() as patch:
            patch.setattr(disk, primitive, full)
            with pytest.raises(StoreUnavailable):
                account.deliver("INBOX", NewMessage(text(2)))
        assert len(account.snapshot("INBOX").uids) == 1, primitive
        assert len(files(maildir)) == 1, primitive
    uid = account.deliver("INBOX", NewMessage(text(3))).uid
    assert list(account.snapshot("INBOX").uids) == [1, uid]
    assert account.read("INBOX", uid) == text(3)


# -- quota file --------------------------------------------------------------------------------------------------------


def test_maildirsize_follows(maildir: World) -> None:
    account = maildir.account()
    maildir.limit = 1_000_000
    account.create("b")
    put(account, 3)
    account.copy("INBOX", [1], "b")
    account.set_flags("INBOX", [2], "add", ["\\Deleted"])
    account.expunge("INBOX")
    account.move("INBOX", [3], "b")
    lines = (maildir.maildir / "maildirsize").read_text().splitlines()
    assert lines[0] == "1000000S"
    sums = [sum(int(line.split()[at]) for line in lines[1:]) for at in (0, 1)]
    assert sums == [3 * len(text(1)), 3]
    assert account.quota().used == sums[0]
    maildir.limit = 2_000_000
    put(account, 1)
    assert (maildir.maildir / "maildirsize").read_text().startswith("2000000S\n")


def test_subscriptions_are_dovecots(maildir: World) -> None:
    account = maildir.account()
    account.subscribe("Entwürfe/a", True)
    account.subscribe("INBOX", True)
    assert (maildir.maildir / "subscriptions").read_text() == "Entw&APw-rfe.a\nINBOX\n"
    (maildir.maildir / "subscriptions").write_text("V\t2\n\nEntwürfe\ta\nb\n")
    assert account.subscriptions() == ("Entwürfe/a", "b")


def test_notices_are_given_after_commits(maildir: World) -> None:
    account = maildir.account()
    put(account, 1)
    account.set_flags("INBOX", [1], "add", ["\\Seen"])
    modseqs = [
        modseq for who, where, modseq in maildir.notices if (who, where) == ("ann@example.org", "INBOX")
    ]
    assert modseqs == sorted(modseqs)
    assert modseqs[-1] == account.snapshot("INBOX").modseq


def test_large_mailboxes_start_from_the_stored_view(maildir: World) -> None:
    account = maildir.account()
    account.append("INBOX", [NewMessage(b"x: %d\r\n\r\n" % number) for number in range(1100)])
    first = account.snapshot("INBOX")
    account.set_flags("INBOX", [5], "add", ["\\Seen", "\\Deleted"])
    account.set_flags("INBOX", [7], "add", ["\\Flagged"])
    account.expunge("INBOX")
    put(account, 1)
    live = account.snapshot("INBOX")
    maildir.close()
    again = maildir.account().snapshot("INBOX")
    assert (again.uids, again.flags, again.modseq) == (live.uids, live.flags, live.modseq)
    assert len(first.uids) == 1100
    assert 5 not in again.uids


# -- many deliveries together -------------------------------------------------------------------------------------------


def test_a_mailbox_that_cannot_be_opened_is_its_own_deliveries_matter(maildir: World) -> None:
    account = maildir.account()
    assert isinstance(account, MaildirAccount)
    account.create("bad")
    account._core.drop_folder(account._core.box("bad")[1].id)
    shutil.rmtree(maildir.maildir / ".bad" / "cur")
    (maildir.maildir / ".bad" / "cur").symlink_to("cur")  # ELOOP
    good, bad = account.deliver_many(
        [
            ("INBOX", NewMessage(text(1), ("$word",), key=b"1"), None),
            ("bad", NewMessage(text(2), ("$word",), key=b"2"), None),
        ]
    )
    assert isinstance(bad, StoreError)
    assert isinstance(good, Stored) and account.read("INBOX", good.uid) == text(1)
