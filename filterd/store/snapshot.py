"""The text snapshots of an account (HOUSE item 12): written beside the mail now and then, read when an index is made anew.

Files are the truth of messages, system flags and the first 26 keywords; the index is that of the rest, and an index may be lost.
So what only it knows is kept as text as well (``snapshot_text``): further keywords, save dates that no file tells, METADATA, what
Sieve remembers. In an mbox account keywords and save dates are in the mail itself.

**Writing** is background work (``jobs``): SETTLE_SECONDS after a change, then at most once in INTERVAL_SECONDS and one part in
COST_FACTOR of the time; at closing too. Deliveries do not wait for it. Mailboxes that have nothing of the kind have no file. A
mailbox whose snapshot holds all has a key ``snap:<mailbox id>`` in ``meta``; it is removed before such a change, so that a process
that was killed leaves the work to the next one. The last part of each is done under the account's lock: two processes never write
an older state over a newer one. A file is replaced whole and synced; a crash leaves the old one or the new one.

**Reading.** A mailbox that is healed (``rescan.heal``) takes from its snapshot what its files do not tell: all of it when the
index knew less than the snapshot does (it is new, or has lost its tail), else only for the messages that healing has found.
Nothing is taken that a file or the index knows: a name's flags stay as they are, an entry that is there stays. One that cannot be
believed (damaged, of the future, of another mailbox) is put aside and said so. What was brought back is in ``meta`` (``rebuilt``)
and in the log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from filterd.store import durable
from filterd.store import flags as fl
from filterd.store.base import FIRST_KEYWORD_BIT, NoSuchMailbox, StoreError
from filterd.store.durable import Dir
from filterd.store.folder import read_small
from filterd.store.snapshot_text import (
    ACCOUNT_FILE,
    ACCOUNT_ID,
    SNAPSHOT_FILE,
    UNUSABLE,
    Runs,
    Snapshot,
    Unusable,
    add_uid,
    count_runs,
)

if TYPE_CHECKING:
    from filterd.store.core import Core
    from filterd.store.folder import Folder
    from filterd.store.index import MailboxRow, SqlValue

log = logging.getLogger("filterd.store")

SETTLE_SECONDS = 1.0
INTERVAL_SECONDS = 30.0
COST_FACTOR = 100
BLOCK = 5000  # messages looked at, or changed, at a time
KEY = "snap:"  # in meta
TRIED = "snapshot"  # in meta: an account's file was read
REBUILT = "rebuilt"  # in meta
MARK_OCTETS = (
    8  # of a delivery's mark among what is remembered: it ends with the delivery, an old one would do harm
)
MIN_BIT = 1 << (FIRST_KEYWORD_BIT + fl.LETTER_KEYWORDS)
_NAME_TELLS = (
    "savedate = case when cast(name as integer) > 0 then cast(name as integer) else mtime / 1000000000 end"
)


# -- writing --------------------------------------------------------------------------------------------------------------


class Snapshots:
    """Those of one open account. Used by whoever has the account, like it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pending: dict[str, None] = {}  # mailbox names; "" is the account
        self._looked = False
        self._after = 0.0  # not before then
        self._scanned: dict[str, int] = {}  # mailbox id -> all save dates below this UID are in its file
        self._work: tuple[str, Iterator[None]] | None = None

    def due(self) -> float | None:
        """Seconds until ``step`` has something to do; None: nothing."""
        if self._looked and not self._pending:
            return None
        if not self._after:
            self._after = self._now() + SETTLE_SECONDS
        return max(0.0, self._after - self._now())

    def changed(self, mailbox: str) -> None:
        """Before something changes that the snapshot of ``mailbox`` tells; "" for the account. Raises StoreError."""
        core = self._core
        key = ACCOUNT_ID
        if mailbox:
            row = core.box(mailbox)[1]
            mailbox, key = row.name, row.mid
        if mailbox in self._pending and not core.index.meta(KEY + key):
            return  # nor has another process written it since
        with core.locked(), core.index.transaction():
            core.index.execute("delete from meta where key=?", (KEY + key,))
        self._pending[mailbox] = None
        self._after = max(self._after, self._now() + SETTLE_SECONDS)

    def mail_changes(self, mailbox: str) -> None:
        """``changed``, when keywords or save dates are to change that the mail itself perhaps does not tell."""
        if in_files(self._core):
            self.changed(mailbox)

    def step(self, seconds: float) -> None:
        """Go on with what is due."""
        due = self.due()
        if due is not None and due <= 0.0:
            self._run(seconds)

    def finish(self, seconds: float) -> None:
        """All that waits, if it is done in this time; the rest is found by who opens the account next."""
        if self._looked or self._pending:
            self._run(seconds)

    def now(self, mailbox: str) -> None:
        """What must not wait: rights that were taken away must not come back. Behind the change."""
        for _ in self._mailbox(mailbox):
            pass
        self._pending.pop(mailbox, None)
        if self._work is not None and self._work[0] == mailbox:
            self._work = None

    def _now(self) -> float:
        return self._core.settings.clock.monotonic()

    def _run(self, seconds: float) -> None:
        if not os.fstat(self._core.root.fd).st_nlink:  # the account was removed under us
            self._pending.clear()
            self._looked = True
            return
        began = self._now()
        try:
            self._look()
            while self._pending and self._now() - began < seconds:
                if not self._write_next(began + seconds):
                    return
        except BaseException:
            self._work = None
            self._after = self._now() + INTERVAL_SECONDS
            raise
        self._after = self._now() + max(INTERVAL_SECONDS, COST_FACTOR * (self._now() - began))

    def _write_next(self, until: float) -> bool:
        """One of those that wait, or what was begun; False: not all of it until then."""
        if self._work is None:
            name = next(iter(self._pending))
            self._work = name, self._mailbox(name) if name else self._account()
        name, work = self._work
        try:
            for _ in work:
                if self._now() >= until:
                    return False
        except NoSuchMailbox:
            self._looked = False  # gone, or called otherwise now
        self._work = None
        self._pending.pop(name, None)
        return True

    def _look(self) -> None:
        """What others have left undone, processes that were killed or guests of this account: mailboxes without a key."""
        index = self._core.index
        good = {
            str(key) for (key,) in index.query("select key from meta where key>=? and key<'snap;'", (KEY,))
        }
        rows = index.mailboxes()
        self._pending.update({row.name: None for row in rows if KEY + row.mid not in good})
        if KEY + ACCOUNT_ID not in good:
            self._pending[""] = None
        gone = good - {KEY + row.mid for row in rows} - {KEY + ACCOUNT_ID}
        if gone:
            with self._core.locked(), index.transaction():
                index.execute_many("delete from meta where key=?", [(key,) for key in gone])
        self._looked = True

    def _account(self) -> Iterator[None]:
        with self._core.locked():
            write_account(self._core)
        yield

    def _mailbox(self, name: str) -> Iterator[None]:
        core = self._core
        folder, row = core.box(name)
        kept = _read(core, folder.top, SNAPSHOT_FILE, row.mid)
        saved, at = (kept.saved, kept.uidnext) if kept is not None else ({}, 1)
        if kept is not None:
            at = max(at, self._scanned.get(row.mid, 1))
            if sum(map(count_runs, saved.values())) > 2 * row.messages + BLOCK:
                saved, at = {}, 1  # mostly of messages that are gone
        saved = {date: list(runs) for date, runs in saved.items()}
        while in_files(core) and at < row.uidnext:
            at = _save_dates(core, row, at, saved)
            yield
        with core.locked():
            folder, now = core.box(name)
            if now.mid != row.mid:
                return
            while in_files(core) and at < now.uidnext:
                at = _save_dates(core, now, at, saved)
            made = _snapshot_of(core, now)
            made.saved = saved
            if in_files(core):
                made.keywords = _keywords(core, now)
            _write(core, folder.top, SNAPSHOT_FILE, made, kept)
            self._scanned[row.mid] = at


