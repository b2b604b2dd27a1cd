"""Maildir to mbox and back: what a client remembers stays true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.store import convert_switch
from filterd.store.base import NewMessage, SieveState, StoreUnavailable
from filterd.store.choice import ChosenStore, format_of
from filterd.store.convert import _Conversion, convert
from filterd.store.core import Core
from filterd.store.durable import LockRules, RealDisk
from filterd.store.maildir import MaildirStore
from filterd.store.mbox import MboxStore
from filterd.store.mbox_file import MboxFile
from filterd.store.mbox_tree import MboxSettings
from tests.unit.filterd.store.conftest import CountingIds, HandClock
from tests.unit.filterd.store.test_contract import text

ANN = "ann@example.org"


def chosen(
    root: Path,
    default: str = "maildir",
    settings: MboxSettings | None = None,
    ids: int = 0,
    limit: Callable[[str], int] = lambda account: 0,
) -> ChosenStore:
    clock, numbers = HandClock(), CountingIds(ids)
    maildir = MaildirStore(root, "h", "crlf", limit, clock, numbers)
    return ChosenStore(maildir, MboxStore(root, "h", limit, clock, numbers, settings), default)


def seen(store: ChosenStore) -> object:
    account = store.account(ANN)
    out = {}
    for info in account.mailboxes():
        view = account.snapshot(info.name)
        rows = [(row.uid, row.date, row.size, row.email_id) for row in account.rows(info.name, view.uids)]
        texts = [account.read(info.name, uid) for uid in view.uids]
        words = [[word for at, word in enumerate(view.keywords) if mask >> 5 + at & 1] for mask in view.flags]
        masks = [mask & 31 for mask in view.flags]
        out[info.name] = (info, rows, texts, words, masks, account.status(info.name).recent)
    return out, account.subscriptions()


def filled(store: ChosenStore) -> None:
    account = store.account(ANN)
    account.create("Work/2026", "\\Archive")
    account.subscribe("Work/2026", True)
    account.append("INBOX", [NewMessage(text(1), ("\\Seen", "$Label"), date=86_400), NewMessage(text(2))])
    account.append(
        "Work/2026",
        [NewMessage(b"Subject: x\r\n\r\nFrom me\r\nno line end", ("\\Flagged",)) for _ in range(3)],
    )
    account.append(
        "Work/2026", [NewMessage(b"a: b\r\n\r\nbare\rcr\r\n", tuple(f"w{number}" for number in range(30)))]
    )
    account.set_flags("Work/2026", [2], "add", ["\\Deleted"])
    account.expunge("Work/2026")
    account.deliver("INBOX", NewMessage(text(5), key=b"not acknowledged"))
    account.remember(SieveState({b"vacation": 1000}))
    account.set_metadata("Work", "/private/comment", "mine")


@pytest.mark.parametrize(("first", "second"), [("maildir", "mbox"), ("mbox", "maildir")])
def test_there_and_back(tmp_path: Path, first: str, second: str) -> None:
    store = chosen(tmp_path, first)
    filled(store)
    path = store.path(ANN)
    other = chosen(tmp_path, first, ids=900)  # another worker that has the account open
    before = seen(other)
    uidnext = store.account(ANN).status("INBOX").uidnext
    modseq = store.account(ANN).snapshot("INBOX").modseq
    for to in (second, first):
        done = convert(store, ANN, to)
        assert (done.mailboxes, done.messages) == (3, 6)
        assert format_of(path) == to
        assert Path(done.old).is_dir()
        assert seen(store) == before
        account = store.account(ANN)
        assert account.deliver("INBOX", NewMessage(text(5), key=b"not acknowledged")).duplicate
        assert account.remembered(b"vacation", HandClock().time())
        assert account.get_metadata("Work", "/private/comment") == "mine"
        assert account.snapshot("INBOX").modseq > modseq
        assert account.status("INBOX").uidnext >= uidnext
        with pytest.raises(StoreUnavailable):
            other.account(ANN).deliver("INBOX", NewMessage(text(9)))
        assert seen(other) == before
    with pytest.raises(ValueError, match="already"):
        convert(store, ANN, first)
    store.close()
    other.close()


def test_an_inbox_in_the_spool(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    settings = MboxSettings(inbox=f"{spool}/%{{user}}")
    store = chosen(tmp_path / "mail", "maildir", settings)
    filled(store)
    before = seen(store)
    convert(store, ANN, "mbox")
    assert seen(store) == before
    assert (spool / "ann").read_bytes().startswith(b"From ")
    done = convert(store, ANN, "maildir")
    assert seen(store) == before
    assert (spool / "ann").read_bytes() == b""
    assert done.notes
    store.close()


LATE = b"From bob@example.net Mon Nov 23 10:36:28 2026\nSubject: late\n\nlate\n\n"


def meanwhile(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Another program does this once, when all is read and nothing switched."""
    remember, done = _Conversion._remember, list[bool]()

    def first(self: _Conversion) -> None:
        remember(self)
        if not done:
            done.append(True)
            work()

    monkeypatch.setattr(_Conversion, "_remember", first)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(LATE)


