"""Tokens: what is read, what is not, and what hostile input costs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spam.tokens import TOKENS, hashed, tokens
from rules.mail.message import Message


def of(text: str, kind: str = "text/plain; charset=utf-8", head: str = "") -> set[str]:
    data = f"From: Ann Bee <ann@sub.shop.example>\r\n{head}Content-Type: {kind}\r\n\r\n{text}\r\n"
    return set(tokens(Message(data.encode())))


def test_words_pairs_links_and_senders() -> None:
    found = of("Buy cheap PILLS now at http://u@www.pills.example:80/offer?id=1 or write me@mail.example")
    assert {"cheap", "pills", "cheap pills", "link:www.pills.example", "link:pills.example", "path:offer",
            "mail:mail.example", "from:ann@sub.shop.example", "from:@shop.example", "from:bee"} <= found  # fmt: skip


def test_html_is_read_as_people_see_it() -> None:
    found = of(
        "<style>p{colour:red}</style><p>V<!-- x -->ia<b>gra</b> &amp; ca&shy;sino"
        '<script>evil()</script><span style="display:none">hid</span></p>',
        "text/html",
    )
    assert {"viagra", "casino", "html:p", "html:hidden"} <= found
    assert not {"evil", "colour", "agra", "gra"} & found


def test_subject_and_charsets() -> None:
    found = of("", head="Subject: =?utf-8?q?GEW=C3=9CNNE?= NOW\r\n")
    assert {"subject:gewünne", "subject:capitals"} <= found
    assert {"便宜", "宜的"} <= of("便宜的药品")


def test_fields_that_servers_add_do_not_matter() -> None:
    plain = b"From: a@b.example\r\nSubject: x\r\n\r\nbody\r\n"
    added = (
        b"Return-Path: <a@b.example>\r\nReceived: from x\r\nX-Spam-Flag: YES\r\nAuthentication-Results: x\r\n"
    )
    assert tokens(Message(plain)) == tokens(Message(added + plain))


def test_numbers_depend_on_the_key_and_fit_a_column() -> None:
    one, other = hashed(["word"], b"a"), hashed(["word"], b"b")
    assert one != other and one == hashed(["word"], b"a") and -(2**63) <= one[0] < 2**63


@given(st.binary(max_size=3000))
def test_nothing_raises(data: bytes) -> None:
    hashed(tokens(Message(data)), b"k")
    hashed(tokens(Message(b"Content-Type: text/html; charset=utf-8\r\n\r\n" + data)), b"k")


@pytest.mark.parametrize(
    "piece",
    [
        "<style>",
        "<!--",
        "<",
        "<a ",
        "http://",
        "a.",
        "@a.",
        "&#",
        "便",
        "-",
        "x" * 50 + " ",
        "<a b='>",
        "=?utf-8?q?",
    ],
)
def test_hostile_input_is_linear(piece: str) -> None:
    began = time.process_time()
    found = of(piece * (400_000 // len(piece)), "text/html; charset=utf-8", f"Subject: {piece * 3000}\r\n")
    assert len(found) <= TOKENS
    assert time.process_time() - began < 5
