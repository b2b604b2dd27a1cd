"""pipeline/ambiguity.py: every reading of a message is shown, and told of when there are several."""

from __future__ import annotations

import base64
import binascii
import random

import pytest

from pipeline.ambiguity import (
    BARE_CR,
    BEGINS,
    BOUNDARIES,
    COMPOSITE,
    CONTENT_TYPES,
    ENCODINGS,
    JUNK,
    LIMIT,
    LINES,
    MISSING,
    NO_END,
    PADDING,
    PARTIAL,
    PREFIX,
    TORN,
    UNKNOWN,
    UUENCODE,
    VIEWS,
    YENC,
    Reading,
    read,
)
from rules.mail.limits import MIME_DEPTH
from rules.mail.message import Message

EVIL = b"EVIL-PAYLOAD-" * 4
B64 = base64.encodebytes(EVIL).replace(b"\n", b"\r\n")
UU = b"begin 644 run.exe\r\n" + binascii.b2a_uu(EVIL[:45]).rstrip(b"\n") + b"\r\n" + binascii.b2a_uu(
    EVIL[45:]
).rstrip(b"\n") + b"\r\n`\r\nend\r\n"  # fmt: skip


def yenc(data: bytes) -> bytes:
    """As Usenet's posting programs write it; some octets must be escaped, others may be."""
    out = b""
    for octet in data:
        code = (octet + 42) & 255
        out += b"=" + bytes(((code + 64) & 255,)) if code in (0, 9, 10, 13, 46, 61) else bytes((code,))
    head = b"=ybegin part=1 line=40 size=%d name=run.exe\r\n=ypart begin=1 end=%d\r\n" % (
        len(data),
        len(data),
    )
    lines = b"".join(
        out[at : at + 41] + b"\r\n" for at in range(0, len(out), 41)
    )  # a pair may be torn apart here
    return head + lines + b"=yend size=%d\r\n" % len(data)


def looked(data: bytes, octets: int = 1 << 20) -> Reading:
    return read(Message(data), octets)


def part(
    body: bytes, encoding: bytes = b"base64", kind: bytes = b"application/octet-stream", more: bytes = b""
) -> bytes:
    return (
        b"Content-Type: "
        + kind
        + b"\r\nContent-Transfer-Encoding: "
        + encoding
        + b"\r\n"
        + more
        + b"\r\n"
        + body
    )


def mixed(*parts: bytes, boundary: bytes = b"b", kind: bytes = b"multipart/mixed") -> bytes:
    out = b"Content-Type: " + kind + b'; boundary="' + boundary + b'"\r\n\r\n'
    return (
        out
        + b"".join(b"--" + boundary + b"\r\n" + one + b"\r\n" for one in parts)
        + b"--"
        + boundary
        + b"--\r\n"
    )


NEWS = b"message/news"
PLAIN = part(b"text\r\n", b"7bit", b"text/plain")


def test_ordinary_mail_has_one_reading() -> None:
    quoted = part(b"a =3D b=\r\n\r\n", b"quoted-printable", b"text/plain")
    reading = looked(b"MIME-Version: 1.0\r\n" + mixed(quoted, part(B64), PLAIN))
    assert reading.words == [] and reading.views == [b"a = b\r\n", EVIL]
    assert looked(b"Subject: x\r\n\r\nbegin 644 times and nothing follows\r\n").words == []
    assert looked(b"Subject: x\r\n\r\nplain\r\n").views == []
    assert looked(b"").views == []


def test_deep_inside_messages() -> None:
    inner = b"Subject: in\r\n" + mixed(PLAIN, part(B64), boundary=b"inner")
    reading = looked(mixed(part(inner, b"7bit", b"message/rfc822"), boundary=b"other"))
    assert EVIL in reading.views and reading.words == []


CASES = {
    CONTENT_TYPES: b"Content-Type: text/plain\r\n" + mixed(part(B64)),
    ENCODINGS: b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n\r\n" + B64,
    BOUNDARIES: b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n--b\r\n" + part(B64) + b"\r\n--b--\r\n",
    PREFIX: mixed(mixed(part(B64), boundary=b"bb"), boundary=b"b"),
    JUNK: part(B64[:8] + b"#!" + B64[8:]),
    PADDING: part(base64.b64encode(EVIL[:25]) + b"\r\n" + base64.b64encode(EVIL[25:])),
    UUENCODE: b"Subject: x\r\n\r\nhello\r\n" + UU,
    TORN: part(b"Q\r\n" + B64),
    YENC: b"Subject: x\r\n\r\nhello\r\n" + yenc(bytes(range(256)) + EVIL),
    PARTIAL: part(b"Subject: in\r\n" + mixed(part(B64)), b"7bit", b"message/partial; id=x; number=1; total=1"),
    NO_END: mixed(part(B64).replace(b"\r\n\r\n", b"\r\n")),
    COMPOSITE: part(base64.encodebytes(b"Subject: in\r\n\r\n" + EVIL), b"base64", b"message/rfc822"),
    UNKNOWN: part(B64, b"x-base64"),
}  # fmt: skip


