from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.proto.lines import ROW, Pause
from filterd.proto.managesieve import Close, Event, Login, Request, SieveConfig, SieveCore
from filterd.proto.managesieve_syntax import BadSyntax, answer, script_name, string


def drive(data: bytes, cuts: list[int]) -> tuple[bytes, list[Event]]:
    config = SieveConfig(("fileinto",), script_size=100, swallow=500, errors=8, line=300, line_swallow=2000)
    core = SieveCore(config, tls=True)
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
                        core.logged_in(event.login)
                    else:
                        core.refused()
                case Request(verb="LISTSCRIPTS"):
                    core.listing([("a", True), ("b\r\n", False)])
                case Request(verb="GETSCRIPT"):
                    core.script("keep;")
                case Request():
                    core.respond("OK")
        out += core.data_to_send()
    return out, events


LOGIN = b'AUTHENTICATE "PLAIN" "AGFubgBzZWNyZXQ="\r\n'
FRAGMENTS = [
    b"CAPABILITY\r\n", b"NOOP\r\n", b'NOOP "x"\r\n', b"NOOP {3+}\r\nabc\r\n", b'PUTSCRIPT "a" {5+}\r\nkeep;\r\n',
    b"PUTSCRIPT ", b'"a" ', b"{5+}\r\n", b"{101+}\r\n", b"{400+}\r\n", b"{501+}\r\n", b"{5}\r\n", b"keep;", b"x" * 101,
    b'HAVESPACE "a" 10\r\n', b"LISTSCRIPTS\r\n", b'GETSCRIPT "a"\r\n', b"UNAUTHENTICATE\r\n", LOGIN,
    b'AUTHENTICATE "PLAIN"\r\n', b'"AGFubgBzZWNyZXQ="\r\n', b"{16+}\r\nAGFubgBzZWNyZXQ=\r\n", b'"*"\r\n', b"LOGOUT\r\n",
    b"\r\n", b"\n", b"\r", b"\0", b"\xff", b'"', b"\\", b"x" * 400,
]  # fmt: skip


@pytest.mark.fuzz
@settings(max_examples=300, deadline=None)
@given(
    st.booleans(),
    st.lists(st.sampled_from(FRAGMENTS), max_size=20).map(b"".join),
    st.lists(st.integers(0, 900), max_size=20),
)
def test_where_chunks_are_cut_does_not_matter(login: bool, data: bytes, cuts: list[int]) -> None:
    data = LOGIN + data if login else data
    whole = drive(data, [])
    assert drive(data, cuts) == whole
    assert drive(data, list(range(len(data)))) == whole
    assert sum(isinstance(event, Close) for event in whole[1]) <= 1


def test_strings() -> None:
    assert string('a"b\\c') == b'"a\\"b\\\\c"'
    assert string("a\r\nb") == b"{4}\r\na\r\nb"
    assert string("x" * 1025) == b"{1025}\r\n" + b"x" * 1025
    assert answer("NO", "no", "QUOTA/MAXSIZE") == b'NO (QUOTA/MAXSIZE) "no"\r\n'
    assert answer("OK") == b"OK\r\n"


def test_names() -> None:
    assert script_name("ä".encode()) == "ä"
    assert script_name(b"", empty=True) == ""
    for bad in (b"", b"a\tb", b"\xff", "a\u2028b".encode(), b"x" * 129, 5):
        with pytest.raises(BadSyntax):
            script_name(bad)


def test_a_large_literal_is_not_stored_when_it_is_refused() -> None:
    core = SieveCore(SieveConfig((), script_size=100, swallow=100_000), tls=True)
    core.receive_data(LOGIN)
    assert isinstance(core.next_event(), Login)
    core.logged_in("ann")
    core.data_to_send()
    core.receive_data(b'PUTSCRIPT "x" {90000+}\r\n')
    for _ in range(90):
        core.receive_data(b"x" * 1000)
        assert core.next_event() is None
        assert len(core) == 0
    core.receive_data(b"\r\n")
    assert core.next_event() is None
    assert core.data_to_send() == b'NO (QUOTA/MAXSIZE) "The script is too big"\r\n'


def test_others_come_to_their_turn() -> None:
    """Thousands of commands that need nobody fit into one read."""
    core = SieveCore(SieveConfig(("fileinto",)), tls=True)
    core.data_to_send()
    core.receive_data(b"CAPABILITY\r\n" * 1000)
    answers = []
    while (event := core.next_event()) is not None:
        assert isinstance(event, Pause)
        answers.append(core.data_to_send())
    assert len(answers) == 1000 // ROW and all(answers)
