"""Header scanning: offsets, line ends, folding, limits."""

import pytest

from rules.mail import limits
from rules.mail.findings import Finding
from rules.mail.header import make_field, scan, unescape, unfold

SIMPLE = b"From: a@b\r\nSubject:  one\r\n two\r\n\tthree\r\nX-A : v \r\n\r\nbody\r\n\r\nmore"


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_fields_and_offsets(end: bytes) -> None:
    data = SIMPLE.replace(b"\r\n", end)
    block = scan(data)
    assert [f.name for f in block.fields] == [b"From", b"Subject", b"X-A"]
    assert [f.lname for f in block.fields] == [b"from", b"subject", b"x-a"]
    assert b"".join(block.raw(f) for f in block.fields) == data[: block.end]
    assert data[block.end : block.body_start] == end
    assert data[block.body_start :].startswith(b"body")
    assert block.value(block.fields[1]) == b"  one" + end + b" two" + end + b"\tthree"
    assert block.first(b"subject") == b"one two\tthree"
    assert block.first(b"x-a") == b"v"
    assert block.first(b"absent") is None
    assert b"from" in block and b"to" not in block
    assert (Finding.BARE_LF in block.findings) == (end == b"\n")


def test_mixed_line_ends() -> None:
    block = scan(b"A: 1\nB: 2\r\n c\nC: 3\r\n\nbody")
    assert block.get_all(b"b") == [b"2 c"]
    assert block.get_all(b"c") == [b"3"]
    assert block.data[block.body_start :] == b"body"


@pytest.mark.parametrize(
    ("data", "names", "body_start"),
    [
        (b"", [], 0),
        (b"\r\n", [], 2),
        (b"\nbody", [], 1),
        (b"A: b", [b"A"], 4),
        (b"A: b\r\n", [b"A"], 6),
        (b"A: b\r", [b"A"], 5),
        (b"A:\r\nB:", [b"A", b"B"], 6),
        (b"A:\n\r\r\nB: x\n\n", [b"A", b"", b"B"], 12),
        (b" continued first\nA: b\n\nx", [b"", b"A"], 23),
        (b"From me Mon Jan  1 00:00:00 2024\nA: b\n\nx", [b"", b"A"], 39),
        (b"no colon here\nA: b\n\nx", [b"", b"A"], 20),
        (b": nameless\nA: b\n\n", [b"", b"A"], 17),
        (b"b\xc3\xa4d: x\nA: b\n\n", [b"", b"A"], 14),
        (b"A: b\n \nB: c\n\nx", [b"A", b"B"], 13),
    ],
)
def test_odd_headers(data: bytes, names: list[bytes], body_start: int) -> None:
    block = scan(data)
    assert [f.name for f in block.fields] == names
    assert block.body_start == body_start
    last = block.fields[-1].end if block.fields else block.start
    assert b"".join(block.raw(f) for f in block.fields) + data[last:] == data


def test_findings() -> None:
    assert scan(b"A: b\r\n\r\n").findings == frozenset()
    assert scan(b"A: b\r\n").findings == {Finding.NO_BODY}
    assert scan(b"A: \0\rx\r\n\r\n").findings == {Finding.NUL, Finding.BARE_CR}
    assert scan(b"garbage\r\n\r\n").findings == {Finding.GARBAGE_LINE}


def test_bounded_range_of_a_part() -> None:
    data = b"x\r\nA: b\r\n\r\n--b"
    block = scan(data, 3, 11)
    assert (block.start, block.end, block.body_start) == (3, 9, 11)
    block = scan(data, 3, 9)
    assert (block.end, block.body_start) == (9, 9)


def test_field_count_limit() -> None:
    count = limits.HEADER_FIELDS + 5
    data = b"".join(b"X-%d: y\r\n" % i for i in range(count)) + b"\r\nbody"
    block = scan(data)
    assert len(block.fields) == limits.HEADER_FIELDS
    assert Finding.HEADER_COUNT in block.findings
    assert block.raw(block.fields[-1]) == b"X-%d: y\r\n" % (limits.HEADER_FIELDS - 1)
    assert data[block.body_start :] == b"body"
    exact = b"".join(b"X-%d: y\r\n" % i for i in range(limits.HEADER_FIELDS)) + b"\r\n"
    assert len(scan(exact).fields) == limits.HEADER_FIELDS
    assert scan(exact).findings == frozenset()


def test_header_size_limit() -> None:
    big = b"X: " + b"a" * limits.HEADER_OCTETS + b"\r\n b\r\n"
    block = scan(big + b"Y: c\r\nZ: d\r\n\r\nbody")
    assert [f.name for f in block.fields] == [b"X"]
    assert block.raw(block.fields[0]) == big
    assert Finding.HEADER_SIZE in block.findings
    assert block.data[block.body_start :] == b"body"
    assert Finding.HEADER_SIZE not in scan(big + b"\r\nbody").findings


def test_unfold_and_unescape() -> None:
    assert unfold(b"a\r\n b\n\tc\r\n\td\n e") == b"a b\tc\td e"
    assert unescape(rb"a\"b\\c\\\"d\\\\") == rb'a"b\c\"d' + b"\\\\"


def test_make_field_never_adds_a_line_of_its_own() -> None:
    assert make_field(b"Subject", b"hello") == b"Subject: hello\r\n"
    assert make_field(b"X", b"a\r\nBcc: evil\0x\n\ny") == b"X: a Bcc: evil x y\r\n"
    field = make_field(b"References", b" ".join(b"<%d@example.org>" % i for i in range(20)))
    assert all(len(line) <= 78 for line in field.split(b"\r\n"))
    assert scan(field + b"\r\n").first(b"references") == b" ".join(b"<%d@example.org>" % i for i in range(20))