def in_files(core: Core) -> bool:
    """Does the mail itself lack keywords and save dates? Not that of an mbox."""
    return core.settings.layout.counts_sizes


def write_account(core: Core) -> None:
    """Under the lock."""
    index, now = core.index, core.settings.clock.time()
    kept = _read(core, core.root, ACCOUNT_FILE, ACCOUNT_ID)
    made = Snapshot(ACCOUNT_ID, int(now), int(index.meta("uidvalidity") or 0))
    made.metadata, made.rebuilt = _metadata(core, 0), index.meta(REBUILT)
    rows = index.query("select key, until from state where until>? and length(key)<>?", (now, MARK_OCTETS))
    made.remembered = {bytes(_octets(key)): float(round(float(until or 0))) for key, until in rows}
    _write(core, core.root, ACCOUNT_FILE, made, kept)


def _write(core: Core, at: Dir, name: str, made: Snapshot, kept: Snapshot | None) -> None:
    if (kept is None and not made.empty) or (kept is not None and not kept.says_the_same(made)):
        durable.replace_small(core.settings.disk, at, name, made.render())
        if made.omitted:
            log.warning("%s/%s is full: %d lines are not in it", at.path, name, made.omitted)
    with core.index.transaction():
        core.index.set_meta(KEY + made.id, "1")


