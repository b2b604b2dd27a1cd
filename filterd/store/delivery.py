"""New messages into a Maildir account: deliveries and APPEND, many at a time. This is the hot path.

Order (each step may be the last one before the power fails):

1. every message is rendered, written without a name and synced; nobody waits for this; of a command that brings many, each is
   put aside then (``attempt``), so that it needs no descriptor;
2. under the lock: known delivery keys are answered, quota is checked, UIDs come out of the durably reserved block;
3. the lock file notes the mailboxes; the files get their names, which carry UID and delivery key; one sync a directory;
4. one index transaction: rows, keys, Sieve state, counters; the note is wiped; the lock is let go of; then the answer.

A single store needs no other commit record: the name is the commit (HOUSE item 10). After step 3 a power failure may lose the
index's part; healing brings back rows, UIDs and unacknowledged keys from the names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.store import flags as fl
from filterd.store import intake, quota
from filterd.store.attempt import FileAttempt
from filterd.store.base import Attempt, NewMessage, SieveState, Stored, StoreError, StoreUnavailable
from filterd.store.core import touched
from filterd.store.durable import NewFile
from filterd.store.folder import Folder
from filterd.store.index import Cold, HotRow, MailboxRow
from filterd.store.record import Record, render, to_crlf, to_disk
from filterd.store.record import fingerprint as fingerprint  # also asked for here

if TYPE_CHECKING:
    from filterd.store.core import Core

KEY_LIFE = 86_400
FORGET_EVERY = 256  # deliveries
MAX_BATCH = 128  # open descriptors

Item = tuple[str, NewMessage, SieveState | None]


@dataclass(slots=True)
class Draft:
    """A message on its way. ``at`` is its place in the batch."""

    at: int
    folder: Folder
    message: NewMessage
    state: SieveState | None
    record: Record
    form: int
    file: NewFile
    date: int
    fresh: int
    key: bytes
    mask: int = 0
    uid: int = 0
    name: str = ""
    aside: str = ""  # its name in the attempt's directory


def store_many(core: Core, items: Sequence[Item], kind: type[Batch]) -> list[Stored | StoreError]:
    """Each its own result."""
    results: list[Stored | StoreError] = []
    for at in range(0, len(items), MAX_BATCH):
        results += kind(core, items[at : at + MAX_BATCH], whole=False).run()
    return results


def store_all(
    core: Core,
    mailbox: str,
    messages: Sequence[NewMessage],
    kind: type[Batch],
    part_of: Attempt | None = None,
) -> tuple[Stored, ...]:
    """All or none; keys play no part. Of a command in several goes, the last one returns the messages of all, in their order."""
    attempt = part_of if isinstance(part_of, FileAttempt) else None
    if attempt is None:
        attempt = FileAttempt.of(core, len(messages))
    batch = kind(core, [(mailbox, message, None) for message in messages], whole=True)
    batch.take_part(attempt, mailbox)
    try:
        stored = []
        for result in batch.run():
            if isinstance(result, StoreError):
                raise result
            stored.append(result)
    except BaseException:
        if attempt is not None and attempt is not part_of:
            with contextlib.suppress(StoreError):
                attempt.end()
        raise
    if attempt is not None and attempt is not part_of:
        attempt.end()
    return tuple(stored)


class Batch:
    """Some messages on their way into a Maildir account; another layout overrides how they are written. ``puts_aside``: it can
    write messages long before they come into the mailbox."""

    puts_aside = True

    def __init__(self, core: Core, items: Sequence[Item], whole: bool) -> None:
        self.core = core
        self.disk = core.settings.disk
        self.items = items
        self.whole = whole
        self.attempt: FileAttempt | None = None
        self._aside: FileAttempt | None = None  # where what is written waits
        self.mailbox = ""  # of those that were put aside
        self.results: list[Stored | StoreError | None] = [None] * len(items)
        self.drafts: list[Draft] = []
        self.rows: dict[int, MailboxRow] = {}
        self.seconds, fraction = divmod(core.settings.clock.time(), 1)
        self.micros = int(fraction * 1_000_000)

    def take_part(self, attempt: FileAttempt | None, mailbox: str) -> None:
        """In a command for this mailbox that may have begun before and may go on."""
        self.attempt, self.mailbox = attempt, mailbox
        if attempt is not None and self.puts_aside:
            if len(self.items) > MAX_BATCH or attempt.drafts or not attempt.last:
                self._aside = attempt

    def run(self) -> list[Stored | StoreError]:
        try:
            self._write()
            if self._aside is not None and not self._all_there(self._aside):
                return []
            if self.drafts:
                with self.core.locked():
                    self._commit()
        finally:
            for draft in self.drafts:
                self.disk.discard(draft.file)
        return [result if result is not None else StoreUnavailable("not stored") for result in self.results]

    # -- step 1 -----------------------------------------------------------------------------------------------------------
    def _write(self) -> None:
        folders: dict[str, Folder] = {}
        for at, (mailbox, message, state) in enumerate(self.items):
            try:
                folder = folders.get(mailbox)
                if folder is None:
                    folder = folders[mailbox] = self.core.box(mailbox)[0]
                self.drafts.append(self._draft(at, folder, message, state))
            except StoreError as error:
                self._refuse(at, error)
            except OSError as error:
                self.core.failed(error)
                failure = StoreUnavailable(f"store: {error.strerror or error}")
                failure.__cause__ = error
                self._refuse(at, failure)
            if self._aside is not None and len(self.drafts) == MAX_BATCH:
                self._put_aside(self._aside)
        if self._aside is not None:
            self._put_aside(self._aside)
        else:
            self._sync()

    def _sync(self) -> None:
        for draft in self.drafts:
            self.disk.sync(draft.file)

    def _put_aside(self, attempt: FileAttempt) -> None:
        for draft in self.drafts:
            self.disk.sync(draft.file)
            draft.aside = attempt.put_aside(draft.file)
            draft.message = NewMessage(b"", draft.message.flags)
        attempt.drafts += self.drafts
        self.drafts = []

    def _all_there(self, attempt: FileAttempt) -> bool:
        """What was put aside, for the mailbox as it is now. False: more will come."""
        if not attempt.last:
            return False
        self.drafts, attempt.drafts = attempt.drafts, []
        self.results = [None] * len(self.drafts)
        folder = self.core.box(self.mailbox)[0]
        for at, draft in enumerate(self.drafts):
            draft.at, draft.folder = at, folder
        return True

    def _draft(self, at: int, folder: Folder, message: NewMessage, state: SieveState | None) -> Draft:
        text = message.data if message.crlf else to_crlf(message.data)
        octets, form = to_disk(text, self.core.settings.newline)
        date = int(self.seconds) if message.date is None else message.date
        record = render(text)
        fresh = 0 if message.flags else 1
        place = folder.place(fresh) if self._aside is None else self._aside.place()
        file = self.disk.write_new(place, octets, date)
        key = fingerprint(message.key) if message.key and not self.whole else b""
        return Draft(at, folder, message, state, record, form, file, date, fresh, key)

    def _refuse(self, at: int, error: StoreError) -> None:
        if self.whole:
            raise error
        self.results[at] = error

    # -- steps 2 to 4 -------------------------------------------------------------------------------------------------------
    def _commit(self) -> None:
        index = self.core.index
        accepted = self._accept()
        if accepted:
            names: list[Draft] = []
            with self.core.publishing(*{draft.folder.id for draft in accepted}):
                try:
                    self._publish(accepted, names)
                    # Sieve state is promised with the answer; what the index has else comes back from the files
                    with index.transaction(durable=any(draft.state is not None for draft in accepted)):
                        self._insert(accepted)
                except BaseException:
                    self._withdraw(names)
                    raise
            quota.count(self.core, sum(draft.file.size for draft in accepted), len(accepted))
        elif self.core.acks:
            with index.transaction():
                forget_acknowledged(self.core)

    def _withdraw(self, names: list[Draft]) -> None:
        for draft in names:
            with contextlib.suppress(OSError):
                self.disk.unlink(draft.folder.place(draft.fresh), draft.name)

    def _accept(self) -> list[Draft]:
        """Which drafts are to be stored; gives them flags, UIDs and names. The others have their result."""
        accepted: list[Draft] = []
        keywords: dict[int, tuple[str, ...]] = {}
        pending = 0
        seen: dict[bytes, Draft] = {}
        twins: list[tuple[Draft, Draft]] = []
        for draft in self.drafts:
            try:
                row = self._row(draft.folder)
                if draft.key and (known := self._known(draft.key)) is not None:
                    self.results[draft.at] = known
                    continue
                if draft.key and draft.key in seen:
                    twins.append((draft, seen[draft.key]))
                    continue
                quota.check(self.core, draft.file.size, pending)
                words = keywords.get(row.id, row.keyword_list)
                draft.mask, keywords[row.id] = fl.mask_of(draft.message.flags, words)
            except StoreError as error:
                self._refuse(draft.at, error)
                continue
            pending += draft.file.size
            accepted.append(draft)
            if draft.key:
                seen[draft.key] = draft
        self._number(accepted, keywords)
        for twin, first in twins:
            row = self.rows[first.folder.id]
            self.results[twin.at] = Stored(row.name, row.uidvalidity, first.uid, duplicate=True)
        return accepted

    def _row(self, folder: Folder) -> MailboxRow:
        row = self.rows.get(folder.id)
        if row is None:
            row = self.rows[folder.id] = self.core.fresh_row(folder)
        return row

    def _known(self, key: bytes) -> Stored | None:
        return known(self.core, key, self.seconds)

    def _number(self, accepted: list[Draft], keywords: dict[int, tuple[str, ...]]) -> None:
        counts: dict[int, int] = {}
        for draft in accepted:
            counts[draft.folder.id] = counts.get(draft.folder.id, 0) + 1
        for draft in accepted:
            row = self.rows[draft.folder.id]
            if count := counts.pop(row.id, 0):
                draft.folder.reserve(row, count)
                row.modseq += 1
                if keywords[row.id] != row.keyword_list:
                    draft.folder.write_keywords(keywords[row.id])
                    row.keywords = "\n".join(keywords[row.id])
            draft.uid = row.uidnext
            row.uidnext += 1
            draft.name = self._name(draft, row)
            self.results[draft.at] = Stored(row.name, row.uidvalidity, draft.uid)

    def _name(self, draft: Draft, row: MailboxRow) -> str:
        core = self.core
        core.serial += 1
        key = f"K{draft.key.hex()}" if draft.key else ""
        base = (
            f"{int(self.seconds)}.M{self.micros}P{os.getpid()}Q{core.serial}{key}.{core.settings.host}"
            f",S={draft.file.size},W={draft.record.size},U={row.mid}.{draft.uid}"
        )
        return base if draft.fresh else base + fl.info_of(draft.mask)

    def _publish(self, accepted: list[Draft], names: list[Draft]) -> None:
        if self.attempt is not None:
            self.attempt.add((draft.folder.mid, draft.name) for draft in accepted)
        before = {draft.folder.id: draft.folder.times() for draft in accepted}
        places = {}
        for draft in accepted:
            at = draft.folder.place(draft.fresh)
            if self._aside is not None:
                self.disk.rename(self._aside.place(), draft.aside, at, draft.name)
            else:
                self.disk.publish(draft.file, draft.name)
            names.append(draft)
            places[draft.folder.id, draft.fresh] = at
        for at in places.values():
            self.disk.sync_dir(at)
        for draft in accepted:
            if (was := before.pop(draft.folder.id, None)) is not None:
                touched(self.rows[draft.folder.id], was, draft.folder.times())

    def _insert(self, accepted: list[Draft]) -> None:
        index, now = self.core.index, int(self.seconds)
        forget_acknowledged(self.core)
        by_box: dict[int, list[tuple[HotRow, Cold]]] = {}
        for draft in accepted:
            row = self.rows[draft.folder.id]
            by_box.setdefault(row.id, []).append((self._hot(draft, row, now), _cold(draft)))
        for mailbox_id, messages in by_box.items():
            row = self.rows[mailbox_id]
            index.add(row, messages)
            index.save(row)
            self.core.changed(row)
        keys = [
            (
                draft.key,
                draft.folder.id,
                draft.folder.name,
                self.rows[draft.folder.id].uidvalidity,
                draft.uid,
                self.seconds + self.micros / 1_000_000,
            )
            for draft in accepted
            if draft.key
        ]
        if keys:
            index.execute_many("insert or replace into delivery values(?, ?, ?, ?, ?, ?)", keys)
        for draft in accepted:
            if draft.state is not None:
                remember(self.core, draft.state)
        if self.core.serial % FORGET_EVERY < len(accepted):
            index.execute("delete from delivery where at<?", (now - KEY_LIFE,))
            index.execute("delete from state where until<?", (now,))

    @staticmethod
    def _hot(draft: Draft, row: MailboxRow, now: int) -> HotRow:
        record, file = draft.record, draft.file
        return HotRow(
            row.id,
            draft.uid,
            draft.mask,
            row.modseq,
            row.modseq,
            record.size,
            draft.date,
            now,
            record.header_size,
            record.email_id,
            draft.form,
            draft.fresh,
            draft.name,
            file.inode,
            file.size,
            file.mtime,
        )


def _cold(draft: Draft) -> Cold:
    return intake.cold_of(draft.record, draft.message.trace, draft.message.decision)


def known(core: Core, key: bytes, now: float) -> Stored | None:
    """What a delivery with this key (its ``fingerprint``) has stored that nobody acknowledged."""
    if key in core.acks:
        return None
    found = core.index.query(
        "select mailbox, uidvalidity, uid, at from delivery where key=? and at>?", (key, now - KEY_LIFE)
    )
    if not found:
        return None
    mailbox, uidvalidity, uid, at = found[0]
    return Stored(str(mailbox), int(uidvalidity or 0), int(uid or 0), duplicate=True, at=float(at or 0))


def remember(core: Core, state: SieveState) -> None:
    """Inside a transaction."""
    if state.remember:
        now = core.settings.clock.time()
        core.index.execute_many(
            "insert or replace into state values(?, ?)",
            [(key, now + seconds) for key, seconds in state.remember.items()],
        )


def forget_acknowledged(core: Core) -> None:
    """Inside a transaction: acknowledged delivery keys suppress nothing any more, nor do the marks of their Sieve state."""
    if core.acks:
        acked = [(key,) for key in core.acks]
        core.index.execute_many("delete from delivery where key=?", acked)
        core.index.execute_many("delete from state where key=?", acked)
        core.acks.clear()
