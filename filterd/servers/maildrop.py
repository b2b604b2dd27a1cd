"""The POP3 maildrop: who has it, what is in it (RFC 1939 4: an exclusive lock for the whole session).

``MaildropLocks`` is the hook; ``FileLocks`` locks across all workers and processes of this host by flock on one small file
per account in a run-time directory; the file keeps the time of the last log-in as well, in decimal seconds (LOGIN-DELAY,
RFC 2449 6.5). IMAP sessions are not kept out: they cannot disturb message numbers, which are frozen when the maildrop is opened.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from filterd.proto.pop3 import Maildrop
from filterd.servers.ports import Jobs
from filterd.store.base import DELETED, AccountStore, Facts, Snapshot, StoreUnavailable
from filterd.store.durable import Disk, Lock, opened
from pipeline.ports import Clock

INBOX = "INBOX"
AHEAD = 262_144  # octets read ahead for a client that fetches one message after the other
BLOCK = 1000  # rows asked for at once (store contract)


log = logging.getLogger("filterd.pop3")


class TooSoon(Exception):
    """The account's last log-in was less than the delay ago."""


class MaildropLocks(Protocol):
    async def acquire(self, account: str) -> Callable[[], None] | None:
        """The lock's release, or None when another session has it. TooSoon is raised for LOGIN-DELAY."""
        ...


class FileLocks(MaildropLocks):
    """``folder`` exists and belongs to us; files in it are never removed (a removed lock file locks nobody out).

    ``delay``: seconds between two log-ins of an account, told by ``clock``; 0 asks for none."""

    def __init__(self, disk: Disk, folder: str, clock: Clock | None = None, delay: int = 0) -> None:
        self._disk = disk
        self._folder = folder
        self._clock = clock
        self._delay = delay

    async def acquire(self, account: str) -> Callable[[], None] | None:
        return await asyncio.to_thread(self._acquire, account)

    def _acquire(self, account: str) -> Callable[[], None] | None:
        name = "pop3-" + hashlib.sha256(account.encode()).hexdigest()[:32]
        with opened(self._disk, self._folder) as at:
            lock = self._disk.open_lock(at, name)
        try:
            lock.acquire(0)
        except StoreUnavailable:
            lock.close()
            return None
        try:
            if self._clock is not None and self._delay and not self._begins(lock, int(self._clock.time())):
                lock.close()
                raise TooSoon
        except OSError as error:  # a full disk: who logs in may make room
            log.warning("when %s logged in cannot be noted: %s", account, error)
        return lock.close  # closing the descriptor lets the flock go

    def _begins(self, lock: Lock, now: int) -> bool:
        """Notes the log-in, unless it is too soon. A time in the future is a clock that was put back: it says nothing."""
        last = lock.note()
        if last.isdigit() and 0 <= now - int(last) < self._delay:
            return False
        lock.set_note(b"%d" % now)
        return True


class MemoryLocks(MaildropLocks):
    """Within one process (tests, a server of one worker)."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    async def acquire(self, account: str) -> Callable[[], None] | None:
        return self.take(account)

    def take(self, account: str) -> Callable[[], None] | None:
        if account in self._held:
            return None
        self._held.add(account)
        return lambda: self._held.discard(account)


async def open_maildrop(jobs: Jobs, account: str) -> Maildrop:
    """INBOX as it is now, in blocks so that no job holds the account long."""

    def look(store: AccountStore) -> tuple[Snapshot, Facts | None, Mapping[int, str]]:
        snapshot = store.snapshot(INBOX)
        return snapshot, store.facts(snapshot), store.uidls(INBOX)

    snapshot, facts, adopted = await jobs.run(account, look)
    if facts is not None:
        return Maildrop(snapshot.info.uidvalidity, snapshot.uids, facts.sizes, adopted)
    uids, sizes = array("I"), array("Q")
    for start in range(0, len(snapshot.uids), BLOCK):
        block = snapshot.uids[start : start + BLOCK]
        for row in await jobs.run(account, lambda store, block=block: store.rows(INBOX, block)):  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
            uids.append(row.uid)
            sizes.append(row.size)
    return Maildrop(snapshot.info.uidvalidity, uids, sizes, adopted)


async def read_messages(jobs: Jobs, account: str, uids: Sequence[int]) -> list[bytes | None]:
    """The first of ``uids``, and as many of the following ones as come below ``AHEAD`` octets; None for a lost one."""
    return await jobs.run(account, lambda store: store.read_many(INBOX, uids, AHEAD))


async def update(jobs: Jobs, account: str, deleted: list[int], seen: list[int]) -> bool:
    """Remove ``deleted`` and mark ``seen``, both UIDs, in one job; False when one of ``deleted`` is still there."""

    def work(store: AccountStore) -> bool:
        kept = sorted(set(seen) - set(deleted))
        if kept:
            store.set_flags(INBOX, kept, "add", ["\\Seen"])
        if not deleted:
            return True
        store.set_flags(INBOX, deleted, "add", ["\\Deleted"])
        store.expunge(INBOX, deleted)
        return not any(row.flags & DELETED for row in store.rows(INBOX, deleted[:BLOCK]))

    return await jobs.run(account, work)