def _snapshot_of(core: Core, row: MailboxRow) -> Snapshot:
    return Snapshot(
        row.mid, core.now(), row.uidvalidity, row.uidnext, row.modseq, metadata=_metadata(core, row.id)
    )


def _metadata(core: Core, mbox: int) -> dict[str, str]:
    rows = core.index.query("select name, value from metadata where mbox=?", (mbox,))
    return {str(name): str(value) for name, value in rows}


def _save_dates(core: Core, row: MailboxRow, at: int, saved: dict[int, Runs]) -> int:
    """Of the next BLOCK messages from the UID ``at`` on; the UID after them."""
    query = core.index.query
    last = query(
        "select uid from hot where mbox=? and uid>=? order by uid limit 1 offset ?", (row.id, at, BLOCK)
    )
    end = int(last[0][0] or 0) if last else row.uidnext
    rows = query(
        f"select uid, savedate from hot where mbox=? and uid>=? and uid<? and not ({_NAME_TELLS}) order by uid",
        (row.id, at, end),
    )
    for uid, date in rows:
        add_uid(saved.setdefault(int(date or 0), []), int(uid or 0))
    return end


def _keywords(core: Core, row: MailboxRow) -> dict[str, Runs]:
    """Those that have no letter."""
    words = row.keyword_list[fl.LETTER_KEYWORDS :]
    found: dict[str, Runs] = {}
    if words:
        rows = core.index.query(
            "select uid, flags from hot where mbox=? and flags>=? order by uid", (row.id, MIN_BIT)
        )
        for uid, flags in rows:
            mask = int(flags or 0) // MIN_BIT
            for number, word in enumerate(words):
                if mask >> number & 1:
                    add_uid(found.setdefault(word, []), int(uid or 0))
    return found


def _octets(value: SqlValue) -> bytes:
    return value if isinstance(value, bytes) else b""


def _read(core: Core, at: Dir, name: str, wanted: str) -> Snapshot | None:
    """Before it is written anew; one that cannot be believed is as good as none."""
    with contextlib.suppress(Unusable, OSError):
        data = read_small(at, name)
        found = Snapshot.parse(data, core.settings.clock.time()) if data is not None else None
        return found if found is not None and found.id == wanted else None
    return None


# -- reading --------------------------------------------------------------------------------------------------------------


