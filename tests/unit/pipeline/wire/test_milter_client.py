"""Our MTA's side against scripted filters, and against our own filter's side: core to core, no socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from filterd.proto.milter import Judge, MilterCore
from pipeline.reply import Reply
from pipeline.wire import milter
from pipeline.wire.milter import (
    Actions,
    AddHeader,
    AddRecipient,
    Bare,
    Body,
    Connect,
    EndOfMessage,
    Frames,
    Header,
    Helo,
    InsertHeader,
    Macros,
    Mail,
    MilterError,
    Negotiate,
    Packet,
    Quarantine,
    Rcpt,
    ReplaceBody,
    ReplyCode,
    Steps,
)
from pipeline.wire.milter_client import LATER, OFFERED, REFUSED, STEPS, Ask, Question, Word

QUESTION = Question(
    connect=Connect(b"mx.example", b"4", 25, b"192.0.2.1"),
    helo=b"mx.example",
    mail=(b"<a@x>", b"SIZE=9"),
    recipients=[(b"<b@y>",), (b"<c@y>",)],
    fields=[(b"Subject", b" Hi\n\tthere"), (b"X", b"y")],
    body=b"z" * (milter.CHUNK + 10),
    macros={"j": b"mta", "i": b"Q1", "client_addr": b"192.0.2.1", "own": b"o"},
    always=("own",),
)
ALL = Negotiate(6, int(OFFERED), 0)
QUIET = int(Steps.NR_CONN | Steps.NR_HELO | Steps.NR_MAIL | Steps.NR_RCPT | Steps.NR_DATA | Steps.NR_HDR
            | Steps.NR_EOH | Steps.NR_BODY)  # fmt: skip
Says = Callable[[Packet], Sequence[Packet]]


def converse(
    says: Says, negotiate: Packet = ALL, step: int = 0, question: Question = QUESTION
) -> tuple[Ask, list[Packet]]:
    """``says``: what the filter answers to each packet. All that it was told."""
    ask, frames = Ask(question), Frames()
    told: list[Packet] = []
    for _ in range(100):
        frames.feed(ask.data_to_send())
        answer = b""
        while (packet := frames.next()) is not None:
            told.append(packet)
            said = [negotiate] if isinstance(packet, Negotiate) else says(packet)
            answer += b"".join(map(milter.encode, said))
        if ask.done:
            break
        assert answer, "both wait"
        for at in range(0, len(answer), step or len(answer)):
            ask.receive_data(answer[at : at + (step or len(answer))])
    return ask, told


def answering(**special: Sequence[Packet]) -> Says:
    """CONTINUE to everything but what is named: by class or by name of a bare packet."""

    def says(packet: Packet) -> Sequence[Packet]:
        if isinstance(packet, Macros) or packet in (Bare.ABORT, Bare.QUIT):
            return []
        word = packet.name if isinstance(packet, Bare) else type(packet).__name__
        return special.get(word, [Bare.CONTINUE])

    return says


@pytest.mark.parametrize("step", [0, 1])
def test_the_whole_way(step: int) -> None:
    ask, told = converse(answering(), step=step)
    assert ask.answer is not None and ask.answer.word is Word.CONTINUE and not ask.answer.changes
    kinds = [one if isinstance(one, Bare) else type(one) for one in told if not isinstance(one, Macros)]
    assert kinds == [
        Negotiate, Connect, Helo, Mail, Rcpt, Rcpt, Bare.DATA, Header, Header, Bare.EOH, Body, Body, EndOfMessage,
        Bare.QUIT,
    ]  # fmt: skip
    assert told[2] == QUESTION.connect
    macros = {one.command: dict(one.values) for one in told if isinstance(one, Macros)}
    assert macros[b"C"] == {b"j": b"mta", b"{client_addr}": b"192.0.2.1", b"{own}": b"o"}
    assert macros[b"R"] == {b"i": b"Q1", b"{rcpt_addr}": b"c@y"}


def test_steps_left_out_and_not_answered() -> None:
    steps = int(Steps.NOHELO | Steps.NOHDRS | Steps.NODATA | Steps.NOBODY | Steps.NOEOH)
    _, told = converse(answering(), Negotiate(6, 0, steps))
    assert not [one for one in told if isinstance(one, (Helo, Header, Body)) or one in (Bare.DATA, Bare.EOH)]
    silent = answering(Connect=[], Helo=[], Mail=[], Rcpt=[], DATA=[], Header=[], EOH=[], Body=[])
    ask, told = converse(silent, Negotiate(6, 0, QUIET))
    assert ask.answer is not None and len(told) > 10


def test_one_write_for_all_that_needs_no_answer() -> None:
    ask = Ask(QUESTION)
    ask.data_to_send()
    ask.receive_data(milter.encode(Negotiate(6, 0, QUIET)))
    assert len(ask.data_to_send()) > milter.CHUNK  # everything up to the end of the message
    assert ask.step == "end of message"


def test_leading_blanks() -> None:
    _, told = converse(answering())
    assert Header(b"Subject", b"Hi\n\tthere") in told
    _, told = converse(answering(), Negotiate(6, 0, int(Steps.HDR_LEADSPC)))
    assert Header(b"Subject", b" Hi\n\tthere") in told and Header(b"X", b"y") in told


def test_old_filters_hear_no_data() -> None:
    _, told = converse(answering(), Negotiate(2, 0, 0))
    assert Bare.DATA not in told
    _, told = converse(answering(), Negotiate(3, 0, 0))
    assert Bare.DATA not in told


def test_the_filter_names_its_macros() -> None:
    _, told = converse(
        answering(), Negotiate(6, int(Actions.SETSYMLIST), 0, ((0, b"{client_addr}, i"), (2, b"")))
    )
    macros = {one.command: dict(one.values) for one in told if isinstance(one, Macros)}
    assert macros[b"C"] == {b"{client_addr}": b"192.0.2.1", b"i": b"Q1", b"{own}": b"o"}
    assert b"M" not in macros


@pytest.mark.parametrize(
    ("said", "word", "reply"),
    [
        (Bare.REJECT, Word.REJECT, REFUSED),
        (Bare.TEMPFAIL, Word.TEMPFAIL, LATER),
        (Bare.DISCARD, Word.DISCARD, None),
        (Bare.ACCEPT, Word.ACCEPT, None),
        (Bare.SHUTDOWN, Word.TEMPFAIL, LATER),
        (Bare.CONN_FAIL, Word.TEMPFAIL, LATER),
        (ReplyCode(b"550-5.7.1 no\r\n550 5.7.1 never"), Word.REJECT, Reply(550, "5.7.1", "no\nnever")),
        (ReplyCode(b"451 4.7.1 later"), Word.TEMPFAIL, Reply(451, "4.7.1", "later")),
    ],
)
@pytest.mark.parametrize("step", ["Connect", "Helo", "Mail", "DATA", "Header", "EOH", "Body", "EndOfMessage"])
def test_last_words(step: str, said: Packet, word: Word, reply: Reply | None) -> None:
    ask, told = converse(answering(**{step: [said]}))
    assert ask.answer is not None
    assert (ask.answer.word, ask.answer.reply) == (word, reply)
    assert told[-1] is Bare.QUIT
    assert (Bare.ABORT in told) is (step != "EndOfMessage")


def test_recipients_are_refused_one_by_one() -> None:
    def says(packet: Packet) -> Sequence[Packet]:
        if isinstance(packet, Rcpt) and packet.arguments[0] == b"<b@y>":
            return [ReplyCode(b"550 5.1.1 not you")]
        return answering()(packet)

    ask, _ = converse(says)
    assert ask.answer is not None and ask.answer.word is Word.CONTINUE
    assert ask.answer.refused == {0: Reply(550, "5.1.1", "not you")}
    ask, told = converse(answering(Rcpt=[Bare.TEMPFAIL]))
    assert ask.answer is not None and ask.answer.word is Word.TEMPFAIL and Bare.DATA not in told


def test_skip_ends_the_body() -> None:
    ask, told = converse(answering(Body=[Bare.SKIP]), Negotiate(6, 0, int(Steps.SKIP)))
    assert ask.answer is not None and sum(isinstance(one, Body) for one in told) == 1


def test_changes_at_the_end() -> None:
    changes = [AddHeader(b"A", b"1"), InsertHeader(0, b"B", b"2"), AddRecipient(b"<x@y>")]
    said = [
        Bare.PROGRESS,
        *changes,
        ReplaceBody(b"new "),
        Bare.PROGRESS,
        ReplaceBody(b"body"),
        Quarantine(b"odd"),
        Bare.CONTINUE,
    ]
    ask, _ = converse(answering(EndOfMessage=said), step=1)
    assert ask.answer is not None
    assert list(ask.answer.changes) == changes
    assert (ask.answer.body, ask.answer.quarantine) == (b"new body", "odd")
    ask, _ = converse(answering(EndOfMessage=[ReplaceBody(b""), Bare.ACCEPT]))
    assert ask.answer is not None and ask.answer.body == b""


@pytest.mark.parametrize(
    "negotiate",
    [
        Bare.CONTINUE,
        Negotiate(7, 0, 0),
        Negotiate(1, 0, 0),
        Negotiate(6, 0x80000000, 0),
        Negotiate(6, 0, 0x10000000),
    ],
)
def test_a_bad_negotiation(negotiate: Packet) -> None:
    with pytest.raises(MilterError):
        converse(answering(), negotiate)


@pytest.mark.parametrize(
    "special",
    [
        {"Connect": [Bare.SKIP]},
        {"Body": [Bare.SKIP]},  # not negotiated
        {"Helo": [AddHeader(b"A", b"b")]},
        {"Mail": [ReplyCode(b"250 ok")]},
        {"Header": [Helo(b"x")]},
        {"EndOfMessage": [AddHeader(b"A", b"b"), Negotiate(6, 0, 0)]},
        {"EndOfMessage": [Bare.CONTINUE, Bare.CONTINUE]},
        {"Connect": [Bare.CONTINUE, Bare.CONTINUE, Bare.QUIT]},
    ],
)
def test_breaches(special: dict[str, Sequence[Packet]]) -> None:
    with pytest.raises(MilterError):
        converse(answering(**special))


def test_changes_that_were_not_negotiated() -> None:
    for change in (AddHeader(b"A", b"b"), Quarantine(b"x"), ReplaceBody(b"x"), AddRecipient(b"x@y")):
        with pytest.raises(MilterError, match="not negotiated"):
            converse(answering(EndOfMessage=[change, Bare.CONTINUE]), Negotiate(6, 0, 0))


def test_a_cut_connection_is_no_answer() -> None:
    ask = Ask(QUESTION)
    with pytest.raises(MilterError, match="negotiation"):
        ask.receive_eof()
    assert ask.answer is None


# -- core against core -----------------------------------------------------------------------------------------------


def against_our_filter(
    answer: Sequence[Packet], step: int = 0, offered: int = int(STEPS)
) -> tuple[Ask, Judge]:
    ask, core = Ask(QUESTION), MilterCore()
    judged: list[Judge] = []
    for _ in range(50):
        data = ask.data_to_send()
        for at in range(0, len(data), step or max(1, len(data))):
            core.receive_data(data[at : at + (step or len(data))])
            while (event := core.next_event()) is not None:
                if isinstance(event, Judge):
                    judged.append(event)
                    core.answer(answer)
        if ask.done:
            break
        ask.receive_data(core.data_to_send())
    return ask, judged[0]


@pytest.mark.parametrize("step", [0, 7])
def test_our_client_and_our_filter(step: int) -> None:
    changes = [InsertHeader(1, b"X-New", b" v"), ReplaceBody(b"b" * 200_000)]
    ask, judge = against_our_filter([*changes, Bare.CONTINUE], step)
    assert ask.answer is not None and ask.answer.word is Word.CONTINUE
    assert ask.answer.changes == (changes[0],) and ask.answer.body == b"b" * 200_000
    assert judge.body == QUESTION.body and judge.fields == list(QUESTION.fields)
    assert judge.connect == QUESTION.connect and judge.exact
    assert judge.recipients == QUESTION.recipients and judge.mail == QUESTION.mail
    assert judge.macros["i"] == "Q1" and judge.macros["client_addr"] == "192.0.2.1"
