"""RFC 5173: the three transforms, on the RFC's own example."""

from __future__ import annotations

from collections.abc import Callable

import pytest

MAIL = b"""From: Whomever
Subject: whatever
Content-Type: multipart/mixed; boundary=outer

This is a multi-part message in MIME format.

--outer
Content-Type: multipart/alternative; boundary=inner

This is a nested multi-part message in MIME format.

--inner
Content-Type: text/plain; charset="us-ascii"

Hello

--inner
Content-Type: text/html; charset="us-ascii"

<html><head><title>T</title></head><body><b>Hel</b>lo &amp; bye<script>x=1</script></body></html>

--inner--

This is the end of the inner MIME multipart.

--outer
Content-Type: message/rfc822

From: Someone Else
Subject: hello request

Please say Hello

--outer--

This is the end of the outer MIME multipart.
""".replace(b"\n", b"\r\n")
SIMPLE = b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nCaf=E9\r\n"


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('body :content "multipart" :contains "MIME"', True),
        ('body :content "multipart" :contains "Hello"', False),
        ('body :content "multipart" :contains "--outer"', False),
        ('body :content "multipart" :contains "end of the outer"', True),
        ('body :content "text/plain" :contains "Hello"', True),
        ('body :content "text/plain" :contains "<body>"', False),
        ('body :content "text/html" :contains "<body>"', True),
        ('body :content "text" :contains "Please say"', True),
        ('body :content "message/rfc822" :contains "hello request"', True),
        ('body :content "message/rfc822" :contains "Please"', False),
        ('body :content "" :contains "Please"', True),
        ('body :content ["/", "text/", "/plain", "a/b/c"] :contains "Hello"', False),
        ('body :content "audio/mp3" :contains ""', False),
        ('body :raw :contains "--outer"', True),
        ('body :raw :contains "Whomever"', False),
        ('body :text :contains "Hello & bye"', True),
        ('body :text :contains ["<b>", "x=1"]', False),
        ('body :contains "MIME"', False),
    ],
)
def test_transforms(holds: Callable[..., bool], test: str, expected: bool) -> None:
    assert holds(test, "body", MAIL) is expected


def test_decoding(holds: Callable[..., bool]) -> None:
    assert holds('body :is "Café\r\n"', "body", SIMPLE)
    assert holds('body :raw :contains "Caf=E9"', "body", SIMPLE)


def test_no_body_at_all(holds: Callable[..., bool]) -> None:
    assert not holds('body :raw :contains ""', "body", b"Subject: x\r\n")
    assert holds('body :raw :is ""', "body", b"Subject: x\r\n\r\n")


def test_no_match_variables(go: Callable[..., object]) -> None:
    text = 'require ["body", "variables", "fileinto"]; '
    text += 'if header :matches "subject" "*" { if body :raw :matches "*" { fileinto "${1}"; } }'
    result = go(text, b"Subject: kept\r\n\r\nbody\r\n")
    assert [action.mailbox for action in result.actions] == ["kept"]  # type: ignore[attr-defined]  # a RunResult
