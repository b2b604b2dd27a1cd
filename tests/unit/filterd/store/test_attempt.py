"""Who is dead is told by his process and its start; who is not keeps his messages, and who was held for dead hears of it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from filterd.store import core
from filterd.store.attempt import ADDING, ASIDE, FIRST_LINE, FileAttempt, is_alive, this_process
from filterd.store.base import SEEN, AccountStore, Attempt, NewMessage, NoSuchMailbox, StoreUnavailable
from filterd.store.delivery import Batch
from filterd.store.durable import RealDisk
from filterd.store.maildir import MaildirStore
from filterd.store.transfer import _Transfer
from tests.unit.filterd.store.conftest import CountingIds, HandClock

ANN = "ann@example.org"
TWO = [NewMessage(b"Subject: %d\r\n\r\n" % at) for at in range(2)]


def opened(root: Path, ids: int = 0) -> MaildirStore:
    return MaildirStore(root, "h", "crlf", lambda account: 0, HandClock(), CountingIds(ids))


def test_a_process_is_known_by_its_start() -> None:
    disk = RealDisk()
    mark = this_process(disk)
    boot, pid, start = mark.split(" ")
    assert is_alive(disk, mark) and int(pid) == os.getpid()
    assert not is_alive(disk, f"{boot} {pid} {int(start) + 1}")  # the number was given out again
    assert not is_alive(disk, f"{boot} 4194304 {start}")
    assert not is_alive(RealDisk(boot="another"), mark)
    assert not is_alive(disk, "") and not is_alive(disk, "x y")


def test_what_a_living_process_adds_stays(tmp_path: Path) -> None:
    store = opened(tmp_path)
    account = store.account(ANN)
    attempt = account.attempt()
    account.append("INBOX", TWO, attempt)
    other = opened(tmp_path, 900)  # another worker opens the account meanwhile
    assert len(other.account(ANN).snapshot("INBOX").uids) == 2
    attempt.end()
    attempt.end()  # nothing is left to do
    other.close()
    store.close()
    assert not list(tmp_path.rglob(f"{ADDING}*"))


def test_who_was_held_for_dead_does_not_answer_for_what_is_gone(tmp_path: Path) -> None:
    """A process that nobody here can see, in a container of its own."""
    store = opened(tmp_path)
    account = store.account(ANN)
    account.append("INBOX", TWO)
    attempt = account.attempt()
    attempt.last = False
    account.append("INBOX", TWO, attempt)
    (file,) = tmp_path.rglob(f"{ADDING}*")
    lines = file.read_text().split("\n")
    lines[1] = "elsewhere 7 1 synced"
    file.write_text("\n".join(lines))
    other = opened(tmp_path, 900)
    assert list(other.account(ANN).snapshot("INBOX").uids) == [1, 2]
    with pytest.raises(StoreUnavailable, match="held for dead"):
        attempt.end()
    assert len(account.snapshot("INBOX").uids) == 2
    other.close()
    store.close()


def test_a_file_that_was_not_synced_means_nothing_after_a_new_start(tmp_path: Path) -> None:
    """Its removal may be what was lost."""
    store = opened(tmp_path)
    account = store.account(ANN)
    account.append("INBOX", TWO)
    path = account.attempt()
    account.append("INBOX", TWO, path)
    (file,) = tmp_path.rglob(f"{ADDING}*")
    lines = file.read_text().split("\n")
    lines[1] = "another 7 1"
    file.write_text("\n".join(lines))
    store.close()
    other = opened(tmp_path, 900)
    assert list(other.account(ANN).snapshot("INBOX").uids) == [1, 2, 3, 4]
    other.close()
    assert not list(tmp_path.rglob(f"{ADDING}*"))


@pytest.mark.parametrize("octets", [0, 5, 16, 17, 30])
def test_a_file_that_a_power_failure_cut_short_hinders_nobody(tmp_path: Path, octets: int) -> None:
    store = opened(tmp_path)
    account = store.account(ANN)
    account.append("INBOX", TWO, account.attempt())
    (file,) = tmp_path.rglob(f"{ADDING}*")
    store.close()
    file.write_text(f"{FIRST_LINE}\nanother 7 1\n"[:octets])
    other = opened(tmp_path, 900)
    assert list(other.account(ANN).snapshot("INBOX").uids) == [1, 2]
    other.close()
    assert not file.exists()


@pytest.mark.parametrize("act", ["copy", "append"])
def test_what_was_seen_after_its_commit_is_never_taken_away(tmp_path: Path, act: str) -> None:
    """Killed between the commit and the end: who has the account open shows the copies, and their owner removes the originals."""
    store = opened(tmp_path)
    worker = store.account(ANN)
    worker.create("b")
    worker.append("INBOX", TWO)
    child = os.fork()
    if not child:
        FileAttempt.end = lambda self: os._exit(9)  # type: ignore[method-assign]
        other = opened(tmp_path, 900).account(ANN)
        other.copy("INBOX", [1, 2], "b") if act == "copy" else other.append("b", TWO)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert list(tmp_path.rglob(f"{ADDING}*"))
    assert len(worker.snapshot("b").uids) == 2
    worker.set_flags("INBOX", [1, 2], "add", ("\\Deleted",))
    worker.expunge("INBOX", None)
    store.close()
    again = opened(tmp_path, 2000)
    assert len(again.account(ANN).snapshot("b").uids) == 2 and not list(tmp_path.rglob(f"{ADDING}*"))
    again.close()


def test_the_end_of_a_turn_that_was_broken_off_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes after a writer that died cannot take his work away: the next one does."""
    store = opened(tmp_path)
    store.account(ANN).append("INBOX", TWO)
    child = os.fork()
    if not child:
        Batch._insert = lambda *_: os._exit(9)  # type: ignore[method-assign]
        opened(tmp_path, 900).account(ANN).append("INBOX", TWO)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with monkeypatch.context() as broken:
        broken.setattr(core.attempt, "undo_dead", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises((OSError, StoreUnavailable)):
            store.account(ANN).append("INBOX", TWO[:1])
    assert list(tmp_path.rglob(f"{ADDING}*"))
    store.account(ANN).append("INBOX", TWO[:1])
    assert not list(tmp_path.rglob(f"{ADDING}*"))
    store.close()


def going(account: AccountStore, count: int = 5) -> Attempt:
    """A command whose first goes are over."""
    attempt = account.attempt()
    attempt.last = False
    for at in range(count):
        new = NewMessage(b"Subject: %d\r\n\r\n" % at, ("\\Seen",) if at % 2 else (), 1_700_000_000 + at)
        assert account.append("b", [new], attempt) == ()
    return attempt


def test_what_comes_in_several_goes_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    store = opened(tmp_path)
    account = store.account(ANN)
    account.create("b")
    account.append("b", TWO)
    attempt = going(account)
    other = opened(tmp_path, 900)  # another worker opens the account meanwhile
    assert list(other.account(ANN).snapshot("b").uids) == [1, 2]
    account.append("b", TWO)
    attempt.last = True
    assert [one.uid for one in account.append("b", TWO[:1], attempt)] == [5, 6, 7, 8, 9, 10]
    attempt.end()
    rows = other.account(ANN).rows("b", [5, 6, 9, 10])
    assert [(row.uid, row.flags, row.date) for row in rows[:3]] == [
        (5, 0, 1_700_000_000),
        (6, SEEN, 1_700_000_001),
        (9, 0, 1_700_000_004),
    ]
    assert [account.read("b", uid) for uid in (5, 9)] == [b"Subject: 0\r\n\r\n", b"Subject: 4\r\n\r\n"]
    other.close()
    store.close()
    assert not list(tmp_path.rglob(f"{ADDING}*")) and not list(tmp_path.rglob(f"{ASIDE}*"))


@pytest.mark.parametrize("last", [True, False])
def test_a_command_of_several_goes_may_end_with_nothing(tmp_path: Path, last: bool) -> None:
    """What was to come last is gone; or the command fails."""
    store = opened(tmp_path)
    account = store.account(ANN)
    account.create("b")
    attempt = going(account)
    if last:
        attempt.last = True
        assert [one.uid for one in account.append("b", (), attempt)] == [1, 2, 3, 4, 5]
    attempt.end()
    assert len(account.snapshot("b").uids) == 5 * last
    store.close()
    assert not list(tmp_path.rglob(f"{ADDING}*")) and not list(tmp_path.rglob(f"{ASIDE}*"))


def test_nobody_sees_a_part_of_what_a_killed_process_brought(tmp_path: Path) -> None:
    """He might remove the originals of it, and the part be taken away again."""
    store = opened(tmp_path)
    worker = store.account(ANN)
    worker.create("b")
    child = os.fork()
    if not child:
        going(opened(tmp_path, 900).account(ANN))
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = tmp_path.rglob(f"{ASIDE}*")
    assert len(list(left.iterdir())) == 5
    assert len(worker.snapshot("b").uids) == 0
    store.close()
    again = opened(tmp_path, 2000)
    assert len(again.account(ANN).snapshot("b").uids) == 0 and not left.exists()
    assert not list(tmp_path.rglob(f"{ADDING}*"))
    again.close()


def test_a_mailbox_that_goes_meanwhile(tmp_path: Path) -> None:
    store = opened(tmp_path)
    account = store.account(ANN)
    account.create("b")
    attempt = going(account)
    account.delete("b")
    attempt.last = True
    with pytest.raises(NoSuchMailbox):
        account.append("b", TWO, attempt)
    attempt.end()
    store.close()
    assert not list(tmp_path.rglob(f"{ADDING}*")) and not list(tmp_path.rglob(f"{ASIDE}*"))


def test_many_messages_at_once_need_few_descriptors(tmp_path: Path) -> None:
    store = opened(tmp_path)
    account = store.account(ANN)
    account.append("INBOX", TWO)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 200, hard))
    try:
        account.append("INBOX", TWO * 150)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(account.snapshot("INBOX").uids) == 302
    store.close()


