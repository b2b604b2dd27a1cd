"""The POP3 maildrop: who has it, what is in it (RFC 1939 4: an exclusive lock for the whole session).

``MaildropLocks`` is the hook; ``FileLocks`` locks across all workers and processes of this host by flock on one small file
per account in a run-time directory; the file keeps the time of the last log-in as well, in decimal seconds (LOGIN-DELAY,
RFC 2449 6.5). IMAP sessions are not kept out: they cannot disturb message numbers, which are frozen when the maildrop is opened.

``SurrogateSizes`` knows the sizes of what clients get that did not say UTF8 (RFC 6856 2.1: LIST shall say what RETR brings). What
came since the last log-in is read, once; where that is much, of the older ones only those of which the index tells octets outside
ASCII, in a field that it keeps or in a part's parameters. The size of an old message that has them in an odd field alone is that
of the message as it is (RFC 6858 4 allows it).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from filterd.imap.render import NOT_CACHED, header_lines
from filterd.proto.pop3 import Maildrop
from filterd.servers.ports import Jobs
from filterd.store.base import DELETED, AccountStore, Facts, Snapshot, StoreUnavailable
from filterd.store.durable import Disk, Lock, opened
from pipeline.ports import Clock
from rules.mail import downgrade

INBOX = "INBOX"
AHEAD = 262_144  # octets read ahead for a client that fetches one message after the other
BLOCK = 1000  # rows asked for at once (store contract)
SMALL_BLOCK = 250  # of those whose messages may be read
EXACT_MESSAGES, EXACT_OCTETS = 1000, 1 << 25  # of a log-in, that are read for their size
ACCOUNTS_KNOWN = 1000  # sizes of surrogates kept


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


@dataclass(frozen=True, slots=True)
class _Looked:
    """``sizes`` of the surrogates among the messages up to ``last``: a message never changes under its UID."""

    uidvalidity: int
    last: int
    sizes: Mapping[int, int]


@dataclass(slots=True)
class SurrogateSizes:
    """Of one process."""

    _known: OrderedDict[str, _Looked] = field(default_factory=OrderedDict)

    async def applied(self, jobs: Jobs, account: str, drop: Maildrop) -> Maildrop:
        """``drop`` as it is for a client that did not say UTF8. Messages that came since the last time are looked at."""
        known = self._known.pop(account, None)
        if known is None or known.uidvalidity != drop.uidvalidity:
            known = _Looked(drop.uidvalidity, 0, {})
        begin, end = bisect_right(drop.uids, known.last), len(drop.uids)
        exact, octets = end, 0
        while exact > begin and end - exact < EXACT_MESSAGES and octets < EXACT_OCTETS:
            exact -= 1
            octets += drop.sizes[exact]
        found = dict(known.sizes)
        for first, behind, sizes_of in ((begin, exact, _sizes_by_index), (exact, end, _sizes)):
            for start in range(first, behind, SMALL_BLOCK):
                block = drop.uids[start : min(start + SMALL_BLOCK, behind)]
                found |= await jobs.run(account, partial(sizes_of, uids=block))
        places = {uid: place for place, uid in enumerate(drop.uids) if uid in found} if found else {}
        last = max(known.last, drop.uids[-1] if end else 0)
        self._known[account] = _Looked(drop.uidvalidity, last, {uid: found[uid] for uid in places})
        while len(self._known) > ACCOUNTS_KNOWN:
            self._known.popitem(last=False)
        if not places:
            return drop
        sizes = array("Q", drop.sizes)
        for uid, place in places.items():
            sizes[place] = found[uid]
        return replace(drop, sizes=sizes)


def _sizes(store: AccountStore, uids: Sequence[int]) -> dict[int, int]:
    """Of the surrogates of those that are not sent as they are."""
    found: dict[int, int] = {}
    for uid in uids:
        text = store.read(INBOX, uid)
        if text is not None and (made := downgrade.surrogate(text)) is not text:
            found[uid] = len(made)
    return found


def _sizes_by_index(store: AccountStore, uids: Sequence[int]) -> dict[int, int]:
    odd: list[int] = []
    for uid, structure, headers in store.fields(INBOX, uids, ("bodystructure", "headers")):
        assert isinstance(uid, int) and isinstance(structure, bytes) and isinstance(headers, bytes)
        if not structure.isascii() or headers == NOT_CACHED or not header_lines(headers).isascii():
            odd.append(uid)
    return _sizes(store, odd)


async def read_messages(
    jobs: Jobs, account: str, uids: Sequence[int], utf8: bool = True
) -> list[bytes | None]:
    """The first of ``uids``, and as many of the following ones as come below ``AHEAD`` octets; None for a lost one. Without
    ``utf8`` their surrogates."""

    def work(store: AccountStore) -> list[bytes | None]:
        texts = store.read_many(INBOX, uids, AHEAD)
        return texts if utf8 else [text and downgrade.surrogate(text) for text in texts]

    return await jobs.run(account, work)


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
