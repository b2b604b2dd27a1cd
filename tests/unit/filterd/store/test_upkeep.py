"""What changes leave for idle times is done there, and by who opens the account next."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from filterd.store import upkeep
from filterd.store.base import AccountStore, NewMessage
from filterd.store.index import SWEPT
from filterd.store.maildir import MaildirAccount, MaildirStore
from filterd.store.transfer import BLOCK

if TYPE_CHECKING:
    from tests.unit.filterd.store.conftest import World

ACCOUNT = "ann@example.org"
TEXT = b"From: a@b.example\r\nSubject: one of many\r\n\r\nwords\r\n"


def opened(store: MaildirStore, count: int = 0) -> MaildirAccount:
    account: AccountStore = store.account(ACCOUNT)
    assert isinstance(account, MaildirAccount)
    if count:
        account.append("INBOX", [NewMessage(TEXT, ("\\Deleted",))] * count)
        idle(account)
    return account


def idle(account: MaildirAccount) -> None:
    while account.unfinished == 0.0:
        account.step(1.0)


def rendered(store: MaildirStore) -> int:
    return int(str(store.core(ACCOUNT).index.query("select count(*) from cold")[0][0]))


@pytest.fixture
def store(new_store: Callable[[], MaildirStore]) -> MaildirStore:
    return new_store()


def test_rendered_rows_of_many_wait(store: MaildirStore) -> None:
    account = opened(store, 80)
    assert len(account.expunge("INBOX", range(11, 81))) == 70
    assert (rendered(store), account.unfinished) == (80, 0.0)
    idle(account)
    assert rendered(store) == 10
    assert len(account.fields("INBOX", range(1, 81), ("envelope",))) == 10


def test_few_or_scattered_go_at_once(store: MaildirStore) -> None:
    account = opened(store, 130)
    account.expunge("INBOX", range(1, 130, 2))
    assert rendered(store) == 65 and account.unfinished != 0.0


def test_who_opens_the_account_next_does_it(new_store: Callable[[], MaildirStore]) -> None:
    first = new_store()
    opened(first, 80).expunge("INBOX", range(1, 71))
    first.core(ACCOUNT).close()  # as when the process is killed
    second = new_store()
    account = opened(second)
    account.snapshot("INBOX")
    assert account.unfinished == 0.0
    idle(account)
    assert rendered(second) == 10


def test_a_message_that_came_back_keeps_its_row(store: MaildirStore) -> None:
    account = opened(store, 80)
    index = account._core.index
    columns = index.query("select * from hot where uid=7")
    account.expunge("INBOX", range(1, 71))
    with index.transaction():
        index.execute(f"insert into hot values({', '.join('?' * len(columns[0]))})", columns[0])
    idle(account)
    assert rendered(store) == 11


def test_in_portions(store: MaildirStore) -> None:
    account = opened(store)
    index = account._core.index
    with index.transaction():
        index.execute(
            "with recursive n(id) as (select 1 union all select id + 1 from n where id < ?)"
            " insert into cold(id) select (9 << 32) + id from n",
            (SWEPT + 5,),
        )
        index.set_meta(f"left {(9 << 32) + 1} {(9 << 32) + SWEPT + 5}", "")
    index.leftovers = True
    account.step(1.0)
    assert (rendered(store), account.unfinished) == (5, 0.0)
    idle(account)
    assert rendered(store) == 0


def test_the_log_is_written_back(store: MaildirStore) -> None:
    account = opened(store, 60)
    for mode in ("remove", "add") * (upkeep.ROWS // 60 + 1):
        account.set_flags("INBOX", range(1, 61), mode, ("\\Flagged",))
    index = account._core.index
    assert account.unfinished == 0.0 and index.changes() >= upkeep.ROWS
    idle(account)
    assert index.changes() < upkeep.ROWS
    with closing(sqlite3.connect(f"file:{index.path}?immutable=1", uri=True)) as database:  # without its log
        assert database.execute("select count(*) from hot where flags & 4").fetchone() is not None
        assert (
            database.execute("select modseq from mailbox where name='INBOX'").fetchone()[0]
            > upkeep.ROWS // 60
        )


def test_of_a_large_mailbox_goes_what_is_marked_and_was_named(maildir: World) -> None:
    account = maildir.account()
    account.append(
        "INBOX", [NewMessage(b"Subject: %d\r\n\r\n" % number, ("\\Seen",)) for number in range(BLOCK + 5)]
    )
    uids = list(account.snapshot("INBOX").uids)
    marked = [uids[0], uids[7], uids[-2], uids[-1]]
    account.set_flags("INBOX", marked, "add", ("\\Deleted",))
    assert account.expunge("INBOX", uids[:-1]) == tuple(marked[:-1])
    assert account.expunge("INBOX", uids[:-1]) == ()
    assert account.expunge("INBOX", None) == (marked[-1],)
    assert list(account.snapshot("INBOX").uids) == [uid for uid in uids if uid not in marked]
    assert account.status("INBOX").deleted == 0