@pytest.mark.parametrize("word", CASES)
def test_each_ambiguity_is_named_and_seen_through(word: str) -> None:
    reading = looked(CASES[word])
    assert word in reading.words
    assert any(EVIL in view for view in reading.views), reading


def test_more_that_is_named() -> None:
    assert MISSING in looked(b"Content-Type: multipart/mixed\r\n\r\n--x\r\n").words
    assert BARE_CR in looked(mixed(b"Content-Type: text/plain\rX: y\r\n\r\nz")).words
    same = b"Content-Type: text/plain\r\nContent-type:  TEXT/plain\r\n\r\nx\r\n"
    assert looked(same).words == []  # given twice, alike


def test_encoded_messages_in_encoded_messages() -> None:
    data = b"Subject: in\r\n\r\n" + EVIL
    for _ in range(3):
        data = b"X: y\r\n" + part(base64.encodebytes(data), b"base64", b"message/rfc822")
    assert any(view.endswith(EVIL) for view in looked(data).views)
    hidden = b"--q\r\n" + part(B64) + b"\r\n--q--\r\n"
    encoded = part(base64.encodebytes(hidden), b"base64", b"multipart/mixed; boundary=q")
    reading = looked(encoded)
    assert COMPOSITE in reading.words and EVIL in reading.views


def test_messages_deeper_than_we_look() -> None:
    data = b"Subject: in\r\n\r\n" + EVIL
    for _ in range(4):
        data = b"X: y\r\n" + part(base64.encodebytes(data), b"base64", b"message/rfc822")
    assert LIMIT not in looked(data).words and any(view.endswith(EVIL) for view in looked(data).views)
    assert LIMIT in looked(b"X: y\r\n" + part(base64.encodebytes(data), b"base64", b"message/rfc822")).words
    news = part(
        part(part(part(part(b"x", b"7bit"), b"7bit", NEWS), b"7bit", NEWS), b"7bit", NEWS), b"7bit", NEWS
    )
    assert LIMIT not in looked(news).words and LIMIT in looked(part(news, b"7bit", NEWS)).words


def test_a_decoy_with_the_same_octets_hides_no_message() -> None:
    """A part that nobody looks into comes first: the same octets as a message are looked into all the same."""
    data = base64.encodebytes(b"Subject: in\r\n" + part(B64))
    texts = base64.encodebytes(UU)
    reading = looked(mixed(part(data), part(data, kind=b"message/rfc822")))
    assert EVIL in reading.views
    assert EVIL in looked(mixed(part(texts), part(texts, kind=b"text/plain"))).views


def test_a_usenet_file_with_more_escapes_than_are_read_is_no_whole_one() -> None:
    head = b"x: y\r\n\r\n=ybegin line=128 size=1 name=x\r\n"
    assert LIMIT not in looked(head + b"=}" * (LINES - 1) + b"\r\n=yend\r\n").words
    assert LIMIT in looked(head + b"=}" * (LINES + 1) + b"\r\n=yend\r\n").words


def test_parts_inside_each_other_are_not_each_read_again_to_their_end() -> None:
    """Each of the headers has a line that is no field, and every part holds all that the parts inside it hold."""
    data = part(b"!" * 200_000)
    for number in range(MIME_DEPTH - 5):
        inner = mixed(data, boundary=b"b%03d" % number)
        data = b"Content-Transfer-Encoding: base64\r\n" + inner.replace(
            b"\r\n\r\n", b"\r\nno field\r\n\r\n", 1
        )
    assert LIMIT in looked(data, octets=2 * len(data)).words
    assert LIMIT not in looked(data, octets=MIME_DEPTH * len(data)).words


