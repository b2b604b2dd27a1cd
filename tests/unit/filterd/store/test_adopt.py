"""Adoption of a Dovecot Maildir: what is kept, what is refused, and a kill at every step."""

from __future__ import annotations

import gzip
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filterd.store import adopt_dovecot
from filterd.store.adopt import (
    COPY,
    IN_PLACE,
    MODES,
    MOVE,
    Outcome,
    adopt,
    conflicts,
    finished,
    other_begun,
    plan,
)
from filterd.store.adopt_dovecot import Options
from filterd.store.adopt_plan import AdoptError
from filterd.store.base import StoreUnavailable
from filterd.store.durable import Dir, NewFile, RealDisk
from filterd.store.flags import names_of
from filterd.store.maildir import MaildirAccount, MaildirStore
from pipeline.ports import Clock, Ids

ACCOUNT = "ann@example.org"
V = 1_600_000_000


class StillClock(Clock):
    def time(self) -> float:
        return 1_790_000_000.0

    def monotonic(self) -> float:
        return 5.0


TOKENS = itertools.count(1)


class CountingIds(Ids):
    """Never the same twice, whatever is opened again."""

    def token(self, octets: int) -> str:
        return f"{next(TOKENS):0{2 * octets}x}"


class Cut(BaseException):
    """The process is gone."""


class CutDisk(RealDisk):
    """Counts what it changes, and ends the world before step ``at``; nothing is done after that, also not in a finally."""

    def __init__(self, at: int = -1) -> None:
        super().__init__(boot="boot")
        self.at = at
        self.steps = 0
        self.cut = False

    def _step(self) -> None:
        if self.cut or self.steps == self.at:
            self.cut = True
            raise Cut
        self.steps += 1

    def make_dir(self, at: Dir, name: str) -> None:
        self._step()
        super().make_dir(at, name)

    def publish(self, file: NewFile, name: str) -> None:
        self._step()
        super().publish(file, name)

    def rename(self, source: Dir, name: str, target: Dir, new: str) -> None:
        self._step()
        super().rename(source, name, target, new)

    def unlink(self, at: Dir, name: str) -> None:
        self._step()
        super().unlink(at, name)

    def sync(self, file: NewFile) -> None:
        """No power fails here."""

    def sync_dir(self, at: Dir) -> None:
        """No power fails here."""


def store_at(root: Path, disk: RealDisk | None = None) -> MaildirStore:
    return MaildirStore(
        root,
        "mx.example.org",
        "crlf",
        lambda account: 0,
        StillClock(),
        CountingIds(),
        disk=disk or RealDisk("boot"),
    )


def text(subject: str) -> bytes:
    return f"From: a@b.example\r\nSubject: {subject}\r\n\r\nHello {subject}\r\n".encode()


def folder(path: Path) -> Path:
    for part in ("cur", "new", "tmp"):
        (path / part).mkdir(parents=True)
    return path


def put(path: Path, place: str, name: str, data: bytes, date: int = 1_500_000_000) -> None:
    file = path / place / name
    file.write_bytes(data)
    os.utime(file, (date, date))


def dovecot(root: Path) -> Path:
    """A Maildir with everything: keywords, a compressed file, mail that has no UID yet, a folder with an international name."""
    top = folder(root)
    put(top, "cur", "1500000001.M1P1.h,S=50,W=50:2,FSa", text("one"))
    put(top, "cur", "1500000002.M2P1.h,S=50:2,", text("two").replace(b"\r\n", b"\n"), 1_400_000_000)
    put(top, "cur", "1500000003.M3P1.h,S=99:2,RTbZ", gzip.compress(text("packed")))
    put(top, "new", "1500000009.M9P1.h", text("not seen by dovecot"))
    put(top, "new", "1500000008.M8P1.h", text("nor this"))
    put(top, "cur", "1500000004.M4P1.h:2,Sz", text("a letter that nobody named"))
    (top / "dovecot-uidlist").write_text(
        f"3 V{V} N17 Gabcdef0123456789abcdef0123456789\n"
        "2 :1500000001.M1P1.h,S=50,W=50\n"
        "5 PUIDL-of-two W70 :1500000002.M2P1.h,S=50\n"
        "9 Gfeed :1500000003.M3P1.h,S=99\n"
        "21 :1500000004.M4P1.h\n"
        "22 :1500000005.gone\n"
        "broken line\n"
    )
    (top / "dovecot-keywords").write_text("0 $Forwarded\n1 NonJunk\n")
    (top / "dovecot-uidvalidity").write_text(f"{V + 50:08x}")
    (top / "subscriptions").write_text("V\t2\n\nINBOX\nArbeit\tM&APw-ll\nGone\tAway\n")
    (top / "maildirsize").write_text("1000S\n1 1\n")
    work = folder(top / ".Arbeit.M&APw-ll")
    put(work, "cur", "1500000001.M1P2.h:2,S", text("work"))
    (work / "dovecot-uidlist").write_text(f"1 {V + 1} 8\n7 1500000001.M1P2.h:2,S\n")
    (work / "maildirfolder").write_text("")
    empty = folder(top / ".Sent")
    (empty / "dovecot-uidlist").write_text(f"3 V{V + 2} N4 G{'0' * 32}\n")
    put(folder(top / ".Fresh"), "new", "1500000001.x.h", text("fresh"))
    return top


