"""The reference store: whole accounts in memory. The contract suite compares every other store with this one.

It is as plain as can be and keeps nothing over a restart. Its answers define what ``base.AccountStore`` leaves to the store:
which operations take a new modseq (those that changed something, one each), what a changed flag answers, the order of rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from filterd.store import flags as fl
from filterd.store import names
from filterd.store.base import (
    DELETED,
    SEEN,
    SEPARATOR,
    AccountStore,
    Attempt,
    BadName,
    Changes,
    Copied,
    FlagChange,
    LimitReached,
    MailboxExists,
    MailboxInfo,
    NewMessage,
    NoSuchMailbox,
    OverQuota,
    Quota,
    Row,
    SieveState,
    Snapshot,
    Status,
    Store,
    Stored,
)
from filterd.store.record import email_id_text, fingerprint, render, to_crlf
from pipeline.ports import Clock, Ids

MAX_MAILBOXES = 10_000
KEY_LIFE = 86_400.0


@dataclass(slots=True)
class _Message:
    row: Row
    data: bytes
    born: int
    recent: bool


@dataclass(slots=True)
class _Box:
    id: str
    name: str
    uidvalidity: int
    special_use: str
    modseq: int = 1
    uidnext: int = 1
    keywords: tuple[str, ...] = ()
    messages: dict[int, _Message] = field(default_factory=dict)
    expunged: list[tuple[int, int, int]] = field(default_factory=list)  # (modseq, uid, born)
    metadata: dict[str, str] = field(default_factory=dict)
    view: Snapshot | None = None


class MemoryAccount(AccountStore):
    """One account. Not for two threads at once."""

    def __init__(self, clock: Clock, ids: Ids, quota_limit: Callable[[], int]) -> None:
        self._clock = clock
        self._ids = ids
        self._limit = quota_limit
        self._boxes: dict[str, _Box] = {}
        self._subscribed: set[str] = set()
        self._metadata: dict[str, str] = {}
        self._keys: dict[bytes, tuple[Stored, float]] = {}
        self._state: dict[bytes, float] = {}
        self._uidvalidity = 0
        self._add_box(names.INBOX, "")

    # -- mailboxes ------------------------------------------------------------------------------------------------
    def mailboxes(self) -> tuple[MailboxInfo, ...]:
        return tuple(self._info(self._boxes[name]) for name in sorted(self._boxes, key=names.sort_key))

    def info(self, mailbox: str) -> MailboxInfo:
        return self._info(self._box(mailbox))

    def create(self, mailbox: str, special_use: str = "") -> MailboxInfo:
        name = names.normalise(mailbox)
        if name in self._boxes:
            raise MailboxExists(f"{name} exists")
        self._create_parents(name)
        return self._info(self._add_box(name, special_use))

    def delete(self, mailbox: str) -> None:
        box = self._box(mailbox)
        if box.name == names.INBOX:
            raise BadName("INBOX cannot be deleted")
        del self._boxes[box.name]

    def rename(self, old: str, new: str) -> None:
        old, new = names.normalise(old), names.normalise(new)
        if old == names.INBOX:
            self.create(new)
            self.move(names.INBOX, list(self._box(names.INBOX).messages), new)
            return
        for name, target in rename_plan(old, new, self._boxes):
            box = self._boxes.pop(name)
            box.name = target
            box.view = None
            self._boxes[target] = box
        self._create_parents(new)

    def subscribe(self, mailbox: str, on: bool) -> None:
        name = names.normalise(mailbox)
        if on:
            self._subscribed.add(name)
        else:
            self._subscribed.discard(name)
        if name in self._boxes:
            self._boxes[name].view = None

    def subscriptions(self) -> tuple[str, ...]:
        return tuple(sorted(self._subscribed, key=names.sort_key))

    def status(self, mailbox: str) -> Status:
        box = self._box(mailbox)
        rows = [message.row for message in box.messages.values()]
        return Status(
            messages=len(rows),
            unseen=sum(not row.flags & SEEN for row in rows),
            recent=sum(message.recent for message in box.messages.values()),
            uidnext=box.uidnext,
            uidvalidity=box.uidvalidity,
            highestmodseq=box.modseq,
            size=sum(row.size for row in rows),
            deleted=sum(bool(row.flags & DELETED) for row in rows),
        )

    # -- reading --------------------------------------------------------------------------------------------------
    def snapshot(self, mailbox: str) -> Snapshot:
        box = self._box(mailbox)
        if box.view is None or box.view.modseq != box.modseq:
            uids = array("I", box.messages)
            masks = array("Q", (message.row.flags for message in box.messages.values()))
            box.view = Snapshot(self._info(box), box.modseq, box.uidnext, uids, masks, box.keywords)
        return box.view

    def changes(self, mailbox: str, since_modseq: int) -> Changes:
        box = self._box(mailbox)
        later = [message for message in box.messages.values() if message.row.modseq > since_modseq]
        return Changes(
            modseq=box.modseq,
            uidnext=box.uidnext,
            appended=tuple((m.row.uid, m.row.flags) for m in later if m.born > since_modseq),
            flags=tuple((m.row.uid, m.row.flags, m.row.modseq) for m in later if m.born <= since_modseq),
            expunged=tuple(
                sorted(u for seq, u, born in box.expunged if seq > since_modseq and born <= since_modseq)
            ),
            keywords=box.keywords,
            fleeting=tuple(sorted(u for _, u, born in box.expunged if born > since_modseq)),
        )

    def rows(self, mailbox: str, uids: Sequence[int], cold: bool = False) -> list[Row]:
        box = self._box(mailbox)
        found = [box.messages[uid].row for uid in sorted(set(uids)) if uid in box.messages]
        return [row_copy(row, cold) for row in found]

    def read(self, mailbox: str, uid: int) -> bytes | None:
        message = self._box(mailbox).messages.get(uid)
        return message.data if message else None

    def text_candidates(self, mailbox: str, needle: str, uids: Sequence[int]) -> Sequence[int] | None:
        return None

    # -- writing --------------------------------------------------------------------------------------------------
    def deliver(self, mailbox: str, message: NewMessage, state: SieveState | None = None) -> Stored:
        box = self._box(mailbox)
        now = self._clock.time()
        if message.key and message.key in self._keys:
            stored, at = self._keys[message.key]
            if now - at < KEY_LIFE:
                return Stored(stored.mailbox, stored.uidvalidity, stored.uid, duplicate=True)
        self._check_quota([len(to_crlf(message.data))])
        stored = self._store(box, [message])[0]
        if message.key:
            self._keys[message.key] = (stored, now)
        if state is not None:
            self.remember(state)
        return stored

    def append(
        self, mailbox: str, messages: Sequence[NewMessage], part_of: Attempt | None = None
    ) -> tuple[Stored, ...]:
        box = self._box(mailbox)
        self._check_quota([len(to_crlf(message.data)) for message in messages])
        fl.mask_of([flag for message in messages for flag in message.flags], box.keywords)
        return tuple(self._store(box, messages)) if messages else ()

    def set_flags(
        self,
        mailbox: str,
        uids: Sequence[int],
        mode: str,
        flags: Iterable[str],
        unchanged_since: int | None = None,
    ) -> FlagChange:
        box = self._box(mailbox)
        mask, keywords = fl.mask_of(flags, box.keywords, create=mode != "remove")
        known = [box.messages[uid] for uid in sorted(set(uids)) if uid in box.messages]
        modified = [m for m in known if unchanged_since is not None and m.row.modseq > unchanged_since]
        left = {message.row.uid for message in modified}
        modseq = box.modseq + 1
        changed = []
        for message in known:
            row = message.row
            if row.uid in left:
                continue
            new = new_mask(row.flags, mode, mask)
            if new != row.flags:
                row.flags, row.modseq = new, modseq
                message.recent = False
                box.modseq = modseq
            changed.append((row.uid, row.flags, row.modseq))
        if changed and keywords != box.keywords:
            box.keywords, box.view = keywords, None
        return FlagChange(tuple(changed), tuple(sorted(left)))

    def copy(self, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
        source, target = self._box(mailbox), self._box(destination)
        found = [source.messages[uid] for uid in sorted(set(uids)) if uid in source.messages]
        self._check_quota([message.row.size for message in found])
        return self._transfer(source, target, found)

    def move(self, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
        source, target = self._box(mailbox), self._box(destination)
        found = [source.messages[uid] for uid in sorted(set(uids)) if uid in source.messages]
        copied = self._transfer(source, target, found)
        self._remove(source, [message.row.uid for message in found])
        return copied

    def expunge(self, mailbox: str, uids: Sequence[int] | None = None) -> tuple[int, ...]:
        box = self._box(mailbox)
        wanted = None if uids is None else set(uids)
        gone = [
            uid
            for uid, m in box.messages.items()
            if m.row.flags & DELETED and (wanted is None or uid in wanted)
        ]
        self._remove(box, gone)
        return tuple(gone)

    def advance(self, mailbox: str) -> int:
        box = self._box(mailbox)
        box.modseq += 1
        return box.modseq

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self._keys.pop(key, None)
            self._state.pop(fingerprint(key), None)

    def delivered(self, mailbox: str, key: bytes) -> bool:
        return key in self._keys and self._clock.time() - self._keys[key][1] < KEY_LIFE

    # -- what else belongs to the account -----------------------------------------------------------------------------
    def remembered(self, key: bytes, now: float) -> bool:
        return self._state.get(key, 0.0) > now

    def remember(self, state: SieveState) -> None:
        now = self._clock.time()
        for key, seconds in state.remember.items():
            self._state[key] = now + seconds

    def get_metadata(self, mailbox: str | None, name: str) -> str | None:
        table = self._metadata if mailbox is None else self._box(mailbox).metadata
        return table.get(name.lower())

    def set_metadata(self, mailbox: str | None, name: str, value: str | None) -> None:
        table = self._metadata if mailbox is None else self._box(mailbox).metadata
        if value is None:
            table.pop(name.lower(), None)
        else:
            table[name.lower()] = value

    def quota(self) -> Quota:
        sizes = [message.row.size for box in self._boxes.values() for message in box.messages.values()]
        return Quota(used=sum(sizes), messages=len(sizes), limit=self._limit())

    def close(self) -> None:
        """Nothing is held open."""

    # -- inside -----------------------------------------------------------------------------------------------------
    def _box(self, mailbox: str) -> _Box:
        try:
            return self._boxes[names.normalise(mailbox)]
        except (KeyError, BadName):
            raise NoSuchMailbox(f"no mailbox {mailbox}") from None

    def _info(self, box: _Box) -> MailboxInfo:
        return MailboxInfo(box.id, box.name, box.uidvalidity, box.special_use, box.name in self._subscribed)

    def _add_box(self, name: str, special_use: str) -> _Box:
        if len(self._boxes) >= MAX_MAILBOXES:
            raise LimitReached("no further mailbox")
        self._uidvalidity = max(int(self._clock.time()), self._uidvalidity + 1)
        box = self._boxes[name] = _Box(self._ids.token(8), name, self._uidvalidity, special_use)
        return box

    def _create_parents(self, name: str) -> None:
        for parent in names.parents(name):
            if parent not in self._boxes:
                self._add_box(parent, "")

    def _check_quota(self, sizes: Sequence[int]) -> None:
        limit = self._limit()
        if limit and sizes and self.quota().used + sum(sizes) > limit:
            raise OverQuota("the mailbox is full")

    def _store(self, box: _Box, messages: Sequence[NewMessage]) -> list[Stored]:
        now = int(self._clock.time())
        box.modseq += 1
        done = []
        for message in messages:
            mask, box.keywords = fl.mask_of(message.flags, box.keywords)
            data = to_crlf(message.data)
            record = render(data)
            row = Row(
                uid=box.uidnext,
                flags=mask,
                modseq=box.modseq,
                size=record.size,
                date=now if message.date is None else message.date,
                savedate=now,
                header_size=record.header_size,
                email_id=email_id_text(record.email_id),
                envelope=record.envelope,
                body=record.body,
                bodystructure=record.bodystructure,
                headers=record.headers,
                preview=record.preview,
                trace=message.trace,
                decision=message.decision,
            )
            box.messages[row.uid] = _Message(row, data, box.modseq, recent=not mask)
            box.uidnext += 1
            done.append(Stored(box.name, box.uidvalidity, row.uid))
        return done

    def _transfer(self, source: _Box, target: _Box, found: Sequence[_Message]) -> Copied:
        info = self._info(target)
        if not found:
            return Copied(info, (), ())
        target.modseq += 1
        uids = []
        for message in found:
            row = row_copy(message.row, cold=True)
            row.flags, target.keywords = fl.translate(row.flags, source.keywords, target.keywords)
            row.uid, row.modseq, row.savedate = target.uidnext, target.modseq, int(self._clock.time())
            target.messages[row.uid] = _Message(row, message.data, target.modseq, recent=False)
            target.uidnext += 1
            uids.append(row.uid)
        return Copied(info, tuple(message.row.uid for message in found), tuple(uids))

    def _remove(self, box: _Box, uids: Sequence[int]) -> None:
        if uids:
            box.modseq += 1
            box.expunged += [(box.modseq, uid, box.messages.pop(uid).born) for uid in uids]


class MemoryStore(Store):
    """Accounts in a dictionary."""

    def __init__(self, clock: Clock, ids: Ids, quota_of: Callable[[str], int] = lambda account: 0) -> None:
        self._clock = clock
        self._ids = ids
        self._quota_of = quota_of
        self._accounts: dict[str, MemoryAccount] = {}

    def account(self, account: str) -> MemoryAccount:
        if account not in self._accounts:
            quota_of = self._quota_of
            self._accounts[account] = MemoryAccount(self._clock, self._ids, lambda: quota_of(account))
        return self._accounts[account]

    def path(self, account: str) -> str:
        return ""

    def close(self) -> None:
        self._accounts.clear()


def new_mask(old: int, mode: str, mask: int) -> int:
    """What ``set``, ``add`` or ``remove`` make of a mask."""
    if mode == "add":
        return old | mask
    return old & ~mask if mode == "remove" else mask


def row_copy(row: Row, cold: bool) -> Row:
    """A row of the caller's own, without the cold part unless asked for."""
    hot = Row(row.uid, row.flags, row.modseq, row.size, row.date, row.savedate, row.header_size, row.email_id)
    if cold:
        hot.envelope, hot.body, hot.bodystructure, hot.headers = (
            row.envelope,
            row.body,
            row.bodystructure,
            row.headers,
        )
        hot.trace, hot.decision, hot.preview = row.trace, row.decision, row.preview
    return hot


def rename_plan(old: str, new: str, existing: Iterable[str]) -> list[tuple[str, str]]:
    """(name, new name) of a mailbox and all below it. Raises NoSuchMailbox, MailboxExists, BadName."""
    existing = set(existing)
    below = old + SEPARATOR
    affected = sorted(name for name in existing if name == old or name.startswith(below))
    if not affected:
        raise NoSuchMailbox(f"no mailbox {old}")
    if new == old or new in existing:
        raise MailboxExists(f"{new} exists")
    if new.startswith(below) or new == names.INBOX:
        raise BadName(f"{old} cannot become {new}")
    plan = [(name, names.normalise(new + name[len(old) :])) for name in affected]
    for _, target in plan:
        if target in existing:
            raise MailboxExists(f"{target} exists")
    return plan
