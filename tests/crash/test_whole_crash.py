"""COPY and MULTIAPPEND of several messages, and copies between accounts in several goes: all of it or nothing, whatever is cut."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.imap import shared_change
from filterd.imap.shared import SharedStore
from filterd.imap.sharing import Sharing
from filterd.store import attempt, folder, mbox_tree, tree
from filterd.store.acl import ENTRY
from filterd.store.acl_guests import Guests
from filterd.store.acl_shares import MemoryShares, note
from filterd.store.base import NewMessage
from filterd.store.durable import Disk
from filterd.store.maildir import MaildirStore
from filterd.store.mbox import MboxStore
from tests.crash.rig import Mutation, QuickDisk, RecordingDisk, Step, states, without
from tests.crash.story import Counter, StillClock
from tests.crash.test_store_crash import quick_path

__all__ = ["quick_path"]

ANN, BOB = "ann@example.org", "bob@example.org"
MESSAGES = [NewMessage(b"Subject: %d\r\n\r\nbody\r\n" % at) for at in range(4)]


@pytest.fixture(autouse=True)
def all_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was at work in a state of the disk is no more, though it was this process."""
    monkeypatch.setattr(attempt, "is_alive", lambda disk, mark: False)
    monkeypatch.setattr(attempt, "SYNCED_FROM", 2)
    monkeypatch.setattr(folder, "BLOCK", 30)
    monkeypatch.setattr(tree, "BLOCK", 30)
    monkeypatch.setattr(mbox_tree, "BLOCK", 30)


def opened(root: Path, disk: Disk, ids: int = 0, kind: str = "maildir") -> MaildirStore:
    if kind == "mbox":
        return MboxStore(root, "h", lambda account: 0, StillClock(), Counter(ids), disk=disk)
    return MaildirStore(root, "h", "crlf", lambda account: 0, StillClock(), Counter(ids), disk=disk)


def appended(store: MaildirStore) -> None:
    store.account(ANN).append("b", MESSAGES)


def copied(store: MaildirStore) -> None:
    store.account(ANN).copy("INBOX", [1, 2, 3, 4], "b")


def to_another(store: MaildirStore, move: bool = False) -> None:
    """Ann copies from her INBOX to Bob's "b", two messages in one go; meanwhile Bob gets another one there."""
    bob = store.account(BOB)
    shares = MemoryShares()
    note(shares, BOB, bob)
    sharing = Sharing(Guests(store), shares)
    ann = SharedStore(sharing, ANN).enter(store.account(ANN))
    act = ann.move if move else ann.copy
    assert len(act("INBOX", [1, 2, 3, 4], f"user/{BOB}/b").uids) == 4


def moved_to_another(store: MaildirStore) -> None:
    to_another(store, move=True)


def recorded(place: Path, act: Callable[[MaildirStore], None], kind: str) -> RecordingDisk:
    place.mkdir()
    disk = RecordingDisk(place)
    store = opened(place, disk, kind=kind)
    for name in (ANN, BOB):
        account = store.account(name)
        account.create("b")
        account.append("b", [NewMessage(b"Subject: before\r\n\r\n")])
        account.status("b")
    bob = store.account(BOB)
    bob.set_metadata("b", ENTRY, f"{ANN}\tlri")
    store.account(ANN).append("INBOX", MESSAGES)
    store.account(ANN).status("INBOX")
    disk.log.append(Step("answer", answer="asked"))
    act(store)
    disk.log.append(Step("answer", answer="answered"))
    store.close()
    return disk


def count(store: MaildirStore, account: str, mailbox: str) -> int:
    return len(store.account(account).snapshot(mailbox).uids)


def failures(
    place: Path,
    act: Callable[[MaildirStore], None],
    mutation: Mutation | None = None,
    many: int = 5,
    kind: str = "maildir",
    parts: bool = False,
) -> list[str]:
    """``parts``: a power failure may leave some."""
    original, work = place / "original", place / "work"
    disk = recorded(original, act, kind)
    log = disk.log if mutation is None else mutation(disk.log)
    target = BOB if act in (to_another, moved_to_another) else ANN
    out = []
    for crash in states(log, disk.root, per_prefix=many):
        if crash.answer not in ("asked", "answered"):
            continue
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        crash.materialise(work, original)
        store = opened(work, QuickDisk(boot=crash.boot), 1_000_000, kind)
        came = count(store, target, "b")
        stayed = count(store, ANN, "INBOX")
        left = list(
            (work / target.partition("@")[2] / target.partition("@")[0] / ".filterd").glob("adding.*")
        )
        store.close()
        may = (5,) if crash.answer == "answered" else (1, 5)
        if crash.boot != "first" and parts and crash.answer == "asked":
            may = (1, 2, 3, 4, 5)
        good = came in may
        kept = stayed == 4 or (act is moved_to_another and came == 5)
        if not good or not kept or left:
            last = log[crash.prefix - 1]
            out.append(f"after {crash.prefix} ({last.kind} {last.what}), {crash.how}: {came} {stayed} {left}")
    return out


@pytest.mark.parametrize("act", [appended, copied, to_another, moved_to_another])
def test_all_or_nothing(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[MaildirStore], None]
) -> None:
    monkeypatch.setattr(shared_change, "_OCTETS", 50)  # two messages
    found = failures(quick_path, act)
    assert not found, f"{len(found)}\n" + "\n".join(found[:8])


@pytest.mark.parametrize("act", [appended, copied])
def test_all_or_nothing_in_mbox_files(quick_path: Path, act: Callable[[MaildirStore], None]) -> None:
    found = failures(quick_path, act, kind="mbox")
    assert not found, f"{len(found)}\n" + "\n".join(found[:8])


def test_the_rig_sees_marks_that_are_not_synced(quick_path: Path) -> None:
    def last_sync(log: list[Step]) -> list[Step]:
        at = max(at for at, step in enumerate(log) if step.kind == "fsync" and step.node.label == "b")  # type: ignore[union-attr]
        return log[:at] + log[at + 1 :]

    assert failures(quick_path, copied, last_sync, 60, "mbox")


@pytest.mark.parametrize("act", [appended, copied])
def test_a_few_messages_when_a_process_is_killed(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[MaildirStore], None]
) -> None:
    monkeypatch.setattr(attempt, "SYNCED_FROM", 500)
    found = failures(quick_path, act, parts=True)
    assert not found, f"{len(found)}\n" + "\n".join(found[:8])


def of_attempts(kind: str) -> Callable[[Step], bool]:
    return lambda step: (
        step.kind == "change"
        and any(
            name.startswith("adding.") and (node is None) == (kind == "unlink")
            for _, name, node in step.entries
        )
    )


@pytest.mark.parametrize("kind", ["rename", "unlink"])
def test_the_rig_sees_a_part(quick_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Without the file a part stays; with one that is never removed, what was answered goes."""
    monkeypatch.setattr(shared_change, "_OCTETS", 50)
    assert failures(quick_path, to_another, without(of_attempts(kind)))
