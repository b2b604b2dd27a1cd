"""The POP3 maildrop: who has it, what is in it (RFC 1939 4: an exclusive lock for the whole session).

``MaildropLocks`` is the hook; ``FileLocks`` locks across all workers and processes of this host by flock on one small file
per account in a run-time directory. IMAP sessions are not kept out: they cannot disturb message numbers, which are frozen
when the maildrop is opened.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from filterd.proto.pop3 import Maildrop
from filterd.servers.ports import Jobs
from filterd.store.base import DELETED, AccountStore, Facts, Snapshot, StoreUnavailable
from filterd.store.durable import Disk, opened

INBOX = "INBOX"
AHEAD = 262_144  # octets read ahead for a client that fetches one message after the other
BLOCK = 1000  # rows asked for at once (store contract)


class MaildropLocks(Protocol):
    async def acquire(self, account: str) -> Callable[[], None] | None:
        """The lock's release, or None when another session has it."""
        ...


class FileLocks(MaildropLocks):
    """``folder`` exists and belongs to us; files in it are never removed (a removed lock file locks nobody out)."""

    def __init__(self, disk: Disk, folder: str) -> None:
        self._disk = disk
        self._folder = folder

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
        return lock.close  # closing the descriptor lets the flock go


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
