"""The primitives on a real directory, with and without nameless files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from filterd.store.base import NewMessage, StoreUnavailable
from filterd.store.durable import (
    EVERYTHING,
    RealDisk,
    make_dirs,
    opened,
    replace_small,
    write_file,
)
from filterd.store.maildir import MaildirStore

if TYPE_CHECKING:
    from tests.unit.filterd.store.conftest import World


@pytest.fixture(params=[True, False], ids=["nameless", "named"])
def disk(request: pytest.FixtureRequest) -> RealDisk:
    return RealDisk(unnamed=request.param)


def test_publish_and_discard(disk: RealDisk, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "new").mkdir()
    with opened(disk, str(tmp_path / "tmp")) as tmp, opened(disk, str(tmp_path / "new")) as new:
        one = disk.write_new(new, b"one", 1000, temporary=tmp)
        other = disk.write_new(new, b"other", temporary=tmp)
        assert list((tmp_path / "new").iterdir()) == []
        disk.sync(one)
        disk.publish(one, "first")
        disk.discard(one)
        disk.discard(other)
        disk.discard(other)
        disk.sync_dir(new)
    assert (tmp_path / "new" / "first").read_bytes() == b"one"
    facts = (tmp_path / "new" / "first").stat()
    assert (facts.st_mtime, facts.st_mode & 0o777, facts.st_ino) == (1000, 0o600, one.inode)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_publish_never_replaces(disk: RealDisk, tmp_path: Path) -> None:
    with opened(disk, str(tmp_path)) as at:
        (tmp_path / "taken").write_bytes(b"mine")
        file = disk.write_new(at, b"yours")
        with pytest.raises(FileExistsError):
            disk.publish(file, "taken")
        disk.discard(file)
    assert (tmp_path / "taken").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_replace_small(disk: RealDisk, tmp_path: Path) -> None:
    with opened(disk, str(tmp_path)) as at:
        replace_small(disk, at, ".file", b"old")
        replace_small(disk, at, ".file", b"new", durable=False)
    assert [path.name for path in tmp_path.iterdir()] == [".file"]
    assert (tmp_path / ".file").read_bytes() == b"new"
    write_file(tmp_path / ".file", b"newest")
    assert (tmp_path / ".file").read_bytes() == b"newest"


def test_make_dirs(tmp_path: Path) -> None:
    make_dirs(RealDisk(), str(tmp_path / "a" / "b" / "c"))
    make_dirs(RealDisk(), str(tmp_path / "a" / "b" / "c"))
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700


def test_a_lock_excludes_and_its_note_outlives_the_holder(tmp_path: Path) -> None:
    disk = RealDisk()
    with opened(disk, str(tmp_path)) as at:
        one, other = disk.open_lock(at, "lock"), disk.open_lock(at, "lock")
        one.acquire(1)
        with pytest.raises(StoreUnavailable):
            other.acquire(0.01)
        one.set_note(b"12,13")
        one.close()
        one.close()
        other.acquire(1)
        assert other.note() == b"12,13"
        other.set_note(b"7")
        assert other.note() == b"7"
        other.set_note(b"")
        assert other.note() == b""
        other.set_note(b"1," * 5000)
        assert other.note() == EVERYTHING
        other.close()


def test_the_store_works_where_there_are_no_nameless_files(maildir: World) -> None:
    disk = RealDisk(unnamed=False)
    store = MaildirStore(maildir.root, "h", "crlf", lambda account: 0, maildir.clock, maildir.ids, disk=disk)
    account = store.account("ann@example.org")
    account.append("INBOX", [NewMessage(b"a: b\r\n\r\n", ("\\Seen",)), NewMessage(b"c: d\r\n\r\n")])
    assert account.read("INBOX", 2) == b"c: d\r\n\r\n"
    names = [
        path.name for path in maildir.maildir.rglob("*") if path.is_file() and "filterd" not in str(path)
    ]
    assert len([name for name in names if ",U=" in name]) == 2
    store.close()


def test_a_disk_that_fails_once_is_asked_for_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: str, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no such thing here")
        return real(path, flags, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    disk = RealDisk()
    with opened(disk, str(tmp_path)) as at:
        disk.publish(disk.write_new(at, b"x"), "name")
    assert (tmp_path / "name").read_bytes() == b"x"
