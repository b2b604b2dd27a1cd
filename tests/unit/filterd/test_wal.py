"""Several processes that make the same database at the same moment: nobody is turned away, nothing is lost."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.accounts.database import AccountDatabase
from filterd.explain import traces
from filterd.greylist import SqliteTriplets
from filterd.ports import SystemClock
from filterd.reports import data
from filterd.store.durable import Dir, RealDisk
from filterd.wal import enter_wal, open_wal, transaction
from pipeline.stages.greylist import Limits

PROCESSES = 4
ROUNDS = 12  # without the wait, one round in three fails


def make_traces(folder: Path) -> None:
    traces.connect(folder / "traces.db").close()


def make_reports(folder: Path) -> None:
    data.connect(folder / "reports.db").close()


def make_accounts(folder: Path) -> None:
    AccountDatabase(str(folder / "accounts.db"), SystemClock()).records()


def make_triplets(folder: Path) -> None:
    SqliteTriplets(folder / "greylist.db")._note(
        "198.51.100.0/24", (b"key",), 1.0, Limits(delay=300.0, window=3600.0, keep=86400.0)
    )


def together(act: Callable[[Path], None], folder: Path) -> list[bytes]:
    """Run ``act`` in several processes that start it at one moment; what each has to complain of."""
    start, go = os.pipe()
    answers, answer = os.pipe()
    children = []
    for _ in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(start, 1)  # until the parent closes its end
            try:
                act(folder)
            except BaseException as error:
                os.write(answer, repr(error).encode() + b"\n")
            os._exit(0)
        children.append(pid)
    os.close(go)
    os.close(answer)
    os.close(start)
    with open(answers, "rb") as complaints:
        lines = complaints.read().splitlines()
    for pid in children:
        os.waitpid(pid, 0)
    return lines


@pytest.mark.parametrize("act", [make_traces, make_reports, make_accounts, make_triplets])
def test_processes_that_start_together(act: Callable[[Path], None], tmp_path: Path) -> None:
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert together(act, folder) == []


def test_a_file_that_stays_locked_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("create table t(x)")
        other.execute("begin exclusive")
        db = sqlite3.connect(path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            enter_wal(db, 0.02)
        waiter = threading.Thread(
            target=enter_wal, args=(sqlite3.connect(path, check_same_thread=False, timeout=0), 30)
        )
        waiter.start()
        other.execute("rollback")
        waiter.join(30)
        assert not waiter.is_alive()
        assert db.execute("pragma journal_mode").fetchone() == ("wal",)


def test_what_is_no_database_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database at all, but as long as the head of one: " * 40)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        enter_wal(sqlite3.connect(tmp_path / "x.db"), 30)


def test_the_name_of_its_folder_is_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync_dir = RealDisk.sync_dir

    def noted(disk: RealDisk, at: Dir) -> None:
        synced.append(at.path)
        sync_dir(disk, at)

    monkeypatch.setattr(RealDisk, "sync_dir", noted)
    open_wal(tmp_path / "a" / "b" / "held.db", 1.0, "full", "create table one(two)").close()
    assert synced == [str(tmp_path), str(tmp_path / "a")]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_transaction_is_done_whole_or_not_at_all(tmp_path: Path) -> None:
    db = open_wal(tmp_path / "x.db", 1.0, "off", "create table t(n unique)")
    with transaction(db):
        db.execute("insert into t values(1)")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), transaction(db):
            db.execute("insert into t values(2)")
            raise error
        assert not db.in_transaction
    with pytest.raises(sqlite3.IntegrityError), transaction(db):
        db.execute("insert into t values(3)")
        db.execute("insert or rollback into t values(1)")  # an error that ends the transaction itself
    with transaction(db, "begin"):
        assert db.execute("select n from t").fetchall() == [(1,)]
    db.close()
