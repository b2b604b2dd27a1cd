"""The surrogate of a message with UTF-8 in its headers (RFC 6857)."""

import pytest

from rules.mail import downgrade, words
from rules.mail.header import scan, unfold
from rules.mail.message import Message
from rules.mail.mime import walk


def one(field: str) -> str:
    """The field of a message that has only this one, unfolded."""
    data = downgrade.surrogate(field.encode() + b"\r\n\r\nBody \xc3\xbc\r\n")
    head, _, body = data.partition(b"\r\n\r\n")
    assert body == b"Body \xc3\xbc\r\n"
    return unfold(head).decode("ascii")


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("Subject: Grüße aus Köln", "Subject: =?utf-8?b?R3LDvMOfZQ==?= aus =?utf-8?q?K=C3=B6ln?="),
        # Blanks between encoded words are not shown: neighbours become one text.
        ("Subject: =?utf-8?q?a?= ü b", "Subject: =?utf-8?q?a_=C3=BC?= b"),
        ("From: Jø <jo@example.com>", "From: =?utf-8?b?SsO4?= <jo@example.com>"),
        ("From: jø@example.com", "From: =?utf-8?q?j=C3=B8=40example=2Ecom?= :;"),
        ("Return-Path: <jø@example.com>", "Return-Path: =?utf-8?q?j=C3=B8=40example=2Ecom?= :;"),
        ("To: Fred Foo <jø@x.com>, b@x.org", "To: Fred Foo =?utf-8?q?j=C3=B8=40x=2Ecom?= :;, b@x.org"),
        # Nothing is mapped that could make it somebody else's domain (RFC 5891: no fass.de).
        ("To: a@Bücher.de, b@faß.de", "To: a@xn--bcher-kva.de, b@xn--fa-hia.de"),
        ("To: a@bü_cher.de", "To: =?utf-8?q?a=40b=C3=BC=5Fcher=2Ede?= :;"),
        ("Cc: All: a@bücher.de, c@x.org;", "Cc: All: a@xn--bcher-kva.de, c@x.org;"),
        ("Cc: All: ü@x.org, c@x.org;", "Cc: All =?utf-8?q?=C3=BC=40x=2Eorg=2C_c=40x=2Eorg?= :;"),
        ("Date: Mon, 1 Jan 2024 00:00:00 +0000 (ü)", "Date: Mon, 1 Jan 2024 00:00:00 +0000 (=?utf-8?b?w7w=?=)"),
        ("Message-ID: <ü@x>", "Downgraded-Message-ID: =?utf-8?b?PMO8QHg+?="),
        ("In-Reply-To: <a@x> (ü)", "In-Reply-To: <a@x> (=?utf-8?b?w7w=?=)"),
        ("References: <a@x> <ü@x>", "Downgraded-References: <a@x> =?utf-8?b?PMO8QHg+?="),
        ("X-Odd: a ü b", "X-Odd: a =?utf-8?b?w7w=?= b"),
        ("Content-Type: text/plain; charset=utf-8; name=ü", "Content-Type: text/plain; charset=utf-8; name*=utf-8''%C3%BC"),
        ('Content-Disposition: attachment; filename="ü a"', "Content-Disposition: attachment; filename*=utf-8''%C3%BC%20a"),
        (
            "Received: from bücher.de (ü) by mx with UTF8SMTP id ü for <ü@x.de>; 1 Jan 2024 00:00:00 +0000",
            "Received: from xn--bcher-kva.de (=?utf-8?b?w7w=?=) by mx with UTF8SMTP ; 1 Jan 2024 00:00:00 +0000",
        ),
        ("Received: by mx for <a@bücher.de>; 1 Jan 2024", "Received: by mx for <a@xn--bcher-kva.de>; 1 Jan 2024"),
        ("Ünterschrift", "=?utf-8?q?=C3=9Cnterschrift?="),
    ],
)  # fmt: skip
def test_fields(field: str, wanted: str) -> None:
    got = one(field)
    assert got.replace("  ", " ") == wanted.replace("  ", " ")


