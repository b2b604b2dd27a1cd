"""Whose mail is shared with whom: the way from a reader to the accounts that have given him something.

The truth is in the lists of the mailboxes (``acl``). This table is the door before them: an account is opened for somebody else
only when the two stand here together. So a name that was made up opens nothing, makes nothing, and is answered in the same time
as one that exists; and to list what is shared with somebody asks only those who share.

Format (documented nowhere else): ``shares.db`` in the data directory, SQLite, WAL, synchronous=FULL: ``share(reader, owner)``,
``reader`` an account's id or ``anyone``. It is written after the list of the mailbox: a crash between the two leaves a right that
does not work yet, or a row that leads to nothing. ``filterd account share ADDRESS`` writes it anew. Who writes holds the owner's
writer lock meanwhile, or of two changes at once the one that looked first could write last.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from filterd.store.acl import ANYONE, ENTRY, Acl
from filterd.store.base import AccountStore, NoSuchMailbox, StoreUnavailable
from filterd.wal import open_wal

FILE = "shares.db"
SECONDS = 10.0
_SCHEMA = """create table if not exists share(reader text, owner text, primary key(reader, owner)) without rowid;
create index if not exists share_owner on share(owner);"""


class Shares(Protocol):
    """May be used by many threads. Raises StoreUnavailable."""

    def owners(self, reader: str) -> tuple[str, ...]:
        """Who shares with him, or with anyone; sorted."""
        ...

    def shared(self, owner: str, reader: str) -> bool:
        """Does the owner share something with him, or with anyone?"""
        ...

    def note(self, owner: str, readers: Collection[str]) -> None:
        """These it is now, and no others. Durable."""
        ...

    def forget(self, account: str) -> None:
        """The account is gone: as a reader, and as an owner."""
        ...

    def close(self) -> None: ...


class MemoryShares(Shares):
    def __init__(self) -> None:
        self._rows: set[tuple[str, str]] = set()

    def owners(self, reader: str) -> tuple[str, ...]:
        return tuple(sorted({owner for who, owner in self._rows if who in (reader, ANYONE)}))

    def shared(self, owner: str, reader: str) -> bool:
        return (reader, owner) in self._rows or (ANYONE, owner) in self._rows

    def note(self, owner: str, readers: Collection[str]) -> None:
        self._rows = {row for row in self._rows if row[1] != owner} | {(reader, owner) for reader in readers}

    def forget(self, account: str) -> None:
        self._rows = {row for row in self._rows if account not in row}

    def close(self) -> None:
        """Nothing is held open."""


class SharesFile(Shares):
    """Opened when it is first asked for; one a process, made after the fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def owners(self, reader: str) -> tuple[str, ...]:
        rows = self._ask(
            "select distinct owner from share where reader in (?, ?) order by owner", reader, ANYONE
        )
        return tuple(row[0] for row in rows)

    def shared(self, owner: str, reader: str) -> bool:
        return bool(
            self._ask("select 1 from share where reader in (?, ?) and owner=? limit 1", reader, ANYONE, owner)
        )

    def note(self, owner: str, readers: Collection[str]) -> None:
        old = {row[0] for row in self._ask("select reader from share where owner=?", owner)}
        for reader in sorted(set(readers) - old):
            self._ask("insert or ignore into share values(?, ?)", reader, owner)
        for reader in sorted(old - set(readers)):
            self._ask("delete from share where reader=? and owner=?", reader, owner)

    def forget(self, account: str) -> None:
        self._ask("delete from share where reader=? or owner=?", account, account)

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _ask(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        with self._lock:
            try:
                if self._db is None:
                    self._db = open_wal(self.path, SECONDS, "full", _SCHEMA)
                return self._db.execute(statement, values).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise StoreUnavailable(f"{self.path}: {error}") from error


def change(
    shares: Shares,
    owner: str,
    store: AccountStore,
    mailbox: str,
    how: tuple[str, str, frozenset[str]],
    most: int,
) -> bool:
    """Change a mailbox's list; durable. ``how``: identifier, mode, rights, as ``Acl.changed`` wants them. False: the list would
    have more than ``most`` entries. Raises NoSuchMailbox."""
    with store.hold():
        old = Acl.parse(store.get_metadata(mailbox, ENTRY))
        new = old.changed(*how)
        if len(new.entries) > max(most, len(old.entries)):
            return False
        store.set_metadata(mailbox, ENTRY, new.render())
        note(shares, owner, store)
    return True


def note(shares: Shares, owner: str, store: AccountStore) -> None:
    """Look through the account's lists and bring the table in line."""
    readers: set[str] = set()
    with store.hold():
        for info in store.mailboxes():
            try:
                readers |= Acl.parse(store.get_metadata(info.name, ENTRY)).readers
            except NoSuchMailbox:
                continue  # deleted meanwhile
        shares.note(owner, readers)
