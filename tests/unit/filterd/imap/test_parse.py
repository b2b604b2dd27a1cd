"""The grammar's small words."""

from __future__ import annotations

from datetime import date

import pytest

from filterd.imap import names
from filterd.imap.config import ImapLimits
from filterd.imap.errors import Bad
from filterd.imap.names import Pattern
from filterd.imap.numset import NumSet, merge, render
from filterd.imap.parse import Parser
from filterd.imap.wire import Command


def parser(text: bytes, *more: bytes) -> Parser:
    return Parser(Command(b"a", [text, *more], [False] * (len(more) // 2)), ImapLimits())


def test_strings() -> None:
    p = parser(b'"a\\"b\\\\" atom] ', b"lit", b"")
    assert p.astring() == b'a"b\\'
    p.sp()
    assert p.astring() == b"atom]"
    p.sp()
    assert p.astring() == b"lit"
    p.end()


@pytest.mark.parametrize("text", [b'"open', b'"bad\\x"', b"(", b"", b"{3}"])
def test_not_a_string(text: bytes) -> None:
    with pytest.raises(Bad):
        parser(text).astring()


def test_depth_is_limited() -> None:
    p = parser(b"(" * 100)
    with pytest.raises(Bad):
        for _ in range(100):
            p.open()


def test_dates() -> None:
    assert parser(b'"17-Jul-2020"').date() == date(2020, 7, 17)
    assert parser(b'"17-Jul-1996 02:44:25 -0700"').date_time() == 837596665
    assert parser(b'" 1-Jan-1970 00:00:00 +0000"').date_time() == 0
    for bad in (b"31-Feb-2020", b"1-Foo-2020", b"1-Jan-20"):
        with pytest.raises(Bad):
            parser(bad).date()


def test_flags() -> None:
    assert parser(b"(\\sEEN $Junk \\Recent \\Seen)").flag_list() == ("\\Seen", "$Junk")
    with pytest.raises(Bad):
        parser(b"(\\Foo)").flag_list()
    assert parser(b"()").flag_list() == ()


@pytest.mark.parametrize("text", [b"", b"0", b"1,", b",1", b"1:", b"4294967296", b"1:2:3", b"a", b"*:"])
def test_not_a_set(text: bytes) -> None:
    assert NumSet.parse(text, 100) is None


def test_sets() -> None:
    wanted = NumSet.parse(b"5:3,1,*", 100)
    assert wanted is not None
    assert wanted.spans_of_numbers(10) == [(0, 1), (2, 5), (9, 10)]
    assert wanted.spans_of_uids([2, 3, 9]) == [(1, 3)]
    huge = NumSet.parse(b"1:4294967295", 100)
    assert huge is not None
    assert huge.spans_of_uids([7, 8]) == [(0, 2)]
    beyond = NumSet.parse(b"4294967295:*", 100)
    assert beyond is not None
    assert beyond.spans_of_uids([7, 8]) == [
        (1, 2)
    ]  # * is the last message even when the range begins above it
    assert NumSet.parse(b"1," * 200 + b"1", 100) is None
    assert merge([(3, 5), (0, 1), (4, 9)]) == [(0, 1), (3, 9)]
    assert render([1, 2, 3, 7, 9, 10]) == b"1:3,7,9:10"
    assert render([5, 6, 1, 2]) == b"5:6,1:2"


def test_modified_utf7() -> None:
    for name, wire in (
        ("台北", "&U,BTFw-"),
        ("a&b", "a&-b"),
        ("Entwürfe", "Entw&APw-rfe"),
        ("😀", "&2D3eAA-"),
    ):
        assert names.encode_utf7(name) == wire
        assert names.decode_utf7(wire) == name
    for bad in ("&", "&AGE-", "&!!-", "&A-", "x&2D0-"):
        assert names.decode_utf7(bad) is None
    assert names.decode(b"inbox/Sub", False) == "INBOX/Sub"
    assert names.decode("Entwürfe".encode(), False) == "Entwürfe"
    assert names.decode(b"a&b", True) == "a&b"


def test_patterns() -> None:
    assert Pattern("*").matches("a/b") and Pattern("%").matches("a") and not Pattern("%").matches("a/b")
    assert Pattern("a/%/c").matches("a/b/c") and not Pattern("a/%/c").matches("a/b/b/c")
    assert (
        Pattern("%*%").matches("x/y") and Pattern("inbox").matches("INBOX") and not Pattern("").matches("a")
    )
    assert Pattern("a*b*c").matches("a/xb/yc") and not Pattern("a*b*c").matches("a/xb/y")
    assert not Pattern("*a" * 100 + "b").matches("a" * 240)


def test_a_star_in_an_empty_mailbox_names_nobody() -> None:
    for text, wrong in ((b"1:*", False), (b"*", False), (b"1", True), (b"1:*,2", True)):
        numbers = NumSet.parse(text, 100)
        assert numbers is not None
        assert numbers.beyond(0) is wrong
        assert numbers.spans_of_numbers(0) == []
