"""The process is killed before and after every durable step of a delivery, step by step: after recovery and the client's retry
everything that the script wanted has happened once, and what it remembers is remembered (HOUSE items 10, 11).

A child of ours delivers with the real queue and a real Maildir and dies at step N; a second one rolls forward what it finds,
takes the same message again (the client had no reply) and then another one with the same Message-ID.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from filterd.queue.journal import Journal
from filterd.queue.spool import GroupSpool
from filterd.store.base import AccountStore
from filterd.store.durable import RealDisk
from filterd.store.jobs import AccountJobs
from filterd.store.maildir import MaildirStore
from tests.house import DOMAIN, MAIL, House

ANN = f"ann@{DOMAIN}"
STEPS = ("write_new", "sync", "publish", "sync_dir", "committed", "unlink", "append")
MOST_STEPS = 400
KILLED = 9

# script -> (what leaves, what is stored by mailbox) in the end: of the message, its retry, and another one with the same id
SCRIPTS: dict[str, tuple[str, dict[str, int], dict[str, int]]] = {
    "redirect": (
        'require "duplicate"; if duplicate { discard; } else { redirect "x@elsewhere.example"; }',
        {"redirect": 1},
        {},
    ),
    "vacation": ('require "vacation"; discard; vacation "away";', {"vacation": 1}, {}),
    "discard": (
        'require ["duplicate", "fileinto", "mailbox"]; if not duplicate { discard; stop; } fileinto :create "Again";',
        {},
        {"Again": 1},
    ),
    "store": (
        'require ["duplicate", "fileinto", "mailbox"]; if duplicate { fileinto :create "Again"; }',
        {},
        {"INBOX": 1, "Again": 1},
    ),
    "store and send": (
        'require ["duplicate", "copy", "fileinto", "mailbox"];'
        'if duplicate { fileinto :create "Again"; } else { redirect :copy "x@elsewhere.example"; }',
        {"redirect": 1},
        {"INBOX": 1, "Again": 1},
    ),
}


class Home:
    """A reception with a real queue and a real store."""

    def __init__(self, root: Path, script: str) -> None:
        clock = SystemClock()
        self.root = root
        self.maildir = MaildirStore(
            root / "mail", "mx.example", "crlf", lambda account: 0, clock, SystemIds(), disk=RealDisk()
        )
        self.jobs = AccountJobs(self.maildir)
        self.spool = GroupSpool(root / "queue", clock)
        self.house = House(clock=clock, jobs=self.jobs, spool=self.spool)
        self.house.script("ann", script)

    def close(self) -> None:
        self.spool.close()
        self.jobs.close()
        self.maildir.close()

    async def send(self, data: bytes, acknowledged: bool) -> None:
        session = await self.house.session()
        replies = await self.house.send(ANN, session=session, data=data)
        assert [reply.code for reply in replies] == [250], replies
        if acknowledged:
            self.house.reception.acknowledged(session)
        self.house.reception.ended(session)

    async def roll_forward(self) -> None:
        """As the sending process does with what dead processes left, once the grace is over."""
        await self.spool.enqueue([])  # our own strikes are written
        journal = Journal(self.root / "queue")
        try:
            for name, _ in journal.pending_stores(self.house.clock.time() + 1e9):
                pending = journal.pending_store(name)
                if pending is None:  # struck out meanwhile
                    continue
                await self.house.delivery.performer.redo(pending)
                with journal.transaction():
                    journal.stores_done([name])
        finally:
            journal.close()

    async def found(self) -> tuple[dict[str, int], dict[str, int]]:
        """(what leaves by kind, messages by mailbox)."""

        def count(store: AccountStore) -> dict[str, int]:
            held = {info.name: len(store.snapshot(info.name).uids) for info in store.mailboxes()}
            return {name: number for name, number in held.items() if number}

        boxes = await self.jobs.run(ANN, count)
        leaves: dict[str, int] = {}
        journal = Journal(self.root / "queue")
        for item in journal.items():
            leaves[item.kind] = leaves.get(item.kind, 0) + 1
        journal.close()
        return leaves, boxes


def in_child(work: Callable[[], Coroutine[object, object, None]]) -> int:
    """The exit code; KILLED when it died at its step."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(work())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return KILLED if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def die_at(step: int) -> None:
    """Let this process end before (odd) or after (even) a durable step."""
    count = 0

    def wrapped(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **named)
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in STEPS:
        setattr(RealDisk, name, wrapped(getattr(RealDisk, name)))


async def first(root: Path, script: str, step: int) -> None:
    home = Home(root, script)
    die_at(step)
    await home.send(MAIL, acknowledged=False)
    home.spool.close()  # what was to be struck out is


async def second(root: Path, script: str, early: bool) -> None:
    home = Home(root, script)
    if early:
        await home.roll_forward()
    await home.send(MAIL, acknowledged=True)
    await home.roll_forward()
    await home.send(MAIL.replace(b"Hello", b"Hello again"), acknowledged=True)
    await home.roll_forward()
    (root / "found.json").write_text(json.dumps(await home.found()))
    home.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCRIPTS)
def test_killed_at_every_step_all_happens_once(kind: str, tmp_path: Path) -> None:
    script, leaves, boxes = SCRIPTS[kind]
    for step in range(1, MOST_STEPS):
        root = tmp_path / str(step)
        root.mkdir()
        (root / "mail").mkdir()
        killed = in_child(partial(first, root, script, step))
        assert killed in (0, KILLED), f"step {step}: the delivery itself failed"
        assert in_child(partial(second, root, script, step % 3 == 0)) == 0, (
            f"step {step}: the recovery failed"
        )
        assert json.loads((root / "found.json").read_text()) == [leaves, boxes], f"step {step}"
        if killed == 0:
            assert step > 4
            return
    raise AssertionError("it never ends")


def test_state_that_no_store_takes_along_is_part_of_the_record(tmp_path: Path) -> None:
    """The record alone brings it back."""
    (tmp_path / "mail").mkdir()
    script = SCRIPTS["redirect"][0]

    async def story() -> tuple[dict[str, int], dict[str, int]]:
        home = Home(tmp_path, script)
        broken = home.house.delivery.performer

        async def lost(change: object) -> None:
            raise asyncio.CancelledError  # as if the process had ended here

        broken.change = lost  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await home.send(MAIL, acknowledged=False)
        home.close()
        home = Home(tmp_path, script)
        await home.roll_forward()
        await home.send(MAIL.replace(b"Hello", b"Hello again"), acknowledged=True)
        found = await home.found()
        home.close()
        return found

    assert asyncio.run(story()) == ({"redirect": 1}, {})
