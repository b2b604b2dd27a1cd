"""Who shares with whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.store.acl import ANYONE, ENTRY, Acl
from filterd.store.acl_shares import MemoryShares, Shares, SharesFile, note
from filterd.store.base import StoreUnavailable
from filterd.store.memory import MemoryAccount

from .conftest import CountingIds, HandClock

ANN, BOB, CAT = "ann@example.org", "bob@example.org", "cat@example.org"


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_the_table(kind: str, tmp_path: Path) -> None:
    shares: Shares = MemoryShares() if kind == "memory" else SharesFile(tmp_path / "new" / "shares.db")
    shares.note(BOB, {ANN, CAT})
    shares.note(CAT, {ANYONE})
    assert shares.owners(ANN) == (BOB, CAT) and shares.owners("x") == (CAT,)
    assert shares.shared(BOB, ANN) and shares.shared(CAT, BOB) and not shares.shared(BOB, "x")
    shares.note(BOB, {CAT})
    assert not shares.shared(BOB, ANN)
    shares.forget(CAT)
    assert shares.owners(CAT) == () and shares.owners(ANN) == ()
    shares.close()


def test_two_processes_see_the_same(tmp_path: Path) -> None:
    one, two = SharesFile(tmp_path / "shares.db"), SharesFile(tmp_path / "shares.db")
    one.note(BOB, {ANN})
    assert two.shared(BOB, ANN)
    two.note(BOB, ())
    assert not one.shared(BOB, ANN)
    one.close()
    assert not one.shared(BOB, ANN)  # opened again
    one.close()
    two.close()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "shares.db").mkdir()
    with pytest.raises(StoreUnavailable):
        SharesFile(tmp_path / "shares.db").owners(ANN)


def test_the_table_follows_the_lists() -> None:
    account = MemoryAccount(HandClock(), CountingIds(), lambda: 0)
    account.create("Work")
    account.set_metadata("Work", ENTRY, Acl().changed(ANN, "", frozenset("l")).render())
    account.set_metadata("INBOX", ENTRY, Acl().changed("-" + CAT, "", frozenset("l")).render())
    shares = MemoryShares()
    note(shares, BOB, account)
    assert shares.shared(BOB, ANN) and not shares.shared(BOB, CAT)
