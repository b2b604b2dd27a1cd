"""The way back to Dovecot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from filterd.store import adopt_dovecot, export
from filterd.store.adopt import COPY, IN_PLACE, adopt, conflicts, finished, plan
from filterd.store.adopt_dovecot import Options
from filterd.store.adopt_plan import AdoptError
from filterd.store.base import NewMessage
from filterd.store.durable import Dir, NewFile, RealDisk
from filterd.store.flags import names_of
from filterd.store.maildir import MaildirAccount, MaildirStore
from filterd.store.uidl import Adopted

ACCOUNT = "ann@example.org"


class Cut(BaseException):
    """The process is gone."""


class CutDisk(RealDisk):
    """Ends before a name is given for the n-th time."""

    def __init__(self, left: int) -> None:
        super().__init__(boot="boot")
        self.left = left

    def publish(self, file: NewFile, name: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cut
        super().publish(file, name)

    def rename(self, source: Dir, name: str, target: Dir, new: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cut
        super().rename(source, name, target, new)


def store_at(root: Path, disk: RealDisk | None = None, newline: str = "crlf") -> MaildirStore:
    return MaildirStore(
        root, "mx", newline, lambda account: 0, SystemClock(), SystemIds(), disk=disk or RealDisk("boot")
    )


def text(subject: str) -> bytes:
    return f"From: a@b.example\r\nSubject: {subject}\r\n\r\nHello {subject}\r\n".encode()


FOLDERS = ("INBOX", "Arbeit/Müll", "v1.2/a.b", "filterd-tips", "cur/x", "a_b", "a.b")


def fill(opened: MaildirAccount) -> None:
    for name in FOLDERS[1:]:
        opened.create(name)
    opened.subscribe("Arbeit/Müll", True)
    opened.subscribe("Not there", True)
    for at, name in enumerate(FOLDERS * 2):
        flags = ("\\Seen", "Todo") if at % 3 == 0 else ("$Forwarded",) if at % 3 == 1 else ()
        opened.append(
            name,
            [NewMessage(text(f"{name} {at}".encode("ascii", "replace").decode()), flags, 1_500_000_000 + at)],
        )
    opened.append("INBOX", [NewMessage(text(f"many {at}"), (f"kw{at:02}",)) for at in range(28)])
    opened.set_flags("INBOX", [2], "add", ["\\Deleted"])
    opened.expunge("INBOX", [2])


def state(opened: MaildirAccount) -> dict[str, object]:
    found: dict[str, object] = {}
    for info in opened.mailboxes():
        box = opened.snapshot(info.name)
        rows = opened.rows(info.name, box.uids)
        found[info.name] = (
            info.uidvalidity,
            box.uidnext,
            [
                (row.uid, names_of(row.flags, box.keywords[:26]), row.date, opened.read(info.name, row.uid))
                for row in rows
            ],
        )
    return found


@pytest.mark.parametrize("newline", ["crlf", "lf"])
@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_what_is_exported_is_adopted_again(tmp_path: Path, layout: str, newline: str) -> None:
    store = store_at(tmp_path / "one", newline=newline)
    fill(store.account(ACCOUNT))
    before = state(store.account(ACCOUNT))
    core = store.core(ACCOUNT)
    target = tmp_path / "back"
    done = export.export_dovecot(core, str(target), layout)
    core.close()
    assert state(store.account(ACCOUNT)) == before
    store.close()
    assert sum(count for _, _, count, _, _ in done.mailboxes) == 41
    renamed = {"cur": "_cur", "cur/x": "_cur/x"}
    if layout == "maildir++":
        renamed = {"v1.2": "v1_2", "v1.2/a.b": "v1_2/a_b", "a.b": "a_b-2"}
    assert sum("becomes" in note for note in done.notes) == len(renamed)
    assert any("keywords beyond" in note for note in done.notes)
    found = adopt_dovecot.read(str(target), Options())
    plan(found, str(tmp_path / "two" / "example.org" / "ann"), COPY)
    assert all(message.listed for box in found.mailboxes for message in box.messages)
    store = store_at(tmp_path / "two")
    core = store.core(ACCOUNT)
    assert adopt(core, found, COPY).problems == []
    core.close()
    after = state(store.account(ACCOUNT))
    assert after == {renamed.get(name, name): value for name, value in before.items()}
    assert set(store.account(ACCOUNT).subscriptions()) == {"Arbeit/Müll", "Not there"}
    store.close()


def test_a_kill_on_the_way_and_changes_meanwhile(tmp_path: Path) -> None:
    store = store_at(tmp_path / "one")
    opened = store.account(ACCOUNT)
    fill(opened)
    store.close()
    target = tmp_path / "back"
    for left in (0, 1, 2, 5, 9, 14, 20, 27):
        store = store_at(tmp_path / "one", CutDisk(left))
        core = store.core(ACCOUNT)
        with pytest.raises(Cut):
            export.export_dovecot(core, str(target))
        core.close()
        store.close()
        store = store_at(tmp_path / "one")
        opened = store.account(ACCOUNT)
        uid = opened.append("INBOX", [NewMessage(text(f"late {left}"), ("\\Seen",))])[0].uid
        opened.set_flags("INBOX", [1], "add" if left % 2 else "remove", ["\\Flagged"])
        opened.set_flags("INBOX", [uid], "add", ["\\Deleted"])
        if left % 3:
            opened.expunge("INBOX", [uid])
        store.close()
    store = store_at(tmp_path / "one")
    core = store.core(ACCOUNT)
    export.export_dovecot(core, str(target))
    core.close()
    before = state(store.account(ACCOUNT))
    own = {
        name
        for folder in ("cur", "new")
        for name in os.listdir(tmp_path / "one" / "example.org" / "ann" / folder)
    }
    assert {name for folder in ("cur", "new") for name in os.listdir(target / folder)} == own
    assert not (target / "filterd-export").exists() and before["INBOX"]
    core = store.core(ACCOUNT)
    with pytest.raises(AdoptError, match="not empty"):
        export.export_dovecot(core, str(target))
    with pytest.raises(AdoptError, match="in-place"):
        export.export_dovecot(core, core.path)
    core.close()
    store.close()


def test_in_place_and_home_again(tmp_path: Path) -> None:
    mail = tmp_path / "mail"
    account = mail / "example.org" / "ann"
    store = store_at(mail)
    fill(store.account(ACCOUNT))
    before = state(store.account(ACCOUNT))
    core = store.core(ACCOUNT)
    done = export.export_dovecot(core, "")
    core.close()
    store.close()
    export.put_index_aside(RealDisk(), str(account))
    assert not (account / ".filterd").exists() and sum("does not show" in note for note in done.notes) == 4
    first = (account / "dovecot-uidlist").read_text().splitlines()
    assert first[0].startswith("3 V") and first[1].startswith("1 P00000001")
    # Dovecot appends a message
    (account / "cur" / "1600000000.new.h:2,S").write_bytes(text("by dovecot"))
    with open(account / "dovecot-uidlist", "a") as file:
        file.write("900 :1600000000.new.h\n")
    assert not finished(adopt_dovecot.read(str(account), Options()), str(account))
    export.bring_index_back(RealDisk(), str(account))
    found = adopt_dovecot.read(str(account), Options())
    assert not found.blocked and conflicts(found, str(account), IN_PLACE) == []
    plan(found, str(account), IN_PLACE)
    store = store_at(mail)
    core = store.core(ACCOUNT)
    assert adopt(core, found, IN_PLACE).problems == []
    core.close()
    after = state(store.account(ACCOUNT))
    store.close()
    assert after["INBOX"][2].pop()[0] == 900  # type: ignore[index]  # a tuple with a list
    assert {name: value[2] for name, value in after.items()} == {
        name: value[2] for name, value in before.items()
    }  # type: ignore[index]  # the same


def test_kept_fields_go_back(tmp_path: Path) -> None:
    store = store_at(tmp_path / "one")
    opened = store.account(ACCOUNT)
    opened.append("INBOX", [NewMessage(text("one")), NewMessage(text("two"))])
    kept = Adopted("ab" * 16)
    kept.set("P", 1, "UID1-5")
    kept.set("G", 2, "feed")
    (tmp_path / "one" / "example.org" / "ann" / "filterd-adopted").write_bytes(kept.render())
    assert dict(opened.uidls("INBOX")) == {1: "UID1-5"}
    core = store.core(ACCOUNT)
    export.export_dovecot(core, str(tmp_path / "back"))
    core.close()
    store.close()
    lines = (tmp_path / "back" / "dovecot-uidlist").read_text().splitlines()
    assert lines[0].endswith(f"G{'ab' * 16}") and lines[1].startswith("1 PUID1-5 :")
    assert lines[2].startswith("2 P00000002") and " Gfeed :" in lines[2]
