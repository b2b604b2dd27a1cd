"""The Maildir++ store: accounts as directories of message files, with an SQLite index beside each (HOUSE items 12-17, 20).

``<root>/<domain>/<user>/`` is a Maildir++ (``cur new tmp`` and ``.Folder`` directories) that other programs may use at the same
time. ``.filterd/`` in it holds ``index.db`` and the lock (elsewhere when ``index_root`` is given: the index must not lie on a
network file system). The theory of operation is at the head of ``core``; each kind of operation has its module. This one puts
them behind the contract of ``base`` and turns what disk and database say into StoreUnavailable.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import ClassVar, Protocol

from filterd.store import (
    delivery,
    facts,
    laternames,
    names,
    quota,
    ready,
    snapshot,
    textpack,
    transfer,
    tree,
    uidl,
    upkeep,
    views,
)
from filterd.store.acl import ENTRY
from filterd.store.attempt import FileAttempt
from filterd.store.base import (
    AccountStore,
    Attempt,
    Changes,
    Copied,
    Facts,
    Field,
    FlagChange,
    HeaderTexts,
    MailboxInfo,
    NewMessage,
    NoSuchMailbox,
    Quota,
    Row,
    SieveState,
    Snapshot,
    Status,
    Store,
    Stored,
    StoreError,
    StoreUnavailable,
    TextHits,
)
from filterd.store.core import INDEX_DIRECTORY, Core, Settings
from filterd.store.durable import Disk, RealDisk
from filterd.store.flags import LETTER_KEYWORDS
from pipeline.ports import Clock, Ids

log = logging.getLogger("filterd.store")

OPEN_ACCOUNTS = 300  # descriptors: 5 an account and 3 an open folder
NEWLINES = ("crlf", "lf")
MAX_METADATA_OCTETS = 64 * 1024
CLOSING_SECONDS = 2.0  # for the snapshots, all accounts together


class Boxes(Protocol):
    """A module that makes mailboxes and takes them away: ``tree``, ``mbox_tree``."""

    def create(self, core: Core, mailbox: str, special_use: str = "") -> MailboxInfo: ...

    def delete(self, core: Core, mailbox: str) -> None: ...

    def rename(self, core: Core, old: str, new: str) -> None: ...


class Moves(Protocol):
    """A module that changes messages that are there: ``transfer``, ``mbox_transfer``."""

    def rename_inbox(self, core: Core, new: str) -> None: ...

    def set_flags(
        self,
        core: Core,
        mailbox: str,
        uids: Sequence[int],
        mode: str,
        flags: Iterable[str],
        unchanged_since: int | None,
    ) -> FlagChange: ...

    def copy(self, core: Core, mailbox: str, uids: Sequence[int], destination: str) -> Copied: ...

    def move(self, core: Core, mailbox: str, uids: Sequence[int], destination: str) -> Copied: ...

    def expunge(self, core: Core, mailbox: str, uids: Sequence[int] | None) -> tuple[int, ...]: ...


class MaildirAccount(AccountStore):
    """One account. Not for two threads at once, not across a fork."""

    boxes: ClassVar[Boxes] = tree
    moves: ClassVar[Moves] = transfer
    batch: ClassVar[type[delivery.Batch]] = delivery.Batch

    def __init__(self, core: Core) -> None:
        self._core = core
        self._views = views.Views(core)
        self._texts = textpack.TextPacks(core)
        self._snapshots = snapshot.Snapshots(core)
        self._ready: AccountStore | None = None

    # -- mailboxes ------------------------------------------------------------------------------------------------
    def mailboxes(self) -> tuple[MailboxInfo, ...]:
        with self._core.guard():
            subscribed = set(tree.subscriptions(self._core))
            return tuple(
                MailboxInfo(row.mid, row.name, row.uidvalidity, row.special_use, row.name in subscribed)
                for row in tree.listing(self._core)
            )

    def info(self, mailbox: str) -> MailboxInfo:
        with self._core.guard():
            return tree.info_of(self._core, self._core.box(mailbox)[1])

    def create(self, mailbox: str, special_use: str = "") -> MailboxInfo:
        with self._core.guard():
            return self.boxes.create(self._core, mailbox, special_use)

    def delete(self, mailbox: str) -> None:
        with self._core.guard():
            self.boxes.delete(self._core, mailbox)

    def rename(self, old: str, new: str) -> None:
        with self._core.guard():
            if names.normalise(old) == names.INBOX:
                self.moves.rename_inbox(self._core, new)
            else:
                self.boxes.rename(self._core, old, new)

    def subscribe(self, mailbox: str, on: bool) -> None:
        with self._core.guard():
            tree.subscribe(self._core, mailbox, on)

    def subscriptions(self) -> tuple[str, ...]:
        with self._core.guard():
            return tree.subscriptions(self._core)

    def status(self, mailbox: str) -> Status:
        with self._core.guard():
            return self._views.status(mailbox)

    # -- reading --------------------------------------------------------------------------------------------------
    def snapshot(self, mailbox: str) -> Snapshot:
        with self._core.guard():
            return self._views.snapshot(mailbox)

    def changes(self, mailbox: str, since_modseq: int) -> Changes:
        with self._core.guard():
            return self._views.changes(mailbox, since_modseq)

    def rows(self, mailbox: str, uids: Sequence[int], cold: bool = False) -> list[Row]:
        with self._core.guard():
            return views.rows(self._core, mailbox, uids, cold)

    def read(self, mailbox: str, uid: int) -> bytes | None:
        with self._core.guard():
            return self._core.settings.layout.read(self._core, mailbox, uid)

    def text_candidates(self, mailbox: str, needle: str, uids: Sequence[int]) -> Sequence[int] | None:
        with self._core.guard():
            return self._texts.candidates(mailbox, needle, uids)

    def fields(self, mailbox: str, uids: Sequence[int], wanted: Sequence[str]) -> list[tuple[Field, ...]]:
        with self._core.guard():
            return self._views.fields(mailbox, uids, wanted)

    def read_many(self, mailbox: str, uids: Sequence[int], octets: int) -> list[bytes | None]:
        with self._core.guard():
            return self._core.settings.layout.read_many(self._core, mailbox, uids, octets)

    def facts(self, snapshot: Snapshot) -> Facts | None:
        with self._core.guard():
            return facts.facts(self._core, snapshot)

    def uidls(self, mailbox: str) -> Mapping[int, str]:
        with self._core.guard():
            return uidl.uidls(self._core, mailbox)

    def header_texts(self, snapshot: Snapshot, name: bytes) -> HeaderTexts | None:
        with self._core.guard():
            return facts.header_texts(self._core, snapshot, name)

    def text_hits(self, mailbox: str, needle: str, header: bool, uids: Sequence[int]) -> TextHits | None:
        with self._core.guard():
            return self._texts.hits(mailbox, needle, header, uids)

    def ready(self) -> AccountStore:
        """What can be told at once, on the loop; ``ready.NotReady`` for the rest."""
        if self._ready is None:
            self._ready = ready.ready(self._core, self._views, self._core.settings.open_cached)
        return self._ready

    @property
    def moved(self) -> bool:
        """The account was converted: it must be opened anew, by another store."""
        return self._core.moved

    @property
    def unfinished(self) -> float | None:
        """Call ``step`` in so many seconds, when there is nothing better to do: texts wait to be packed, snapshots to be written,
        leftovers to be removed. None: nothing waits."""
        return 0.0 if self._texts.unfinished or upkeep.due(self._core) else self._snapshots.due()

    def step(self, seconds: float) -> None:
        with self._core.guard():
            if upkeep.due(self._core):
                upkeep.step(self._core, seconds)
            elif self._texts.unfinished:
                self._texts.step(seconds)
            else:
                self._snapshots.step(seconds)

    @property
    def rebuilt(self) -> str:
        """What is known of an index that was made anew: JSON, "" when it never was."""
        with self._core.guard():
            return self._core.index.meta(snapshot.REBUILT)

    # -- writing --------------------------------------------------------------------------------------------------
    def deliver(self, mailbox: str, message: NewMessage, state: SieveState | None = None) -> Stored:
        result = self.deliver_many([(mailbox, message, state)])[0]
        if isinstance(result, StoreError):
            raise result
        return result

    def deliver_many(self, items: Sequence[delivery.Item]) -> list[Stored | StoreError]:
        """Many deliveries with one lock, one sync a directory and one index transaction; each its own result."""
        try:
            with self._core.guard():
                if any(state is not None for _, _, state in items):
                    self._snapshots.changed("")
                for mailbox, message, _ in items:
                    if message.flags:
                        self._keywords_come(mailbox, message.flags)
                stored = delivery.store_many(self._core, items, self.batch)
                self._texts.arrived(item[0] for item in items)
                return stored
        except StoreError as error:
            return [error] * len(items)

    def delivered(self, mailbox: str, key: bytes) -> bool:
        with self._core.guard():
            with suppress(NoSuchMailbox):
                self._core.box(mailbox)
            now = self._core.settings.clock.time()
            return delivery.known(self._core, delivery.fingerprint(key), now) is not None

    def attempt(self) -> Attempt:
        return FileAttempt(self._core)

    def append(
        self, mailbox: str, messages: Sequence[NewMessage], part_of: Attempt | None = None
    ) -> tuple[Stored, ...]:
        with self._core.guard():
            self._core.box(mailbox)
            for message in messages:
                self._keywords_come(mailbox, message.flags)
            stored = delivery.store_all(self._core, mailbox, messages, self.batch, part_of)
            self._texts.arrived((mailbox,))
            return stored

    def set_flags(
        self,
        mailbox: str,
        uids: Sequence[int],
        mode: str,
        flags: Iterable[str],
        unchanged_since: int | None = None,
    ) -> FlagChange:
        flags = tuple(flags)
        with self._core.guard():
            self._keywords_come(mailbox, flags, mode == "set")
            return self.moves.set_flags(self._core, mailbox, uids, mode, flags, unchanged_since)

    def _keywords_come(self, mailbox: str, flags: Sequence[str], or_go: bool = False) -> None:
        """Perhaps some that no file name can tell."""
        new = sum(flag[:1] != "\\" for flag in flags)
        if new or or_go:
            try:
                known = len(self._core.box(mailbox)[1].keyword_list)
            except (StoreError, OSError):
                return  # who changes something there is told so, and nobody else who is in the same batch
            if known + new > LETTER_KEYWORDS // 2:
                self._snapshots.mail_changes(mailbox)

    def copy(self, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
        with self._core.guard():
            self._snapshots.mail_changes(destination)
            return self.moves.copy(self._core, mailbox, uids, destination)

    def move(self, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
        with self._core.guard():
            self._snapshots.mail_changes(destination)
            return self.moves.move(self._core, mailbox, uids, destination)

    def expunge(self, mailbox: str, uids: Sequence[int] | None = None) -> tuple[int, ...]:
        with self._core.guard():
            return self.moves.expunge(self._core, mailbox, uids)

    def advance(self, mailbox: str) -> int:
        with self._core.guard():
            return transfer.advance(self._core, mailbox)

    @contextmanager
    def hold(self) -> Iterator[None]:
        with self._core.guard(), self._core.locked():
            yield

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        """Kept in memory until the next transaction, ``flush`` or ``close``."""
        self._core.acks.update(delivery.fingerprint(key) for key in keys)

    def flush(self) -> None:
        """Write the acknowledgements that wait."""
        core = self._core
        if core.acks:
            with core.guard(), core.locked(), core.index.transaction():
                delivery.forget_acknowledged(core)

    # -- what else belongs to the account -----------------------------------------------------------------------------
    def remembered(self, key: bytes, now: float) -> bool:
        with self._core.guard():
            return bool(self._core.index.query("select 1 from state where key=? and until>?", (key, now)))

    def remember(self, state: SieveState) -> None:
        core = self._core
        with core.guard(), core.locked():
            self._snapshots.changed("")
            with core.index.transaction(durable=True):
                delivery.remember(core, state)

    def get_metadata(self, mailbox: str | None, name: str) -> str | None:
        with self._core.guard():
            found = self._core.index.query(
                "select value from metadata where mbox=? and name=?",
                (self._metadata_owner(mailbox), name.lower()),
            )
            return str(found[0][0]) if found else None

    def set_metadata(self, mailbox: str | None, name: str, value: str | None) -> None:
        core = self._core
        with core.guard(), core.locked():
            owner = self._metadata_owner(mailbox)
            self._snapshots.changed(mailbox or "")
            core.account_changed()
            with core.index.transaction(durable=True):
                if value is None:
                    core.index.execute("delete from metadata where mbox=? and name=?", (owner, name.lower()))
                else:
                    core.index.execute(
                        "insert or replace into metadata values(?, ?, ?)", (owner, name.lower(), value)
                    )
            if name.lower() == ENTRY and mailbox is not None:
                self._snapshots.now(core.box(mailbox)[1].name)

    def _metadata_owner(self, mailbox: str | None) -> int:
        return 0 if mailbox is None else self._core.box(mailbox)[1].id

    def quota(self) -> Quota:
        with self._core.guard():
            return quota.current(self._core)

    def close(self, seconds: float = CLOSING_SECONDS) -> None:
        if self._core.closed:
            return
        try:
            self.flush()
        except StoreError:
            self._core.acks.clear()  # need not be durable
        try:
            with self._core.guard():
                laternames.finish(self._core, seconds / 2)  # what is left is noted in the index
                self._snapshots.finish(seconds / 2)
        except StoreError as error:
            log.warning("snapshots of %s wait for the next time: %s", self._core.account, error)
        self._texts.close()
        self._core.close()


class MaildirStore(Store):
    """The accounts below ``root``; a bounded number is kept open. One a process, made after the fork."""

    def __init__(
        self,
        root: Path,
        host: str,
        newline: str,
        quota_of: Callable[[str], int],
        clock: Clock,
        ids: Ids,
        disk: Disk | None = None,
        index_root: Path | None = None,
        notify: Callable[[str, str, int], None] = lambda account, mailbox, modseq: None,
        path_of: Callable[[str], str] | None = None,
    ) -> None:
        if newline not in NEWLINES:
            raise ValueError(f"store.newline is one of {NEWLINES}")
        self._root = root
        self._index_root = index_root
        self._quota_of = quota_of
        self._path_of = path_of
        self._lock = threading.Lock()  # of the dictionary: accounts are opened by many threads
        self.newline = newline
        self._settings = Settings(disk or RealDisk(), clock, ids, host, newline, notify)
        self._open: OrderedDict[str, MaildirAccount] = OrderedDict()

    def account(self, account: str) -> MaildirAccount:
        """Raises StoreUnavailable when it cannot be opened. Different accounts may be asked for by different threads."""
        found = self.opened(account)
        if found is not None:
            return found
        opened = self._make(self.core(account))
        with self._lock:
            self._open[account] = opened
        return opened

    def core(self, account: str) -> Core:
        """What is below an account, for ``adopt`` and ``export``; the caller closes it. Raises StoreUnavailable."""
        path = self.path(account)
        index_path = (
            f"{self._index_root}/{self._below(account)}" if self._index_root else f"{path}/{INDEX_DIRECTORY}"
        )
        quota_of = self._quota_of
        try:
            return Core(account, path, index_path, self._settings, lambda: quota_of(account))
        except OSError as error:
            raise StoreUnavailable(f"store: {error.strerror or error}") from error

    @property
    def disk(self) -> Disk:
        return self._settings.disk

    def _make(self, core: Core) -> MaildirAccount:
        return MaildirAccount(core)

    def opened(self, account: str) -> MaildirAccount | None:
        """The account if it is open."""
        with self._lock:
            found = self._open.get(account)
            if found is not None:
                self._open.move_to_end(account)
            return found

    def surplus(self) -> list[str]:
        """Accounts that should be closed, longest unused first (``close_account``): more than OPEN_ACCOUNTS are open."""
        with self._lock:
            over = len(self._open) - OPEN_ACCOUNTS
            return list(islice(self._open, over)) if over > 0 else []

    def close_account(self, account: str) -> None:
        """Let go of its descriptors; not while another thread uses it."""
        self._close(account, CLOSING_SECONDS)

    def _close(self, account: str, seconds: float) -> None:
        with self._lock:
            found = self._open.pop(account, None)
        if found is not None:
            found.close(seconds)

    def path(self, account: str) -> str:
        below = self._below(account)
        return self._path_of(account) if self._path_of is not None else f"{self._root}/{below}"

    @staticmethod
    def _below(account: str) -> str:
        """``user@domain`` -> ``domain/user``; nothing in it can lead elsewhere."""
        local, _, domain = account.rpartition("@")
        parts = [domain, local] if local else [domain]
        for part in parts:
            if not part or part.startswith(".") or "/" in part or "\0" in part or len(part.encode()) > 200:
                raise StoreUnavailable(f"the account {account!r} has no place on disk")
        return "/".join(parts)

    def close(self) -> None:
        until = self._settings.clock.monotonic() + CLOSING_SECONDS
        for account in list(self._open):
            self._close(account, until - self._settings.clock.monotonic())
