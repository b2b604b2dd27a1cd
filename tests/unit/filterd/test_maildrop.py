"""Mail left in the maildrop: what is taken, what is refused, and what a crash changes."""

import asyncio
import errno
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.cli import sendmail
from filterd.local_delivery import LocalDelivery
from filterd.maildrop import (
    ASIDE,
    FIRST,
    MOST_AT_ONCE,
    Drop,
    Maildrop,
    Unusable,
    folder_for,
    make,
    owner,
    put,
    read,
)
from pipeline.reply import Reply
from pipeline.verdict import Disposition, Verdict
from tests.house import DOMAIN, House

TEXT = b"Subject: from cron\n\n.\nhello\n"
ANN = f"ann@{DOMAIN}"


class Box:
    """A house with a maildrop."""

    def __init__(self, folder: Path, *verdicts: Verdict) -> None:
        self.folder = str(folder / "maildrop")
        make(self.folder, "")
        self.house = House(*verdicts)
        self.house.clock.now = time.time()
        local = LocalDelivery(self.house.reception, self.house.delivery)
        self.drop = Maildrop(
            self.folder, "mx.here.example", DOMAIN, 10_000, local, self.house.spool, self.house.clock
        )

    def put(self, *recipients: str, data: bytes = TEXT, **facts: object) -> str:
        return put(self.folder, Drop(recipients, **facts), data)  # type: ignore[arg-type]  # its own fields

    def names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if not name.startswith(FIRST))

    def inbox(self, person: str = "ann") -> list[bytes]:
        return self.house.box(person)

    def run(self, done: Callable[[], bool] | None = None) -> None:
        async def until() -> None:
            stop = asyncio.Event()
            task = asyncio.create_task(self.drop.run(stop))
            async with asyncio.timeout(20):
                while not (done or (lambda: not self.names()))():
                    await asyncio.sleep(0.01)
            stop.set()
            await task

        asyncio.run(until())


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_the_folder_and_a_file(box: Box) -> None:
    assert stat.S_IMODE(os.stat(box.folder).st_mode) == 0o1733
    name = box.put("ann", sender="", params={"NOTIFY": "NEVER"})
    path = Path(box.folder, name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    drop, data = read(path.read_bytes())
    assert drop == Drop(("ann",), "", "", {"NOTIFY": "NEVER"}) and data == TEXT


def test_delivered_and_sent_with_a_complete_header(box: Box) -> None:
    name = box.put("ann", "x@away.example", full_name="Cron", params={"RET": "HDRS"})
    box.run()
    (text,) = box.inbox()
    me = f"{owner(os.getuid())}@{DOMAIN}"
    assert f"From: Cron <{me}>\r\n".encode() in text and b"\r\nDate: " in text
    assert f"Message-ID: <{name}@mx.here.example>\r\n".encode() in text and text.endswith(
        b"\r\n.\r\nhello\r\n"
    )
    (out,) = box.house.spool.outgoing
    assert (out.recipient, out.reverse_path, out.kind) == ("x@away.example", me, "submission")
    assert out.params["RET"] == "HDRS" and out.params["ENVID"] == name


def test_the_same_message_dropped_twice_comes_twice(box: Box) -> None:
    data = b"From: a@here.example\nDate: x\nMessage-ID: <1@x>\n\nhello\n"
    box.put("ann", data=data), box.put("ann", data=data)
    box.run()
    assert len(box.inbox()) == 2


@pytest.mark.slow
def test_a_crash_before_the_file_is_gone_changes_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.put("ann", "x@away.example")
    unlink, calls = os.unlink, list[str]()

    def fails_once(path: str) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(5, "killed here")
        unlink(path)

    monkeypatch.setattr(os, "unlink", fails_once)
    box.run()
    assert len(calls) == 2 and len(box.inbox()) == 1
    keys = [out.key for out in box.house.spool.outgoing]
    assert len(set(keys)) == 1  # the queue knows it again


def test_who_is_refused_is_told_once(box: Box) -> None:
    box.put("nobody", "ann", sender=ANN)
    box.run()
    assert len(box.inbox()) == 1
    (bounce,) = box.house.spool.outgoing
    assert (bounce.reverse_path, bounce.recipient, bounce.kind) == ("", ANN, "dsn")
    assert f"nobody@{DOMAIN}".encode() in bounce.data
    box.put("nobody", sender="<>"), box.put("nobody", sender=ANN, params={"NOTIFY": "NEVER"})
    box.run()
    assert len(box.house.spool.outgoing) == 1


@pytest.mark.slow
def test_what_fails_for_now_stays(box: Box) -> None:
    box.house.jobs.broken.add(f"bob@{DOMAIN}")
    box.put("ann", "bob")
    box.run(lambda: bool(box.inbox()))
    assert len(box.names()) == 1
    box.house.jobs.broken.clear()
    box.run()
    assert len(box.inbox()) == 1 and len(box.inbox("bob")) == 1


@pytest.mark.slow
def test_after_a_day_of_failures_its_sender_is_told(box: Box) -> None:
    box.house.jobs.broken.add(ANN)
    name = box.put("ann", sender=f"bob@{DOMAIN}")
    box.run(lambda: name in box.drop._told)
    box.house.clock.now += 19 * 3600
    again(box)
    box.run(lambda: name in box.drop._told)
    assert not box.house.spool.outgoing
    box.house.clock.now += 2 * 3600
    again(box)
    box.run(lambda: not os.listdir(box.folder))  # the mark of the first try goes, too
    assert [out.recipient for out in box.house.spool.outgoing] == [f"bob@{DOMAIN}"]


def test_a_mark_that_cannot_be_made_is_told_once_and_hides_nothing(
    box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    name = box.put("ann", sender=ANN)
    mark = Path(box.folder, FIRST + name)
    mark.mkdir()
    for _ in range(3):
        box.drop._trying_since(name, 1.0)
        assert box.drop._waiting(0.0) == [name]
    box.drop._once(name, "451 later; tried again")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and "when it was first tried" in told[0] and "tried again" in told[1]
    mark.rmdir()
    os.unlink(os.path.join(box.folder, name))
    box.drop._waiting(0.0)
    assert not box.drop._told


def again(box: Box) -> None:
    """As a new process would see it."""
    box.drop._told.clear()
    box.drop._put_off.clear()
    box.drop._since.clear()


def test_days_without_a_server_are_no_days_of_failures(box: Box) -> None:
    box.house.jobs.broken.add(ANN)
    name = box.put("ann", sender=f"bob@{DOMAIN}")
    old = time.time() - 3 * 86_400
    os.utime(os.path.join(box.folder, name), (old, old))
    box.run(lambda: name in box.drop._told)
    assert not box.house.spool.outgoing
    box.house.jobs.broken.clear()
    again(box)
    box.run()
    assert len(box.inbox()) == 1 and not box.names()


def test_a_mark_of_the_first_try_that_is_none_of_ours(box: Box) -> None:
    """Anybody may make files in the folder."""
    box.house.jobs.broken.add(ANN)
    name = box.put("ann", sender=f"bob@{DOMAIN}")
    os.symlink("/etc/passwd", os.path.join(box.folder, FIRST + name))
    os.mkdir(os.path.join(box.folder, FIRST + "nobody"))
    box.run(lambda: name in box.drop._told)
    assert not box.house.spool.outgoing and not os.path.islink(os.path.join(box.folder, FIRST + name))
    os.unlink(os.path.join(box.folder, FIRST + name))
    os.mkdir(os.path.join(box.folder, FIRST + name))
    again(box)
    box.run(lambda: name in box.drop._told)
    box.house.jobs.broken.clear()
    again(box)
    box.run()
    assert len(box.inbox()) == 1


def test_what_is_no_drop_is_put_aside(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"recipients": ["ann"]}\nsecret')
    secret.chmod(0o644)
    os.symlink(secret, os.path.join(box.folder, "link"))
    os.link(secret, os.path.join(box.folder, "hard"))
    os.mkdir(os.path.join(box.folder, "dir"))
    os.mkfifo(os.path.join(box.folder, "fifo"), 0o644)
    os.chmod(os.path.join(box.folder, "fifo"), 0o644)
    for name, text in (
        ("empty", b""), ("none", b"{}\nx"), ("list", b"[]\nx"), ("deep", b"[" * 100_000), ("bytes", b"\xff\n"),
        ("odd", b'{"recipients": [1]}\nx'), ("many", json.dumps({"recipients": ["a"] * 20_000}).encode() + b"\n"),
        ("large", b'{"recipients": ["ann"]}\n' + b"x" * 10_001),
    ):  # fmt: skip
        Path(box.folder, name).write_bytes(text)
        os.chmod(os.path.join(box.folder, name), 0o644)
    good = box.put("ann")
    box.run(lambda: all(name.startswith(ASIDE) for name in box.names()))
    assert len(box.names()) == 12 and good not in box.names()
    assert len(box.inbox()) == 1 and secret.exists()


def test_a_file_that_is_being_written_is_left_alone(box: Box) -> None:
    path = Path(box.folder, "half")
    path.write_bytes(b'{"recip')
    path.chmod(0o600)
    box.put("ann")
    box.run(lambda: box.names() == ["half"])
    os.utime(path, (1, 1))  # nobody completes it any more
    box.run()


def test_odd_addresses_and_a_virus(tmp_path: Path) -> None:
    virus = Verdict("clamav", Disposition.REJECT, reply=Reply(550, "5.7.1", "infected"))
    box = Box(tmp_path, virus)
    box.house.reception._departure.runner = (
        box.house.reception._incoming
    )  # no 5xx behind a command: it is held
    box.put("a@b>\r\nX: y", "x@away.example", sender=ANN)
    box.run()
    held, bounce = box.house.spool.outgoing
    assert held.recipient == "x@away.example" and "clamav" in held.held
    assert (bounce.kind, bounce.recipient) == ("dsn", ANN)


def test_an_owner_who_takes_his_file_away_ends_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = box.put("ann")
    box.put("bob")
    look = Maildrop._waiting

    def then_gone(drop: Maildrop, now: float) -> list[str]:
        names = look(drop, now)
        Path(box.folder, mine).unlink(missing_ok=True)
        return names

    monkeypatch.setattr(Maildrop, "_waiting", then_gone)
    box.run()
    assert not box.inbox() and len(box.inbox("bob")) == 1


@pytest.mark.slow
def test_a_file_that_cannot_be_opened_for_now_is_no_bad_one(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = box.put("ann")
    open_, failed = os.open, list[str]()

    def once(path: str, flags: int, *rest: object, **more: object) -> int:
        if str(path).endswith(name) and not failed:
            failed.append(name)
            raise OSError(errno.EMFILE, "Too many open files")
        return open_(path, flags, *rest, **more)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(os, "open", once)
    box.run()
    assert failed and len(box.inbox()) == 1


def test_many_that_fail_are_put_off_and_hide_nobody(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.house.jobs.broken.add(ANN)
    old = time.time() - 100
    for _ in range(MOST_AT_ONCE):
        os.utime(os.path.join(box.folder, box.put("ann")), (old, old))
    box.put("bob")
    tried: Counter[str] = Counter()
    one = Maildrop._one

    async def counted(drop: Maildrop, name: str) -> bool:
        tried[name] += 1
        return await one(drop, name)

    monkeypatch.setattr(Maildrop, "_one", counted)
    monkeypatch.setattr("filterd.maildrop.LOOK_SECONDS", 300.0)
    box.run(lambda: bool(box.inbox("bob")) and len(box.names()) == MOST_AT_ONCE)
    assert set(tried.values()) == {1} and len(box.names()) == MOST_AT_ONCE


@pytest.mark.slow
def test_the_queue_is_away(box: Box) -> None:
    box.house.spool.broken = True
    box.put("nobody", sender=ANN)
    box.run(lambda: bool(box.drop._told))
    assert len(box.names()) == 1
    box.house.spool.broken = False
    box.run()
    assert len(box.house.spool.outgoing) == 1


def test_reading() -> None:
    with pytest.raises(Unusable):
        read(b"no line of JSON")
    assert folder_for("/x") == "/x" and folder_for("", ("/nowhere",)) == ""
    assert owner(4_294_967_000) == "uid-4294967000"


def test_sendmail_leaves_it_where_it_may_not_write(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = sendmail.parse(["-t", "-f", "me@here.example", "-F", "Me", "-Nnever", "--", "bob"])
    monkeypatch.setattr(sendmail, "read_message", lambda limit: b"To: ann\nBcc: carl@x.example\n\nhi\n")
    assert sendmail.leave(flags, box.folder, 1000) == 0
    drop, data = read(Path(box.folder, box.names()[0]).read_bytes())
    assert drop == Drop(("bob", "ann", "carl@x.example"), "me@here.example", "Me", {"NOTIFY": "NEVER"})
    assert data.startswith(b"To: ann\nBcc")