def test_nobody_delivers_into_the_spool_while_it_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    store = chosen(tmp_path / "mail", "mbox", MboxSettings(inbox=f"{spool}/%{{user}}"))
    filled(store)
    before = seen(store)
    other = MboxFile(RealDisk(), str(spool / "ann"), LockRules(seconds=0.0))
    waits: list[str] = []

    def deliver() -> None:
        with pytest.raises(StoreUnavailable, match="locked") as told, other.held():
            append(spool / "ann")
        waits.append(str(told.value))

    meanwhile(monkeypatch, deliver)
    convert(store, ANN, "maildir")
    assert waits and seen(store) == before
    with other.held():
        append(spool / "ann")
    assert (spool / "ann").read_bytes() == LATE
    with pytest.raises(ValueError, match="has messages already"):
        convert(store, ANN, "mbox")
    assert (spool / "ann").read_bytes() == LATE and seen(store) == before
    assert not list(Path(store.path(ANN)).glob("filterd-old-maildir-*"))
    other.close()
    store.close()


@pytest.mark.parametrize("place", ["inbox", "mail/Work/2026", "new"])
def test_what_comes_meanwhile_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    first, to = ("maildir", "mbox") if place == "new" else ("mbox", "maildir")
    store = chosen(tmp_path, first)
    filled(store)
    path = Path(store.path(ANN))
    if place == "new":
        meanwhile(monkeypatch, lambda: (path / "new" / "1.foreign").write_bytes(LATE.partition(b"\n")[2]))
    else:
        work = (
            next(one for one in path.rglob("*2026*") if one.is_file()) if place != "inbox" else path / place
        )
        meanwhile(monkeypatch, lambda: append(work))
    with pytest.raises(StoreUnavailable, match="run it again"):
        convert(store, ANN, to)
    assert format_of(str(path)) == first
    assert convert(store, ANN, to).messages == 7
    account = store.account(ANN)
    texts = [
        account.read(info.name, uid)
        for info in account.mailboxes()
        for uid in account.snapshot(info.name).uids
    ]
    assert sum(b"Subject: late" in (one or b"") for one in texts) == 1
    store.close()


def at_the_last_moment(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Another program does this when nobody looks any more, before the old files are put away."""
    put_aside = Core.put_aside_index

    def first(self: Core) -> None:
        put_aside(self)
        work()

    monkeypatch.setattr(Core, "put_aside_index", first)


def dropped(path: Path) -> None:
    (path / "new" / "2.foreign").write_bytes(LATE.partition(b"\n")[2])
    (path / ".Work.2026" / "cur" / "3.foreign:2,FS").write_bytes(b"Subject: read late\n\nlate\n")


def appended(path: Path) -> None:
    append(path / "inbox")
    append(path / "mail" / "Work.2026")


def rewritten(path: Path) -> None:
    """Sorted by subject, say."""
    work = path / "mail" / "Work.2026"
    work.write_bytes(LATE + work.read_bytes())


@pytest.mark.parametrize(
    ("first", "to", "act", "came"),
    [
        ("maildir", "mbox", dropped, [("INBOX", b"late", ()), ("Work/2026", b"read late", (0, 2))]),
        ("mbox", "maildir", appended, [("INBOX", b"late", ()), ("Work/2026", b"late", ())]),
        ("mbox", "maildir", rewritten, [("Work/2026", b"late", ())]),
    ],
)
def test_who_comes_too_late_is_taken_along(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    to: str,
    act: Callable[[Path], None],
    came: list[tuple[str, bytes, tuple[int, ...]]],
) -> None:
    store = chosen(tmp_path, first)
    filled(store)
    seen(store)
    path = Path(store.path(ANN))
    at_the_last_moment(monkeypatch, lambda: act(path))
    done = convert(store, ANN, to)
    assert done.notes == [f"{len(came)} messages that others put in meanwhile were taken along"]
    account = store.account(ANN)
    found = []
    for info in account.mailboxes():
        view = account.snapshot(info.name)
        for uid, mask in zip(view.uids, view.flags, strict=True):
            subject = (account.read(info.name, uid) or b"").partition(b"\r\n")[0]
            if subject.endswith(b"late"):
                flags = tuple(bit for bit in range(5) if mask >> bit & 1)
                found.append((info.name, subject.removeprefix(b"Subject: "), flags))
    assert found == came
    assert sum(len(account.snapshot(info.name).uids) for info in account.mailboxes()) == 6 + len(came)
    assert convert_switch.finish(store, ANN) is None and not (path / "filterd-convert").exists()
    store.close()


@pytest.mark.parametrize("late", [LATE, b"no From_ line\n"])
def test_the_spool_is_not_emptied_of_what_was_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bytes
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    limits = [0]
    store = chosen(
        tmp_path / "mail", "mbox", MboxSettings(inbox=f"{spool}/%{{user}}"), limit=lambda account: limits[0]
    )
    filled(store)
    before = seen(store)

    def deliver() -> None:
        limits[0] = 1
        with (spool / "ann").open("ab") as file:
            file.write(late)

    at_the_last_moment(monkeypatch, deliver)
    done = convert(store, ANN, "maildir")
    assert seen(store) == before and (spool / "ann").read_bytes().endswith(late)
    assert any(f"{spool}/ann" in note and "not emptied" in note for note in done.notes)
    store.close()


def test_the_default_is_for_new_accounts(tmp_path: Path) -> None:
    store = chosen(tmp_path, "mbox")
    assert store.account(ANN).deliver("INBOX", NewMessage(text(1))).uid == 1
    assert (tmp_path / "example.org/ann/inbox").is_file()
    store.close()
    store = chosen(tmp_path, "maildir")
    assert len(store.account(ANN).snapshot("INBOX").uids) == 1
    assert store.surplus() == []
    store.close()