NESTED = (
    "Subject: plain\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npreamble ü\r\n"
    "--b\r\nContent-Type: application/pdf; name=ü.pdf\r\nX-Part: ü\r\n\r\n\xff ü\r\n"
    "--b\r\nContent-Type: message/global\r\n\r\nSubject: ü\r\n\r\ninner ü\r\n"
    "--b\r\nContent-Type: message/global-delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n"
    "Final-Recipient: utf-8; jø@x.org\r\nOriginal-Recipient: x; jø\r\nAction: failed\r\n"
    "--b--\r\nepilogue ü\r\n"
).encode()


def test_headers_of_all_parts_and_no_body() -> None:
    data = downgrade.surrogate(NESTED)
    message = Message(data)
    assert all(part.header.data[part.start : part.body_start].isascii() for part in walk(message.root))
    for kept in ("preamble ü", "\xff ü\r\n--b", "inner ü", "epilogue ü"):
        assert kept.encode() in data
    assert b"name*=utf-8''%C3%BC.pdf\r\nX-Part: =?utf-8?b?w7w=?=\r\n" in data
    assert (
        b"Final-Recipient: utf-8; j\\x{F8}@x.org\r\nDowngraded-Original-Recipient: x; =?utf-8?b?asO4?=\r\n"
        in data
    )


def test_what_needs_nothing_is_the_same_object() -> None:
    for data in (
        b"",
        b"Subject: a\r\n\r\n",
        b"Subject: a\r\n\r\n\xff\r\n",
        NESTED[NESTED.index(b"preamble") :],
    ):
        assert downgrade.surrogate(data) is data or not downgrade.plain(data)
    made = downgrade.surrogate(NESTED)
    assert downgrade.surrogate(made) is made
    assert downgrade.plain(b"Subject: a\r\n\r\n\xff\r\n")
    assert not downgrade.plain(b"Subject: a\r\nContent-Type: message/rfc822\r\n\r\nSubject: \xff\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"Subject: \xff\xfe\xfd",
        b"From: \xff <\xfe@\xfd>, \xf0",
        b"From: <<\xff,,;:@\xff>(\xff",
        b"To: " + b"\xc3\xbc@x.org, " * 11_000,
        b"Subject: " + b"\xff" * 300_000,
        b"Date: " + b"(" * 50_000 + b"\xff",
        b"From: a@" + b"\xc3\xbc" * 50_000,
        b"Content-Type: text/plain" + b"; a=\xff" * 1500 + b"; \xff=a",
        b"Received: for <\xff@\xff> (" + b" id \xff" * 500,
        b"X-Long: " + b"a" * (1 << 20) + b"\r\nX-Beyond: \xff",
        b"\r\n".join([b"X-%d: \xff" % number for number in range(10_050)]),
        b"\xff: no field\r\n\xfe",
    ],
)
def test_hostile_headers_become_ascii(head: bytes) -> None:
    inside = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + head + b"\r\n--b--\r\n"
    for data in (head, head + b"\r\n\r\n\xff\r\n", inside):
        made = downgrade.surrogate(data)
        block = scan(made)
        assert made[: block.body_start].isascii()
        assert b"\n" not in made.replace(b"\r\n", b"")
        assert downgrade.surrogate(made) == made


def test_texts_say_the_same() -> None:
    subject = "Ein längerer Text, der über mehr als eine Zeile geht, mit 日本語 und ☃, und noch etwas mehr, damit er gefaltet wird"
    data = downgrade.surrogate(f"Subject: {subject}\r\nFrom: Jöran Ö <j@bücher.de>\r\n\r\n".encode())
    assert max(map(len, data.split(b"\r\n"))) <= 78
    message = Message(data)
    assert message.subject() == subject
    assert message.from_addresses()[0][:3] == ("Jöran Ö", "j", "xn--bcher-kva.de")
    assert words.decode(data).count("�") == 0
