"""Which moves and flags teach what."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.imap.events import APPEND, COPY, FLAG, MOVE, MailboxEvent
from filterd.learning.journal import Journal, journal_path
from filterd.learning.moves import TEXTS, MoveRecorder, lessons
from filterd.ports import SystemIds
from filterd.store.base import AccountStore, NewMessage
from filterd.store.memory import MemoryStore
from pipeline.ports import Clock

MAIL = b"Message-ID: <%d@x>\r\nSubject: x\r\n\r\nbody\r\n"


class Fixed(Clock):
    def time(self) -> float:
        return 1000.0

    def monotonic(self) -> float:
        return 1.0


@pytest.fixture
def store() -> AccountStore:
    account = MemoryStore(Fixed(), SystemIds()).account("ann@x.example")
    for name, use in (
        ("Junk", "\\Junk"),
        ("Trash", "\\Trash"),
        ("Archive", ""),
        ("Junk/old", ""),
        ("Spam", ""),
    ):
        account.create(name, use)
    return account


def moved(source: str, target: str, cause: str = MOVE) -> MailboxEvent:
    return MailboxEvent("ann", "ann", cause, target, (7,), source, (1,))


@pytest.mark.parametrize(
    ("source", "target", "kind"),
    [
        ("INBOX", "Junk", "spam"),
        ("INBOX", "Junk/old", "spam"),
        ("Archive", "Spam", "spam"),
        ("Trash", "Junk", "spam"),
        ("Junk", "INBOX", "ham"),
        ("Junk/old", "Archive", "ham"),
        ("Junk", "Trash", ""),
        ("Junk", "Junk/old", ""),
        ("Spam", "Junk", ""),
        ("INBOX", "Archive", ""),
        ("INBOX", "Trash", ""),
        ("Trash", "INBOX", ""),
    ],
)
@pytest.mark.parametrize("cause", [MOVE, COPY])
def test_moves(store: AccountStore, source: str, target: str, kind: str, cause: str) -> None:
    assert lessons(store, moved(source, target, cause)) == ({kind: [7]} if kind else {})


def test_appending(store: AccountStore) -> None:
    assert lessons(store, MailboxEvent("ann", "ann", APPEND, "Junk", (7, 8))) == {"spam": [7, 8]}
    assert lessons(store, MailboxEvent("ann", "ann", APPEND, "INBOX", (7,))) == {}


def test_appending_with_flags(store: AccountStore) -> None:
    flags = (("$Junk",), ("NonJunk", "\\Seen"), ("\\Seen",), ("$NotJunk", "$junk"), ())
    uids = tuple(
        one.uid
        for one in store.append("INBOX", [NewMessage(MAIL % n, flags=one) for n, one in enumerate(flags)])
    )
    one, two, _, four, _ = uids
    assert lessons(store, MailboxEvent("ann", "ann", APPEND, "INBOX", uids)) == {
        "spam": [one, four],
        "ham": [two],
    }
    assert lessons(store, MailboxEvent("ann", "ann", APPEND, "INBOX", uids[2:3])) == {}
    gone = MailboxEvent("ann", "ann", APPEND, "INBOX", (uids[-1] + 5,))  # expunged meanwhile
    assert lessons(store, gone) == {}
    (inside,) = store.append("Junk", [NewMessage(MAIL % 9, flags=("$NotJunk",))])
    assert lessons(store, MailboxEvent("ann", "ann", APPEND, "Junk", (inside.uid,))) == {"spam": [inside.uid]}


def test_flags(store: AccountStore) -> None:
    event = MailboxEvent(
        "ann",
        "ann",
        FLAG,
        "INBOX",
        (1, 2, 3, 4, 5),
        added={1: ("$Junk",), 2: ("NonJunk", "\\Seen"), 3: ("\\Seen",), 4: ("Junk",)},
        removed={2: ("Junk",), 4: ("NonJunk",), 5: ("$junk",)},
    )
    assert lessons(store, event) == {"spam": [1, 4], "ham": [2], "none": [5]}


def test_small_sets_keep_their_texts_and_large_ones_their_places(store: AccountStore, tmp_path: Path) -> None:
    many = tuple(one.uid for one in store.append("Junk", [NewMessage(MAIL % n) for n in range(TEXTS + 1)]))
    recorder = MoveRecorder(tmp_path, ("builtin",), Fixed(), 1 << 20)
    recorder.record(store, MailboxEvent("ann@x.example", "ann", MOVE, "Junk", many[:3], "INBOX", (1, 2, 3)))
    recorder.record(store, MailboxEvent("bob@x.example", "bob", MOVE, "Junk", many, "INBOX", many))
    recorder.close()
    journal = Journal(journal_path(tmp_path))
    assert [job.account for job in journal.due(1000.0, 100)] == ["ann@x.example"] * 3
    assert len(journal.looks(100)) == TEXTS + 1
    journal.close()


def test_which_flags_matter(tmp_path: Path) -> None:
    recorder = MoveRecorder(tmp_path, ("builtin",), Fixed(), 1 << 20)
    assert recorder.wants_flags(["\\Seen", "$JUNK"]) and recorder.wants_flags(["NonJunk"])
    assert not recorder.wants_flags(["\\Seen", "$Forwarded"])
