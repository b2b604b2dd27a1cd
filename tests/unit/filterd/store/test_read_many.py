"""Reading a mailbox group by group: where the next texts are is looked up ahead, and is never believed against the files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from filterd.store import views
from filterd.store.base import NewMessage
from filterd.store.folder import Folder, Place
from filterd.store.maildir import MaildirAccount, MaildirStore

ACCOUNT = "ann@example.org"
MANY = 300


def text(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n" % number + b"x" * 80 + b"\r\n"


@pytest.fixture
def ann(new_store: Callable[[], MaildirStore]) -> MaildirAccount:
    account = new_store().account(ACCOUNT)
    account.append("INBOX", [NewMessage(text(number)) for number in range(1, MANY + 1)])
    account.snapshot("INBOX")
    return account


def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many places were looked up, each time."""
    asked: list[int] = []
    places = views._places

    def counting(core: object, folder: Folder, uids: Sequence[int]) -> dict[int, Place]:
        asked.append(len(uids))
        return places(core, folder, uids)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(views, "_places", counting)
    return asked


def test_each_place_is_looked_up_once(ann: MaildirAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looked_up(monkeypatch)
    uids = list(range(1, MANY + 1))
    texts: list[bytes | None] = []
    while len(texts) < MANY:
        found = ann.read_many("INBOX", uids[len(texts) : len(texts) + 256], 1_000)
        assert 0 < len(found) < 12
        texts += found
    assert texts == [text(number) for number in uids]
    assert sum(asked) <= MANY + 60  # the last few are looked up with their neighbours


def test_what_happens_between_two_groups(
    ann: MaildirAccount, new_store: Callable[[], MaildirStore], tmp_path: Path
) -> None:
    uids = list(range(1, MANY + 1))
    assert len(ann.read_many("INBOX", uids, 90)) == 1  # those after it are known now
    other = new_store().account(ACCOUNT)
    other.set_flags("INBOX", [2, 3], "add", ("\\Seen",))
    other.set_flags("INBOX", [4], "add", ("\\Deleted",))
    other.expunge("INBOX", [4])
    (path,) = [found for found in tmp_path.rglob("*") if re.search(r",U=[0-9a-f]{16}\.5(:|$)", found.name)]
    aside = path.with_name("aside")
    aside.write_bytes(b"Subject: other\r\n\r\nanother text\r\n")
    os.replace(aside, path)
    texts = ann.read_many("INBOX", uids[1:], 10**9)
    assert texts == [
        text(2),
        text(3),
        None,
        b"Subject: other\r\n\r\nanother text\r\n",
        *map(text, range(6, MANY + 1)),
    ]


def test_few_and_none(ann: MaildirAccount) -> None:
    assert ann.read_many("INBOX", [], 100) == []
    assert ann.read_many("INBOX", [9, 4_000], 10**9) == [text(9), None]
    assert ann.read_many("INBOX", [3, 290], 10**9) == [text(3), text(290)]
    some = [text(number) for number in range(250, MANY + 1)]
    assert ann.read_many("INBOX", range(250, 340), 10**9) == [*some, *[None] * 39]
