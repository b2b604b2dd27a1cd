"""ENVELOPE, BODY, BODYSTRUCTURE and the header cache, as bytes."""

from __future__ import annotations

import random
import time

import pytest

from filterd.imap.render import (
    CACHED_FIELDS,
    NOT_CACHED,
    cached_headers,
    nstring,
    project,
    render_body,
    render_envelope,
)
from rules.mail.message import Message


def crlf(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def envelope(text: bytes) -> bytes:
    return render_envelope(Message(crlf(text)))


def structure(text: bytes) -> bytes:
    return render_body(Message(crlf(text)))[1]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, b"NIL"),
        (b"", b'""'),
        (b"plain", b'"plain"'),
        (b'say "a\\b"', b'"say \\"a\\\\b\\""'),
        (b"tab\there", b'"tab\there"'),
        ("ä".encode(), b"{2}\r\n\xc3\xa4"),
        (b"a\rb", b"{3}\r\na\rb"),
        (b"nul\0", b"{4}\r\nnul?"),
        (b"x" * 1001, b"{1001}\r\n" + b"x" * 1001),
    ],
)
def test_strings(value: bytes | None, wanted: bytes) -> None:
    assert nstring(value) == wanted


def test_envelope_defaults_and_order() -> None:
    assert envelope(
        b"Date: Mon, 7 Feb 1994 21:52:25 -0800\nSubject: afternoon\n meeting\nFrom: Fred <foobar@blurdybloop.example>\n"
        b"To: mooch@owatagu.example\nMessage-Id: <B27397@blurdybloop.example>\n\n"
    ) == (
        b'("Mon, 7 Feb 1994 21:52:25 -0800" "afternoon meeting" (("Fred" NIL "foobar" "blurdybloop.example")) '
        b'(("Fred" NIL "foobar" "blurdybloop.example")) (("Fred" NIL "foobar" "blurdybloop.example")) '
        b'((NIL NIL "mooch" "owatagu.example")) NIL NIL NIL "<B27397@blurdybloop.example>")'
    )


def test_envelope_without_anything() -> None:
    assert envelope(b"\n") == b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)"


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (b"a@b", b'((NIL NIL "a" "b"))'),
        (b'"A \\"q\\" B" <a@b>', b'(("A \\"q\\" B" NIL "a" "b"))'),
        (b"=?utf-8?q?J=C3=B6rg?= <a@b>", b'(("=?utf-8?q?J=C3=B6rg?=" NIL "a" "b"))'),
        (b"<@r1,@r2:a@b>", b'((NIL "@r1,@r2" "a" "b"))'),
        (
            b"friends: a@b, C <c@d>;",
            b'((NIL NIL "friends" NIL)(NIL NIL "a" "b")("C" NIL "c" "d")(NIL NIL NIL NIL))',
        ),
        (b"undisclosed-recipients:;", b'((NIL NIL "undisclosed-recipients" NIL)(NIL NIL NIL NIL))'),
        (b"", b"NIL"),
    ],
)
def test_address_lists(field: bytes, wanted: bytes) -> None:
    assert (
        envelope(b"Cc: " + field + b"\n\n").split(b"NIL NIL NIL NIL NIL NIL ", 1)[1]
        == wanted + b" NIL NIL NIL)"
    )


def test_two_fields_of_one_name_are_one_list() -> None:
    assert b'((NIL NIL "a" "b")(NIL NIL "c" "d"))' in envelope(b"To: a@b\nTo: c@d\n\n")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"\n", b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)'),
        (
            b"Content-Type: TEXT/Plain; charset=UTF-8\nContent-Transfer-Encoding: quoted-printable\n\na\nb",
            b'("TEXT" "Plain" ("charset" "UTF-8") NIL NIL "quoted-printable" 4 1 NIL NIL NIL NIL)',
        ),
        (
            b'Content-Type: image/png; name="a b.png"\nContent-Id: <1@x>\nContent-Description: a picture\n'
            b'Content-MD5: Q2hlY2s=\nContent-Disposition: attachment; filename="a b.png"; size=4\n'
            b"Content-Language: de, en\nContent-Location: http://x/\nContent-Transfer-Encoding: base64\n\nAAAA\n",
            b'("image" "png" ("name" "a b.png") "<1@x>" "a picture" "base64" 6 "Q2hlY2s=" '
            b'("attachment" ("filename" "a b.png" "size" "4")) ("de" "en") "http://x/")',
        ),
        (
            b"Content-Type: multipart/alternative; boundary=x\n\n--x\n\na\n--x\nContent-Type: text/html\n\n<b>\n--x--\n",
            b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 1 0 NIL NIL NIL NIL)'
            b'("text" "html" ("charset" "us-ascii") NIL NIL "7bit" 3 0 NIL NIL NIL NIL) '
            b'"alternative" ("boundary" "x") NIL NIL NIL)',
        ),
        (
            b"Content-Type: message/rfc822\n\nSubject: in\n\nhi\n",
            b'("message" "rfc822" NIL NIL NIL "7bit" 19 (NIL "in" NIL NIL NIL NIL NIL NIL NIL NIL) '
            b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 4 1 NIL NIL NIL NIL) 3 NIL NIL NIL NIL)',
        ),
        (
            b"Content-Type: multipart/mixed; boundary=x\n\nno part\n",
            b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL) "mixed" ("boundary" "x") NIL NIL NIL)',
        ),
    ],
)
def test_bodystructure(text: bytes, wanted: bytes) -> None:
    assert structure(text) == wanted


