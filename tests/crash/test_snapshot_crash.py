"""The power fails while a snapshot is written: what lies there then is the one before or the new one, whole.

Beside it the index is lost as well, which is what snapshots are for. A mutation (a sync left out) must turn it red.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from filterd.store.base import NewMessage, SieveState
from filterd.store.durable import RealDisk
from filterd.store.flags import names_of
from filterd.store.maildir import MaildirAccount
from filterd.store.snapshot_text import ACCOUNT_FILE, SNAPSHOT_FILE
from tests.crash.rig import Mutation, Node, RecordingDisk, Step, states, without
from tests.crash.story import open_account

WORDS = tuple(f"w{number}" for number in range(28))
ENTRY = "/private/comment"


@dataclass(frozen=True)
class Kept:
    """What was written for good: the number in METADATA, of the account and of INBOX, and memories."""

    number: int = 0
    keys: tuple[bytes, ...] = field(default=())


@pytest.fixture
def quick_path() -> Iterator[Path]:
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="filterd-crash-", dir=memory if memory.is_dir() else None))
    yield place
    shutil.rmtree(place)


def tell(root: Path) -> tuple[list[Step], Node]:
    disk = RecordingDisk(root)
    store, account = open_account(root, disk)
    assert isinstance(account, MaildirAccount)
    account.append("INBOX", [NewMessage(b"Subject: 1\r\n\r\nx\r\n")])
    keys: list[bytes] = []
    for number in range(1, 4):
        keys.append(bytes([number]) * 32)
        account.set_metadata(None, ENTRY, f"{number}")
        account.set_metadata("INBOX", ENTRY, f"{number} " + "long " * 100 * (4 - number))
        account.set_flags("INBOX", [1], "set", WORDS[: 25 + number])
        account.remember(SieveState({keys[-1]: 86_400}))
        account._snapshots.finish(9.0)
        disk.log.append(Step("answer", answer=Kept(number, tuple(keys))))
    store.close()
    return disk.log, disk.root


def failures(place: Path, mutation: Mutation | None = None) -> Iterator[str]:
    original, work = place / "original", place / "work"
    original.mkdir()
    log, root = tell(original)
    log = mutation(log) if mutation is not None else log
    for crash in states(log, root, per_prefix=16):
        kept = crash.answer if isinstance(crash.answer, Kept) else Kept()
        if work.exists():
            shutil.rmtree(work)
        work.mkdir()
        crash.materialise(work, original)
        for path in work.rglob("index.db*"):
            path.unlink()
        store, account = open_account(work, RealDisk(crash.boot))
        assert isinstance(account, MaildirAccount)
        try:
            pay(account, kept)
        except AssertionError as error:
            step = log[crash.prefix - 1]
            yield f"after step {crash.prefix} ({step.kind} {step.what}), {crash.how}: {str(error).splitlines()[0]}"
        finally:
            store.close()


def pay(account: MaildirAccount, kept: Kept) -> None:
    found = account.get_metadata(None, ENTRY) or "0"
    assert int(found) >= kept.number, (found, kept)
    assert "problems" not in account.rebuilt, account.rebuilt
    shown = account.snapshot("INBOX")
    assert "problems" not in account.rebuilt, account.rebuilt
    own = (account.get_metadata("INBOX", ENTRY) or "0").split(" ")[0]
    assert int(own) >= kept.number, (own, kept)
    assert all(account.remembered(key, 1_790_000_000.5) for key in kept.keys), kept
    if kept.number > 1:
        words = names_of(shown.flags[0], shown.keywords)
        assert set(WORDS[26 : 25 + kept.number]) <= set(words), (words, kept)


@pytest.mark.slow
def test_every_prefix_of_three_snapshots(quick_path: Path) -> None:
    assert next(failures(quick_path), None) is None


def is_snapshot(step: Step) -> bool:
    return step.node is not None and any(name in step.node.label for name in (ACCOUNT_FILE, SNAPSHOT_FILE))


def test_the_rig_sees_a_snapshot_that_is_not_synced(quick_path: Path) -> None:
    seen = next(failures(quick_path, without(lambda s: s.kind == "fsync" and is_snapshot(s))), None)
    assert seen is not None
    print(seen)


def test_the_rig_sees_a_name_that_is_not_synced(quick_path: Path) -> None:
    def mutate(log: list[Step]) -> list[Step]:
        out: list[Step] = []
        after = False
        for step in log:
            if not (step.kind == "syncdir" and after):
                out.append(step)
            after = step.kind == "change" and any(
                name in (ACCOUNT_FILE, SNAPSHOT_FILE) for _, name, _ in step.entries
            )
        return out

    seen = next(failures(quick_path, mutate), None)
    assert seen is not None
    print(seen)