def test_messages_of_two_readings_in_each_other_are_looked_into_once() -> None:
    """Each has two readings of its header and one body: sixteen times the innermost otherwise."""
    data = part(b"begin 644 a\r\nnothing\r\n" * (BEGINS // 8), b"7bit", b"text/plain")
    for _ in range(3):
        data = b"Content-Type: message/a\r\nContent-Type: message/b\r\n\r\n" + data
    assert LIMIT not in looked(data).words


def test_uuencode_inside_an_encoded_text() -> None:
    assert EVIL in looked(part(base64.encodebytes(UU), b"base64", b"text/plain")).views
    b64 = b"x: y\r\n\r\nbegin-base64 644 a\r\n" + B64 + b"====\r\n"
    assert EVIL in looked(b64).views


@pytest.mark.parametrize(
    "begin",
    [
        b"begin 0644 run.exe",
        b"begin 100644 run.exe",
        b"begin  644\trun.exe",
        b"begin 644",
        b"begin  anything",
        b'begin 644 "a b"',
    ],
)
def test_uuencode_as_programs_take_it(begin: bytes) -> None:
    reading = looked(b"Subject: x\r\n\r\nhello\r\n" + UU.replace(b"begin 644 run.exe", begin))
    assert reading.views == [EVIL] and reading.words == [UUENCODE]


def test_uuencode_with_checksums_behind_its_lines() -> None:
    lines = UU.split(b"\r\n")
    odd = b"\r\n".join([lines[0], *(line + b"Z" for line in lines[1:3]), *lines[3:]])
    assert looked(b"Subject: x\r\n\r\n" + odd).views == [EVIL]


def test_words_of_people_are_no_files() -> None:
    for text in (
        b"begin  with this\r\nand go on\r\n",
        b"begin 2026\r\n",
        b"=ybegin\r\n",
        b"begin reading here\r\nTHEN MORE\r\n",
    ):
        reading = looked(b"Subject: x\r\n\r\n" + text)
        assert (reading.views, reading.words) == ([], []), text


def test_messages_that_we_do_not_look_into() -> None:
    inner = b"Subject: in\r\n" + mixed(part(B64))
    assert EVIL in looked(part(inner, b"7bit", b"message/news")).views
    assert looked(b"From x\r\nSubject: of an mbox\r\n\r\nx\r\n").words == []


def test_limits() -> None:
    many = mixed(*(part(base64.b64encode(b"%d" % number)) for number in range(VIEWS + 50)))
    reading = looked(many)
    assert len(reading.views) == VIEWS and LIMIT in reading.words
    large = looked(part(base64.encodebytes(b"x" * 5000)), octets=4000)
    assert large.views == [] and large.words == [LIMIT]
    deep = b"Subject: x\r\n\r\nbottom"
    for number in range(MIME_DEPTH + 5):
        deep = mixed(deep, boundary=b"b%03d" % number)
    assert LIMIT in looked(deep).words
    begins = looked(b"x: y\r\n\r\n" + b"begin 644 a\r\n" * (BEGINS + 1) + UU)
    assert begins.views == [] and begins.words == [LIMIT]
    assert looked(b"x: y\r\n\r\n" + b"begin 644 a\r\n" * 100 + UU).views == [EVIL]
    twice = looked(mixed(part(B64), part(B64)))
    assert twice.views == [EVIL]  # the same octets once


@pytest.mark.parametrize(
    "hostile",
    [
        part(b"=" * 300_000),
        part(b"A=" * 150_000),
        part(b"= " * 150_000 + b"#"),
        b"x: y\r\n\r\n" + b"begin 644 a\r\n#AAAA\r\n" * 15_000,
        b"x: y\r\n\r\n" + b"begin 644 a\r\n" * 20_000,
        part(b"A\r\n" * 100_000),
        part(b"AAA\r\n" * 49_000),
        b"x: y\r\n\r\n=ybegin line=1 size=1 name=x\r\n" + b"=" * 300_000,
        b"x: y\r\n\r\n" + b"=ybegin line=1 size=1 name=x\r\nx\r\n" * 9_000,
        part(part(b"x", b"7bit", b"message/news") * 5_000, b"7bit", b"message/news"),
        mixed(*[b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\nx"] * 3000),
        b"Content-Type: multipart/mixed" + b"; boundary=a; boundary=b" * 400 + b"\r\n\r\n--a\r\n",
    ],
    ids=[
        "padding",
        "pairs",
        "spaced",
        "files",
        "begins",
        "lines",
        "torn",
        "escapes",
        "usenet",
        "news",
        "duplicates",
        "boundaries",
    ],
)
def test_hostile_octets_end(hostile: bytes) -> None:
    reading = looked(hostile)
    assert len(reading.views) <= VIEWS


@pytest.mark.fuzz
def test_any_octets() -> None:
    chance = random.Random(11)
    pieces = [*CASES.values(), PLAIN, UU, B64, b"\r\n", b"--b\r\n", b"--b--", b"=", b"\0\xff"]
    for _ in range(300):
        data = b"".join(chance.choice(pieces)[chance.randrange(20) :] for _ in range(chance.randrange(8)))
        reading = looked(data, 1 << 16)
        assert sum(map(len, reading.views)) <= 1 << 16


def test_parameters_that_are_not_read_make_a_message_ambiguous() -> None:
    field = b"Content-Type: a/b" + b"".join(b";p%d=v" % at for at in range(100)) + b"\r\n\r\n"
    head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    few = head + (b"--b\r\n" + field) * 90
    assert LIMIT not in looked(few).words
    assert LIMIT in looked(head + (b"--b\r\n" + field) * 110).words