def test_body_is_bodystructure_without_extensions() -> None:
    text = crlf(
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: application/pdf; name=a\n\nx\n--x--\n"
    )
    body, _ = render_body(Message(text))
    assert body == b'(("application" "pdf" ("name" "a") NIL NIL "7bit" 1) "mixed")'


def balanced(text: bytes) -> bool:
    """One parenthesised list of strings, literals, atoms: what a client's parser needs."""
    depth = at = 0
    while at < len(text):
        char = text[at : at + 1]
        if char == b'"':
            at += 1
            while text[at : at + 1] != b'"':
                at += 2 if text[at : at + 1] == b"\\" else 1
        elif char == b"{":
            end = text.index(b"}\r\n", at)
            at = end + 2 + int(text[at + 1 : end])
        elif char == b"(":
            depth += 1
        elif char == b")":
            depth -= 1
            if depth == 0:
                return at == len(text) - 1
        elif not char.isalnum() and char not in b" .-":
            return False
        at += 1
    return False


PIECES = (
    b"Content-Type: multipart/mixed; boundary=a\r\n", b"--a\r\n", b"--a--\r\n", b"\r\n", b"Content-Type: message/rfc822\r\n",
    b'Content-Type: text/"x; charset="\xff\0\r\n', b"From: (((\"\\ <@>,;:\r\n", b"To: a:b:c;;@\r\n", b"Subject: \xe4\0\"\\\r\n",
    b"Content-Disposition: ;;=\"\r\n", b"Content-Language: ,,(\r\n", b"junk", b"\r", b"\n", b" folded\r\n", b"Content-Id: \"\r\n",
)  # fmt: skip


def test_whatever_comes_the_answer_parses() -> None:
    pick = random.Random(5)
    for _ in range(400):
        message = Message(b"".join(pick.choices(PIECES, k=pick.randint(0, 25))))
        body, extended = render_body(message)
        assert balanced(render_envelope(message))
        assert balanced(body)
        assert balanced(extended)


def test_hostile_messages_cost_little() -> None:
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(500)
    )
    inside = b"Content-Type: message/rfc822\r\n\r\n" * 20_000
    many = b"To: " + b"a@b,\r\n " * 100_000 + b"c@d\r\n\r\n"
    parts = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n\r\n" * 50_000
    for data in (deep, inside, many, parts):
        started = time.process_time()
        message = Message(data)
        render_envelope(message)
        render_body(message)
        assert time.process_time() - started < 2.0


def test_header_cache() -> None:
    message = Message(
        crlf(
            b"Received: by x\nX-Custom: 1\nSUBJECT: a\n folded\nFrom : b@c\nTo: d@e\nsubject: again\n\nbody\nTo: no\n"
        )
    )
    headers = cached_headers(message)
    assert headers == crlf(b"SUBJECT: a\n folded\nFrom : b@c\nTo: d@e\nsubject: again\n")
    assert project(headers, {b"subject", b"to"}) == crlf(b"SUBJECT: a\n folded\nTo: d@e\nsubject: again\n\n")
    assert project(headers, {b"cc"}) == b"\r\n"
    assert project(headers, {b"subject", b"x-custom"}) is None
    assert project(b"", CACHED_FIELDS) == b"\r\n"


def test_too_large_headers_are_not_cached() -> None:
    message = Message(b"To: " + b"a@b, " * 10_000 + b"\r\n\r\n")
    assert cached_headers(message) == NOT_CACHED
    assert project(NOT_CACHED, {b"to"}) is None
