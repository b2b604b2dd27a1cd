"""The packets: printing and reading are inverse, however they arrive; garbage is a MilterError and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reply import Reply
from pipeline.wire import milter
from pipeline.wire.milter import (
    AddHeader,
    AddRecipient,
    AddRecipientWith,
    Bare,
    Body,
    ChangeFrom,
    ChangeHeader,
    Connect,
    DeleteRecipient,
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
    Unknown,
)

word = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b""))
name = word.filter(bool)
number = st.integers(0, 2**32 - 1)
PACKETS: st.SearchStrategy[Packet] = st.one_of(
    st.sampled_from(list(Bare)),
    st.builds(Negotiate, number, number, number, st.lists(st.tuples(number, word), max_size=7).map(tuple)),
    st.builds(
        Macros, st.binary(min_size=1, max_size=1), st.lists(st.tuples(name, word), max_size=5).map(tuple)
    ),
    st.builds(Connect, word),
    st.builds(Connect, word, st.sampled_from([b"4", b"6", b"L"]), st.integers(0, 65535), word),
    st.builds(Helo, word),
    st.builds(Mail, st.lists(word, min_size=1, max_size=5).map(tuple)),
    st.builds(Rcpt, st.lists(word, min_size=1, max_size=5).map(tuple)),
    st.builds(Header, name, word),
    st.builds(Body, st.binary(max_size=200)),
    st.builds(EndOfMessage, st.binary(max_size=200)),
    st.builds(Unknown, word),
    st.builds(ReplyCode, word),
    st.builds(AddHeader, name, word),
    st.builds(InsertHeader, number, name, word),
    st.builds(ChangeHeader, number, name, word),
    st.builds(AddRecipient, word),
    st.builds(AddRecipientWith, word, st.none() | word),
    st.builds(DeleteRecipient, word),
    st.builds(ChangeFrom, word, st.none() | word),
    st.builds(ReplaceBody, st.binary(max_size=200)),
    st.builds(Quarantine, word),
)


def read(data: bytes, step: int) -> list[Packet]:
    frames, out = Frames(), []
    for at in range(0, len(data), step):
        frames.feed(data[at : at + step])
        while (packet := frames.next()) is not None:
            out.append(packet)
    assert len(frames) == 0
    return out


@settings(deadline=None)
@given(st.lists(PACKETS, max_size=5))
def test_read_is_the_inverse_of_print_and_chunks_do_not_matter(packets: list[Packet]) -> None:
    data = b"".join(map(milter.encode, packets))
    assert read(data, max(1, len(data))) == packets
    assert read(data, 1) == packets


@settings(deadline=None, max_examples=300)
@given(st.binary(min_size=1, max_size=1), st.binary(max_size=60))
def test_any_octets_are_a_packet_or_a_milter_error(code: bytes, data: bytes) -> None:
    try:
        packet = milter.decode(code, data)
    except MilterError:
        return
    assert milter.encode(packet) == milter.frame(code, data)


# From libmilter's mfdef.h and what Postfix and Sendmail send.
KNOWN = [
    (Negotiate(6, 0x1FF, 0x1FFFFF), b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"),
    (Connect(b"mx.example", b"4", 25, b"192.0.2.1"), b"\0\0\0\x19Cmx.example\x004\0\x19192.0.2.1\0"),
    (Connect(b"localhost"), b"\0\0\0\x0cClocalhost\0U"),
    (Macros(b"C", ((b"j", b"mx"), (b"{daemon_name}", b"x"))), b"\0\0\0\x17DCj\0mx\0{daemon_name}\0x\0"),
    (Mail((b"<a@b>", b"SIZE=1")), b"\0\0\0\x0eM<a@b>\0SIZE=1\0"),
    (Header(b"Subject", b" x\n\ty"), b"\0\0\0\x0fLSubject\0 x\n\ty\0"),
    (Bare.EOH, b"\0\0\0\x01N"),
    (Body(b"x\r\n"), b"\0\0\0\x04Bx\r\n"),
    (EndOfMessage(), b"\0\0\0\x01E"),
    (Bare.CONTINUE, b"\0\0\0\x01c"),
    (ReplyCode(b"550 5.7.1 no"), b"\0\0\0\x0ey550 5.7.1 no\0"),
    (ChangeHeader(2, b"X", b""), b"\0\0\0\x08m\0\0\0\x02X\0\0"),
    (AddRecipientWith(b"<a@b>", b"NOTIFY=NEVER"), b"\0\0\0\x142<a@b>\0NOTIFY=NEVER\0"),
]


@pytest.mark.parametrize(("packet", "data"), KNOWN)
def test_known_octets(packet: Packet, data: bytes) -> None:
    assert milter.encode(packet) == data
    assert read(data, 3) == [packet]


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",  # no name
        b"\xff\xff\xff\xffO",
        (milter.PACKET_LIMIT + 2).to_bytes(4, "big"),
        b"\0\0\0\x01?",
        b"\0\0\0\x02cc",  # CONTINUE with data
        b"\0\0\0\x05Hhelo",  # no NUL
        b"\0\0\0\x06H\0elo\0",
        b"\0\0\0\x05O\0\0\0\x06",
        b"\0\0\0\x03L\0\0",  # a field without a name
        b"\0\0\0\x01D",
        b"\0\0\0\x04DCj\0",
        b"\0\0\0\x05Cx\x004x",
        b"\0\0\0\x05Cx\x00Ux",
        b"\0\0\0\x03m\0\0",
    ],
)
def test_what_is_no_packet(data: bytes) -> None:
    with pytest.raises(MilterError):
        read(data, len(data))


def test_limits_of_counts() -> None:
    with pytest.raises(MilterError):
        milter.decode(b"M", b"x\0" * (milter.ARGUMENTS + 1))
    with pytest.raises(MilterError):
        milter.decode(b"D", b"C" + b"x\0y\0" * (milter.MACROS + 1))
    with pytest.raises(ValueError, match="NUL"):
        milter.encode(Helo(b"a\0b"))


# -- replies ---------------------------------------------------------------------------------------------------------


def test_a_reply_has_an_enhanced_code_on_each_line_and_percent_signs_twice() -> None:
    packet = milter.reply_code(Reply(550, "5.7.1", "100 % sure\nno\tmore"))
    assert packet.text == b"550-5.7.1 100 %% sure\r\n550 5.7.1 no more"
    assert milter.reply_of(packet) == Reply(550, "5.7.1", "100 % sure\nno more")
    assert milter.reply_code(Reply(451, "", "later")).text == b"451 4.0.0 later"


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (b"550 5.7.1 no", Reply(550, "5.7.1", "no")),
        (b"451 later", Reply(451, "", "later")),
        (b"421", Reply(421, "", "")),
        (b"550-5.1.1 a\n550 5.1.1 b", Reply(550, "5.1.1", "a\nb")),
        (b"550 4.7.1 odd", Reply(550, "", "4.7.1 odd")),
        (b"554 5.7.1", Reply(554, "5.7.1", "")),
        (b"550 5.7.1 a\x07b", Reply(550, "5.7.1", "a b")),
    ],
)
def test_replies_of_filters(text: bytes, reply: Reply) -> None:
    assert milter.reply_of(ReplyCode(text)) == reply


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"250 ok",
        b"350 go",
        b"55",
        b"550x",
        b"550 a\n551 b",
        b"550 a\n550 b",
        b"x" * 10,
        b"550-a\r\n" * 40,
    ],
)
def test_no_replies(text: bytes) -> None:
    with pytest.raises(MilterError):
        milter.reply_of(ReplyCode(text))


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_any_reply_text_is_a_reply_or_an_error(text: bytes) -> None:
    try:
        reply = milter.reply_of(ReplyCode(text))
    except MilterError:
        return
    assert 400 <= reply.code < 600 and "\r" not in reply.text


def test_a_client_that_did_not_ask_for_utf8_gets_none() -> None:
    """RFC 6531 3.7.4.2; the MTA hands the octets on as they are."""
    reply = Reply(550, "5.7.1", "täglich\n100 %")
    assert milter.reply_code(reply).text == "550-5.7.1 täglich\r\n550 5.7.1 100 %%".encode()
    assert milter.reply_code(reply, utf8=False).text == b"550-5.7.1 t?glich\r\n550 5.7.1 100 %%"
