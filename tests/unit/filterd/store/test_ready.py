"""What is told on the loop is what a job would tell: never older than what another process has answered to its client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.ports import SystemClock
from filterd.store.base import AccountStore, NewMessage, Snapshot
from filterd.store.jobs import AccountJobs
from filterd.store.maildir import MaildirAccount, MaildirStore
from filterd.store.nowait import CachedOpen, read_cached
from filterd.store.ready import NotReady

ACCOUNT = "ann@example.org"
WORDS = b"Subject: some\r\n\r\nwords\r\n"
needs_kernel = pytest.mark.skipif(
    not hasattr(os, "RWF_NOWAIT"), reason="no preadv2 with RWF_NOWAIT: not Linux"
)


class Clock(SystemClock):
    """Stands still until told: a confirming look is due when we say so."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def real_clock() -> SystemClock:
    return Clock()


@pytest.fixture
def ann(new_store: Callable[[], MaildirStore]) -> MaildirAccount:
    account = new_store().account(ACCOUNT)
    account.append("INBOX", [NewMessage(WORDS + b"%d\r\n" % number) for number in range(5)])
    settle(account)
    return account


def settle(account: AccountStore) -> Snapshot:
    """The second look is the first that no confirming scan disturbs."""
    account.snapshot("INBOX")
    return account.snapshot("INBOX")


def still(account: MaildirAccount) -> bool:
    try:
        account.ready().snapshot("INBOX")
    except NotReady:
        return False
    return True


def test_nothing_before_the_first_job(new_store: Callable[[], MaildirStore]) -> None:
    account = new_store().account(ACCOUNT)
    assert not still(account)
    with pytest.raises(NotReady):
        account.ready().read("INBOX", 1)
    with pytest.raises(NotReady):
        account.ready().set_flags("INBOX", [1], "add", ["\\Seen"])


@needs_kernel
def test_the_same_snapshot(ann: MaildirAccount) -> None:
    assert ann.ready().snapshot("INBOX") is ann.snapshot("INBOX")


CHANGES: dict[str, Callable[[AccountStore], object]] = {
    "flags": lambda account: account.set_flags("INBOX", [2], "add", ["\\Seen"]),
    "keyword": lambda account: account.set_flags("INBOX", [2], "add", ["new"]),
    "append": lambda account: account.append("INBOX", [NewMessage(WORDS)]),
    "delivery": lambda account: account.deliver("INBOX", NewMessage(WORDS, key=b"k")),
    "move away": lambda account: (account.create("other"), account.move("INBOX", [1], "other")),
    "copy within": lambda account: account.copy("INBOX", [1], "INBOX"),
    "expunge": lambda account: (
        account.set_flags("INBOX", [3], "add", ["\\Deleted"]),
        account.expunge("INBOX"),
    ),
    "rename": lambda account: account.rename("INBOX", "elsewhere"),
}


@needs_kernel
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("other", [True, False], ids=["other process", "same process"])
def test_a_change_is_never_overlooked(
    ann: MaildirAccount, new_store: Callable[[], MaildirStore], change: str, other: bool
) -> None:
    assert still(ann)
    ann.status("INBOX")
    # another store has descriptors and caches of its own
    actor = new_store().account(ACCOUNT) if other else ann
    CHANGES[change](actor)
    for ask in (lambda ready: ready.snapshot("INBOX"), lambda ready: ready.status("INBOX")):
        try:
            told = ask(ann.ready())
        except NotReady:
            continue
        assert told in (ann.snapshot("INBOX"), ann.status("INBOX"))
    assert settle(actor).flags == settle(ann).flags
    assert still(ann)


@needs_kernel
def test_foreign_programs(ann: MaildirAccount, tmp_path: Path) -> None:
    inbox = tmp_path / "example.org" / "ann"
    (inbox / "new" / "1700000000.P1.outsider").write_bytes(WORDS)
    assert not still(ann)
    assert len(settle(ann).uids) == 6
    assert still(ann)
    name = next((inbox / "new").iterdir())
    name.rename(inbox / "cur" / f"{name.name}:2,F")
    assert not still(ann)


@needs_kernel
def test_a_confirming_look_is_due(ann: MaildirAccount) -> None:
    """A change by others may hide behind the mtime that our own change left."""
    ann.set_flags("INBOX", [1], "add", ["\\Flagged"])
    settle(ann)
    assert still(ann)
    Clock.now += 100
    try:
        assert not still(ann)
    finally:
        Clock.now -= 100