def load(core: Core, at: Dir, name: str, wanted: str) -> Snapshot | None:
    """To take something from it; None: there is none, or none to be believed. Under the lock."""
    data = read_small(at, name)
    if data is None:
        return None
    try:
        found = Snapshot.parse(data, core.settings.clock.time())
        if found.id != wanted:
            raise Unusable("is of another mailbox")
    except Unusable as why:
        log.warning("%s/%s %s and is not used; it is kept as %s%s", at.path, name, why, name, UNUSABLE)
        _note(core, problem=f"{at.path}/{name} {why}")
        with contextlib.suppress(OSError):
            core.settings.disk.rename(at, name, at, name + UNUSABLE)
        return None
    return found


def restore_account(core: Core) -> None:
    """Once for an index that was just made. Under the lock."""
    index = core.index
    if index.meta(TRIED):
        return
    found = load(core, core.root, ACCOUNT_FILE, ACCOUNT_ID)
    with index.transaction(durable=found is not None):
        index.set_meta(TRIED, "1")
        if found is not None:
            if found.uidvalidity > int(index.meta("uidvalidity") or 0):
                index.set_meta("uidvalidity", str(found.uidvalidity))
            index.execute_many(
                "insert into state values(?, ?) on conflict(key) do update set until=max(until, excluded.until)",
                list(found.remembered.items()),
            )
            entries = _restore_metadata(core, 0, found)
    if found is None and index.created and any(row.stale for row in index.mailboxes()):
        _note(core)
        log.warning("%s: the index was made anew from the files; the account has no snapshot", core.account)
    elif found is not None:
        _note(core, made=found.made, annotations=entries, remembered=len(found.remembered))
        log.warning(
            "%s: the index was made anew; of the snapshot of %s: %d entries of METADATA, %d memories of Sieve",
            core.account, _day(found.made), entries, len(found.remembered),
        )  # fmt: skip
    if index.meta(REBUILT):
        write_account(core)


def numbers(core: Core, folder: Folder, row: MailboxRow) -> None:
    """Before a mailbox is healed: what was given out once stays behind us, even if the mailbox's own file is an old one."""
    noted = core.index.meta(REBUILT)
    found = load(core, folder.top, SNAPSHOT_FILE, row.mid)
    if found is not None and found.uidvalidity == row.uidvalidity:
        row.uidnext, row.modseq = max(row.uidnext, found.uidnext), max(row.modseq, found.modseq)
        folder.reserve(row, 0)
    if core.index.meta(REBUILT) != noted:  # it was not believed
        write_account(core)


def restore_mailbox(core: Core, folder: Folder, row: MailboxRow, before: int, begun: int) -> None:
    """At the end of healing, under the lock: ``before`` is the modseq that the index knew, ``begun`` that from which on healing has
    found messages. May be done twice."""
    found = load(core, folder.top, SNAPSHOT_FILE, row.mid)
    if found is None:  # one that was not believed was found so by ``numbers``
        return
    behind = before < found.modseq
    if not behind and row.modseq <= begun:
        return  # nothing was found that the index did not know
    entries = 0
    if behind and found.metadata:
        with core.index.transaction(durable=True):
            entries = _restore_metadata(core, row.id, found)
    changed = _restore_messages(core, folder, row, found, -1 if behind else begun) if in_files(core) else 0
    if changed or entries:
        _note(core, made=found.made, annotations=entries, messages=changed)
        log.warning(
            "%s, %s: of the snapshot of %s: keywords and save dates of %d messages, %d entries of METADATA",
            core.account, row.name, _day(found.made), changed, entries,
        )  # fmt: skip
        write_account(core)


def _restore_metadata(core: Core, mbox: int, found: Snapshot) -> int:
    """What is there stays. Inside a transaction."""
    return sum(
        core.index.execute("insert or ignore into metadata values(?, ?, ?)", (mbox, name, value))
        for name, value in found.metadata.items()
    )


