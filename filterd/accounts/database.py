"""The accounts' file: ``data_dir/accounts.db``, SQLite in WAL mode, shared by every process of the server and the CLI.

Format (version 1): ``account(id, name, password, quota, enabled, created)``; ``id`` is the address in lower case,
``password`` what ``filterd.accounts.password`` stores, ``quota`` octets or NULL for the configured one; ``PRAGMA user_version``
is the format.
``app_password(account, name, digest, created)`` holds what ``filterd.accounts.apppasswords`` makes; it is made when it is absent.
Readers keep all rows in memory and ask ``PRAGMA data_version`` at most once in ``LOOK_EVERY`` seconds whether another
process committed, so a look-up costs no disk and a new account is known within a second.
Invariants: a connection is never used in a process that did not open it; writes are durable when they return
(``synchronous=FULL``); the file and its folder are for us alone (0600, 0700). A database that cannot be read raises
AccountsUnavailable, and the rows read last stay usable as ``last_known``; so does one that a loop asks for while a thread reads
or writes it (``filterd.accounts.aside``).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from filterd.accounts.apppasswords import MOST, AppPassword
from filterd.accounts.aside import Aside
from filterd.accounts.errors import AccountExists, AccountsUnavailable, NoSuchAccount
from filterd.wal import enter_wal
from pipeline.ports import Clock

FORMAT = 1
FILE_NAME = "accounts.db"
LOOK_EVERY = 0.5  # seconds between two looks at data_version
WRITE_WAIT = 5.0  # seconds a writer waits for another one
_SCHEMA = """
CREATE TABLE IF NOT EXISTS account (
  id TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL DEFAULT '',
  password TEXT NOT NULL DEFAULT '',
  quota INTEGER,
  enabled INTEGER NOT NULL DEFAULT 1,
  created REAL NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
_APP_SCHEMA = """
CREATE TABLE IF NOT EXISTS app_password (
  account TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  created REAL NOT NULL DEFAULT 0,
  PRIMARY KEY (account, name)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One row. ``quota`` None = the configured one; ``created`` seconds since the epoch; ``apps`` are read with it, and changed
    by ``add_app`` and ``remove_app`` only."""

    id: str
    name: str = ""
    password: str = ""
    quota: int | None = None
    enabled: bool = True
    created: float = 0.0
    apps: tuple[AppPassword, ...] = ()


class AccountDatabase:
    """All accounts; safe to use from several threads and in several processes at once."""

    def __init__(self, path: str, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._aside = Aside("accounts", self._changed, self._read, self._lock)
        self._connection: sqlite3.Connection | None = None
        self._abandoned: list[sqlite3.Connection] = []
        self._pid = 0
        self._inode: tuple[int, int] = (0, 0)
        self._version = -1
        self._looked = float("-inf")
        self._records: Mapping[str, Record] = {}
        self._loaded = False

    def records(self) -> Mapping[str, Record]:
        """Every account by id, in the order they were made; a view that does not change. Raises AccountsUnavailable."""
        now = self._clock.monotonic()
        if self._loaded and now - self._looked < LOOK_EVERY and self._pid == os.getpid():
            return self._records
        if not self._aside.fresh(wait=not self._loaded):
            raise AccountsUnavailable(f"{self.path} is being read")
        return self._records

    def last_known(self) -> Mapping[str, Record] | None:
        """What was read last, without looking; None when nothing ever was."""
        return self._records if self._loaded else None

    def add(self, record: Record) -> None:
        """Durable. Raises AccountExists, AccountsUnavailable."""
        row = (record.id, record.name, record.password, record.quota, int(record.enabled), record.created)
        with self._lock, self._guarded():
            try:
                with self._writing() as connection:
                    connection.execute("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise AccountExists(f"{record.id} exists already") from None

    def update(self, record: Record) -> None:
        """Replace the row of ``record.id``. Durable. Raises NoSuchAccount, AccountsUnavailable."""
        row = (record.name, record.password, record.quota, int(record.enabled), record.id)
        with self._lock, self._guarded(), self._writing() as connection:
            statement = "UPDATE account SET name = ?, password = ?, quota = ?, enabled = ? WHERE id = ?"
            if connection.execute(statement, row).rowcount == 0:
                raise NoSuchAccount(f"there is no account {record.id}")

    def improve(self, account_id: str, old: str, new: str) -> None:
        """Put another form of the same password in place of ``old``, unless it was changed meanwhile. Durable. Raises
        AccountsUnavailable."""
        with self._lock, self._guarded(), self._writing() as connection:
            statement = "UPDATE account SET password = ? WHERE id = ? AND password = ?"
            connection.execute(statement, (new, account_id, old))

    def remove(self, account_id: str) -> None:
        """Durable. Raises NoSuchAccount, AccountsUnavailable."""
        with self._lock, self._guarded(), self._writing() as connection:
            if connection.execute("DELETE FROM account WHERE id = ?", (account_id,)).rowcount == 0:
                raise NoSuchAccount(f"there is no account {account_id}")
            connection.execute("DELETE FROM app_password WHERE account = ?", (account_id,))

    def add_app(self, account_id: str, app: AppPassword) -> None:
        """Durable. Raises AccountExists for a name that is taken or one too many, AccountsUnavailable."""
        row = (account_id, app.name, app.digest, app.created)
        with self._lock, self._guarded():
            try:
                with self._writing() as connection:
                    query = "SELECT count(*) FROM app_password WHERE account = ?"
                    if connection.execute(query, (account_id,)).fetchone()[0] >= MOST:
                        raise AccountExists(f"{account_id} has {MOST} app passwords; remove one first")
                    connection.execute("INSERT INTO app_password VALUES (?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise AccountExists(f'{account_id} has an app password "{app.name}" already') from None

    def remove_app(self, account_id: str, name: str) -> None:
        """Durable. Raises NoSuchAccount, AccountsUnavailable."""
        with self._lock, self._guarded(), self._writing() as connection:
            statement = "DELETE FROM app_password WHERE account = ? AND name = ?"
            if connection.execute(statement, (account_id, name)).rowcount == 0:
                raise NoSuchAccount(f'{account_id} has no app password "{name}"')

    def close(self) -> None:
        with self._lock:
            self._drop()

    # -- under the lock -----------------------------------------------------------------------------------------------

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._drop()
            raise AccountsUnavailable(f"{self.path}: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        self._load(connection)

    def _changed(self) -> bool:
        now = self._clock.monotonic()
        with self._guarded():
            version = self._open().execute("PRAGMA data_version").fetchone()[0]
        if version != self._version or not self._loaded:
            return True
        self._looked = now
        return False

    def _read(self) -> None:
        now = self._clock.monotonic()
        with self._guarded():
            self._load(self._open())
        self._looked = now

    def _load(self, connection: sqlite3.Connection) -> None:
        self._version = connection.execute("PRAGMA data_version").fetchone()[0]
        rows = connection.execute(
            "SELECT id, name, password, quota, enabled, created FROM account ORDER BY created, id"
        ).fetchall()
        apps: dict[str, list[AppPassword]] = {}
        query = "SELECT account, name, digest, created FROM app_password ORDER BY created, name"
        for account, *app in connection.execute(query):
            apps.setdefault(account, []).append(AppPassword(*app))
        self._records = {
            row[0]: Record(row[0], row[1], row[2], row[3], bool(row[4]), row[5], tuple(apps.get(row[0], ())))
            for row in rows
        }
        self._loaded = True

    def _open(self) -> sqlite3.Connection:
        """The connection of this process. A forked child leaves the parent's alone and opens its own."""
        if self._connection is not None and self._pid == os.getpid() and self._inode == _inode(self.path):
            return self._connection
        if self._connection is not None and self._pid != os.getpid():
            self._abandoned.append(self._connection)  # closing it here would touch the parent's locks
            self._connection = None
        self._drop()
        os.makedirs(os.path.dirname(self.path) or ".", mode=0o700, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=WRITE_WAIT, isolation_level=None, check_same_thread=False, cached_statements=16
        )
        try:
            enter_wal(connection, WRITE_WAIT)
            connection.execute("PRAGMA synchronous = FULL")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found > FORMAT:
                raise sqlite3.DatabaseError(f"format {found} is newer than this program's {FORMAT}")
            if found < FORMAT:
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute(_APP_SCHEMA)
        except BaseException:
            connection.close()
            raise
        self._connection, self._pid, self._version = connection, os.getpid(), -1
        self._inode = _inode(self.path)
        return connection

    def _drop(self) -> None:
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close()
        self._connection = None


def _inode(path: str) -> tuple[int, int]:
    """Which file is at the path: a restored backup is another one."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
