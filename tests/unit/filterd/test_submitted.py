"""RFC 6409 8: what is put right in the header of a submission, and what is left alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.local_text import Qualifier
from filterd.submitted import fixed_up
from pipeline.edits import apply
from pipeline.envelope import Profile
from pipeline.verdict import HeaderEdit
from rules.mail.header import scan
from tests.house import DOMAIN, House

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
NOW = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)
GOOD = f"From: Ann <{ANN}>\r\nDate: Mon, 23 Nov 2026 09:00:00 +0000\r\nMessage-ID: <1@x>\r\n"


def fixed(text: str, *filtered: HeaderEdit, anybody: bool = False, sender: str = ANN) -> str:
    data = (text + "\r\nbody\r\n").encode()
    mine = None if anybody else {ANN, f"sales@{DOMAIN}"}.__contains__
    lines, cuts = fixed_up(scan(data), ANN, f"id@mx.{DOMAIN}", NOW, mine, filtered, sender)
    out = apply(data, filtered, cuts).decode()
    assert out.endswith("\r\nbody\r\n")
    return lines.decode() + out.removesuffix("\r\nbody\r\n")


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + f'Sender: {ANN}\r\nTo: x@far.example, "Doe, J" <y@far.example>\r\n',
        GOOD.replace(ANN, f"sales@{DOMAIN}"),
        GOOD.replace(ANN, BOB) + f"Resent-From: {ANN}\r\n",  # somebody else's message, sent on as it is
        GOOD.replace(ANN, BOB) + "DKIM-Signature: v=1\r\nTo: bob\r\n",
        GOOD.replace("<1@x>", "<1$odd>") + "Date: Mon, 1 Jan 2024 00:00:00 +0000\r\n",
    ],
)
def test_what_is_good_or_signed_stays(text: str) -> None:
    assert fixed(text) == text


def test_what_is_missing_is_added() -> None:
    block = scan(fixed("Subject: s\r\n").encode())
    assert [block.first(name) for name in (b"from", b"date", b"message-id", b"sender")] == [
        f"<{ANN}>".encode(), b"Mon, 23 Nov 2026 10:00:00 +0000", f"<id@mx.{DOMAIN}>".encode(), None,
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["", "yesterday", "2026-11-23"])
def test_a_date_that_is_none_is_replaced(value: str) -> None:
    out = fixed(GOOD.replace("Mon, 23 Nov 2026 09:00:00 +0000", value))
    assert scan(out.encode()).get_all(b"date") == [b"Mon, 23 Nov 2026 10:00:00 +0000"]


@pytest.mark.parametrize("value", ["", "no brackets", "<>"])
def test_an_identifier_that_is_none_is_replaced(value: str) -> None:
    out = fixed(GOOD.replace("<1@x>", value))
    assert scan(out.encode()).get_all(b"message-id") == [f"<id@mx.{DOMAIN}>".encode()]


def test_names_get_the_domain_of_the_account() -> None:
    block = scan(fixed(GOOD.replace(f"Ann <{ANN}>", "ann (Ann)") + "To: bob,\r\n x@far.example\r\n").encode())
    assert block.first(b"from") == f"{ANN} (Ann)".encode() and b"sender" not in block
    assert block.first(b"to") == f"{BOB}, x@far.example".encode()


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace(ANN, BOB),
        GOOD.replace(ANN, "ann@elsewhere.example"),
        GOOD.replace(f"Ann <{ANN}>", f"{ANN}, {BOB}"),  # RFC 5322 3.6.2
        GOOD.replace(ANN, BOB) + f"Sender: {BOB}\r\n",
        GOOD + "Sender: bob\r\n",
        GOOD.replace(f"Ann <{ANN}>", "nobody at all"),
    ],
)
def test_the_sender_is_named_where_from_does_not(text: str) -> None:
    assert scan(fixed(text).encode()).get_all(b"sender") == [f"<{ANN}>".encode()]
    assert f"<{ANN}>" not in fixed(text, anybody=True).partition("From:")[0]  # a program of this machine
    other = fixed(text, sender=f"sales@{DOMAIN}")
    assert scan(other.encode()).get_all(b"sender") == [f"<sales@{DOMAIN}>".encode()]


def test_a_reverse_path_that_a_filter_set_is_not_the_sender() -> None:
    for strange in (BOB, "bounces@list.example", "x\udcff@list.example", ""):
        out = fixed(GOOD.replace(ANN, BOB), sender=strange)
        assert scan(out.encode()).get_all(b"sender") == [f"<{ANN}>".encode()]


def test_what_a_filter_changed_is_the_filters() -> None:
    gone, new = HeaderEdit("remove", "From"), HeaderEdit("add", "From", "bob")
    out = fixed(GOOD.replace(ANN, "ann"), gone, new)
    assert scan(out.encode()).get_all(b"from") == [b"bob"]
    placed = HeaderEdit("remove", "Date", place=2)
    assert "Date:" not in fixed(GOOD.replace("09:00", "nine"), placed)


def test_a_submission_leaves_with_it() -> None:
    house = House()

    async def go() -> None:
        session = await house.session(Profile.SUBMISSION, ANN)
        data = f"From: {BOB}\r\nDate:\r\nTo: bob\r\n\r\nx\r\n".encode()
        (reply,) = await house.send("x@far.example", sender=ANN, data=data, session=session)
        assert reply.code == 250

    asyncio.run(go())
    block = scan(house.spool.outgoing[0].data)
    assert block.get_all(b"sender") == [f"<{ANN}>".encode()] and block.get_all(b"to") == [BOB.encode()]
    assert len(block.get_all(b"date")) == 1 and block.first(b"date")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(
    ["From: ann\r\n", "From:\r\n", "Sender: (\r\n", "Sender: b\r\n", "Date: x\r\n", "Message-ID: x\r\n", "To: a,\r\n\tb\r\n",
     "Resent-To: c\r\n", "DKIM-Signature: x\r\n", " folded\r\n", "no field\r\n", GOOD])))  # fmt: skip
def test_any_header(pieces: list[str]) -> None:
    block = scan(fixed("".join(pieces)).encode())
    assert all(name in block for name in (b"from", b"date", b"message-id"))


def test_a_list_without_end_is_completed_as_far_as_its_pieces_go() -> None:
    qualifier = Qualifier(b"h.example")
    value = b"(((a))) x " * 20_000 + b","
    assert qualifier.whole(value) == value  # an item is completed whole or not at all
    assert qualifier.whole(b" ann, bob") == b" ann, bob"  # one budget for all fields of a message
    assert Qualifier(b"h.example").whole(b"a,<b@c>," * 4_000) == b"a@h.example,<b@c>," * 4_000
