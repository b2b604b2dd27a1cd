from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.proto.lines import ROW, Pause
from filterd.proto.pop3 import (
    Close,
    Event,
    Login,
    Maildrop,
    Pop3Config,
    Pop3Core,
    Refusal,
    Retrieve,
    StartTls,
    Update,
    stuffed,
    top,
)

MESSAGE = b"Subject: x\r\n\r\n.one\r\n\r\ntwo\r\n"


def drive(data: bytes, cuts: list[int]) -> tuple[bytes, list[Event]]:
    core = Pop3Core(Pop3Config("pop.example", errors=8), tls=True)
    out, events = b"", []
    bounds = sorted({min(at, len(data)) for at in cuts} | {0, len(data)})
    for first, last in itertools.pairwise(bounds):
        core.receive_data(data[first:last])
        while (event := core.next_event()) is not None:
            if isinstance(event, Pause):
                continue
            events.append(event)
            match event:
                case Login():
                    if event.password == "secret":
                        core.opened(Maildrop(7, (3, 5), (len(MESSAGE), 4)))
                    else:
                        core.refuse(Refusal.CREDENTIALS)
                case Retrieve():
                    core.text(MESSAGE if event.number == 1 else None, event)
                case Update():
                    core.updated(True)
        out += core.data_to_send()
    return out, events


FRAGMENTS = [
    b"USER ann\r\n", b"PASS secret\r\n", b"PASS wrong\r\n", b"AUTH PLAIN\r\n", b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n",
    b"AGFubgBzZWNyZXQ=\r\n", b"*\r\n", b"STAT\r\n", b"LIST\r\n", b"LIST 1\r\n", b"UIDL\r\n", b"RETR 1\r\n", b"RETR 2\r\n",
    b"TOP 1 1\r\n", b"DELE 1\r\n", b"DELE 9\r\n", b"RSET\r\n", b"NOOP\r\n", b"CAPA\r\n", b"QUIT\r\n", b"\n", b"\r", b"\0",
    b"x" * 13_000, b"FOO\r\n", b"\r\n",
]  # fmt: skip


@pytest.mark.fuzz
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=20).map(b"".join),
    st.lists(st.integers(0, 9000), max_size=20),
)
def test_where_chunks_are_cut_does_not_matter(data: bytes, cuts: list[int]) -> None:
    data = b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n" + data
    whole = drive(data, [])
    assert drive(data, cuts) == whole
    assert drive(data, list(range(min(len(data), 3000)))) == whole
    closes = [event for event in whole[1] if isinstance(event, Close)]
    assert len(closes) <= 1


def test_top() -> None:
    assert top(MESSAGE, 0) == b"Subject: x\r\n\r\n"
    assert top(MESSAGE, 1) == b"Subject: x\r\n\r\n.one\r\n"
    assert top(MESSAGE, 3) == MESSAGE
    assert top(MESSAGE, 10**9) == MESSAGE
    assert top(b"Subject: x\r\n", 5) == b"Subject: x\r\n"
    assert top(b"\r\nbody\r\nmore\r\n", 1) == b"\r\nbody\r\n"
    assert top(b"", 1) == b""


def test_stuffed() -> None:
    assert stuffed(b"") == b".\r\n"
    assert stuffed(b".a\r\n.\r\n..b") == b"..a\r\n..\r\n...b\r\n.\r\n"


@given(st.lists(st.sampled_from([b".", b"a", b"\r\n"]), max_size=30).map(b"".join))
def test_stuffing_is_undone_by_the_rfc(data: bytes) -> None:
    wire = stuffed(data)
    assert wire.endswith(b".\r\n")
    lines = wire.split(b"\r\n")[:-2]
    assert all(line != b"." for line in lines)
    plain = b"".join((line[1:] if line.startswith(b".") else line) + b"\r\n" for line in lines)
    assert plain == (data if data.endswith(b"\r\n") or not data else data + b"\r\n")


def test_utf8_said_in_clear_is_forgotten() -> None:
    """RFC 2595 4, RFC 6856 2.1: a client says UTF8 behind STLS."""
    core = Pop3Core(Pop3Config(starttls=True))
    core.receive_data(b"UTF8\r\nSTLS\r\n")
    assert core.next_event() == StartTls()
    assert not core.utf8
    core.tls_started()
    core.receive_data(b"UTF8\r\n")
    assert core.next_event() is None
    assert core.utf8


def test_others_come_to_their_turn() -> None:
    """Thousands of commands that need nobody fit into one read."""
    core = Pop3Core(Pop3Config("pop.example"), tls=True)
    core.data_to_send()
    core.receive_data(b"CAPA\r\n" * 1000)
    answers = []
    while (event := core.next_event()) is not None:
        assert isinstance(event, Pause)
        answers.append(core.data_to_send())
    assert len(answers) == 1000 // ROW and all(answers)
