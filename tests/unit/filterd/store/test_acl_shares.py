"""Who shares with whom."""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from filterd.store.acl import ANYONE, ENTRY, Acl
from filterd.store.acl_shares import MemoryShares, Shares, SharesFile, note
from filterd.store.base import StoreUnavailable
from filterd.store.memory import MemoryAccount

from .conftest import CountingIds, HandClock, World

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


def test_two_changes_at_once_are_both_in_the_table(maildir: World) -> None:
    """One has looked through the lists and not written yet when the other begins."""

    class Meeting(MemoryShares):
        other: threading.Thread | None = None

        def note(self, owner: str, readers: Collection[str]) -> None:
            if self.other is None:
                self.other = threading.Thread(target=share, args=("INBOX", CAT))
                self.other.start()
                self.other.join(1.0)  # it should wait for us: no longer than this
            super().note(owner, readers)

    def share(mailbox: str, reader: str) -> None:
        account = maildir.store().account(BOB)
        account.set_metadata(mailbox, ENTRY, Acl().changed(reader, "", frozenset("l")).render())
        note(shares, BOB, account)

    shares = Meeting()
    maildir.store().account(BOB).create("Work")
    share("Work", ANN)
    assert shares.other is not None
    shares.other.join(30.0)
    assert shares.owners(ANN) == (BOB,) and shares.owners(CAT) == (BOB,)
