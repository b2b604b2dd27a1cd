"""The power fails, or the process is killed, at every step of ``store convert``: it is run again, and all is there once."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.store.base import NewMessage, SieveState, StoreUnavailable
from filterd.store.choice import ChosenStore, format_of
from filterd.store.convert import convert
from filterd.store.durable import Disk
from filterd.store.maildir import MaildirStore
from filterd.store.mbox import MboxStore
from filterd.store.mbox_tree import MboxSettings
from tests.crash.rig import Mutation, QuickDisk, RecordingDisk, Step, states, without
from tests.crash.story import ACCOUNT, Counter, StillClock
from tests.crash.test_store_crash import quick_path

__all__ = ["quick_path"]

LATE = b"Subject: late\r\n\r\nlate\r\n"
FROM = b"From bob@example.net Mon Nov 23 10:36:28 2026\n"
Seen = dict[str, list[tuple[int, int, bytes]]]


def opened(root: Path, disk: Disk, default: str, spool: bool, ids: int = 0) -> ChosenStore:
    clock, numbers = StillClock(), Counter(ids)
    settings = MboxSettings(inbox=f"{root}/%{{user}}.spool" if spool else "")
    maildir = MaildirStore(root, "h", "crlf", lambda account: 0, clock, numbers, disk=disk)
    mbox = MboxStore(root, "h", lambda account: 0, clock, numbers, settings, disk=disk)
    return ChosenStore(maildir, mbox, default)


def look(store: ChosenStore) -> Seen:
    account = store.account(ACCOUNT)
    seen: Seen = {}
    for info in account.mailboxes():
        view = account.snapshot(info.name)
        texts = [account.read(info.name, uid) or b"" for uid in view.uids]
        seen[info.name] = list(zip(view.uids, view.flags, texts, strict=True))
    return seen


def recorded(place: Path, to: str, spool: bool) -> tuple[RecordingDisk, Seen]:
    """An account with some mail that is converted while the disk records."""
    place.mkdir()
    disk = RecordingDisk(place)
    store = opened(place, disk, "maildir" if to == "mbox" else "mbox", spool)
    account = store.account(ACCOUNT)
    account.create("Work")
    account.append("INBOX", [NewMessage(b"Subject: %d\r\n\r\nbody\r\n" % at, ("\\Seen",)) for at in range(3)])
    account.append("Work", [NewMessage(b"Subject: work\r\n\r\nbody\r\n", ("$Label",))])
    account.set_metadata("Work", "/private/comment", "mine")
    account.remember(SieveState({b"vacation": 1_800_000_000}))
    before = look(store)
    disk.log.append(Step("answer", answer="converting"))
    convert(store, ACCOUNT, to)
    assert look(store) == before
    store.close()
    return disk, before


def put_in(root: Path, to: str) -> bool:
    """Another program, which knows nothing of all this."""
    account = root / "example.org/ann"
    decided = format_of(str(account)) == to
    spool = root / "ann.spool"
    if to == "mbox" and (account / "new").is_dir():
        (account / "new/1.late").write_bytes(LATE)
        return True
    if to == "maildir" and spool.exists() and spool.stat().st_size:
        with spool.open("ab") as file:
            file.write(FROM + LATE.replace(b"\r\n", b"\n") + b"\n")
        return True
    if to == "maildir" and decided and (account / "mail/Work").exists():
        with (account / "mail/Work").open("ab") as file:
            file.write(FROM + LATE.replace(b"\r\n", b"\n") + b"\n")
        return True
    return False


def run(store: ChosenStore, to: str) -> None:
    try:
        for _ in range(3):
            with contextlib.suppress(
                StoreUnavailable
            ):  # the files have other inodes here: they are read anew
                convert(store, ACCOUNT, to)
    except ValueError as error:
        assert str(error).endswith("already")


def failures(
    place: Path,
    to: str,
    spool: bool,
    late: bool,
    mutation: Mutation | None = None,
    many: int = 2,
    every: int = 7,
) -> Iterator[str]:
    original, work = place / "original", place / "work"
    disk, before = recorded(original, to, spool)
    texts = sorted(text for rows in before.values() for _, _, text in rows)
    log = disk.log if mutation is None else mutation(disk.log)
    for crash in states(log, disk.root, per_prefix=many, every=every):
        if crash.answer != "converting":
            continue
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        crash.materialise(work, original)
        came = late and put_in(work, to)
        what = f"after step {crash.prefix} ({log[crash.prefix - 1].kind} {log[crash.prefix - 1].what}), {crash.how}"
        store = opened(work, QuickDisk(boot=crash.boot), "maildir", spool, 1_000_000)
        try:
            run(store, to)
            now = look(store)
            account = store.account(ACCOUNT)
            kept = account.get_metadata("Work", "/private/comment") == "mine"
            kept = kept and account.remembered(b"vacation", 1_790_000_000)
        except Exception as error:
            yield f"{what}: {error!r}"
            continue
        finally:
            store.close()
        found = sorted(text for rows in now.values() for _, _, text in rows)
        wrong = found != sorted([*texts, LATE] if came else texts) or not kept
        moved = any(row not in now[name] for name, rows in before.items() for row in rows)
        if wrong or moved or format_of(str(work / "example.org/ann")) != to:
            yield f"{what}: {kept} {now}"


@pytest.mark.parametrize("late", [False, True], ids=["alone", "others deliver"])
@pytest.mark.parametrize("spool", [False, True], ids=["inbox", "spool"])
@pytest.mark.parametrize("to", ["mbox", "maildir"])
def test_a_conversion_that_was_cut_short_is_run_again(
    quick_path: Path, to: str, spool: bool, late: bool
) -> None:
    found = list(failures(quick_path, to, spool, late))
    assert not found, f"{len(found)}\n" + "\n".join(found[:6])


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["alone", "others deliver"])
@pytest.mark.parametrize("spool", [False, True], ids=["inbox", "spool"])
@pytest.mark.parametrize("to", ["mbox", "maildir"])
def test_whatever_the_disk_has_kept(quick_path: Path, to: str, spool: bool, late: bool) -> None:
    found = list(failures(quick_path, to, spool, late, many=6, every=1))
    assert not found, f"{len(found)}\n" + "\n".join(found[:6])


@pytest.mark.slow
def test_the_rig_sees_a_spool_without_its_journal(quick_path: Path) -> None:
    def journal(step: Step) -> bool:
        return step.kind == "change" and any(name == "journal" for _, name, _ in step.entries)

    assert next(failures(quick_path, "mbox", True, False, without(journal), every=1), None)