def state(opened: MaildirAccount) -> dict[str, object]:
    """All that a client can see."""
    found: dict[str, object] = {"subscriptions": opened.subscriptions()}
    for info in opened.mailboxes():
        snapshot = opened.snapshot(info.name)
        rows = opened.rows(info.name, snapshot.uids)
        found[info.name] = (
            info.uidvalidity if info.name != "Fresh" else "new",
            snapshot.uidnext,
            [
                (row.uid, names_of(row.flags, snapshot.keywords), row.date, opened.read(info.name, row.uid))
                for row in rows
            ],
            dict(opened.uidls(info.name)),
        )
    return found


EXPECTED = {
    "subscriptions": ("INBOX", "Arbeit/Müll", "Gone/Away"),
    "INBOX": (
        V,
        25,
        [
            (2, ("\\Seen", "\\Flagged", "$Forwarded"), 1_500_000_000, text("one")),
            (5, (), 1_400_000_000, text("two")),
            (9, ("\\Answered", "\\Deleted", "NonJunk"), 1_500_000_000, text("packed")),
            (21, ("\\Seen",), 1_500_000_000, text("a letter that nobody named")),
            (23, (), 1_500_000_000, text("nor this")),
            (24, (), 1_500_000_000, text("not seen by dovecot")),
        ],
        {5: "UIDL-of-two"},
    ),
    "Arbeit/Müll": (V + 1, 8, [(7, ("\\Seen",), 1_500_000_000, text("work"))], {}),
    "Fresh": ("new", 2, [(1, (), 1_500_000_000, text("fresh"))], {}),
    "Sent": (V + 2, 4, [], {}),
}


def go(
    mail: Path, source: Path, mode: str, disk: RealDisk | None = None, options: Options | None = None
) -> Outcome:
    """As the command does it."""
    account = str(mail / "example.org" / "ann")
    found = adopt_dovecot.read(str(source), options or Options())
    assert not found.blocked
    assert other_begun(found, account, mode) is None
    if finished(found, account):
        return Outcome(found, again=True)
    assert conflicts(found, account, mode) == []
    plan(found, account, mode)
    core = store_at(mail, disk).core(ACCOUNT)
    try:
        return adopt(core, found, mode)
    finally:
        core.close()


@pytest.fixture(params=MODES)
def world(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, Callable[[], tuple[Path, Path]]]]:
    """A mode, and a maker of (mail root, source) for it."""
    count = iter(range(10_000))

    def make() -> tuple[Path, Path]:
        here = tmp_path / f"w{next(count)}"
        mail = here / "mail"
        source = mail / "example.org" / "ann" if request.param == IN_PLACE else here / "old" / "Maildir"
        dovecot(source)
        return mail, source

    yield request.param, make


