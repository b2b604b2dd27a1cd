"""Scans in slices: what was listed once is not listed again for each of them, and nothing is overlooked for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.store import rescan
from filterd.store.base import NewMessage
from filterd.store.folder import Folder
from filterd.store.maildir import MaildirStore

ACCOUNT = "ann@example.org"
COUNT = 40


def text(number: int) -> bytes:
    return b"Subject: %d\r\n\r\nbody\r\n" % number


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each listing; a slice is one message."""
    noted: list[str] = []
    listed = rescan.list_names

    def list_names(folder: Folder) -> dict[str, int]:
        noted.append(folder.name)
        return listed(folder)

    monkeypatch.setattr(rescan, "list_names", list_names)
    monkeypatch.setattr(rescan, "SLICE_SECONDS", 0.0)
    return noted


def drop(root: Path, first: int, count: int) -> None:
    inbox = root / "example.org" / "ann"
    for number in range(first, first + count):
        (inbox / "new" / f"{number}.P1.other").write_bytes(text(number))


def test_many_slices_one_listing(
    new_store: Callable[[], MaildirStore], tmp_path: Path, listings: list[str]
) -> None:
    account = new_store().account(ACCOUNT)
    account.snapshot("INBOX")
    drop(tmp_path, 1, COUNT)
    listings.clear()
    assert list(account.snapshot("INBOX").uids) == list(range(1, COUNT + 1))
    assert len(listings) <= 3
    assert [account.read("INBOX", uid) for uid in (1, COUNT)] == [text(1), text(COUNT)]


def test_healing_too(new_store: Callable[[], MaildirStore], tmp_path: Path, listings: list[str]) -> None:
    account = new_store().account(ACCOUNT)
    drop(tmp_path, 1, COUNT)
    before = account.snapshot("INBOX")
    account.close()
    (tmp_path / "example.org" / "ann" / ".filterd" / "index.db").unlink()
    listings.clear()
    after = new_store().account(ACCOUNT).snapshot("INBOX")
    assert (after.uids, after.flags) == (before.uids, before.flags)
    assert len(listings) <= 4


@pytest.mark.parametrize("what", ["a delivery", "a file", "a removal", "another scan"])
def test_others_between_two_slices(
    new_store: Callable[[], MaildirStore], tmp_path: Path, listings: list[str], what: str
) -> None:
    account, other = new_store().account(ACCOUNT), new_store().account(ACCOUNT)
    for each in (account, other):
        each.snapshot("INBOX")
    drop(tmp_path, 100, COUNT)
    wanted = {text(number) for number in range(100, 100 + COUNT)}
    core = account._core
    folder, _ = core.box("INBOX")
    done, slices = False, 0
    while not done:
        with core.locked():
            done = rescan._slice(core, folder, core.fresh_row(folder), 0)
        slices += 1
        if slices == 3 and what == "a delivery":
            other.deliver("INBOX", NewMessage(text(1)))
            wanted.add(text(1))
        elif slices == 3 and what == "a file":
            drop(tmp_path, 1, 1)
            wanted.add(text(1))
        elif slices == 3 and what == "a removal":
            (tmp_path / "example.org" / "ann" / "new" / f"{100 + COUNT - 1}.P1.other").unlink()
            wanted.discard(text(100 + COUNT - 1))
        elif slices == 3:
            rescan.force(other._core, other._core.box("INBOX")[0])
    assert 3 < slices <= COUNT + 3
    for each in (account, other):
        each.snapshot("INBOX")
        uids = each.snapshot("INBOX").uids
        assert sorted(each.read("INBOX", uid) or b"" for uid in uids) == sorted(wanted)
