"""What a person's moves and flags by IMAP teach: a recorder of ``filterd.imap.events``.

Into Junk (APPEND, COPY, MOVE) is spam; out of Junk into anything but Trash is ham. ``$Junk`` is spam, ``$NotJunk`` is ham
(``Junk``, ``NonJunk`` and ``NotJunk`` mean the same), on messages that are appended too; taking either away forgets the
message. Moves into Trash and expunging
teach nothing, nor does what deliveries and scripts store: they cause no events.

The lesson is in the journal, on disk, before the command is answered; a failure to write it is logged and never fails the
command. Small sets keep their texts, so that a message may be expunged at once; of large ones only the places are noted.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from filterd.imap.events import APPEND, FLAG, MailboxEvent, flag_names
from filterd.learning.journal import Journal, journal_path
from filterd.learning.lesson import HAM, NONE, SPAM
from filterd.store.base import SYSTEM_FLAGS, AccountStore, NoSuchMailbox
from pipeline.ports import Clock

log = logging.getLogger("filterd.learning")

JUNK, TRASH = "\\Junk", "\\Trash"
NAMES: Final = {JUNK: ("junk", "spam"), TRASH: ("trash",)}  # of mailboxes without a special use
SPAM_FLAGS: Final = frozenset(("$junk", "junk"))
HAM_FLAGS: Final = frozenset(("$notjunk", "notjunk", "nonjunk"))
TEXTS: Final = 64  # messages of one event whose texts are kept
OCTETS: Final = 4 << 20  # of these texts together


class MoveRecorder:
    """One a process; ``record`` is called by the threads of the accounts."""

    def __init__(self, data_dir: Path, engines: Sequence[str], clock: Clock, max_size: int) -> None:
        self._path = journal_path(data_dir)
        self._engines, self._clock, self._max_size = tuple(engines), clock, max_size
        self._journal: Journal | None = None
        self._lock = threading.Lock()

    def wants_flags(self, names: Sequence[str]) -> bool:
        """Do any of these flags teach?"""
        return any(name.lower() in SPAM_FLAGS or name.lower() in HAM_FLAGS for name in names)

    def record(self, store: AccountStore, event: MailboxEvent) -> None:
        """In the account's job, when the change is done."""
        for kind, uids in lessons(store, event).items():
            try:
                self._note(store, event, kind, uids)
            except (sqlite3.Error, OSError) as error:
                log.error("%s: what moved in %s is not learned: %s", event.account, event.mailbox, error)

    def close(self) -> None:
        with self._lock:
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    def _note(self, store: AccountStore, event: MailboxEvent, kind: str, uids: Sequence[int]) -> None:
        texts: list[bytes] = []
        octets = at = 0
        while len(uids) <= TEXTS and at < len(uids) and octets < OCTETS:
            data = store.read(event.mailbox, uids[at])
            at += 1
            if data is not None and len(data) <= self._max_size:
                texts.append(data)
                octets += len(data)
        now = self._clock.time()
        with self._lock:
            journal = self._journal = self._journal or Journal(self._path)
            if texts:
                journal.note(event.account, kind, texts, self._engines, now)
            if uids[at:]:
                journal.note_places(event.account, kind, event.mailbox, uids[at:], now)


def lessons(store: AccountStore, event: MailboxEvent) -> dict[str, list[int]]:
    """UIDs (in ``event.mailbox``) by what they teach."""
    if event.cause == FLAG:
        out: dict[str, list[int]] = {}
        for uid in event.uids:
            kind = _by_flags(event.added.get(uid, ()), event.removed.get(uid, ()))
            if kind:
                out.setdefault(kind, []).append(uid)
        return out
    into = _use(store, event.mailbox)
    came_from = _use(store, event.source) if event.cause != APPEND else ""
    if into == JUNK and came_from != JUNK:
        return {SPAM: list(event.uids)}
    if event.cause == APPEND:
        return _flagged(store, event)
    if came_from == JUNK and into not in (JUNK, TRASH):
        return {HAM: list(event.uids)}
    return {}


def _flagged(store: AccountStore, event: MailboxEvent) -> dict[str, list[int]]:
    """What the flags say that messages were appended with."""
    snapshot = store.snapshot(event.mailbox)
    names = (*SYSTEM_FLAGS, *snapshot.keywords)
    out: dict[str, list[int]] = {}
    if not any(name.lower() in SPAM_FLAGS or name.lower() in HAM_FLAGS for name in snapshot.keywords):
        return out
    for uid in event.uids:
        at = bisect_left(snapshot.uids, uid)
        if at < len(snapshot.uids) and snapshot.uids[at] == uid:
            kind = _by_flags(flag_names(snapshot.flags[at], names), ())
            if kind:
                out.setdefault(kind, []).append(uid)
    return out


def _by_flags(added: Sequence[str], removed: Sequence[str]) -> str:
    new, old = {name.lower() for name in added}, {name.lower() for name in removed}
    if new & SPAM_FLAGS:
        return SPAM
    if new & HAM_FLAGS:
        return HAM
    return NONE if old & (SPAM_FLAGS | HAM_FLAGS) else ""


def _use(store: AccountStore, mailbox: str) -> str:
    """JUNK, TRASH or "": by the special use of the mailbox or of one above it, else by the name at the top."""
    name = mailbox
    while name:
        try:
            use = store.info(name).special_use
        except NoSuchMailbox:
            use = ""
        for one in (JUNK, TRASH):
            if use.lower() == one.lower() or ("/" not in name and not use and name.lower() in NAMES[one]):
                return one
        name = name.rpartition("/")[0]
    return ""
