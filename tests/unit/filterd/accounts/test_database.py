"""The accounts' file: durable, shared, and an unreadable one is never "nobody"."""

import dataclasses
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from filterd.accounts.apppasswords import MOST, AppPassword
from filterd.accounts.database import FORMAT, LOOK_EVERY, AccountDatabase, Record
from filterd.accounts.errors import AccountExists, AccountsUnavailable, NoSuchAccount
from pipeline.ports import Clock


class Hands(Clock):
    def __init__(self) -> None:
        self.at = 0.0

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def database(tmp_path: Path, clock: Hands):
    opened = AccountDatabase(str(tmp_path / "data" / "accounts.db"), clock)
    yield opened
    opened.close()


ANN = Record("ann@example.org", "Ann", "hash", 5, created=1.0)


def test_add_update_remove(database: AccountDatabase) -> None:
    assert dict(database.records()) == {}
    database.add(ANN)
    with pytest.raises(AccountExists):
        database.add(ANN)
    assert dict(database.records()) == {ANN.id: ANN}
    changed = dataclasses.replace(ANN, password="other", enabled=False, quota=None)
    database.update(changed)
    assert database.records()[ANN.id] == changed
    database.remove(ANN.id)
    with pytest.raises(NoSuchAccount):
        database.remove(ANN.id)
    with pytest.raises(NoSuchAccount):
        database.update(ANN)
    assert dict(database.records()) == {}


def test_it_lasts_and_is_ours_alone(database: AccountDatabase, clock: Hands) -> None:
    database.add(ANN)
    assert stat.S_IMODE(os.stat(database.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(database.path)).st_mode) == 0o700
    again = AccountDatabase(database.path, clock)
    assert again.records()[ANN.id] == ANN
    again.close()


def test_another_process_is_noticed_within_a_second(database: AccountDatabase, clock: Hands) -> None:
    other = AccountDatabase(database.path, clock)
    assert dict(other.records()) == {}
    database.add(ANN)
    assert dict(other.records()) == {}, "not asked again so soon"
    clock.at += LOOK_EVERY
    assert ANN.id in other.records()
    other.close()


def test_a_restored_backup_is_another_file(database: AccountDatabase, clock: Hands, tmp_path: Path) -> None:
    database.add(ANN)
    backup = AccountDatabase(str(tmp_path / "backup.db"), clock)
    backup.add(dataclasses.replace(ANN, id="bob@example.org"))
    backup.close()
    for ending in ("-wal", "-shm"):
        Path(database.path + ending).unlink(missing_ok=True)
    Path(tmp_path / "backup.db").rename(database.path)
    clock.at += LOOK_EVERY
    assert list(database.records()) == ["bob@example.org"]


def test_in_the_order_they_were_made(database: AccountDatabase) -> None:
    database.add(dataclasses.replace(ANN, id="z@example.org", created=1.0))
    database.add(dataclasses.replace(ANN, id="a@example.org", created=2.0))
    assert list(database.records()) == ["z@example.org", "a@example.org"]


def test_broken_files_are_unavailable_and_the_last_answer_stays(tmp_path: Path, clock: Hands) -> None:
    path = tmp_path / "accounts.db"
    database = AccountDatabase(str(path), clock)
    assert database.last_known() is None
    database.add(ANN)
    database.close()
    path.write_bytes(b"this is no database" * 100)
    for ending in ("-wal", "-shm"):
        Path(f"{path}{ending}").unlink(missing_ok=True)
    clock.at += LOOK_EVERY
    with pytest.raises(AccountsUnavailable):
        database.records()
    assert list(database.last_known() or {}) == [ANN.id]
    with pytest.raises(AccountsUnavailable):
        database.add(dataclasses.replace(ANN, id="b@example.org"))


def test_a_newer_format_is_refused(database: AccountDatabase, clock: Hands) -> None:
    database.add(ANN)
    database.close()
    with sqlite3.connect(database.path) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()
    with pytest.raises(AccountsUnavailable, match="newer"):
        AccountDatabase(database.path, clock).records()


def test_a_forked_child_opens_its_own(database: AccountDatabase, clock: Hands) -> None:
    database.add(ANN)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        clock.at += LOOK_EVERY
        try:
            database.add(dataclasses.replace(ANN, id="child@example.org", created=2.0))
            os.write(writer, b"ok" if len(database.records()) == 2 else b"no")
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"ok"
    os.close(reader)
    clock.at += LOOK_EVERY
    assert list(database.records()) == [ANN.id, "child@example.org"]


def test_app_passwords_belong_to_their_account(database: AccountDatabase, clock: Hands) -> None:
    database.add(ANN)
    first, second = AppPassword("a", "d1", 1.0), AppPassword("b", "d2", 2.0)
    database.add_app(ANN.id, first)
    database.add_app(ANN.id, second)
    with pytest.raises(AccountExists):
        database.add_app(ANN.id, AppPassword("a", "d3"))
    database.update(dataclasses.replace(ANN, name="other"))
    assert database.records()[ANN.id].apps == (first, second)
    database.remove_app(ANN.id, "a")
    with pytest.raises(NoSuchAccount):
        database.remove_app(ANN.id, "a")
    database.remove(ANN.id)
    database.add(ANN)
    assert database.records()[ANN.id].apps == (), "a new account of that name has none of the old one's"
    for number in range(MOST):
        database.add_app(ANN.id, AppPassword(str(number), "d"))
    with pytest.raises(AccountExists):
        database.add_app(ANN.id, AppPassword("more", "d"))
    again = AccountDatabase(database.path, clock)
    assert len(again.records()[ANN.id].apps) == MOST
    again.close()