@needs_kernel
def test_while_somebody_holds_the_lock(ann: MaildirAccount, new_store: Callable[[], MaildirStore]) -> None:
    """And after he was killed holding it."""
    other = new_store().account(ACCOUNT)
    settle(other)
    with other._core.locked():
        assert not still(ann)
        ann.snapshot("INBOX")
        assert not still(ann), "no stamp under an odd turn"
    settle(ann)
    assert still(ann)
    other._core.lock.acquire(1)
    other._core.lock.begin_turn()
    other._core.lock.release()  # as the kernel does for the dead
    settle(ann)
    assert not still(ann)
    other.append("INBOX", [NewMessage(WORDS)])
    settle(ann)
    assert still(ann)


@needs_kernel
def test_texts(ann: MaildirAccount, tmp_path: Path) -> None:
    ready = ann.ready()
    with pytest.raises(NotReady):
        ready.read("INBOX", 2)
    assert ann.read_many("INBOX", [2], 1_000) == [WORDS + b"1\r\n"]
    assert ready.read("INBOX", 2) == WORDS + b"1\r\n"
    assert ready.read_many("INBOX", [1, 2, 3], 10_000) == [WORDS + b"%d\r\n" % number for number in range(3)]
    assert len(ready.read_many("INBOX", [1, 2, 3], 1)) == 1
    ann.set_flags("INBOX", [2], "add", ["\\Seen"])  # another name
    with pytest.raises(NotReady):
        ready.read("INBOX", 2)
    assert ready.read_many("INBOX", [1, 2], 10_000) == [WORDS + b"0\r\n"]
    ann.read_many("INBOX", [2], 1_000)
    assert ready.read("INBOX", 2) == WORDS + b"1\r\n"
    (path,) = [
        path for path in (tmp_path / "example.org" / "ann" / "cur").iterdir() if path.name.endswith(".2:2,S")
    ]
    path.write_bytes(WORDS + b"another\r\n")
    with pytest.raises(NotReady):
        ready.read("INBOX", 2)
    ann.set_flags("INBOX", [3], "add", ["\\Deleted"])
    ann.expunge("INBOX")
    with pytest.raises(NotReady):
        ready.read("INBOX", 3)


@needs_kernel
def test_nothing_opened_stays_open(ann: MaildirAccount) -> None:
    ann.read_many("INBOX", [1], 1_000)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        ann.ready().read("INBOX", 1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_cached_reads(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    opener = CachedOpen()
    try:
        assert opener(directory, "missing") == -1
        fd = opener(directory, "file")
        if fd >= 0:
            assert read_cached(fd, 4, 6) in (b"6789", None)
            assert read_cached(fd, 11) is None
            os.close(fd)
    finally:
        os.close(directory)


@needs_kernel
def test_jobs_and_the_loop_take_turns(new_store: Callable[[], MaildirStore]) -> None:
    """What is asked for at once waits for nothing, and gets nothing while a job has the account."""
    maildir = new_store()
    jobs = AccountJobs(maildir)

    async def main() -> None:
        def look(account: AccountStore) -> Snapshot:
            return account.snapshot("INBOX")

        async def free() -> None:
            while jobs.ready(ACCOUNT, look) is None:  # until the thread has let go of the account
                await asyncio.sleep(0.001)

        assert jobs.ready(ACCOUNT, look) is None  # not open
        await jobs.run(ACCOUNT, settle)
        await free()
        running = asyncio.ensure_future(jobs.run(ACCOUNT, look))
        await asyncio.sleep(0)
        assert jobs.ready(ACCOUNT, look) is None  # its lane is taken
        await running
        await free()
        with pytest.raises(ZeroDivisionError):
            jobs.ready(ACCOUNT, lambda account: 1 // 0)
        assert jobs.ready(ACCOUNT, look) is not None
        jobs.acknowledge(ACCOUNT, b"key")
        assert await jobs.run(ACCOUNT, look)

    try:
        asyncio.run(main())
    finally:
        jobs.close()


def test_what_comes_in_meanwhile_is_done_after_it(new_store: Callable[[], MaildirStore]) -> None:
    """Each of two accounts that are looked at one inside the other has its own lane, and a lane that got work is not used again."""
    maildir = new_store()
    jobs = AccountJobs(maildir)
    bob = "bob@example.org"

    async def main() -> None:
        def look(account: AccountStore) -> Snapshot:
            return account.snapshot("INBOX")

        async def free(name: str) -> None:
            while jobs.ready(name, look) is None:
                await asyncio.sleep(0.001)

        for name in (ACCOUNT, bob):
            await jobs.run(name, settle)
            await free(name)
        coming: list[asyncio.Future[Snapshot]] = []

        def inside(account: AccountStore) -> Snapshot | None:
            coming.append(asyncio.ensure_future(jobs.run(bob, look)))
            jobs.acknowledge(bob, b"key")
            return jobs.ready(ACCOUNT, look)

        assert jobs.ready(bob, inside) is not None
        assert await coming[0] is not None
        for name in (ACCOUNT, bob):
            await free(name)

    try:
        asyncio.run(asyncio.wait_for(main(), 20))
    finally:
        jobs.close()
