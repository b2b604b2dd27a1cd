"""The mbox store beside other programs: what they write is seen, what we write they can read, and nothing of either is lost."""

from __future__ import annotations

import errno
import mailbox
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.store.base import ANSWERED, DELETED, FLAGGED, SEEN, AccountStore, NewMessage, StoreUnavailable
from filterd.store.durable import LockRules, MailLock, OpenFile, RealDisk
from tests.unit.filterd.store.conftest import World
from tests.unit.filterd.store.test_contract import put, text

FROM = b"From bob@example.net Mon Nov 23 10:36:28 2026\n"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World("mbox", tmp_path)
    yield world
    world.close()


def inbox(world: World) -> Path:
    return world.maildir / "inbox"


def prepared(world: World, data: bytes, name: str = "inbox") -> AccountStore:
    """An account that finds this file."""
    path = world.maildir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return world.account()


def texts(account: AccountStore, name: str = "INBOX") -> list[bytes | None]:
    return [account.read(name, uid) for uid in account.snapshot(name).uids]


# -- files of other programs -----------------------------------------------------------------------------------------------


FILES: dict[str, tuple[bytes, list[bytes]]] = {
    "empty": (b"", []),
    "one": (FROM + b"Subject: a\n\nbody\n\n", [b"Subject: a\r\n\r\nbody\r\n"]),
    "no final newline": (FROM + b"Subject: a\n\nbody", [b"Subject: a\r\n\r\nbody\r\n"]),
    "no empty line at the end": (FROM + b"Subject: a\n\nbody\n", [b"Subject: a\r\n\r\nbody\r\n"]),
    "header only": (
        FROM + b"Subject: a\n\n" + FROM + b"Subject: b\n\n\n",
        [b"Subject: a\r\n\r\n", b"Subject: b\r\n\r\n"],
    ),
    "crlf": (
        (FROM + b"Subject: a\n\nbody\n\n" + FROM + b"B: c\n\nx\n\n").replace(b"\n", b"\r\n"),
        [b"Subject: a\r\n\r\nbody\r\n", b"B: c\r\n\r\nx\r\n"],
    ),
    "mboxrd": (
        FROM + b"Subject: a\n\n>From here\n>>From there\n> From x\n\n",
        [b"Subject: a\r\n\r\nFrom here\r\n>From there\r\n> From x\r\n"],
    ),
    "bad From_ lines are text": (
        FROM + b"Subject: a\n\nFrom here to eternity\nFrom a Mon Foo 23 10:36:28 2026\n\n",
        [b"Subject: a\r\n\r\nFrom here to eternity\r\nFrom a Mon Foo 23 10:36:28 2026\r\n"],
    ),
    "mboxcl2": (
        FROM
        + b"Content-Length: %d\nSubject: a\n\n" % (len(FROM) + 6)
        + FROM
        + b"inside"
        + b"\n\n"
        + FROM
        + b"Subject: b\n\nx\n\n",
        [b"Subject: a\r\n\r\n" + FROM.replace(b"\n", b"\r\n") + b"inside\r\n", b"Subject: b\r\n\r\nx\r\n"],
    ),
    "a Content-Length that lies": (
        FROM + b"Content-Length: 40\nSubject: a\n\nbody\n\n" + FROM + b"Subject: b\n\nx\n\n",
        [b"Subject: a\r\n\r\nbody\r\n", b"Subject: b\r\n\r\nx\r\n"],
    ),
    "a Content-Length beyond the end": (
        FROM + b"Content-Length: 99999999999\nSubject: a\n\nbody\n\n",
        [b"Subject: a\r\n\r\nbody\r\n"],
    ),
    "UW's pseudo message": (
        b"From MAILER-DAEMON Mon Nov 23 10:36:28 2026\nDate: x\nFrom: Mail System Internal Data <a@b>\n"
        b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nX-IMAP: 1234567890 0000000042 work\nStatus: RO\n\n"
        b"This text is part of the internal format of your mail folder.\n\n"
        + FROM
        + b"Subject: a\nX-UID: 7\n\nbody\n\n",
        [b"Subject: a\r\n\r\nbody\r\n"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_program(world: World, name: str) -> None:
    data, wanted = FILES[name]
    account = prepared(world, data)
    assert texts(account) == wanted
    account.set_flags("INBOX", list(account.snapshot("INBOX").uids), "add", ["\\Seen", "word"])
    assert texts(account) == wanted
    put(account, 1)
    assert texts(account) == [*wanted, text(0)]
    again = list(account.snapshot("INBOX").uids)
    account.close()
    shutil.rmtree(world.maildir / ".filterd")  # the index is made anew from the file
    account = world.account()
    assert texts(account) == [*wanted, text(0)]
    assert list(account.snapshot("INBOX").uids) == again
    assert list(account.snapshot("INBOX").flags)[:-1] == [SEEN | 32] * len(wanted)


def test_state_of_uw_and_dovecot_is_taken_over(world: World) -> None:
    account = prepared(
        world,
        FROM
        + b"X-IMAPbase: 1234567890 0000000042 work\nX-UID: 7\nStatus: RO\nX-Status: AF\nX-Keywords: work play   \n"
        b"Subject: a\n\nbody\n\n"
        + FROM
        + b"Status: O\nX-UID: 42\nX-Status: D\nSubject: b\n\nx\n\n"
        + FROM
        + b"Subject: c\n\ny\n\n",
    )
    view = account.snapshot("INBOX")
    assert view.info.uidvalidity == 1234567890
    assert list(view.uids)[:2] == [7, 42]
    assert view.uids[2] > 42
    assert list(view.flags) == [SEEN | ANSWERED | FLAGGED | 32 | 64, DELETED, 0]
    assert view.keywords == ("work", "play")
    assert account.status("INBOX").recent == 1
    assert account.rows("INBOX", [7])[0].date == 1795430188
    assert account.read("INBOX", 7) == b"Subject: a\r\n\r\nbody\r\n"


def test_the_pseudo_message_stays_and_is_kept_up_to_date(world: World) -> None:
    data, _ = FILES["UW's pseudo message"]
    account = prepared(world, data)
    view = account.snapshot("INBOX")
    assert (view.info.uidvalidity, list(view.uids)) == (1234567890, [7])
    uid = put(account, 1)[0]
    assert b"X-IMAP: 1234567890 %010d work\n" % uid in inbox(world).read_bytes()
    account.set_flags("INBOX", [7, uid], "add", ["\\Deleted"])
    assert account.expunge("INBOX") == (7, uid)
    assert b"DON'T DELETE" in inbox(world).read_bytes()
    assert texts(account) == []


# -- what others read ------------------------------------------------------------------------------------------------------


def test_python_reads_what_we_wrote(world: World) -> None:
    account = world.account()
    body = b"Subject: x\r\n\r\nFrom me\r\n>From you\r\n"
    account.append("INBOX", [NewMessage(text(1), ("\\Seen", "\\Flagged")), NewMessage(body), NewMessage(b"")])
    box = mailbox.mbox(inbox(world), create=False)
    assert len(box) == 3
    assert box[0]["Subject"] == "message 1"
    assert set(box[0].get_flags()) - {" "} == {"F", "O", "R"}
    assert box[1].get_payload() == ">From me\n>>From you\n"
    assert b"X-IMAPbase: %010d 0000000003" % account.info("INBOX").uidvalidity in inbox(world).read_bytes()
    account.set_flags("INBOX", [1], "remove", ["\\Seen"])
    assert set(mailbox.mbox(inbox(world))[0].get_flags()) - {" "} == {"F", "O"}


def test_flags_are_written_in_place(world: World) -> None:
    account = world.account()
    put(account, 3)
    size, inode = inbox(world).stat().st_size, inbox(world).stat().st_ino
    account.set_flags("INBOX", [1, 3], "add", ["\\Seen", "\\Answered", "keyword"])
    account.set_flags("INBOX", [1], "set", ["\\Deleted"])
    assert (inbox(world).stat().st_size, inbox(world).stat().st_ino) == (size, inode)
    account.set_flags("INBOX", [2], "add", ["x" * 60])  # more than the padding
    account.expunge("INBOX")
    assert inbox(world).stat().st_ino == inode
    assert texts(account) == [text(1), text(2)]
    assert b"X-IMAPbase:" in inbox(world).read_bytes()[:400]


def test_headers_that_a_message_came_with_are_not_ours(world: World) -> None:
    account = world.account()
    data = (
        b"Status: RO\r\nX-UID: 99\r\nX-IMAPbase: 1 2\r\nContent-Length: 3\r\nX-Filterd-Mbox: w=1 u=a.1\r\nSubject: x\r\n\r\n"
        b"Status: body\r\n"
    )
    account.deliver("INBOX", NewMessage(data))
    assert account.read("INBOX", 1) == data
    assert account.snapshot("INBOX").flags[0] == 0
    account.close()
    shutil.rmtree(world.maildir / ".filterd")
    account = world.account()
    assert texts(account) == [data]
    assert (list(account.snapshot("INBOX").uids), list(account.snapshot("INBOX").flags)) == ([1], [0])


# -- what others do while we are there -------------------------------------------------------------------------------------


def test_others_append(world: World) -> None:
    account = world.account()
    put(account, 2)
    known = account.snapshot("INBOX").modseq
    with inbox(world).open("ab") as file:
        file.write(FROM + b"Subject: theirs\n\nbody\n\n")
    changes = account.changes("INBOX", known)
    assert changes.appended == ((3, 0),)
    assert texts(account) == [text(0), text(1), b"Subject: theirs\r\n\r\nbody\r\n"]
    with inbox(world).open("ab") as file:
        file.write(FROM + b"Subject: no line end")
    assert put(account, 1) == [5]
    assert texts(account)[3:] == [b"Subject: no line end\r\n", text(0)]


def test_others_expunge_and_rewrite(world: World) -> None:
    account = world.account()
    put(account, 6)
    known = account.snapshot("INBOX").modseq
    box = mailbox.mbox(inbox(world))
    box.lock()
    box.remove(1)
    box.remove(4)
    message = box[3]
    message.set_flags("RF")
    box[3] = message
    box.flush()
    box.unlock()
    box.close()
    changes = account.changes("INBOX", known)
    assert changes.expunged == (2, 5)
    assert [(uid, mask) for uid, mask, _ in changes.flags] == [(4, SEEN | FLAGGED)]
    assert list(account.snapshot("INBOX").uids) == [1, 3, 4, 6]
    assert texts(account) == [text(0), text(2), text(3), text(5)]
    assert put(account, 1) == [7]


def test_others_change_flags_at_their_place(world: World) -> None:
    account = world.account()
    put(account, 3)
    data = bytearray(inbox(world).read_bytes())
    at = data.find(b"\nStatus: ", data.find(b"X-UID: 2  ")) + 9
    data[at : at + 2] = b"RO"
    with inbox(world).open("r+b") as file:
        file.write(data)
    assert list(account.snapshot("INBOX").flags) == [0, SEEN, 0]


def test_others_edit_a_body_and_an_old_index_does_not_show_it(world: World) -> None:
    account = world.account()
    put(account, 3)
    data = inbox(world).read_bytes()
    inbox(world).write_bytes(data.replace(b"body 1\n", b"BODY 1\n"))
    assert account.read("INBOX", 2) == text(1).replace(b"body 1", b"BODY 1")
    assert list(account.snapshot("INBOX").uids) == [1, 2, 3]


def test_others_put_another_file_there(world: World) -> None:
    account = world.account()
    put(account, 2)
    other = world.root / "other"
    other.write_bytes(FROM + b"Subject: new\n\nx\n\n" + inbox(world).read_bytes())
    os.replace(other, inbox(world))
    assert text(0) in texts(account)
    assert list(account.snapshot("INBOX").uids) == [1, 2, 3]
    assert account.read("INBOX", 3) == b"Subject: new\r\n\r\nx\r\n"
    inbox(world).unlink()  # mutt removes a mailbox that it has emptied
    assert texts(account) == []
    assert put(account, 1) == [4]


def test_a_message_copied_by_others_is_another_message(world: World) -> None:
    account = world.account()
    put(account, 1)
    data = inbox(world).read_bytes()
    with inbox(world).open("ab") as file:
        file.write(data)
    assert list(account.snapshot("INBOX").uids) == [1, 2]
    assert texts(account) == [text(0), text(0)]


def test_folders_of_others(world: World) -> None:
    account = prepared(world, FROM + b"Subject: a\n\nx\n\n", "mail/Lists/python")
    (world.maildir / "mail/Lists/mBoX-MeSsAgEs").write_bytes(b"")
    (world.maildir / "mail/notes.txt").write_bytes(b"not mail\n")
    assert [info.name for info in account.mailboxes()] == ["INBOX", "Lists", "Lists/python"]
    assert texts(account, "Lists/python") == [b"Subject: a\r\n\r\nx\r\n"]
    made = account.info("Lists/python")
    account.rename("Lists", "Old")
    assert account.info("Old/python").id == made.id
    assert texts(account, "Old/python") == [b"Subject: a\r\n\r\nx\r\n"]
    assert (world.maildir / "mail/Old.python").is_file()
    (world.maildir / "mail/Old").unlink()
    assert [info.name for info in account.mailboxes()] == ["INBOX", "Old/python"]


def test_names_that_would_be_locks(world: World) -> None:
    account = world.account()
    for name in ("a/lock", "x.lock", "copy~"):
        account.create(name)
        put(account, 1, name)
    account.close()
    assert {"a/lock", "x.lock", "copy~", "a"} <= {info.name for info in world.account().mailboxes()}


# -- locks -----------------------------------------------------------------------------------------------------------------


def test_a_lock_of_another_program_is_respected(tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    one, other = MailLock(path, LockRules(seconds=0.05)), MailLock(path, LockRules(seconds=0.05, stale=1e9))
    fd, fd2 = os.open(path, os.O_RDWR | os.O_CREAT), os.open(path, os.O_RDWR)
    one.acquire(fd)
    assert (tmp_path / "box.lock").read_text().startswith(f"{os.getpid()}:")
    with pytest.raises(StoreUnavailable):
        other.acquire(fd2)
    one.release(fd)
    other.acquire(fd2)
    only = MailLock(path, LockRules(methods=("fcntl",), seconds=0.0))
    with pytest.raises(StoreUnavailable):
        only.acquire(fd)
    other.release(fd2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["box"]


def test_a_forgotten_lock_is_broken(tmp_path: Path) -> None:
    lock = tmp_path / "box.lock"
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True
    ).stdout
    rules = LockRules(seconds=0.2, stale=300)
    for content, age, broken in (
        (gone, 0, True),
        (b"", 0, False),
        (b"", 400, True),
        (b"%d\n" % os.getpid(), 200, False),
    ):
        lock.write_bytes(content)
        os.utime(lock, (lock.stat().st_mtime - age,) * 2)
        mine = MailLock(str(tmp_path / "box"), rules)
        if broken:
            mine.acquire(-1)
            mine.release(-1)
            assert not lock.exists()
        else:
            with pytest.raises(StoreUnavailable):
                mine.acquire(-1)


def test_where_a_directory_forbids_dot_locks(tmp_path: Path) -> None:
    """As an ordinary user: root may write everywhere."""
    (tmp_path / "spool").mkdir(mode=0o555)
    path = str(tmp_path / "spool" / "box")
    child = os.fork()
    if child == 0:
        result = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            MailLock(path, LockRules(methods=("dotlock-try",), seconds=0.0)).acquire(-1)
            try:
                MailLock(path, LockRules(methods=("dotlock",), seconds=0.0)).acquire(-1)
            except StoreUnavailable as error:
                result = 0 if "store.mbox.locks" in str(error) else 2
        finally:
            os._exit(result)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_who_only_looks_does_not_wait_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filterd.store.mbox_sync.LOOK_SECONDS", 0.01)
    account = world.account()
    put(account, 2)
    with inbox(world).open("ab") as file:
        file.write(FROM + b"Subject: theirs\n\nbo")
    lock = inbox(world).with_name("inbox.lock")
    lock.write_bytes(b"%d\n" % os.getpid())
    assert list(account.snapshot("INBOX").uids) == [1, 2]
    assert account.read("INBOX", 1) == text(0)
    lock.unlink()
    assert list(account.snapshot("INBOX").uids) == [1, 2, 3]


WRITER = """
    import os, sys, time
    path, count = sys.argv[1], int(sys.argv[2])
    for number in range(count):
        while True:
            try:
                os.close(os.open(path + ".lock", os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                time.sleep(0.001)
        with open(path, "ab", buffering=0) as file:
            data = b"From x@y Mon Nov 23 10:36:28 2026\\nSubject: foreign %d\\n\\nbody\\n\\n" % number
            file.write(data[:20])
            file.write(data[20:])
        os.unlink(path + ".lock")
"""


def test_another_program_writes_while_we_write(world: World) -> None:
    account, other = world.account(), world.account()
    put(account, 1)
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), str(inbox(world)), "40"])
    try:
        for number in range(40):
            (account if number % 2 else other).deliver("INBOX", NewMessage(text(number, 500)))
            if number % 8 == 7:
                uids = list(account.snapshot("INBOX").uids)
                account.set_flags("INBOX", uids[:1], "add", ["\\Deleted", f"word{number}" * 4])
                other.expunge("INBOX")
    finally:
        assert writer.wait(60) == 0
    found = texts(account)
    assert None not in found
    assert found == texts(other)
    ours = [data for data in found if data is not None and b"Subject: message" in data]
    foreign = [data for data in found if data is not None and b"Subject: foreign" in data]
    assert len(ours) + len(foreign) == 1 + 40 + 40 - 5
    assert len(set(foreign)) == len(foreign)


def test_a_disk_that_fails_while_healing_cuts_fails_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = world.account()
    for number in range(3):
        put(account, number)
    whole = texts(account)
    world.close()
    with inbox(world).open("ab") as file:
        file.write(b"\0" * 700 + FROM + b"Subject: z\n\nbody\n\n")
    write_at, failed = RealDisk.write_at, list[int]()

    def once(disk: RealDisk, file: OpenFile, offset: int, data: bytes) -> None:
        if not failed and (world.maildir / ".mailboxes" / "journal").exists():
            failed.append(offset)
            raise OSError(errno.EIO, "the disk")
        write_at(disk, file, offset, data)

    monkeypatch.setattr(RealDisk, "write_at", once)
    account = world.account("another boot")
    with pytest.raises(StoreUnavailable, match="the disk"):
        account.snapshot("INBOX")
    assert texts(account) == [*whole, b"Subject: z\r\n\r\nbody\r\n"]
    assert failed and not (world.maildir / ".mailboxes" / "journal").exists()
