"""Several processes in one account, and a program that knows nothing of us: nothing doubled, nothing lost, no UID twice."""

from __future__ import annotations

import os
import random
import signal
import traceback
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from filterd.store.base import NewMessage
from filterd.store.maildir import MaildirStore

ACCOUNT = "ann@example.org"
FOLDERS = ("INBOX", "a", "b")


def open_store(root: Path) -> MaildirStore:
    return MaildirStore(root, "host", "crlf", lambda account: 0, SystemClock(), SystemIds())


def text(who: int, number: int) -> bytes:
    return b"Subject: %d-%d\r\n\r\nfrom %d number %d\r\n" % (who, number, who, number)


def writer(root: Path, who: int, count: int) -> None:
    """Delivers, moves, copies away, flags, expunges; writes down what it was told."""
    store = open_store(root)
    account = store.account(ACCOUNT)
    pick = random.Random(who)
    told = []
    for number in range(count):
        where = pick.choice(FOLDERS)
        stored = account.deliver(where, NewMessage(text(who, number), key=b"%d.%d" % (who, number)))
        told.append(f"new {where} {stored.uid} {who}-{number}")
        view = account.snapshot(where)
        some = pick.sample(list(view.uids), min(len(view.uids), 5))
        other = pick.choice(FOLDERS)
        match pick.randint(0, 4):
            case 0 | 1:
                moved = account.move(where, some, other)
                told += [
                    f"moved {other} {uid} {where} {source}"
                    for source, uid in zip(moved.source_uids, moved.uids, strict=True)
                ]
            case 2:
                account.set_flags(
                    where, some, pick.choice(["add", "remove"]), ["\\Seen", pick.choice(["one", "two"])]
                )
            case 3:
                gone = [uid for uid in some[:1] if uid % 7 == 0]
                account.set_flags(where, gone, "add", ["\\Deleted"])
                for uid in account.expunge(where, gone):
                    told.append(f"expunged {where} {uid}")
            case 4:
                account.changes(where, max(1, view.modseq - 5))
    (root / f"told-{who}").write_text("\n".join(told))
    store.close()


def outsider(root: Path, count: int) -> None:
    """Another mail program: drops into new, renames in cur."""
    maildir = root / "example.org" / "ann"
    pick = random.Random(0)
    for number in range(count):
        place = maildir if number % 2 else maildir / ".a"
        name = f"{1_700_000_000 + number}.P{os.getpid()}Q{number}.outsider"
        (place / "tmp" / name).write_bytes(text(99, number))
        (place / "tmp" / name).rename(place / "new" / name)
        there = sorted((place / "cur").iterdir())
        for path in pick.sample(there, min(3, len(there))):
            base, _, letters = path.name.partition(":2,")
            flags = "".join(sorted(set(letters) ^ {"F"}))
            try:
                path.rename(path.with_name(f"{base}:2,{flags}"))
            except FileNotFoundError:
                continue


def run(jobs: list[tuple[object, ...]]) -> None:
    """Each in its own process."""
    pids = []
    for job, *arguments in jobs:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                job(*arguments)  # type: ignore[operator]  # a function and its arguments
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_writers_and_an_outsider(tmp_path: Path, count: int) -> None:
    store = open_store(tmp_path)
    for name in FOLDERS[1:]:
        store.account(ACCOUNT).create(name)
    store.close()
    run(
        [
            (writer, tmp_path, 1, count),
            (writer, tmp_path, 2, count),
            (writer, tmp_path, 3, count),
            (outsider, tmp_path, count),
        ]
    )

    store = open_store(tmp_path)
    account = store.account(ACCOUNT)
    told = [
        line.split(" ") for who in (1, 2, 3) for line in (tmp_path / f"told-{who}").read_text().splitlines()
    ]
    given = [(line[1], line[2]) for line in told if line[0] in ("new", "moved")]
    assert len(given) == len(set(given)), "a UID was given out twice"
    texts: dict[bytes, int] = {}
    for name in FOLDERS:
        view = account.snapshot(name)
        for uid in view.uids:
            data = account.read(name, uid)
            assert data is not None
            texts[data] = texts.get(data, 0) + 1
        disk = account._core.path_of(account._core.box(name)[1].directory)  # type: ignore[attr-defined]  # where it lies
        assert len(view.uids) == len(os.listdir(f"{disk}/new")) + len(os.listdir(f"{disk}/cur"))
        status = account.status(name)
        assert status.messages == len(view.uids)
        assert status.unseen == sum(not mask & 1 for mask in view.flags)
    assert set(texts.values()) == {1}, "a message is there twice"
    expunged = sum(line[0] == "expunged" for line in told)
    assert len(texts) == 4 * count - expunged, "a message was lost"
    store.close()


def mover(root: Path, who: int) -> None:
    store = open_store(root)
    account = store.account(ACCOUNT)
    for _ in range(6):
        for source, target in (("INBOX", "a"), ("a", "b"), ("b", "INBOX")):
            account.move(source, list(account.snapshot(source).uids), target)
    store.close()


def test_two_movers_never_double(tmp_path: Path) -> None:
    """Where Dovecot doubled 2 to 5 messages a run (RELIABILITY 2)."""
    store = open_store(tmp_path)
    account = store.account(ACCOUNT)
    for name in FOLDERS[1:]:
        account.create(name)
    account.append("INBOX", [NewMessage(text(1, number)) for number in range(60)])
    store.close()
    run([(mover, tmp_path, who) for who in range(3)])
    store = open_store(tmp_path)
    account = store.account(ACCOUNT)
    found = [account.read(name, uid) for name in FOLDERS for uid in account.snapshot(name).uids]
    assert sorted(data or b"" for data in found) == sorted(text(1, number) for number in range(60))
    store.close()


def killed(root: Path, who: int, pipe: int) -> None:
    store = open_store(root)
    account = store.account(ACCOUNT)
    for number in range(100_000):
        account.deliver("INBOX", NewMessage(text(who, number), key=b"%d.%d" % (who, number)))
        os.write(pipe, b".")


@pytest.mark.slow
def test_sigkill_under_load_then_retries_leave_one_copy(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.account(ACCOUNT).mailboxes()
    store.close()
    for number in range(6):
        children = []
        for who in (10 * number + 1, 10 * number + 2):
            answers, pipe = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    killed(tmp_path, who, pipe)
                finally:
                    os._exit(0)
            os.close(pipe)
            children.append((pid, who, answers))
        got = [sum(len(os.read(answers, 1)) for _ in range(50 + 7 * number)) for _, _, answers in children]
        for pid, _, _ in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        store = open_store(tmp_path)
        account = store.account(ACCOUNT)
        for have, (_, who, answers) in zip(got, children, strict=True):
            while more := os.read(answers, 1000):
                have += len(more)
            os.close(answers)
            account.deliver(
                "INBOX", NewMessage(text(who, have), key=b"%d.%d" % (who, have))
            )  # the client comes again
            found = [account.read("INBOX", uid) for uid in account.snapshot("INBOX").uids]
            for each in range(have + 1):
                assert found.count(text(who, each)) == 1
        store.close()