def _restore_messages(core: Core, folder: Folder, row: MailboxRow, found: Snapshot, above: int) -> int:
    """Of those that came to the index after the modseq ``above``; how many there were."""
    known = {word.lower(): number for number, word in enumerate(row.keyword_list)}
    bits: dict[str, int] = {}
    for word in found.keywords:
        number = known.get(word.lower(), -1)
        if number >= fl.LETTER_KEYWORDS:  # one with a letter is the file's matter
            bits[word] = 1 << (FIRST_KEYWORD_BIT + number)
        elif number < 0:
            _note(core, problem=f"{row.name}: the keyword {word} is not known any more")
    folder.reserve(row, 0, 2)
    modseq = row.modseq + 1
    changed = 0
    rows = core.index.query(
        "select uid, flags, savedate, born from hot where mbox=? and born>? order by uid", (row.id, above)
    )
    marks = [
        _Cursor([(*run, bits[word]) for run in runs]) for word, runs in found.keywords.items() if word in bits
    ]
    dates = _Cursor([(*run, date) for date, runs in found.saved.items() for run in runs])
    block: list[tuple[int, int, int, int]] = []
    for uid_, flags_, date_, _ in rows:
        uid, flags, date = int(uid_ or 0), int(flags_ or 0), int(date_ or 0)
        mask = flags
        for cursor in marks:
            mask |= cursor.of(uid)
        saved = dates.of(uid) or date
        if (mask, saved) != (flags, date):
            block.append((mask, saved, modseq, uid))
    for at in range(0, len(block), BLOCK):
        row.modseq = modseq
        changed += len(block[at : at + BLOCK])
        with core.index.transaction():
            core.index.execute_many(
                "update hot set flags=?, savedate=?, modseq=? where mbox=? and uid=?",
                [(mask, saved, number, row.id, uid) for mask, saved, number, uid in block[at : at + BLOCK]],
            )
            core.index.save(row)
    return changed


class _Cursor:
    """What UIDs have, for who asks for ascending ones: (first, last, value), 0 between them."""

    def __init__(self, runs: list[tuple[int, int, int]]) -> None:
        self._runs = sorted(runs)
        self._at = 0

    def of(self, uid: int) -> int:
        while self._at < len(self._runs) and self._runs[self._at][1] < uid:
            self._at += 1
        if self._at == len(self._runs) or self._runs[self._at][0] > uid:
            return 0
        return self._runs[self._at][2]


def _note(core: Core, problem: str = "", made: int = 0, **counts: int) -> None:
    """For people: what came back, and what did not."""
    with contextlib.suppress(StoreError, ValueError):
        facts = json.loads(core.index.meta(REBUILT) or "{}")
        facts["at"] = core.now()
        if made:
            facts["snapshot"] = max(made, facts.get("snapshot", 0))
        for name, count in counts.items():
            facts[name] = facts.get(name, 0) + count
        if problem:
            facts["problems"] = [*facts.get("problems", [])[-9:], problem]
        with core.index.transaction():
            core.index.set_meta(REBUILT, json.dumps(facts))


def told(rebuilt: str) -> str:
    """What ``REBUILT`` says, for people; "" for nothing."""
    facts = json.loads(rebuilt or "{}")
    if not facts:
        return ""
    out = f"made anew {_day(facts['at'])}"
    if "snapshot" in facts:
        out += (
            f"; of the snapshot of {_day(facts['snapshot'])} came back: {facts.get('annotations', 0)} entries of METADATA,"
            f" {facts.get('remembered', 0)} memories of Sieve, keywords and save dates of {facts.get('messages', 0)} messages"
        )
    else:
        out += " from the files alone"
    return "; ".join([out, *(f"not used: {problem}" for problem in facts.get("problems", ()))])


def rebuilt_in(folder: str, now: float) -> str:
    """``REBUILT`` as the account's file in ``folder`` has it: asked without opening the index; "" when there is none."""
    with contextlib.suppress(OSError, Unusable), durable.opened(durable.RealDisk(), folder) as at:
        data = read_small(at, ACCOUNT_FILE)
        if data is not None:
            return Snapshot.parse(data, now).rebuilt
    return ""


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