def test_all_is_kept(world: tuple[str, Callable[[], tuple[Path, Path]]]) -> None:
    mode, make = world
    mail, source = make()
    before = sorted(str(path.relative_to(source)) for path in source.rglob("*"))
    outcome = go(mail, source, mode)
    assert outcome.problems == [] and not outcome.again
    store = store_at(mail)
    opened = store.account(ACCOUNT)
    assert state(opened) == EXPECTED
    # the index is only a copy: without it nothing is lost
    store.close()
    shutil.rmtree(mail / "example.org" / "ann" / ".filterd")
    store = store_at(mail)
    found = state(store.account(ACCOUNT))
    numbered = {
        name: value if name == "subscriptions" else (value[0], value[2:]) for name, value in found.items()
    }  # type: ignore[index]  # tuples
    assert numbered == {
        name: value if name == "subscriptions" else (value[0], value[2:]) for name, value in EXPECTED.items()
    }
    # new mailboxes have greater UIDVALIDITYs, new messages greater UIDs
    assert store.account(ACCOUNT).create("Later").uidvalidity > V + 50
    store.close()
    if mode == COPY:
        assert sorted(str(path.relative_to(source)) for path in source.rglob("*")) == before
    if mode == MOVE:
        assert not [
            path for path in source.rglob("*") if path.is_file() and path.parent.name in ("cur", "new")
        ]
    assert go(mail, source, mode).again


@pytest.mark.slow
@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_every_step(world: tuple[str, Callable[[], tuple[Path, Path]]], stride: int) -> None:
    mode, make = world
    at, whole = 0, False
    while not whole:
        mail, source = make()
        disk = CutDisk(at)
        try:
            go(mail, source, mode, disk)
            whole = not disk.cut
        except Cut:
            _look_at_what_is_there(mail, source, mode)
        outcome = go(mail, source, mode)
        assert outcome.problems == [], (at, outcome.problems)
        store = store_at(mail)
        assert state(store.account(ACCOUNT)) == EXPECTED, at
        store.close()
        shutil.rmtree(mail.parent)
        at += stride
    assert at > 25


def _look_at_what_is_there(mail: Path, source: Path, mode: str) -> None:
    """A server that comes between: it is sent away, or sees all, or (before it began) nothing of it."""
    store = store_at(mail)
    try:
        half = state(store.account(ACCOUNT))
    except StoreUnavailable as error:
        assert f"filterd store adopt dovecot {ACCOUNT} {source} --{mode}" in str(error)
    else:
        begun = (mail / "example.org" / "ann" / "filterd-adopt").exists()
        assert half == EXPECTED if begun else mode == IN_PLACE or half["INBOX"][2] == []  # type: ignore[index]  # a tuple
    store.close()


def test_a_running_server_is_kept_out_and_sees_the_result(tmp_path: Path) -> None:
    mail, source = tmp_path / "mail", dovecot(tmp_path / "old")
    server = store_at(mail)
    opened = server.account(ACCOUNT)
    opened.create("Sent", "\\Sent")
    assert opened.snapshot("INBOX").uids.tolist() == []
    with pytest.raises(Cut):
        go(mail, source, COPY, CutDisk(12))
    with pytest.raises(StoreUnavailable, match="not finished"):
        opened.create("Other")
    go(mail, source, COPY)
    assert state(opened) == EXPECTED
    assert {info.name: info.special_use for info in opened.mailboxes()}["Sent"] == "\\Sent"
    server.close()


def test_layout_fs_and_control_directory(tmp_path: Path) -> None:
    top = folder(tmp_path / "old")
    deep = folder(top / "Work" / "a.b")
    put(deep, "cur", "1500000001.M1P2.h:2,S", text("deep"))
    put(folder(top / "Work"), "cur", "1500000001.M1P1.h:2,a", text("work"))
    control = tmp_path / "control"
    (control / "Work" / "a.b").mkdir(parents=True)
    (control / "Work" / "a.b" / "dovecot-uidlist").write_text(f"3 V{V} N9\n8 :1500000001.M1P2.h\n")
    (control / "Work" / "dovecot-uidlist").write_text(f"3 V{V + 1} N9\n3 :1500000001.M1P1.h\n")
    (control / "Work" / "dovecot-keywords").write_text("0 Todo\n")
    (control / "subscriptions").write_text("Work/a.b\n")
    outcome = go(tmp_path / "mail", top, COPY, options=Options(control=str(control)))
    assert outcome.problems == []
    store = store_at(tmp_path / "mail")
    found = state(store.account(ACCOUNT))
    store.close()
    assert found["Work/a.b"][:2] == (V, 9) and found["Work"][2][0][:2] == (3, ("Todo",))  # type: ignore[index]  # tuples
    assert found["subscriptions"] == ("Work/a.b",)