def test_names_that_a_failed_copy_had_may_be_those_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the failed one left behind, for its end failed, too, takes nothing away."""
    store = opened(tmp_path)
    account = store.account(ANN)
    account.create("b")
    account.append("INBOX", TWO)
    broken = OSError(5, "broken")
    with monkeypatch.context() as patched:
        patched.setattr(_Transfer, "_commit", lambda *_: (_ for _ in ()).throw(broken))
        patched.setattr(FileAttempt, "end", lambda *_: (_ for _ in ()).throw(StoreUnavailable("broken")))
        with pytest.raises(StoreUnavailable, match="broken"):
            account.copy("INBOX", [1, 2], "b")
    (file,) = tmp_path.rglob(f"{ADDING}*")
    account.copy("INBOX", [1], "b")
    store.close()
    file.write_text(file.read_text().replace(f" {os.getpid()} ", " 4194304 "))
    again = opened(tmp_path, 900)
    assert len(again.account(ANN).snapshot("b").uids) == 1 and not file.exists()
    again.close()


def test_one_message_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    account = store.account(ANN)
    account.create("b")
    monkeypatch.setattr("filterd.store.attempt.FileAttempt.add", lambda *_: pytest.fail("a file was made"))
    account.append("INBOX", TWO[:1])
    account.copy("INBOX", [1], "b")
    store.close()


def test_nothing_is_left_of_a_copy_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    account = store.account(ANN)
    account.create("b")
    account.append("INBOX", TWO)
    monkeypatch.setattr(
        "filterd.store.transfer._Transfer._commit", lambda *_: (_ for _ in ()).throw(OSError(5, "broken"))
    )
    with pytest.raises(StoreUnavailable, match="broken"):
        account.copy("INBOX", [1, 2], "b")
    assert not list(tmp_path.rglob(f"{ADDING}*"))
    assert len(account.snapshot("b").uids) == 0
    store.close()
