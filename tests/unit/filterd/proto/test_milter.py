"""The filter's side: states, limits, sessions with several messages, old MTAs, hostile octets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.proto.milter import STEPS, WANTED, Close, Judge, MilterCore, MilterLimits, State
from pipeline.wire import milter
from pipeline.wire.milter import (
    Actions,
    AddHeader,
    Bare,
    Body,
    Connect,
    EndOfMessage,
    Frames,
    Header,
    Helo,
    Macros,
    Mail,
    Negotiate,
    Packet,
    Rcpt,
    ReplaceBody,
    Steps,
    Unknown,
)

EVERYTHING = Negotiate(6, 0x1FF, 0x1FFFFF)
OLD = Negotiate(2, 0x3F, 0x7F)
SESSION = [Connect(b"mx", b"4", 25, b"192.0.2.1"), Helo(b"mx")]
MESSAGE = [Mail((b"<a@x>",)), Rcpt((b"<b@y>",)), Header(b"A", b" 1"), Bare.EOH, Body(b"x"), EndOfMessage()]


def fed(
    *packets: Packet, limits: MilterLimits | None = None, step: int = 0
) -> tuple[MilterCore, list[Judge | Close]]:
    core = MilterCore(limits)
    return core, feed(core, *packets, step=step)


def feed(core: MilterCore, *packets: Packet, step: int = 0) -> list[Judge | Close]:
    """Every Judge is answered CONTINUE."""
    data = b"".join(map(milter.encode, packets))
    out: list[Judge | Close] = []
    for at in range(0, len(data), step or max(1, len(data))):
        core.receive_data(data[at : at + (step or len(data))])
        while (event := core.next_event()) is not None:
            out.append(event)
            if isinstance(event, Judge):
                core.answer((Bare.CONTINUE,))
            else:
                break
    return out


def replies(core: MilterCore) -> list[Packet]:
    frames, out = Frames(), []
    frames.feed(core.data_to_send())
    while (packet := frames.next()) is not None:
        out.append(packet)
    return out


@pytest.mark.parametrize("step", [0, 1])
def test_one_answer_a_message_when_the_mta_can(step: int) -> None:
    core, events = fed(EVERYTHING, *SESSION, *MESSAGE, *MESSAGE, step=step)
    assert [type(one) for one in events] == [Judge, Judge]
    (negotiated, *rest) = replies(core)
    assert isinstance(negotiated, Negotiate)
    assert negotiated.version == 6 and negotiated.actions == int(WANTED)
    assert negotiated.steps == int(STEPS) & 0x1FFFFF
    assert rest == [Bare.CONTINUE, Bare.CONTINUE]


def test_an_old_mta_gets_an_answer_to_each_step() -> None:
    core, events = fed(OLD, *SESSION, *MESSAGE)
    negotiated, *rest = replies(core)
    assert isinstance(negotiated, Negotiate) and negotiated.version == 2
    assert negotiated.steps == 0 and not negotiated.macros
    assert rest == [Bare.CONTINUE] * 8
    (judge,) = events
    assert isinstance(judge, Judge) and not judge.exact


def test_what_is_told() -> None:
    _, (judge,) = fed(
        EVERYTHING,
        Macros(b"C", ((b"j", b"mta"), (b"{daemon_name}", b"d"))),
        *SESSION,
        Macros(b"M", ((b"{auth_authen}", b"ann"),)),
        Mail((b"<a@x>", b"SIZE=9")),
        Macros(b"R", ((b"{rcpt_addr}", b"b@y"),)),
        Rcpt((b"<b@y>",)),
        Rcpt((b"<c@y>", b"NOTIFY=NEVER")),
        Header(b"A", b" 1"),
        Header(b"B", b"\t2\n 3"),
        Bare.EOH,
        Body(b"one "),
        Body(b"two "),
        Macros(b"E", ((b"i", b"Q1"),)),
        EndOfMessage(b"three"),
    )
    assert isinstance(judge, Judge)
    assert judge.mail == (b"<a@x>", b"SIZE=9") and judge.recipients == [
        (b"<b@y>",),
        (b"<c@y>", b"NOTIFY=NEVER"),
    ]
    assert judge.fields == [(b"A", b" 1"), (b"B", b"\t2\n 3")] and judge.body == b"one two three"
    assert judge.macros == {
        "j": "mta",
        "daemon_name": "d",
        "auth_authen": "ann",
        "rcpt_addr": "b@y",
        "i": "Q1",
    }
    assert judge.exact and not judge.oversize and judge.helo == "mx"


def test_a_message_leaves_nothing_for_the_next() -> None:
    core, events = fed(EVERYTHING, Macros(b"C", ((b"j", b"mta"),)), *SESSION)
    events = feed(core, Macros(b"M", ((b"{auth_authen}", b"ann"),)), *MESSAGE, *MESSAGE)
    first, second = events
    assert isinstance(first, Judge) and isinstance(second, Judge)
    assert first.macros == {"j": "mta", "auth_authen": "ann"} and second.macros == {"j": "mta"}
    assert second.fields == [(b"A", b" 1")]
    (third,) = feed(core, Mail((b"<no@x>",)), Rcpt((b"<no@y>",)), Header(b"No", b"x"), Bare.ABORT, *MESSAGE)
    assert isinstance(third, Judge) and third.recipients == [(b"<b@y>",)] and len(third.fields) == 1
    (fourth,) = feed(core, Mail((b"<no@x>",)), Rcpt((b"<no@y>",)), *MESSAGE)  # MAIL again without ABORT
    assert isinstance(fourth, Judge) and fourth.recipients == [(b"<b@y>",)]


@pytest.mark.parametrize("kept", [2, 3, 5])
def test_a_second_helo_ends_the_message_under_way(kept: int) -> None:
    """libmilter bears it: a client said EHLO in the middle, and the MTA sent no ABORT."""
    _, events = fed(EVERYTHING, *SESSION, *MESSAGE[:kept], Helo(b"again"), *MESSAGE)
    (judge,) = events
    assert isinstance(judge, Judge) and judge.helo == "again"
    assert len(judge.recipients) == 1 and judge.fields == [(b"A", b" 1")] and judge.body == b"x"
    _, events = fed(EVERYTHING, *SESSION, *MESSAGE[:kept], Helo(b"again"), Rcpt((b"<b@y>",)))
    assert isinstance(events[-1], Close) and events[-1].reason


def test_a_new_session_on_the_same_connection() -> None:
    core, _ = fed(EVERYTHING, Macros(b"C", ((b"j", b"mta"),)), *SESSION, *MESSAGE)
    (judge,) = feed(core, Bare.QUIT_NC, Connect(b"other"), *MESSAGE)
    assert isinstance(judge, Judge) and judge.connect == Connect(b"other")
    assert judge.helo == "" and judge.macros == {}


def test_quit_and_cut() -> None:
    assert fed(EVERYTHING, *SESSION, Bare.QUIT)[1] == [Close()]
    core, _ = fed(EVERYTHING, *SESSION)
    core.receive_eof()
    assert core.next_event() == Close() and core.next_event() is None
    core, _ = fed(EVERYTHING, *SESSION, *MESSAGE[:3])
    core.lost()
    assert core.next_event() == Close("cut")


@pytest.mark.parametrize(
    "packets",
    [
        [Bare.CONTINUE],
        SESSION,  # no negotiation
        [Negotiate(1, 0, 0)],
        [EVERYTHING, EVERYTHING],
        [EVERYTHING, Rcpt((b"<b@y>",))],
        [EVERYTHING, *SESSION, Header(b"A", b"b")],
        [EVERYTHING, *SESSION, EndOfMessage()],
        [EVERYTHING, *MESSAGE[:3], Rcpt((b"<b@y>",))],
        [EVERYTHING, AddHeader(b"A", b"b")],
        [EVERYTHING, ReplaceBody(b"x")],
        [EVERYTHING, *MESSAGE[:4], Connect(b"x")],
    ],
)
def test_out_of_order(packets: list[Packet]) -> None:
    core, events = fed(*packets)
    assert isinstance(events[-1], Close) and events[-1].reason
    assert core.state is State.CLOSED


def test_unknown_commands_are_none_of_our_business() -> None:
    core, events = fed(OLD, *SESSION, Unknown(b"XFOO"))
    assert not events and replies(core)[-1] is Bare.CONTINUE


# -- limits ----------------------------------------------------------------------------------------------------------


def test_too_large_is_told_and_not_kept() -> None:
    limits = MilterLimits(message=1000)
    for parts in (
        [Body(b"x" * 600), Body(b"x" * 600)],
        [Header(b"A", b"x" * 2000)],
        [Header(b"A", b"x")] * 300,
    ):
        core, (judge,) = fed(EVERYTHING, *SESSION, *MESSAGE[:2], *parts, EndOfMessage(), limits=limits)
        assert isinstance(judge, Judge) and judge.oversize and not judge.body
    (judge,) = feed(core, *MESSAGE)
    assert isinstance(judge, Judge) and not judge.oversize


def test_an_mta_that_waits_is_told_to_skip() -> None:
    core, _ = fed(
        Negotiate(6, 0, int(Steps.SKIP)), *SESSION, *MESSAGE[:2], Body(b"x" * 600), Body(b"x"),
        limits=MilterLimits(message=500),
    )  # fmt: skip
    assert replies(core)[-2:] == [Bare.SKIP, Bare.SKIP]


def test_too_many_recipients_and_fields() -> None:
    limits = MilterLimits(recipients=3, fields=3)
    _, events = fed(EVERYTHING, MESSAGE[0], *[Rcpt((b"<b@y>",))] * 4, limits=limits)
    assert isinstance(events[-1], Close) and "recipients" in events[-1].reason
    _, (judge,) = fed(EVERYTHING, *MESSAGE[:2], *[Header(b"A", b"b")] * 4, EndOfMessage(), limits=limits)
    assert isinstance(judge, Judge) and judge.oversize


def test_nothing_is_read_while_a_message_is_judged() -> None:
    core = MilterCore()
    core.receive_data(b"".join(map(milter.encode, [EVERYTHING, *SESSION, *MESSAGE, *MESSAGE])))
    assert isinstance(core.next_event(), Judge)
    waiting = len(core)
    assert core.next_event() is None and len(core) == waiting > 0
    core.progress()
    core.answer((AddHeader(b"A", b"b"), Bare.CONTINUE))
    assert isinstance(core.next_event(), Judge)
    assert replies(core)[1:] == [Bare.PROGRESS, AddHeader(b"A", b"b"), Bare.CONTINUE]


def test_a_bug_is_a_temporary_failure() -> None:
    core = MilterCore()
    core.receive_data(b"".join(map(milter.encode, [EVERYTHING, *SESSION, *MESSAGE])))
    core.next_event()
    core.internal_error()
    assert replies(core)[-1] is Bare.TEMPFAIL


def test_changes_that_were_not_negotiated_are_our_bug() -> None:
    core = MilterCore()
    core.receive_data(
        b"".join(map(milter.encode, [Negotiate(6, int(Actions.ADDHDRS), 0), *SESSION, *MESSAGE]))
    )
    core.next_event()
    with pytest.raises(ValueError, match="not negotiated"):
        core.answer((ReplaceBody(b"x"), Bare.CONTINUE))


def test_a_stop_waits_for_the_message_under_way() -> None:
    core, _ = fed(EVERYTHING, *SESSION, *MESSAGE[:3])
    core.shut_down()
    assert core.next_event() is None
    events = feed(core, *MESSAGE[3:])
    assert [type(one) for one in events] == [Judge, Close]
    core, _ = fed(EVERYTHING, *SESSION)
    core.shut_down()
    assert core.next_event() == Close()


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(1, 50))
def test_hostile_octets_end_the_connection_and_nothing_else(data: bytes, step: int) -> None:
    core, _ = fed(EVERYTHING, *SESSION)
    for at in range(0, len(data), step):
        core.receive_data(data[at : at + step])
        while (event := core.next_event()) is not None:
            if isinstance(event, Close):
                return
            core.answer((Bare.CONTINUE,))
