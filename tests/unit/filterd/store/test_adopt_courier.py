"""Adoption of a Courier Maildir++."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from filterd.store import adopt_courier
from filterd.store.adopt import COPY, IN_PLACE, MODES, adopt, conflicts, plan
from filterd.store.durable import RealDisk
from filterd.store.flags import names_of
from filterd.store.maildir import MaildirStore

ACCOUNT = "ann@example.org"
V = 123_456_789  # Courier counts from 2001


def store_at(root: Path) -> MaildirStore:
    return MaildirStore(
        root, "mx", "crlf", lambda account: 0, SystemClock(), SystemIds(), disk=RealDisk("boot")
    )


def put(
    path: Path, place: str, name: str, data: bytes = b"Subject: x\n\nHello\n", date: int = 1_500_000_000
) -> None:
    (path / place).mkdir(parents=True, exist_ok=True)
    (path / place / name).write_bytes(data)
    os.utime(path / place / name, (date, date))


def courier(top: Path) -> Path:
    for number in range(1, 6):
        put(top, "cur", f"150000000{number}.M1P1V0I1.h,S=20:2,S", f"Subject: {number}\n\nHello\n".encode())
    put(top, "new", "1500000009.M1P1V0I1.h,S=20")
    (top / "tmp").mkdir()
    (top / "courierimapuiddb").write_text(
        f"1 {V} 11\n" + "".join(f"{number * 2} 150000000{number}.M1P1V0I1.h,S=20\n" for number in range(1, 6))
    )
    words = top / "courierimapkeywords"
    words.mkdir()
    many = [f"kw{number:02}" for number in range(30)]
    (words / ":list").write_text(
        "\n".join(["NonJunk", "$Forwarded", *many])
        + "\n\n1500000001.M1P1V0I1.h,S=20:0 1\n1500000002.M1P1V0I1.h,S=20:0\n"
        + "1500000003.M1P1V0I1.h,S=20:" + " ".join(str(at + 2) for at in range(30)) + "\nlong-gone:0 1 77\n"
    )  # fmt: skip
    (words / "1500000002.M1P1V0I1.h,S=20").write_text("$Forwarded\nTodo\nbad word\n")
    (words / ".5000.1500000004.M1P1V0I1.h,S=20").write_text("old\n")
    (words / ".5001.1500000004.M1P1V0I1.h,S=20").write_text("Todo\n")
    (words / ".4.1500000002.M1P1V0I1.h,S=20").write_text("ancient\n")
    (words / "1500000001.M1P1V0I1.h,S=20").write_text("")  # all taken away
    (top / "courierpop3dsizelist").write_text(
        "/3 9 1100000000\n"
        "1500000001.M1P1V0I1.h,S=20:2,S 20 4:1100000000:0\n"
        "1500000002.M1P1V0I1.h,S=20 20 5:0:1\n"
        "1500000003.M1P1V0I1.h,S=20:2, 20 0:1100000000:0\n"
        "1500000009.M1P1V0I1.h,S=20 20 8:1100000000\n"
        "rubbish\n"
    )
    (top / "courierimapsubscribed").write_text("INBOX\nINBOX.Sent\nINBOX.Ablage.M&APw-ll\n")
    (top / "maildirsize").write_text("5000S\n")
    (top / ".mailfilter").write_text("")
    deep = top / ".Ablage.M&APw-ll"
    put(deep, "cur", "1500000001.x.h:2,RT")
    (deep / "new").mkdir()
    (deep / "courierimapuiddb").write_text(f"1 {V + 1} 9\n8 1500000001.x.h\n")
    (deep / "courierimapacl").write_text("")
    put(top / ".Sent", "cur", "1500000001.y.h:2,S")
    (top / ".Sent" / "new").mkdir()
    (top / ".Link").symlink_to(deep)
    return top


@pytest.mark.parametrize("mode", MODES)
def test_all_is_kept(tmp_path: Path, mode: str) -> None:
    mail = tmp_path / "mail"
    account = mail / "example.org" / "ann"
    source = courier(account if mode == IN_PLACE else tmp_path / "old")
    found = adopt_courier.read(str(source))
    assert not found.blocked and conflicts(found, str(account), mode) == []
    plan(found, str(account), mode)
    store = store_at(mail)
    core = store.core(ACCOUNT)
    assert adopt(core, found, mode).problems == []
    core.close()
    opened = store.account(ACCOUNT)
    inbox = opened.snapshot("INBOX")
    assert (inbox.info.uidvalidity, inbox.uidnext, inbox.uids.tolist()) == (V, 12, [2, 4, 6, 8, 10, 11])
    words = {
        uid: set(names_of(mask, inbox.keywords)) for uid, mask in zip(inbox.uids, inbox.flags, strict=True)
    }
    assert words == {
        2: {"\\Seen"}, 4: {"\\Seen", "$Forwarded", "Todo"}, 6: {"\\Seen", *(f"kw{number:02}" for number in range(30))},
        8: {"\\Seen", "Todo"}, 10: {"\\Seen"}, 11: set(),
    }  # fmt: skip
    assert dict(opened.uidls("INBOX")) == {
        2: "UID4-1100000000", 4: "UID5", 6: "1500000003.M1P1V0I1.h,S=20", 11: "UID8-1100000000",
    }  # fmt: skip
    deep = opened.snapshot("Ablage/Müll")
    assert (deep.info.uidvalidity, deep.uids.tolist(), deep.uidnext) == (V + 1, [8], 9)
    assert names_of(deep.flags[0], deep.keywords) == ("\\Answered", "\\Deleted")
    assert {"INBOX", "Sent", "Ablage/Müll"} == set(opened.subscriptions())
    notes = " ".join([*found.notes, *(note for box in found.mailboxes for note in box.notes)])
    assert all(
        word in notes
        for word in (".mailfilter", "5000S", "access rights", "no courierimapuiddb", "is a link")
    )
    store.close()
    shutil.rmtree(account / ".filterd")  # what file names can say is back; Todo and two more have letters
    store = store_at(mail)
    again = store.account(ACCOUNT)
    assert dict(again.uidls("INBOX")) != {} and again.snapshot("INBOX").uids.tolist() == [2, 4, 6, 8, 10, 11]
    again.delete("Ablage/Müll")
    assert not [path for path in account.rglob("filterd-gone*")]
    store.close()


@pytest.mark.parametrize(
    "data", [b"", b"2 5 5\n", b"1 x y\n1 a", b"1 5 0\n0 a\n1 b\n1 c\n2 b\n9999999999 d\n3 \n"]
)
def test_hostile_uiddb(data: bytes) -> None:
    validity, nextuid, uids = adopt_courier.parse_uiddb(data)
    assert 0 <= validity < 2**32 and nextuid >= 1 and len(set(uids.values())) == len(uids)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"a\nb", b"a\n\nx:1 2 -1 999999999999\n:0\ny", b"\xff\n\n\xfe:0\n"]
)
def test_hostile_keywords(data: bytes) -> None:
    assert all(set(words) <= {"a", "b"} for words in adopt_courier.parse_keyword_list(data).values())


def test_copy_leaves_the_source_alone(tmp_path: Path) -> None:
    source = courier(tmp_path / "old")
    before = {path: path.lstat().st_mtime_ns for path in source.rglob("*")}
    found = adopt_courier.read(str(source))
    account = str(tmp_path / "mail" / "example.org" / "ann")
    plan(found, account, COPY)
    store = store_at(tmp_path / "mail")
    core = store.core(ACCOUNT)
    adopt(core, found, COPY)
    core.close()
    store.close()
    assert {path: path.lstat().st_mtime_ns for path in source.rglob("*")} == before
