"""Which messages count as copies of one mail, and which never do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from pipeline.spam import copies
from rules.mail import date
from rules.mail.message import Message

NOW = 1_790_000_000.0
MARK = b"0123456789abcdef"
ANN, BOB = "ann@here.example", "bob@here.example"


def when(seconds: float = 0.0) -> bytes:
    return date.render(datetime.fromtimestamp(NOW + seconds, UTC)).encode()


LIST = (
    b"Return-Path: <ann@here.example>\r\nDelivered-To: ann@here.example\r\n"
    b"Received: from lists.example (lists.example [192.0.2.9])\r\n\tby relay.example (Postfix) with ESMTPS id 4XyZab12\r\n"
    b"\tfor <ann@here.example>; " + when(-60) + b"\r\n"
    b"DKIM-Signature: v=1; a=rsa-sha256; d=lists.example; s=one;\r\n\tt=1790000000; h=from:to; bh=abc=; b=Zm9v\r\n"
    b"From: Eve <eve@shop.example>\r\nTo: ann@here.example\r\nSubject: The news\r\nDate: "
    + when(-90)
    + b"\r\n"
    b"Message-ID: <a81b-77c@shop.example>\r\nErrors-To: news-bounces+ann=here.example@lists.example\r\n"
    b"Reply-To: desk@shop.example\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello,\r\nthe news.\r\n"
)
TWIN = (
    b"Return-Path: <bob@here.example>\r\nX-Original-To: other@here.example\r\nDelivered-To: bob@here.example\r\n"
    b"Received: from lists.example (lists.example [192.0.2.9])\r\n\tby relay.example (Postfix)\r\n\twith ESMTPS id 4XyZcc99\r\n"
    b"\tfor <bob@here.example>; " + when(-30) + b"\r\n"
    b"DKIM-Signature: v=1; a=rsa-sha256; s=one; d=lists.example;\r\n\tt=1790000003; h=from; bh=abc=; b=YmFy\r\n"
    b"Authentication-Results: x; spf=pass smtp.mailfrom=news-bounces+bob=here.example@lists.example\r\n"
    b"From: Eve <eve@shop.example>\r\nTo: bob@here.example\r\nSubject: The news\r\nDate: "
    + when(-31)
    + b"\r\n"
    b"Message-ID: <00f2-b1@shop.example>\r\nErrors-To: news-bounces+BOB=here.example@lists.example\r\n"
    b"Reply-To: desk@shop.example\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello,\r\nthe news.\r\n"
)


def key(
    data: bytes, addresses: Sequence[str] = (ANN,), told: Sequence[bytes] = (), mark: bytes = MARK
) -> bytes:
    return copies.keys(Message(data), addresses, told, NOW, mark)[0]


def exact(data: bytes, addresses: Sequence[str] = (ANN,)) -> bytes:
    return copies.keys(Message(data), addresses, (), NOW, MARK)[1]


def test_copies_of_one_mail_for_two_people() -> None:
    assert key(LIST) == key(TWIN, [BOB])
    assert key(LIST) == key(LIST), "a retry"
    assert exact(LIST) == exact(LIST) != exact(TWIN, [BOB]) != key(LIST)
    same = TWIN.replace(b"00f2-b1@", b"a81b-77c@").replace(when(-31), when(-90))
    assert exact(same, [BOB]) == exact(LIST), "but for id, date and who signed"
    assert len(key(LIST)) == 32 and key(LIST) != key(LIST, mark=b"other")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"the news.\r\n", b"the news!\r\n"),
        (b"the news.\r\n", b"the news.\r\n\r\n"),
        (b"the news.\r\n", b"the  news.\r\n"),
        (b"Eve <eve@shop", b"Eva <eve@shop"),
        (b"Eve <eve@shop", b"Eve <eve@shoq"),
        (b"Subject: The news", b"Subject: THE NEWS"),
        (b"Subject: The news", b"Subject: The\r\n news"),
        (b"Subject: The news", b"SUBJECT: The news"),
        (b"Subject: The news\r\n", b"Subject: The news\r\nSubject: The news\r\n"),
        (b"From: Eve <eve@shop.example>\r\n", b""),
        (b"desk@shop", b"desk@other"),
        (b"\r\nTo: ann@here.example", b"\r\nTo: pills <ann@here.example>"),
        (b"\r\nTo: ann@here.example", b"\r\nTo: ann@here.example, eve@shop.example"),
        (b"\r\nTo: ann@here.example", b"\r\nTo: bob@here.example"),  # not the one this is for
        (b"text/plain", b"text/html"),
        (b"utf-8", b"utf-7"),
        (b"Reply-To:", b"X-Reply-To:"),
        (b"\r\nReply-To:", b"\r\nX-Mailer: Bulk 1.0\r\nReply-To:"),
        (b"\r\nReply-To:", b"\r\nList-Id: <news>\r\nReply-To:"),
        (b"[192.0.2.9]", b"[203.0.113.9]"),  # an earlier hop
        (b"Received: from lists", b"Received: by 203.0.113.9; x\r\nReceived: from lists"),
        (b"d=lists.example", b"d=bank.example"),
        (b"@shop.example>\r\nErrors", b"@other.example>\r\nErrors"),  # Message-ID
        (b"<a81b-77c@", b"<A81B-77C@"),
        (b"<a81b-77c@", b"<a81b77c@"),
        (b"Message-ID: <a81b-77c@shop.example>\r\n", b""),
        (b"Date: " + when(-90), b"Date: " + when(3 * 3600)),
        (b"Date: " + when(-90), b"Date: tomorrow"),
        (b"Date: " + when(-90) + b"\r\n", b""),
        (b"Date: " + when(-90), b"Date: " + when(-90) + b"\r\nDate: " + when(86400)),
        (b"+0000\r\nMessage-ID", b"+2600\r\nMessage-ID"),
    ],
)
def test_what_makes_another_mail(old: bytes, new: bytes) -> None:
    assert LIST.count(old) == 1 or old.startswith(b"@shop")
    other = LIST.replace(old, new)
    assert other != LIST and key(other) != key(LIST)


def test_fields_in_another_order_make_another_mail() -> None:
    moved = LIST.replace(b"Reply-To: desk@shop.example\r\n", b"").replace(
        b"From: ", b"Reply-To: desk@shop.example\r\nFrom: "
    )
    assert len(moved) == len(LIST) and key(moved) != key(LIST)


@pytest.mark.parametrize(
    "field",
    [
        b"Delivered-To: x\rSubject: pills\r\n",  # a second line for some
        b"Delivered-To: x\0\r\n",
        b"Received: from a; now\rSubject: x\r\n",
        b"Message-ID: <x@y>\rFrom: bank@bank.example\r\n",
        b"Delivered-To: " + b"x" * copies.TREATED_OCTETS + b"\r\n",
        b"Delivered-To x\r\n",  # no field
        b"Delivered-To \xa0: x\r\n",
    ],
)
def test_what_may_be_read_in_another_way_counts_as_it_is(field: bytes) -> None:
    assert key(field + LIST) != key(LIST)
    assert key(field + LIST) != key(field.replace(b"x", b"z") + LIST)


def test_nothing_moves_between_header_and_body() -> None:
    head, body = b"From: a@b\r\nX-A: 1\r\n", b"X-B: 2\r\n\r\ntext\r\n"
    assert key(head + b"\r\n" + body) != key(head + body)
    assert key(b"\r\n" + body) != key(body) and key(b"") != key(b"\r\n")
    assert key(b"A: 1\r\nB: 2\r\n\r\n") != key(b"A: 1\r\n B: 2\r\n\r\n")


def test_what_is_told_of_the_sender_counts() -> None:
    some = {key(LIST, told=told) for told in ([], [b""], [b"a", b"b"], [b"ab", b""], [b"ab"], [b"b", b"a"])}
    assert len(some) == 6


def test_the_mark_of_a_recipient_cannot_be_written() -> None:
    """Whoever wrote the mark of another process into To has not written the recipient."""
    written = LIST.replace(b"To: ann@here.example\r\nSubject", b"To: fedcba9876543210\r\nSubject")
    assert key(written) != key(LIST)


def test_strange_recipients() -> None:
    for address in ("", "@", "ann", "a@", "@b", "a.*@b", "é@b.example", "\ud800@x", "(" * 300 + "@b"):
        key(LIST, [address])
    assert key(LIST, [f"p{number}@here.example" for number in range(copies.MARKED)] + [ANN]) != key(LIST), (
        "a crowd"
    )


def test_a_date_of_another_hour_is_the_same_now() -> None:
    made = {
        copies.keys(Message(b"Date: " + when(seconds) + b"\r\n\r\n"), (), (), NOW, MARK)[0]
        for seconds in (-3600, -1, 0, 60, 3600)
    }
    assert len(made) <= 2, "midnight may lie between them"


@pytest.mark.parametrize(
    "data",
    [
        b"Received: " + b"id " * 300_000 + b"\r\n\r\n",
        b"Received: for\r\n" * 20_000 + b"\r\n",
        b"Message-ID: <" + b"a-" * 8_000 + b"@x>\r\n\r\n",
        b"DKIM-Signature: " + b"d=x;" * 4_000 + b"\r\n\r\n",
        b"To: " + b"ann@here.exampl " * 30_000 + b"\r\n\r\n",
        b"Date: " + b"1" * 16_000 + b"\r\n\r\n",
        b"\0\r\n\xff: \r\n" * 5_000,
    ],
)
def test_hostile_headers_cost_little(data: bytes) -> None:
    began = time.process_time()
    key(data)
    assert time.process_time() - began < 2.0
