"""Which errors mean that the disk is full."""

import errno
import sqlite3

import pytest

from filterd.store.base import StoreUnavailable
from filterd.store.full import disk_full


def caused(error: BaseException) -> StoreUnavailable:
    failure = StoreUnavailable("store: it failed")
    failure.__cause__ = error
    return failure


@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False), (0, False)]
)
def test_errors_of_the_system(number: int, full: bool) -> None:
    assert disk_full(OSError(number, "x")) is disk_full(caused(OSError(number, "x"))) is full


def test_errors_of_the_database() -> None:
    db = sqlite3.connect(":memory:")
    db.execute("create table t(x)")
    db.execute("pragma max_page_count=2")
    with pytest.raises(sqlite3.OperationalError) as caught:
        for _ in range(100):
            db.execute("insert into t values(zeroblob(4000))")
    db.close()
    assert disk_full(caused(caught.value))
    assert not disk_full(caused(sqlite3.OperationalError("locked")))


def test_a_chain_without_end() -> None:
    first, second = StoreUnavailable("a"), StoreUnavailable("b")
    first.__cause__, second.__cause__ = second, first
    assert not disk_full(first)
