"""Message: what is read from a whole message."""

import importlib.resources

import pytest

from rules.mail import mime
from rules.mail.findings import Finding
from rules.mail.message import Message
from tests.cost import cpu

MAIL = b"""Return-Path: <x@y>
From: =?utf-8?q?J=C3=B6rg?= <joerg@example.org>, b@example.org
Sender: s@example.org
To: a@b,
 c@d
To: e@f
Subject: =?utf-8?b?R3LDvMOfZQ==?=
 folded
Date: Tue, 1 Jul 2003 10:52:37 +0200
Message-ID: <1@x>
References: <2@x>
 <3@x> junk
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: base64

Z3LDvG4=
--b
Content-Type: message/rfc822

Subject: =?utf-8?q?=C3=A4ndern?=
Content-Type: text/html; charset=iso-8859-1

<p>caf\xe9</p>
--b
Content-Type: application/octet-stream

not searched
--b--
"""


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_facts(end: bytes) -> None:
    message = Message(MAIL.replace(b"\n", end))
    assert message.subject() == "Grüße folded"
    assert message.first(b"sender") == b"s@example.org"
    assert [m.address for m in message.from_addresses()] == ["joerg@example.org", "b@example.org"]
    assert message.from_addresses()[0].name == "Jörg"
    assert [m.address for m in message.addresses(b"to")] == ["a@b", "c@d", "e@f"]
    assert [m.local for m in message.sender_addresses()] == ["s"]
    assert [m.local for m in message.reply_addresses()] == ["joerg", "b"]
    assert message.message_id() == "<1@x>"
    assert message.message_ids(b"references") == ["<2@x>", "<3@x>"]
    assert message.date() is not None
    assert message.header is message.root.header
    assert message.size == len(message.data)


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (b'<"a b"@c> <d@e>', ['<"a b"@c>', "<d@e>"]),
        (b'<x."y > z".w@c>', ['<x."y > z".w@c>']),
        (b'<"a\\" b"@c>', ['<"a\\" b"@c>']),
        (b'<a"b@c> <d"e@f>', ['<a"b@c>', '<d"e@f>']),  # quotes that quote nothing
        (b'<"b@c> <"d@e>', ['<"b@c>', '<"d@e>']),
        (b'<"a\rb"@c> <"\x00 "@d> <e@f>', ["<e@f>"]),  # no line ends or controls in one
    ],
)
def test_message_ids_with_quoted_words(value: bytes, ids: list[str]) -> None:
    assert Message(b"References: " + value + b"\n\n").message_ids(b"references") == ids


@pytest.mark.parametrize("piece", [b'<"', b'<"\\', b'<."\\.', b'."a"', b'<"".', b"<"])
def test_hostile_message_ids_cost_little(piece: bytes) -> None:
    value = b"<" + piece * (600_000 // len(piece))
    message = Message(b"References: " + value + b"\n\n")
    message.header.get_all(b"references")
    assert cpu(lambda: message.message_ids(b"references")) < 1.0  # 0.04


def test_search_text() -> None:
    message = Message(MAIL)
    text = message.text_for_search()
    for wanted in ("Grüße folded", "Jörg", "grün", "ändern", "<p>café</p>", "Content-Type: text/html"):
        assert wanted in text
    assert "not searched" not in text and "Z3LDvG4" not in text
    assert "Grüße" not in message.body_text() and "ändern" in message.body_text()


def test_broken_or_absent_fields() -> None:
    message = Message(b"Message-ID: no.brackets@x y\r\n\r\n")
    assert message.message_id() == "<no.brackets@x>"
    empty = Message(b"")
    assert (empty.subject(), empty.message_id(), empty.from_addresses(), empty.date()) == ("", "", (), None)
    assert empty.text_for_search().strip() == ""
    assert Message(b"a: \0\r\n\r\nb\rc\n").findings == {Finding.NUL, Finding.BARE_CR, Finding.BARE_LF}


def cpython_messages() -> list[bytes]:
    try:
        folder = importlib.resources.files("test.test_email") / "data"
        return [item.read_bytes() for item in folder.iterdir() if item.name.endswith(".txt")]
    except (ImportError, FileNotFoundError):
        return []


def test_cpythons_own_messages() -> None:
    """The structure of well-formed ones is what the email package says."""
    import email
    import email.policy

    messages = cpython_messages()
    if not messages:
        pytest.skip("this Python has no test.test_email data")
    compared = 0
    for data in messages:
        message = Message(data)
        message.text_for_search()
        theirs = email.message_from_bytes(data, policy=email.policy.compat32)
        if any(part.defects for part in theirs.walk()) or mime.all_findings(message.root) - {Finding.BARE_LF}:
            continue
        if b"message/external-body" in data.lower() or b"message/delivery-status" in data.lower():
            continue  # the email package makes containers of these; RFC 2046 and IMAP do not
        compared += 1
        assert [p.get_content_type() for p in theirs.walk()] == [
            f"{p.ctype}/{p.subtype}" for p in mime.walk(message.root)
        ]
    assert compared > 20


def test_a_list_of_addresses_is_read_once() -> None:
    """Trace, DMARC, spam tokens and the queue ask for From; one of a megabyte holds the loop up once, not for each of them."""
    message = Message(b'From: a@b, "c" <d@e>\r\nfrom: ' + b"x@y, " * 100 + b"\r\nTo: g: h@i;\r\n\r\n")
    first = message.from_addresses()
    assert len(first) == 102 and message.from_addresses() is first
    assert message.addresses(b"to") is message.addresses(b"to") and message.addresses(b"cc") == ()
