"""filterd/milter_sieve.py: what the runs for many recipients come to, and what they cost. More in test_milter.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.milter_sieve import PERSONAL, Screen, Screening
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.transaction import Transaction
from rules.mail.message import Message
from rules.registry import default_registry
from tests.house import TestClock

MAIL = b"From: a@away.example\r\nSubject: Hi\r\nX-Mailer: Secret\r\n\r\nbody\r\n"


def screened(folder: Path, text: str, recipients: int = 1, data: bytes = MAIL) -> Screening:
    script = folder / "policy.sieve"
    script.write_text(text)
    to = tuple(Recipient(f"u{number}@here.example") for number in range(recipients))
    envelope = Envelope("a@away.example", to, Client("192.0.2.1"), Profile.MILTER)
    work = Transaction(Message(data), envelope, "TRACE-00001", 25.0)
    found = Screen([script], "mx.here.example", TestClock()).run(work, (), ())
    assert found is not None
    return found


REFUSES = 'require "reject"; reject "No";'
REFUSES_EACH = 'require ["reject", "envelope"]; if envelope :domain "to" "here.example" { reject "No"; }'


@pytest.mark.parametrize("text", [REFUSES, REFUSES_EACH])
def test_many_recipients_are_no_way_round_a_rule(tmp_path: Path, text: str) -> None:
    found = screened(tmp_path, text, 1000)
    assert found.reject is not None and found.reject.text == "No"


def test_each_of_many_recipients_has_a_run_of_his_own(tmp_path: Path) -> None:
    text = 'require "envelope"; if envelope "to" "u777@here.example" { discard; }'
    assert screened(tmp_path, text, 1000).remove == ("u777@here.example",)
    assert len(screened(tmp_path, 'redirect "new@x.example";', 1000).remove) == 1000


def test_what_tells_recipients_apart_is_known() -> None:
    announced = default_registry().announced()
    looks = {name for name in announced if name.startswith("envelope") or "environment" in name}
    assert looks == PERSONAL


EDIT = 'require ["editheader", "vnd.filterd.quarantine", "envelope", "copy"];'


@pytest.mark.parametrize(
    "text",
    [
        'addheader "X-A" "1"; quarantine "odd";',
        'quarantine "odd"; addheader "X-A" "1";',
        'addheader "X-A" "1"; redirect "new@x.example";',
        'redirect :copy "audit@x.example"; addheader "X-A" "1";',
        'if envelope "to" "u1@here.example" { discard; stop; } addheader "X-A" "1";',
    ],
)
def test_what_was_edited_stays_edited_whatever_becomes_of_it(tmp_path: Path, text: str) -> None:
    edits = screened(tmp_path, EDIT + text, 3).edits
    assert edits is not None and [one.raw for one in edits] == [b"X-A: 1\r\n"]


@pytest.mark.parametrize(
    "text",
    [
        'if envelope "to" "u1@here.example" { addheader "X-A" "1"; }',
        'if envelope "to" "u1@here.example" { keep; stop; } addheader "X-A" "1";',
        'if envelope "to" "u1@here.example" { addheader "X-A" "1"; stop; } addheader "X-A" "2";',
    ],
)
def test_edits_that_not_all_want_are_not_done(tmp_path: Path, text: str) -> None:
    assert screened(tmp_path, EDIT + text, 3).edits is None


def test_texts_are_not_gathered(tmp_path: Path) -> None:
    """A large message for a thousand recipients: no copy for each of them."""
    import tracemalloc

    tracemalloc.start()
    try:
        text = EDIT + 'addheader "X-A" "1"; if envelope "to" "nobody" { keep; }'
        assert screened(tmp_path, text, 200, MAIL + b"x" * 200_000).edits is not None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000  # one for each would be 40 MB
