"""Files that aliases lead to: one copy whatever a crash left, and no file that somebody else could have put there."""

from __future__ import annotations

import fcntl
import mailbox
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.store.base import StoreUnavailable
from filterd.store.durable import Dir, LockRules, OpenFile, RealDisk
from filterd.store.mailfile import FileMail, area, deliver

LOCKS = LockRules(seconds=0.2)
TEXT = b"Return-Path: <a@far.example>\r\nSubject: hi\r\n\r\nFrom here\r\n>From there\r\n\0\r\nend"


def mail(item: str = "ITEM1", doubtful: bool = True, sender: str = "a@far.example") -> FileMail:
    return FileMail(sender, TEXT, item, 1_800_000_000.5, doubtful)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir(mode=0o755)
    return folder


def put(place: Path, name: str = "box", one: FileMail | None = None) -> None:
    deliver(RealDisk(), f"{place}/{name}", str(place), one or mail(), LOCKS)


def test_an_mbox_as_other_programs_read_it(place: Path) -> None:
    put(place)
    put(place, one=mail("ITEM2", doubtful=False))
    put(place, one=mail("ITEM2"))  # known
    box = mailbox.mbox(place / "box")
    assert [one["X-Filterd-Item"] for one in box] == ["ITEM1", "ITEM2"]
    text = (place / "box").read_bytes()
    assert text.startswith(b"From a@far.example Fri Jan 15 08:00:00 2027\n") and text.endswith(b"end\n\n")
    assert b"\n>From here\n>>From there\n" in text and b"\r" not in text
    assert (place / "box").stat().st_mode & 0o777 == 0o600 and not (place / "box.lock").exists()


def test_whatever_a_crash_left_is_one_copy_then(place: Path) -> None:
    box, whole = place / "box", area(mail())
    before = b"From b@far.example Fri Jan 15 08:00:00 2027\nSubject: x\n\nFrom\n\n"
    for cut in (*range(8), *range(8, len(whole), 5), len(whole) - 1, len(whole)):
        for tail in (b"", b"\0" * (len(whole) - cut)):
            box.write_bytes(before + whole[:cut] + tail)
            box.chmod(0o600)
            put(place)
            after = box.read_bytes()
            if 0 < cut < 5:  # "From" may be anybody's
                assert after == before + whole[:cut] + b"\n\n" + whole
            else:
                assert after == before + whole


@pytest.mark.parametrize("end", [b"so he said: From ", b"so\nFrom ", b">From a@far.example", b"\n"])
def test_the_end_of_somebodys_line_is_not_the_beginning_of_ours(place: Path, end: bytes) -> None:
    box, foreign = place / "box", b"From b@far.example Fri Jan 15 08:00:00 2027\nSubject: x\n\n" + end
    box.write_bytes(foreign)
    box.chmod(0o600)
    put(place)
    assert box.read_bytes() == foreign + b"\n" * (2 - (end == b"\n") * 2) + area(mail())


def test_a_half_written_one_behind_which_others_wrote(place: Path) -> None:
    box, whole, other = place / "box", area(mail()), area(mail("ITEM2"))
    for cut in (*range(0, len(whole), 9), len(whole)):
        box.write_bytes(whole[:cut])
        box.chmod(0o600)
        put(place, one=mail("ITEM2", doubtful=False))
        put(place)
        after = box.read_bytes()
        assert other in after and whole.rstrip(b"\n") in after
        put(place)
        assert box.read_bytes() == after
    assert after == whole + other


def test_blocks_that_were_never_written(place: Path) -> None:
    one = FileMail("a@far.example", TEXT + b"x" * 20_000, "ITEM1", 0.0)
    whole = area(one)
    box = place / "box"
    box.write_bytes(whole[:4096] + b"\0" * 4096 + whole[8192:])
    box.chmod(0o600)
    put(place, one=one)
    assert box.read_bytes() == whole


def test_what_a_mail_program_changed_is_known_again(place: Path) -> None:
    put(place)
    box = place / "box"
    changed = box.read_bytes().replace(b"\nSubject:", b"\nStatus: RO\nSubject:")
    box.write_bytes(changed)
    put(place)
    assert box.read_bytes() == changed


def test_an_mbox_without_a_last_line_end(place: Path) -> None:
    (place / "box").write_bytes(b"From x\n\nodd")
    (place / "box").chmod(0o600)
    put(place)
    assert (place / "box").read_bytes() == b"From x\n\nodd\n\n" + area(mail())


def test_a_full_disk_leaves_nothing(place: Path) -> None:
    class Full(RealDisk):
        def write_at(self, file: OpenFile, offset: int, data: bytes) -> None:
            super().write_at(file, offset, data[:40])
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreUnavailable, match="No space"):
        deliver(Full(), f"{place}/box", str(place), mail(), LOCKS)
    assert (place / "box").read_bytes() == b""