def test_names_that_cannot_be_and_utf8(tmp_path: Path) -> None:
    top = folder(tmp_path / "old")
    for number, name in enumerate((".INBOX", ".A..B", ".A&-B", ".Öl", ".x\ny")):
        put(folder(top / name), "cur", f"150000000{number}.M1P2.h:2,S", text(name[1:].replace("\n", "")))
    found = adopt_dovecot.read(str(top), Options(utf8=True))
    assert {box.shown: box.name for box in found.mailboxes} == {
        "": "INBOX", ".INBOX": "INBOX-2", ".A..B": "A/_/B", ".A&-B": "A&-B", ".Öl": "Öl", ".x\ny": "x_y",
    }  # fmt: skip
    assert any("'INBOX' becomes 'INBOX-2'" in note for box in found.mailboxes for note in box.notes)
    assert {box.name for box in adopt_dovecot.read(str(top), Options()).mailboxes} >= {"A&B", "Öl"}
    outcome = go(tmp_path / "mail", top, MOVE, options=Options(utf8=True))
    assert outcome.problems == []
    store = store_at(tmp_path / "mail")
    assert len([name for name in state(store.account(ACCOUNT)) if name != "subscriptions"]) == 6
    store.close()


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdoptError, match="no Maildir"):
        adopt_dovecot.read(str(tmp_path), Options())
    folder(tmp_path / "Maildir")
    with pytest.raises(AdoptError, match="did you mean"):
        adopt_dovecot.read(str(tmp_path), Options())
    (tmp_path / "d" / "mailboxes" / "INBOX" / "dbox-Mails").mkdir(parents=True)
    with pytest.raises(AdoptError, match="doveadm backup"):
        adopt_dovecot.read(str(tmp_path / "d"), Options())
    (tmp_path / "m" / "storage").mkdir(parents=True)
    (tmp_path / "m" / "storage" / "dovecot.map.index.log").write_bytes(b"")
    with pytest.raises(AdoptError, match="mdbox"):
        adopt_dovecot.read(str(tmp_path / "m"), Options())
    crypt = folder(tmp_path / "c")
    put(crypt, "cur", "1.h:2,S", b"CRYPTED\x03\x07...")
    put(crypt, "cur", "2.h:2,S", b"\x28\xb5\x2f\xfd...")
    assert len(adopt_dovecot.read(str(crypt), Options()).blocked) == 2
    mail = tmp_path / "mail"
    store = store_at(mail)
    from filterd.store.base import NewMessage

    store.account(ACCOUNT).deliver("INBOX", NewMessage(text("own"), key=b"k"))
    store.close()
    found = adopt_dovecot.read(str(dovecot(tmp_path / "old")), Options())
    assert conflicts(found, str(mail / "example.org" / "ann"), COPY) == ["INBOX has 1 message already"]


def test_a_folder_that_filterd_opened_first_is_adopted_in_place(tmp_path: Path) -> None:
    """``filterd account add`` opens the store: the files have our UIDs then, and the folders a UIDVALIDITY of ours."""
    mail = tmp_path / "mail"
    source = dovecot(mail / "example.org" / "ann")
    store = store_at(mail)
    first = state(store.account(ACCOUNT))
    assert first["INBOX"][0] != V  # type: ignore[index]  # a tuple
    store.close()
    (source / "filterd-keywords").unlink(missing_ok=True)
    assert go(mail, source, IN_PLACE).problems == []
    store = store_at(mail)
    assert state(store.account(ACCOUNT)) == {**EXPECTED, "subscriptions": EXPECTED["subscriptions"]}
    store.close()


@pytest.mark.parametrize(
    "lines",
    [
        "", "x", "3", "3 V0 N1", "3 V99999999999 N5\n1 :a", "1 5", "3 V5 N1\n0 :a\n4294967296 :b\n-1 :c\n1 :a/../b\n1 :",
        "3 V5 N1\n1 :a\n1 :b\n2 :a\n\x00\n3 P :c\n4 P" + "x" * 9000 + " :d",
    ],
)  # fmt: skip
def test_hostile_uidlists(lines: str) -> None:
    found = adopt_dovecot.parse_uidlist(lines.encode())
    assert 0 <= found.uidvalidity < 2**32 and all(0 < uid < 2**32 for uid in found.uids.values())
    assert len(set(found.uids.values())) == len(found.uids) and not any("/" in base for base in found.uids)
