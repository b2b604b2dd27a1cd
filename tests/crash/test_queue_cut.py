"""The power fails at every point of the queue's log: what was promised is there with all its effects, the rest is not there at all.

SQLite runs with synchronous=FULL, so what ``commit`` returned from lies in the log; anything after it may be missing, cut short or
garbage. The log of a run is cut at every page boundary and in between, and each state is opened, rolled forward and looked at.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from filterd.queue.base import Outgoing, PendingStore
from filterd.queue.journal import BODY_IN_ROW, DATABASE, Journal
from filterd.store import durable
from filterd.store.base import NewMessage
from tests.queuelab import START, Lab

MESSAGES = 6
BIG = b"z" * (BODY_IN_ROW + 1)


class Recorder(durable.RealDisk):
    """Notes the order of the durable steps."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    def write_new(
        self, at: durable.Dir, data: bytes, mtime: int | None = None, temporary: durable.Dir | None = None
    ) -> durable.NewFile:
        self.steps.append("write")
        return super().write_new(at, data, mtime, temporary)

    def sync(self, file: durable.NewFile) -> None:
        self.steps.append("sync")
        super().sync(file)

    def publish(self, file: durable.NewFile, name: str) -> None:
        self.steps.append("publish")
        super().publish(file, name)

    def sync_dir(self, at: durable.Dir) -> None:
        self.steps.append("sync_dir")
        super().sync_dir(at)

    def committed(self, path: str, database: object, durable: bool) -> None:
        self.steps.append("commit")


def effects(number: int) -> tuple[list[Outgoing], list[PendingStore]]:
    """Two recipients that leave and two mailboxes, one text large."""
    data = BIG + b"%d" % number if number % 3 == 2 else b"text %d" % number
    leaving = [
        Outgoing(b"%d-%d" % (number, n), "a@us.example", f"m{number}-{n}@d1.example", data, "redirect")
        for n in range(2)
    ]
    stores = [
        PendingStore(
            "ann@us.example", f"Box{n}", NewMessage(data, key=b"s%d-%d" % (number, n)), trace=str(number)
        )
        for n in range(2)
    ]
    return leaving, stores


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def run(lab: Lab) -> list[int]:
    """Queue all messages; the size of the log after each commit."""
    journal = Journal(lab.queue)
    journal._db.execute("pragma wal_autocheckpoint=0")
    log = lab.queue / f"{DATABASE}-wal"
    sizes = [log.stat().st_size]
    for number in range(MESSAGES):
        with journal.transaction():
            journal.add(*effects(number), START)
        sizes.append(log.stat().st_size)
        if number % 2:  # completions ride along with later commits
            with journal.transaction():
                journal.acknowledge([b"%d-0" % number])
    shutil.copytree(lab.queue, lab.directory / "cut")
    journal.close()
    return sizes


def cuts(sizes: list[int], size: int) -> list[int]:
    rng = random.Random(7)
    pages = range(sizes[0], size, 8192 + 24)
    return sorted({*pages, *sizes, size, *(rng.randrange(sizes[0], size) for _ in range(40))})


def check(lab: Lab, state: Path, promised: int, whole: int) -> None:
    """``promised`` messages were answered 250; ``whole`` is how many the log can hold."""
    journal = Journal(state)
    items = journal.items()
    pending = [journal.pending_store(name) for name, _ in journal.pending_stores(START + 100, 1000)]
    seen = Counter(item.recipient.split("-")[0][1:] for item in items)
    stored = Counter(store.trace for store in pending if store is not None)
    assert promised <= len(seen) <= whole
    for number in range(len(seen)):
        leaving, stores = effects(number)
        assert seen[str(number)] == 2 and stored[str(number)] == 2
        assert {journal.body(i.body) for i in items if i.recipient.startswith(f"m{number}-")} == {
            leaving[0].data
        }
        assert [s.mailbox for s in pending if s is not None and s.trace == str(number)] == [
            s.mailbox for s in stores
        ]
    # the client that got no answer comes again; the one whose answer was lost, too
    with journal.transaction():
        again = [journal.add(*effects(number), START + 60) for number in range(MESSAGES)]
    assert len(again) == MESSAGES
    known = [item for item in journal.items() if "-1@" in item.recipient]
    assert Counter(item.recipient for item in known) == {
        f"m{number}-1@d1.example": 1 for number in range(MESSAGES)
    }
    journal.close()


@pytest.mark.slow
def test_every_cut_of_the_log(lab: Lab) -> None:
    sizes = run(lab)
    source, state = lab.directory / "cut", lab.directory / "state"
    log = (source / f"{DATABASE}-wal").read_bytes()
    (source / f"{DATABASE}-shm").unlink()
    for cut in cuts(sizes, len(log)):
        for tail in (b"", b"\0" * 9000, random.Random(cut).randbytes(9000)):
            shutil.rmtree(state, ignore_errors=True)
            shutil.copytree(source, state)
            (state / f"{DATABASE}-wal").write_bytes(log[:cut] + tail)
            promised = sum(size <= cut for size in sizes[1:])
            check(lab, state, promised, promised)


def test_a_large_text_is_on_the_disk_before_its_row(tmp_path: Path) -> None:
    disk = Recorder()
    journal = Journal(tmp_path / "queue", disk)
    disk.steps.clear()
    with journal.transaction():
        journal.add(*effects(2), START)
    assert disk.steps == ["write", "sync", "publish", "sync_dir", "commit"]
    journal.close()


def test_after_a_cut_everything_happens_exactly_once(lab: Lab) -> None:
    """Sent, stored, and nothing twice: from a few states to the end."""
    sizes = run(lab)
    log = (lab.directory / "cut" / f"{DATABASE}-wal").read_bytes()
    lab.live(1)
    for cut in (sizes[2], sizes[4] - 100, len(log)):
        promised = sum(size <= cut for size in sizes[1:])
        shutil.rmtree(lab.queue)
        shutil.copytree(lab.directory / "cut", lab.queue)
        (lab.queue / f"{DATABASE}-shm").unlink()
        (lab.queue / f"{DATABASE}-wal").write_bytes(log[:cut])
        lab.sink.taken.clear()
        lab.stored.clear()

        async def story(stores: int = 2 * promised) -> None:
            async with lab.sending() as sender:
                await lab.quiet(sender)
                await lab.later(sender, 31)
                await lab.until(lambda: len(lab.stored) == stores)

        asyncio.run(story())
        assert Counter(recipient for _, recipient, _ in lab.sink.taken) == {
            f"m{number}-{n}@d1.example": 1 for number in range(promised) for n in range(2)
        }
        keys = Counter(pending.message.key for pending in lab.stored)
        assert keys == {b"s%d-%d" % (number, n): 1 for number in range(promised) for n in range(2)}
        assert lab.states() == {"sent": 2 * promised}


def test_the_check_sees_effects_that_are_committed_apart(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the program that this file must turn red for."""
    whole = Journal.add

    def apart(self: Journal, outgoing: list[Outgoing], stores: list[PendingStore], now: float) -> object:
        added = whole(self, outgoing, (), now)
        self.commit()
        self.begin()
        added.stores = whole(self, (), stores, now).stores
        return added

    monkeypatch.setattr(Journal, "add", apart)
    with pytest.raises(AssertionError):
        test_every_cut_of_the_log(lab)
