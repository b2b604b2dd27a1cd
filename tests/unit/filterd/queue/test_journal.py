"""The database: ids, keys, texts, ends, growing old."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from filterd.queue.base import Outgoing, PendingStore
from filterd.queue.journal import BODY_IN_ROW, FILE_GRACE, KEEP_ENDED, KEY_LIFE, Journal
from filterd.queue.rows import Added, PutOff, id_number, id_text
from filterd.store.base import NewMessage, SieveState, StoreUnavailable

NOW = 1_790_000_000.0
BIG = b"x" * (BODY_IN_ROW + 1)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "queue")
    yield journal
    journal.close()


def out(key: bytes, recipient: str = "bob@x.example", data: bytes = b"text") -> Outgoing:
    return Outgoing(key, "ann@us.example", recipient, data, "submission", "T", {"RET": "FULL"})


def add(
    journal: Journal, *outgoing: Outgoing, stores: tuple[PendingStore, ...] = (), now: float = NOW
) -> Added:
    with journal.transaction():
        return journal.add(outgoing, stores, now)


def end(journal: Journal, name: str, state: str = "sent", now: float = NOW) -> bool:
    with journal.transaction():
        return journal.end(name, state, now)


def texts(journal: Journal) -> int:
    return int(journal._db.execute("select count(*) from body").fetchone()[0])


def test_what_went_in_comes_out(journal: Journal) -> None:
    (name,) = add(journal, out(b"k", "bob@BÜCHER.example", b"a\0b")).items
    item = journal.item(name.lower())
    assert item is not None and item.id == name and len(name) == 12
    assert (item.recipient, item.domain) == ("bob@BÜCHER.example", "xn--bcher-kva.example")
    assert item.params == {"RET": "FULL"} and item.state == "queued" and item.next_at == NOW
    assert journal.body(item.body) == b"a\0b"


def test_what_waits_is_told_without_looking_at_what_has_ended(journal: Journal) -> None:
    assert journal.waiting() == ({"queued": 0, "held": 0}, None)
    for number in range(3):
        end(journal, add(journal, out(b"e%d" % number)).items[0])
    add(journal, out(b"1"), now=NOW + 5)
    held = replace(out(b"2"), hold_until=NOW + 900)
    add(journal, held, now=NOW + 3)
    assert journal.waiting()[1] == NOW + 5
    asked: list[str] = []
    journal._db.set_trace_callback(asked.append)
    counts, oldest = journal.waiting()
    journal._db.set_trace_callback(None)
    assert sum(counts.values()) == 2 and oldest == NOW + 5
    for statement in asked:
        (plan,) = {row[3] for row in journal._db.execute(f"explain query plan {statement}")}
        assert "INDEX item_" in plan or "PRIMARY KEY" in plan


def test_ids_grow_whatever_the_clock_does(journal: Journal) -> None:
    names = [
        add(journal, out(b"%d" % n), now=now).items[0]
        for n, now in enumerate((NOW, NOW, NOW - 5000, NOW + 1, 0.0))
    ]
    numbers = [id_number(name) for name in names]
    assert numbers == sorted(set(numbers)) and [id_text(n) for n in numbers] == names
    assert id_number(names[0].lower().replace("1", "l").replace("0", "o")) == numbers[0]
    assert [id_number(x) for x in ("", "all", "U" * 12, "0" * 13)] == [-1] * 4


# -- delivery keys -----------------------------------------------------------------------------------------------
def test_an_unacknowledged_key_adds_nothing_for_a_day(journal: Journal) -> None:
    (first,) = add(journal, out(b"k")).items
    assert add(journal, out(b"k"), now=NOW + 60).items == (first,)
    end(journal, first)  # even when it has left already
    assert add(journal, out(b"k"), now=NOW + KEY_LIFE - 1).items == (first,)
    assert len(journal.items(("queued", "sent"))) == 1
    assert add(journal, out(b"k"), now=NOW + KEY_LIFE + 1).items != (first,)


def test_an_acknowledged_key_never_suppresses(journal: Journal) -> None:
    names: list[str] = []
    for _ in range(3):
        names += add(journal, out(b"k")).items
        with journal.transaction():
            journal.acknowledge([b"k", b"unknown"])
    assert len(set(names)) == 3 and len(journal.items()) == 3
    (last,) = add(journal, out(b"k")).items
    assert add(journal, out(b"k")).items == (last,)


def test_one_key_twice_in_a_group(journal: Journal) -> None:
    names = add(journal, out(b"k"), out(b"k"), out(b"l")).items
    assert names[0] == names[1] != names[2] and len(journal.items()) == 2


# -- texts -------------------------------------------------------------------------------------------------------
def test_one_text_is_kept_once_and_as_long_as_somebody_needs_it(journal: Journal) -> None:
    store = PendingStore("ann", "INBOX", NewMessage(b"text", key=b"s"))
    added = add(journal, out(b"1"), out(b"2"), out(b"3", data=b"other"), stores=(store,))
    assert texts(journal) == 2
    body = journal.items()[0].body
    for name in added.items[:2]:
        assert journal.body(body) == b"text"
        end(journal, name)
    assert journal.body(body) == b"text"  # the store needs it
    with journal.transaction():
        journal.stores_done(added.stores)
    with pytest.raises(StoreUnavailable):
        journal.body(body)
    assert texts(journal) == 1
    assert add(journal, out(b"4")).items and journal.body(journal.items()[-1].body) == b"text"


def test_large_texts_are_files_that_go_when_nobody_needs_them(journal: Journal) -> None:
    added = add(journal, out(b"1", data=BIG), out(b"2", data=BIG))
    (path,) = journal.directory.glob("body-*")
    assert path.read_bytes() == BIG == journal.body(journal.items()[0].body)
    for name in added.items:
        end(journal, name)
    with journal.transaction():
        assert journal.forget_ended(NOW + FILE_GRACE - 1) == []
    with journal.transaction():
        assert journal.forget_ended(NOW + FILE_GRACE + 1) == [path.name]


def test_rollback_leaves_no_file_and_no_row(journal: Journal) -> None:
    with pytest.raises(RuntimeError), journal.transaction():
        journal.add([out(b"1", data=BIG), out(b"2")], (), NOW)
        raise RuntimeError
    assert not list(journal.directory.glob("body-*")) and not journal.items() and texts(journal) == 0
    assert add(journal, out(b"1")).items  # no transaction was left open


def test_stray_files_of_a_crash_are_found_when_old(journal: Journal) -> None:
    add(journal, out(b"1", data=BIG))
    (journal.directory / "body-1-2-3").write_bytes(b"left behind")
    (journal.directory / "17.P1Q0.filterd").write_bytes(b"half")
    mtime = (journal.directory / "body-1-2-3").stat().st_mtime
    assert journal.stray_files(mtime + FILE_GRACE - 10) == []
    assert sorted(journal.stray_files(mtime + FILE_GRACE + 10)) == ["17.P1Q0.filterd", "body-1-2-3"]


# -- stores ------------------------------------------------------------------------------------------------------
def test_stores_come_back_as_they_were(journal: Journal) -> None:
    message = NewMessage(b"text", ("\\Seen", "$x"), None, b"key", "T.1", "because")
    wanted = PendingStore("ann", "Box/é", message, SieveState({b"id": 60}), "T")
    (name,) = add(journal, stores=(wanted,)).stores
    assert journal.pending_stores(NOW) == []
    assert journal.pending_stores(NOW + 31) == [(name, 0)]
    found = journal.pending_store(name)
    assert found is not None and found.message.date == int(NOW)
    assert found == PendingStore(
        "ann",
        "Box/é",
        NewMessage(b"text", ("\\Seen", "$x"), int(NOW), b"key", "T.1", "because"),
        wanted.state,
        "T",
    )
    with journal.transaction():
        journal.store_failed(name, NOW + 500)
    assert journal.pending_stores(NOW + 31) == [] and journal.pending_stores(NOW + 501) == [(name, 1)]
    with journal.transaction():
        journal.stores_done([name, name, "S" + "0" * 12])
    assert journal.pending_store(name) is None and journal.agenda().store_at is None


def test_a_repeated_delivery_finds_its_unfinished_stores(journal: Journal) -> None:
    stores = tuple(PendingStore("ann", box, NewMessage(b"t", key=box.encode())) for box in ("A", "B"))
    first = add(journal, out(b"k"), stores=stores)
    again = add(journal, out(b"k"), stores=stores, now=NOW + 5)
    assert (again.items, again.stores) == (first.items, first.stores)
    with journal.transaction():
        journal.acknowledge([b"k"])
    assert not set(add(journal, out(b"k"), stores=stores, now=NOW + 6).stores) & set(first.stores)


# -- time --------------------------------------------------------------------------------------------------------
def test_agenda_names_each_domain_once_with_its_next_appointment(journal: Journal) -> None:
    for n in range(30):
        add(journal, out(b"%d" % n, f"u@d{n % 3}.example"), now=NOW + n)
    agenda = journal.agenda()
    assert agenda.domains == [("d0.example", NOW), ("d1.example", NOW + 1), ("d2.example", NOW + 2)]
    assert [item.recipient for item in journal.due(NOW + 3, "d0.example", 10)] == ["u@d0.example"] * 2
    assert len(journal.due(NOW + 99, None, 100, ("d0.example",))) == 20


def test_agenda_is_answered_from_the_index(journal: Journal) -> None:
    from filterd.queue.rows import AGENDA

    plan = " ".join(str(row[3]) for row in journal._db.execute("explain query plan " + AGENDA))
    assert "item_domain" in plan and "SCAN item" not in plan.replace("SCAN item USING COVERING INDEX", "")


def test_put_off_leaves_what_must_be_told(journal: Journal) -> None:
    names = add(journal, *(out(b"%d" % n, f"u{n}@x.example") for n in range(3))).items
    (old,) = add(journal, out(b"old", "old@x.example"), now=NOW - 100).items
    with journal.transaction():
        journal.steer("bounce", NOW, name=names[0])
        assert journal.put_off(NOW, "x.example", (), PutOff(NOW + 300, "451 no", NOW - 50, 0.0)) == 2
    assert {item.id for item in journal.due(NOW, "x.example", 10)} == {names[0], old}


def test_an_item_ends_once(journal: Journal) -> None:
    (name,) = add(journal, out(b"k")).items
    assert end(journal, name, "dropped") and not end(journal, name, "bounced")
    item = journal.item(name)
    assert item is not None and item.state == "dropped"
    with journal.transaction():
        journal.again(name, NOW + 5)
        assert [journal.steer(a, NOW, name=name) for a in ("retry", "hold", "release", "bounce", "drop")] == [
            0
        ] * 5


def test_old_ends_are_forgotten_and_the_living_stay(journal: Journal) -> None:
    names = add(journal, *(out(b"%d" % n) for n in range(4))).items
    for name in names[:3]:
        item = journal.item(name)
        assert item is not None
        with journal.transaction():
            journal.tried(item, NOW, "host", "250 ok", journal.said(NOW, "> QUIT"))
        end(journal, name)
    with journal.transaction():
        journal.forget_ended(NOW + KEEP_ENDED - 1)
    assert len(journal.items(("queued", "sent"))) == 4 and journal.attempts(names[0])
    with journal.transaction():
        journal.forget_ended(NOW + KEEP_ENDED + 1)
    assert [item.id for item in journal.items(("queued", "sent"))] == [names[3]] and not journal.attempts(
        names[0]
    )
    with journal.transaction():
        journal.forget_ended(NOW + 3 * KEEP_ENDED)
    assert journal._db.execute("select count(*) from dialogue").fetchone() == (0,)


def test_tries_of_one_item_are_bounded(journal: Journal) -> None:
    (name,) = add(journal, out(b"k")).items
    for n in range(120):
        item = journal.item(name)
        assert item is not None
        with journal.transaction():
            journal.tried(item, NOW + n, "host", f"451 {n}", None)
    tries = journal.attempts(name)
    assert len(tries) == 50 and tries[-1][2] == "451 119"


def test_another_process_that_holds_the_lock_is_waited_for_and_then_told(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Journal(journal.directory)
    other.begin()
    monkeypatch.setattr("filterd.queue.journal.LOCK_WAIT", 0.02)
    with pytest.raises(StoreUnavailable, match="locked"):
        add(journal, out(b"k"))
    other.rollback()
    other.close()
    assert add(journal, out(b"k")).items


def test_a_directory_that_is_not_there_is_made(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a" / "b")
    assert add(journal, out(b"k")).items
    journal.close()
    assert Journal(tmp_path / "a" / "b").items()[0].recipient == "bob@x.example"
