"""The journal: what waits, what is known, what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.learning import journal as journals
from filterd.learning.journal import Journal
from filterd.learning.lesson import Outcome

TEXT = b"Message-ID: <1@x>\r\nSubject: one\r\n\r\nbody\r\n"
ENGINES = ("spamd", "builtin")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "learning" / "journal.db")


def settle(journal: Journal, now: float, what: str = "learned") -> int:
    jobs = journal.due(now, 100)
    journal.done([(job, Outcome(what)) for job in jobs], now)
    return len(jobs)


def test_once_for_each_engine_and_kind(journal: Journal) -> None:
    assert journal.note("ann", "spam", [TEXT, TEXT.replace(b"\r\n", b"\n")], ENGINES, 1.0) == 2
    jobs = journal.due(2.0, 10)
    assert [(job.engine, job.lesson.kind, job.lesson.data) for job in jobs] == [
        ("builtin", "spam", TEXT),
        ("spamd", "spam", TEXT),
    ]
    assert settle(journal, 2.0) == 2 and journal.left() == 0
    added = b"Return-Path: <a@b>\r\nReceived: from x\r\n" + TEXT
    journal.note("ann", "spam", [added], ENGINES, 3.0)
    assert journal.left() == 0, "the same message with what a delivery adds"
    journal.note("ann", "ham", [TEXT], ENGINES, 4.0)
    assert [job.lesson.before for job in journal.due(5.0, 10)] == ["spam", "spam"]
    journal.note("ann", "spam", [TEXT], ENGINES, 4.5)
    assert journal.left() == 0, "the change of mind was taken back before anybody learned it"
    journal.note("bob", "ham", [TEXT], ("builtin",), 6.0)
    settle(journal, 7.0)
    assert journal.known() == {
        ("ann", "builtin"): {"spam": 1},
        ("ann", "spamd"): {"spam": 1},
        ("bob", "builtin"): {"ham": 1},
    }
    journal.note("ann", "none", [TEXT], ENGINES, 8.0)
    settle(journal, 9.0, "forgotten")
    assert journal.known() == {("bob", "builtin"): {"ham": 1}}
    journal.forget("bob")
    assert journal.known() == {} and not any(name == "bob" for name, _ in journal.counters())


def test_failures_wait_longer_and_longer_and_end(journal: Journal) -> None:
    journal.note("ann", "spam", [TEXT], ("spamd",), 0.0)
    now, pauses = 0.0, []
    while jobs := journal.due(now, 10):
        journal.done([(jobs[0], Outcome("failed", "down"))], now)
        waits = journal.waiting()
        if not waits:
            break
        pauses.append(waits[0].next_at - now)
        assert journal.idle(now) and waits[0].error == "down"
        now = waits[0].next_at
    assert pauses[:6] == [5.0, 30.0, 120.0, 600.0, 3600.0, 3600.0] and now > journals.GIVE_UP - 3600
    assert journal.counters() == {("ann", "spamd"): {"failed": 1}} and journal.left() == 0


def test_an_absent_engine_is_given_up_sooner(journal: Journal) -> None:
    journal.note("ann", "spam", [TEXT], ("spamd",), 0.0)
    (job,) = journal.due(1.0, 10)
    journal.done([(job, Outcome("failed", "nobody", absent=True))], journals.ABSENT + 1)
    assert journal.left() == 0


def test_a_lesson_that_was_replaced_meanwhile_stays(journal: Journal) -> None:
    journal.note("ann", "spam", [TEXT], ("spamd",), 0.0)
    (job,) = journal.due(1.0, 10)
    journal.note("ann", "ham", [TEXT], ("spamd",), 2.0)
    journal.done([(job, Outcome("learned"))], 3.0)
    (left,) = journal.due(4.0, 10)
    assert (left.lesson.kind, left.lesson.before) == ("ham", "spam")


def test_places_become_texts(journal: Journal) -> None:
    journal.note_places("ann", "spam", "Junk", [1, 2], 0.0)
    first, second = journal.looks(10)
    assert (first.mailbox, first.uid, journal.left(), journal.idle(0.0)) == ("Junk", 1, 2, False)
    journal.looked(first, TEXT, ("builtin",), 1.0)
    journal.looked(second, None, ("builtin",), 1.0)
    assert [job.lesson.data for job in journal.due(2.0, 10)] == [TEXT] and journal.looks(10) == []


def test_too_much_is_not_taken(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MAX_WAITING", 4)
    texts = [TEXT + b"%d" % n for n in range(5)]
    assert journal.note("ann", "spam", texts, ENGINES, 0.0) == 2
    assert journal.note("ann", "spam", texts[2:], ENGINES, 0.0) == 0
