"""The framing: any split gives the same events; limits are checked before anything is kept."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.imap.config import ImapLimits
from filterd.imap.wire import Command, Continue, Reader, Refused, WireEvent
from filterd.proto.lines import Pause

LIMITS = ImapLimits(line_before_login=200, line=1000, literal_before_login=50, literal=300)
SCRIPT = (
    b"a1 LOGIN {3}\r\nann {2+}\r\npw\r\n"
    b'a2 SELECT "in box"\r\n'
    b"a3 APPEND x ~{5+}\r\na\0b\r\n {0+}\r\n\r\n"
    b"\r\na4\r\nbare\na5 NOOP {400+}\r\n" + b"x" * 400 + b"\r\na6 NOOP\r\n"
)


def read(data: bytes, cuts: list[int], *, authenticated: bool = True) -> list[WireEvent]:
    reader = Reader(LIMITS, 2000)
    reader.authenticated = authenticated
    events: list[WireEvent] = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        reader.feed(data[start:end])
        while (event := reader.next()) is not None:
            events.append(event)
            if isinstance(event, Refused) and event.fatal:
                return events
    return events


def test_script_of_commands() -> None:
    events = read(SCRIPT, [])
    assert events[0] == Continue()
    assert events[1] == Command(b"a1", [b"a1 LOGIN ", b"ann", b" ", b"pw", b""], [False, False])
    assert events[2] == Command(b"a2", [b'a2 SELECT "in box"'], [])
    assert events[3] == Command(b"a3", [b"a3 APPEND x ", b"a\0b\r\n", b" ", b"", b""], [True, False])
    assert isinstance(events[4], Refused) and events[4].tag == b"*"
    assert events[5] == Command(b"a4", [b"a4"], [])
    assert isinstance(events[6], Refused)
    assert isinstance(events[7], Refused) and events[7].tag == b"a5" and not events[7].fatal
    assert events[8] == Command(b"a6", [b"a6 NOOP"], [])
    assert len(events) == 9


def test_others_come_to_their_turn() -> None:
    events = read(b"a NOOP\r\n" * 100 + b"\r\n" * 100, [])
    rows = "".join("|" if isinstance(event, Pause) else "x" for event in events).split("|")
    assert sum(map(len, rows)) == 200 and max(map(len, rows)) == 32


def test_byte_by_byte_is_the_same() -> None:
    assert read(SCRIPT, list(range(1, len(SCRIPT)))) == read(SCRIPT, [])


@given(st.lists(st.integers(0, len(SCRIPT)), max_size=20).map(sorted))
@settings(max_examples=60, deadline=None)
def test_any_split_is_the_same(cuts: list[int]) -> None:
    assert read(SCRIPT, cuts) == read(SCRIPT, [])


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (b"a APPEND x {4294967296}\r\n", b"NO"),
        (b"a APPEND x {99999999999999999999}\r\n", b"NO"),
        (b"a uid replace 1 x {2001}\r\n", b"NO"),
        (b"a SEARCH TEXT {301}\r\n", b"BAD"),
        (b"{5}\r\n", b"BAD"),
    ],
)
def test_a_large_literal_is_refused_before_the_plus(command: bytes, kind: bytes) -> None:
    (event,) = read(command, [])
    assert isinstance(event, Refused) and event.kind == kind and not event.fatal


def test_before_login_literals_are_small_and_non_synchronising_ones_end_the_connection() -> None:
    (event,) = read(b"a LOGIN {51}\r\n", [], authenticated=False)
    assert isinstance(event, Refused) and not event.fatal
    events = read(b"a LOGIN {51+}\r\nxxxx", [], authenticated=False)
    assert isinstance(events[-1], Refused) and events[-1].fatal
    # Several small ones do not add up either.
    events = read(b"a LOGIN {30+}\r\n" + b"x" * 30 + b" {30+}\r\n", [], authenticated=False)
    assert isinstance(events[-1], Refused) and events[-1].fatal


def test_a_line_without_end_is_not_collected() -> None:
    reader = Reader(LIMITS, 2000)
    reader.feed(b"a NOOP " + b"(" * 500)
    event = reader.next()
    assert isinstance(event, Refused) and event.fatal
    assert reader.pending == 0


def test_text_between_many_literals_counts_as_one_line() -> None:
    piece = b" " * 400 + b"{0+}\r\n"
    events = read(b"a X" + piece * 3, [])
    assert isinstance(events[-1], Refused) and events[-1].fatal


def test_a_refused_literal_is_skipped_without_being_kept() -> None:
    reader = Reader(LIMITS, 2000)
    reader.authenticated = True
    reader.feed(b"a APPEND x {1000000+}\r\n")
    assert reader.next() is None
    for _ in range(100):
        reader.feed(b"y" * 10_000)
        assert reader.next() is None
        assert reader.pending == 0
    reader.feed(b"\r\nb NOOP\r\n")
    event = reader.next()
    assert isinstance(event, Refused) and event.tag == b"a" and event.kind == b"NO"
    assert isinstance(reader.next(), Command)


@pytest.mark.fuzz
def test_random_octets_never_raise() -> None:
    pieces = [
        b"a ",
        b"LOGIN ",
        b"{3}",
        b"{3+}",
        b"~{2+}",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"APPEND ",
        b"(",
        b"\xff",
        b'"',
        b"*",
    ]
    for seed in range(500):
        rng = random.Random(seed)
        data = b"".join(rng.choice(pieces) for _ in range(60))
        whole = read(data, [])
        assert read(data, list(range(1, len(data)))) == whole