def test_other_programs_locks_are_kept(place: Path) -> None:
    (place / "box").touch(mode=0o600)
    (place / "box.lock").write_text(str(os.getpid()))
    with pytest.raises(StoreUnavailable, match="another program"):
        put(place)
    (place / "box.lock").unlink()
    with (place / "box").open("r+b") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="another program"):  # the locks belong to descriptions
            put(place)
    put(place)
    assert (place / "box").read_bytes() == area(mail())


@pytest.mark.parametrize(("name", "folder"), [("box", "files"), ("Mail/", "new"), ("Mail/", "cur")])
def test_what_is_there_already_is_made_durable_with_its_folder(place: Path, name: str, folder: str) -> None:
    """It may be there because a crash came before the folder was synced."""
    synced: list[str] = []

    class Noting(RealDisk):
        def sync_dir(self, at: Dir) -> None:
            super().sync_dir(at)
            synced.append(os.path.basename(at.path))

    put(place, name)
    if folder == "cur":
        (file,) = (place / "Mail" / "new").iterdir()
        file.rename(place / "Mail" / "cur" / f"{file.name}:2,S")
    deliver(Noting(), f"{place}/{name}", str(place), mail(), LOCKS)
    assert synced == [folder]


def test_a_maildir_is_made_and_gets_one_copy(place: Path) -> None:
    for _ in range(2):
        put(place, "Mail/")
    (file,) = (place / "Mail" / "new").iterdir()
    assert file.read_bytes() == TEXT.replace(b"\r\n", b"\n") + b"\n" and not list(
        (place / "Mail/tmp").iterdir()
    )
    file.rename(place / "Mail" / "cur" / f"{file.name}:2,S")
    put(place, "Mail/")
    assert not list((place / "Mail" / "new").iterdir())
    put(place, "Mail/", mail("ITEM2"))
    assert len(mailbox.Maildir(place / "Mail")) == 2


def _link(place: Path) -> str:
    (place.parent / "real").touch(mode=0o600)
    (place / "box").symlink_to(place.parent / "real")
    return "box"


def _folder_link(place: Path) -> str:
    (place.parent / "other").mkdir()
    (place / "sub").symlink_to(place.parent / "other")
    return "sub/box"


def _second_name(place: Path) -> str:
    (place / "box").touch(mode=0o600)
    os.link(place / "box", place.parent / "second")
    return "box"


def _for_all(place: Path) -> str:
    (place / "box").touch(mode=0o600)
    (place / "box").chmod(0o602)
    return "box"


def _open_folder(place: Path) -> str:
    place.chmod(0o777)
    return "box"


def _open_below(place: Path) -> str:
    (place / "sub").mkdir()
    (place / "sub").chmod(0o775)
    return "sub/box"


def _fifo(place: Path) -> str:
    os.mkfifo(place / "box", 0o600)
    return "box"


def _directory(place: Path) -> str:
    (place / "box").mkdir()
    return "box"


def _file_for_maildir(place: Path) -> str:
    (place / "box").touch(mode=0o600)
    return "box/"


def _maildir_link(place: Path) -> str:
    (place / "Mail").mkdir()
    (place.parent / "new").mkdir()
    (place / "Mail" / "new").symlink_to(place.parent / "new")
    return "Mail/"


def _absent(place: Path) -> str:
    return "absent/box"


def _device(place: Path) -> str:
    (place / "box").symlink_to("/dev/null")
    return "box"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_link, "is a link"),
        (_folder_link, "is a link"),
        (_second_name, "another name"),
        (_for_all, "others may write"),
        (_open_folder, "others may write"),
        (_open_below, "others may write"),
        (_fifo, "no ordinary file"),
        (_directory, "no ordinary file"),
        (_file_for_maildir, "no folder"),
        (_maildir_link, "is a link"),
        (_absent, "No such file"),
        (_device, "is a link"),
    ],
)
def test_what_is_not_written(place: Path, make: Callable[[Path], str], why: str) -> None:
    name = make(place)
    with pytest.raises(StoreUnavailable, match=why):
        put(place, name)
    assert not any(one.is_file() and one.stat().st_size for one in place.parent.rglob("*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: files cannot be given away (CAP_CHOWN)")
@pytest.mark.parametrize("what", [".", "box"])
def test_what_belongs_to_somebody_else(place: Path, what: str) -> None:
    (place / "box").touch(mode=0o600)
    os.chown(place / what, 1234, -1)
    with pytest.raises(StoreUnavailable, match="somebody else"):
        put(place)


def test_a_sender_makes_no_line_of_its_own(place: Path) -> None:
    put(place, one=mail(sender='"a b\n"@far.example'))
    assert (place / "box").read_bytes().startswith(b'From "a-b-"@far.example Fri')
    put(place, "null", mail(sender=""))
    assert (place / "null").read_bytes().startswith(b"From MAILER-DAEMON Fri")
