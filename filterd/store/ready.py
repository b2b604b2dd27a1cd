"""What an open account can tell at once, on the loop: no lock, no database, no disk, only what is in memory (HOUSE item 17).

A mailbox is *still* when nothing was changed since its snapshot was taken in this process:

* no process of ours has held the account's lock meanwhile: ``Lock.turn`` is the same even number that it was before the snapshot
  was read. Whoever changes the index holds the lock, and gives back a new turn before he answers his client: what one client
  was told, another one sees with its next command;
* no other program has moved the mtimes of ``new`` and ``cur``, and no confirming look is due (``rescan.refresh``).

The same rule as in the pool's thread, then, but for looking whether the index file itself was put aside: the next job notices.
File systems of a network may let even a stat wait: there nothing is ready.

A text is read from the file that a job has found in the index before (``FILES``); inode, size and mtime must still be those, so an
entry that is out of date costs a way through the pool and never gives a wrong text.

Everything else raises ``NotReady``, and the caller goes to the pool. The caller has the account for itself (``jobs``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

from filterd.store import facts, rowcache, views
from filterd.store.base import AccountStore, Facts, Field, HeaderTexts, MailboxInfo, Snapshot, Status
from filterd.store.nowait import CachedOpen
from filterd.store.record import CRLF_FORM, to_crlf

if TYPE_CHECKING:
    from filterd.store.core import Core

T = TypeVar("T")
LARGEST = 262_144  # octets of a text: 30 us of copying


class NotReady(Exception):
    """Only a job can tell."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An ``AccountStore`` as far as it goes."""

    core: Core
    seen: views.Views
    open_cached: CachedOpen

    def __getattr__(self, name: str) -> NoReturn:
        raise NotReady(name)

    def snapshot(self, mailbox: str) -> Snapshot:
        return self._still(self.seen.stamps.get(mailbox)).value

    def status(self, mailbox: str) -> Status:
        return self._still(self.seen.statuses.get(mailbox)).value

    def info(self, mailbox: str) -> MailboxInfo:
        return self._still(self.seen.statuses.get(mailbox)).info

    def _still(self, stamp: views.Stamp[T] | None) -> views.Stamp[T]:
        if stamp is None:
            raise NotReady("not seen yet")
        core = self.core
        folder = core.open_folder(stamp.id)
        if folder is None or core.lock.turn() != stamp.turn or folder.times() != stamp.times:
            raise NotReady("changed")
        if stamp.unsure and core.settings.clock.monotonic() >= core.confirm.get(stamp.id, 0.0):
            raise NotReady("look again")
        return stamp

    def facts(self, snapshot: Snapshot) -> Facts:
        found = facts.kept_facts(self.core, snapshot)
        if found is None:
            raise NotReady("facts")
        return found

    def header_texts(self, snapshot: Snapshot, name: bytes) -> HeaderTexts:
        found = facts.kept_header_texts(self.core, snapshot, name)
        if found is None:
            raise NotReady("header")
        return found

    def fields(self, mailbox: str, uids: Sequence[int], wanted: Sequence[str]) -> list[tuple[Field, ...]]:
        found = rowcache.kept_rows(self.core, self.snapshot(mailbox), uids, tuple(wanted))
        if found is None:
            raise NotReady("rows")
        return found

    def read(self, mailbox: str, uid: int) -> bytes:
        return self._text(mailbox, uid)

    def read_many(self, mailbox: str, uids: Sequence[int], octets: int) -> list[bytes]:
        texts: list[bytes] = []
        for uid in uids:
            try:
                texts.append(self._text(mailbox, uid))
            except NotReady:
                if not texts:
                    raise
                break
            octets -= len(texts[-1])
            if octets <= 0:
                break
        return texts

    def _text(self, mailbox: str, uid: int) -> bytes:
        stamp = self.seen.stamps.get(mailbox)
        if stamp is None:
            raise NotReady(mailbox)
        folder = self.core.open_folder(stamp.id)
        place = views.kept_place(self.core, folder.mid, uid) if folder is not None else None
        if folder is None or place is None or place.size > LARGEST:
            raise NotReady(mailbox)
        fd = self.open_cached(folder.place(place.fresh).fd, place.name)
        if fd < 0:
            raise NotReady(mailbox)
        try:
            found = os.fstat(fd)
            same = (found.st_ino, found.st_size, found.st_mtime_ns) == (place.inode, place.size, place.mtime)
            data = self.open_cached.read(fd, place.size) if same else None
        finally:
            os.close(fd)
        if data is None:
            raise NotReady(mailbox)
        return data if place.form == CRLF_FORM else to_crlf(data, place.form)


def ready(core: Core, kept: views.Views, opener: CachedOpen) -> AccountStore:
    """What is not there raises NotReady when it is called for."""
    return cast(AccountStore, Ready(core, kept, opener))
