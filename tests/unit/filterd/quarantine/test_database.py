"""The quarantine on disk: texts once, states that change once, owners apart, a process killed at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from filterd.quarantine.base import Facts, Hold, facts_of, facts_plain
from filterd.quarantine.database import FORGET_SECONDS, KEY_SECONDS, QuarantineDatabase
from filterd.store.base import StoreUnavailable
from pipeline.envelope import Client, Profile
from pipeline.verdict import Disposition, Verdict

NOW, KEEP = 1_800_000_000.0, 1000.0
ANN, BOB = "ann@here.example", "bob@here.example"
DATA = b"Subject: bad\r\n\r\nbody\r\n"
FACTS = Facts(
    "far@away.example",
    ANN,
    Client("192.0.2.1", 25, "away.example", tls="TLSv1.3", told="XCLIENT"),
    Profile.LMTP,
    {"SIZE": "9"},
    {"NOTIFY": "NEVER"},
    "list",
    (Verdict("dkim", Disposition.CONTINUE, "pass", "d=away.example", tags={"dkim.pass": "away.example"}),),
)


def hold(name: str = "AAAAA-AAAAA.1", account: str = ANN, key: bytes = b"k", data: bytes = DATA) -> Hold:
    return Hold(name, account, "clamav", "Eicar", data, key, FACTS, "far@away.example", "bad")


@pytest.fixture
def database(tmp_path: Path):
    made = QuarantineDatabase(tmp_path / "quarantine" / "held.db")
    yield made
    made.close()


def bodies(database: QuarantineDatabase) -> int:
    return int(database._db.execute("select count(*) from body").fetchone()[0])


def test_facts_survive() -> None:
    assert facts_of(facts_plain(FACTS)) == FACTS


def test_a_text_is_stored_once_and_ends_with_its_last_row(database: QuarantineDatabase) -> None:
    database.put(hold(), NOW, KEEP)
    database.put(hold("AAAAA-AAAAA.2", BOB, b"l"), NOW, KEEP)
    assert bodies(database) == 1 and database.data("AAAAA-AAAAA.2") == DATA
    assert database.facts("AAAAA-AAAAA.1") == FACTS
    assert database.drop("AAAAA-AAAAA.1", NOW) and not database.drop("AAAAA-AAAAA.1", NOW)
    assert bodies(database) == 1 and database.data("AAAAA-AAAAA.1") is None
    assert database.ask("AAAAA-AAAAA.2", NOW)
    database.released("AAAAA-AAAAA.2", NOW, "INBOX uid 1")
    assert bodies(database) == 0
    assert [row.state for row in database.rows(ended=True)] == ["dropped", "released"]
    assert database.rows() == []


def test_a_retry_is_known_until_it_is_acknowledged_or_old(database: QuarantineDatabase) -> None:
    first = database.put(hold(), NOW, KEEP)
    again = database.put(hold("BBBBB-BBBBB.1"), NOW + 5, KEEP)
    assert again.duplicate and again.id == first.id and len(database.rows()) == 1
    database.acknowledge([b"k"])
    assert not database.put(hold("CCCCC-CCCCC.1"), NOW + 6, KEEP).duplicate
    assert not database.put(hold("DDDDD-DDDDD.1"), NOW + 7 + KEY_SECONDS, KEEP).duplicate
    assert not database.put(hold("EEEEE-EEEEE.1", key=b""), NOW, KEEP).duplicate


def test_the_same_id_twice_is_refused_for_now(database: QuarantineDatabase) -> None:
    database.put(hold(), NOW, KEEP)
    with pytest.raises(StoreUnavailable):
        database.put(hold(key=b"other"), NOW, KEEP)
    assert len(database.rows()) == 1


def test_names_are_found_as_people_write_them_and_owners_see_their_own(database: QuarantineDatabase) -> None:
    database.put(hold(), NOW, KEEP)
    database.put(hold("AAAAA-AAAAA.2", BOB, b"l"), NOW, KEEP)
    for name in ("AAAAA-AAAAA", "aaaaaaaaaa", " AAAAAAAAAA "):
        assert [row.number for row in database.find(name)] == [1, 2]
        assert [row.number for row in database.find(name, BOB)] == [2]
    assert [row.account for row in database.find("aaaaa-aaaaa.2")] == [BOB]
    assert database.find("AAAAA-AAAAA.2", ANN) == [] and database.find("%") == [] and database.find("") == []
    assert [row.account for row in database.rows(ANN)] == [ANN]


def test_a_release_is_asked_for_and_claimed_once(database: QuarantineDatabase) -> None:
    database.put(hold(), NOW, KEEP)
    assert database.ask("AAAAA-AAAAA.1", NOW, "ham") and not database.ask("AAAAA-AAAAA.1", NOW)
    assert not database.drop("AAAAA-AAAAA.1", NOW)
    (due,) = database.due(NOW)
    assert due.learn == "ham" and database.next_ask() == NOW
    assert database.claim(due.id, NOW, 60) and not database.claim(due.id, NOW, 60)
    assert database.due(NOW + 59) == [] and len(database.due(NOW + 60)) == 1
    database.resume(NOW + 1)
    assert len(database.due(NOW + 1)) == 1 and database.claim(due.id, NOW + 1, 60)
    database.later(due.id, NOW + 500, "disk full")
    database.resume(NOW + 2)  # what was put off keeps its time
    assert database.due(NOW + 499) == [] and len(database.due(NOW + 500)) == 1
    database.back(due.id, "there is no account")
    (row,) = database.rows()
    assert (row.state, row.note) == ("held", "there is no account")


def test_what_is_old_expires_and_is_forgotten(database: QuarantineDatabase) -> None:
    database.put(hold(), NOW, KEEP)
    database.put(hold("BBBBB-BBBBB.1", key=b"l"), NOW, KEEP)
    database.ask("BBBBB-BBBBB.1", NOW)
    assert database.purge(NOW + KEEP - 1) == []
    assert [row.id for row in database.purge(NOW + KEEP)] == ["AAAAA-AAAAA.1"]
    assert database.purge(NOW + KEEP) == []
    assert [row.state for row in database.rows(ended=True)] == ["expired", "asked"]  # who was asked for stays
    database.purge(NOW + KEEP + FORGET_SECONDS)
    assert [row.state for row in database.rows(ended=True)] == ["asked"]
    database.forget(ANN)
    assert database.rows(ended=True) == [] and bodies(database) == 0


def test_what_strangers_wrote_stays_on_its_line(database: QuarantineDatabase) -> None:
    odd = Hold(
        "AAAAA-AAAAA.1",
        ANN,
        "clamav",
        "x\ny",
        DATA,
        b"k",
        FACTS,
        "a@b",
        "\x1b[2J\r\nX" + "s" * 900 + "\ud800",
    )
    database.put(odd, NOW, KEEP)
    (row,) = database.rows()
    assert row.subject.isprintable() and len(row.subject) <= 500 and row.reason == "x y"


def test_what_was_answered_is_there_after_a_kill(tmp_path: Path) -> None:
    """A child holds mail as fast as it can and says each id; it is killed in the midst of it."""
    path = tmp_path / "held.db"
    script = f"""
from pathlib import Path
from filterd.quarantine.base import Facts, Hold
from filterd.quarantine.database import QuarantineDatabase
from pipeline.envelope import Client, Profile
database = QuarantineDatabase(Path({str(path)!r}))
facts = Facts("a@b.example", "ann@here.example", Client(), Profile.MX)
for number in range(100000):
    name = f"AAAAA-AAAAA.{{number}}"
    database.put(Hold(name, "ann@here.example", "clamav", "", b"%d" % number * 5000, b"%d" % number, facts), 1e9, 1e9)
    print(name, flush=True)
"""
    root = str(Path(__file__).resolve().parents[4])
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    )
    assert child.stdout is not None
    said = [child.stdout.readline().strip().decode() for _ in range(40)]
    child.send_signal(signal.SIGKILL)
    said += [line.strip().decode() for line in child.stdout if line.endswith(b"\n")]
    child.stdout.close()
    child.wait()
    database = QuarantineDatabase(path)
    there = {row.id: database.data(row.id) for row in database.rows(limit=1_000_000)}
    database.close()
    assert set(said) <= set(there) and len(there) <= len(said) + 1
    assert all(text == name.partition(".")[2].encode() * 5000 for name, text in there.items())
