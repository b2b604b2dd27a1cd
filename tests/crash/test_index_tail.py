"""No UID and no modseq is given out twice when the index loses its newest commits, also without a new boot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.store import witness
from filterd.store.base import NewMessage
from filterd.store.durable import RealDisk
from filterd.store.maildir import MaildirStore
from tests.crash.story import ACCOUNT, Counter, StillClock

ROOT = Path(__file__).resolve().parent.parent.parent
INDEX = "example.org/ann/.filterd/index.db"
AT_WORK = """
import os, sys
from pathlib import Path
from tests.crash.test_index_tail import busy, opened
store = opened(Path(sys.argv[1]))
busy(store)
os._exit(0)
"""


def opened(root: Path) -> MaildirStore:
    return MaildirStore(
        root, "h", "crlf", lambda account: 0, StillClock(), Counter(os.getpid() << 20), disk=RealDisk()
    )


def busy(store: MaildirStore) -> None:
    """UIDs 3 to 5 come, the last two of them go."""
    account = store.account(ACCOUNT)
    account.append("INBOX", [NewMessage(b"Subject: busy\r\n\r\n")] * 3)
    account.set_flags("INBOX", [4, 5], "add", ["\\Deleted"])
    assert list(account.expunge("INBOX")) == [4, 5]


def begun(root: Path) -> None:
    """UIDs 1 and 2; closed."""
    store = opened(root)
    store.account(ACCOUNT).append("INBOX", [NewMessage(b"Subject: first\r\n\r\n")] * 2)
    store.close()


def at_work(root: Path, killed: bool) -> None:
    if killed:
        subprocess.run([sys.executable, "-c", AT_WORK, str(root)], check=True, cwd=ROOT)
        assert (root / f"{INDEX}-wal").exists()
        return
    store = opened(root)
    busy(store)
    store.close()


def next_uid(root: Path) -> int:
    store = opened(root)
    account = store.account(ACCOUNT)
    modseq = account.snapshot("INBOX").modseq
    uid = account.deliver("INBOX", NewMessage(b"Subject: after\r\n\r\n")).uid
    seen = account.snapshot("INBOX")
    store.close()
    assert list(seen.uids[:2]) == [1, 2] and seen.uids[-1] == uid and seen.modseq > modseq
    return uid


def without_wal(root: Path, old: Path) -> None:
    (root / f"{INDEX}-wal").unlink()
    (root / f"{INDEX}-shm").unlink()


def older_database(root: Path, old: Path) -> None:
    """Into the same inode, as cp does."""
    for end in ("-wal", "-shm"):
        (root / f"{INDEX}{end}").unlink(missing_ok=True)
    (root / INDEX).write_bytes((old / INDEX).read_bytes())


def older_folder(root: Path, old: Path) -> None:
    """All that lies beside the index is as old as it."""
    shutil.rmtree((root / INDEX).parent)
    shutil.copytree((old / INDEX).parent, (root / INDEX).parent)


@pytest.mark.parametrize(
    ("killed", "lose"),
    [
        (True, without_wal),
        (True, older_database),
        (False, older_database),
        (True, older_folder),
        (False, older_folder),
    ],
)
def test_numbers_are_not_given_out_again(
    tmp_path: Path, killed: bool, lose: Callable[[Path, Path], None]
) -> None:
    root, old = tmp_path / "mail", tmp_path / "old"
    root.mkdir()
    begun(root)
    shutil.copytree(root, old)
    at_work(root, killed)
    lose(root, old)
    assert next_uid(root) > 5


@pytest.mark.parametrize("killed", [True, False])
def test_nothing_is_skipped_when_nothing_was_lost(tmp_path: Path, killed: bool) -> None:
    begun(tmp_path)
    at_work(tmp_path, killed)
    assert next_uid(tmp_path) == 6


def test_two_that_have_it_open_agree(tmp_path: Path) -> None:
    begun(tmp_path)
    stores = [opened(tmp_path) for _ in range(2)]
    path = str(tmp_path / INDEX)
    for store in stores:
        store.account(ACCOUNT).status("INBOX")
        assert witness.intact(path)
    for store in stores:
        store.close()
        assert witness.intact(path)
    assert next_uid(tmp_path) == 3


def test_who_writes_his_line_late_costs_no_healing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path)
    path = str(tmp_path / INDEX)
    (tmp_path / f"{INDEX}{witness.SUFFIX}").write_bytes(b"1 2 3 0\n")
    waited = 0.0

    def busy(seconds: float) -> None:
        nonlocal waited
        waited += seconds
        if waited > 0.05:  # the other worker had no processor until now
            witness.note(path)

    monkeypatch.setattr(witness.time, "sleep", busy)
    assert witness.intact(path)


@pytest.mark.parametrize("line", [b"", b"1 2", b"x y z 0\n"])
def test_half_a_line_claims_nothing(tmp_path: Path, line: bytes) -> None:
    begun(tmp_path)
    (tmp_path / f"{INDEX}{witness.SUFFIX}").write_bytes(line)
    assert next_uid(tmp_path) == 3
