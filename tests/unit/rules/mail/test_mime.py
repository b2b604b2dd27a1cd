"""The MIME tree: delimiters, nesting, messages in messages, numbering, limits."""

import pytest

from rules.mail import limits
from rules.mail.findings import Finding
from rules.mail.mime import Part, all_findings, numbered, parse, section, walk

MIXED = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"


def shape(part: Part) -> object:
    """type, and children or body, as nested tuples."""
    if part.children:
        return (f"{part.ctype}/{part.subtype}", *[shape(child) for child in part.children])
    return (f"{part.ctype}/{part.subtype}", part.body())


def bodies(data: bytes) -> list[bytes]:
    return [part.body() for part in parse(data).children]


def test_plain_message() -> None:
    root = parse(b"Subject: x\r\n\r\none\r\ntwo")
    assert (root.ctype, root.subtype, root.encoding, root.params) == ("text", "plain", "7bit", {})
    assert (root.start, root.body_start, root.end) == (0, 14, 22)
    assert (root.body(), root.lines, root.size, root.virtual_size) == (b"one\r\ntwo", 1, 8, 8)
    assert parse(b"Subject: x\n\none\ntwo\n").virtual_size == 10
    assert parse(b"").body() == b""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"pro\r\n--b\r\n\r\nA\r\n--b\r\n\r\nB\r\n--b--\r\nepi", [b"A", b"B"]),
        (b"--b\r\n\r\nA\r\n--b--", [b"A"]),
        (b"--b \t\r\n\r\nA\r\n--b-- \r\n--b\r\n\r\nC", [b"A"]),
        (b"--b\r\n\r\n\r\nA\r\n\r\n--b--", [b"\r\nA\r\n"]),
        (b"--b\r\n\r\nA", [b"A"]),
        (b"--b\r\n\r\nA\r\n", [b"A\r\n"]),
        (b"--b\r\n\r\n--b\r\n\r\n\r\n--b--", [b"", b""]),
        (b"--b\r\n--b--", [b""]),
        (b"--b", [b""]),
        (b"--b--", []),
        (b"x --b\r\n\r\nA", []),
        (b"--b\r\n\r\nx--b\r\n --b\r\n-- b\r\n--b--", [b"x--b\r\n --b\r\n-- b"]),
        (b"--bcd\r\n\r\nA\r\n--b--", [b"A"]),  # RFC 2046 5.1.1: compared by the beginning
        (b"--b\r\nX: y\r\n--b\r\n\r\nB\r\n--b--", [b"", b"B"]),  # no blank line before the delimiter
        (b"--b\n\nA\n--b\r\n\r\nB\r\n--b--", [b"A", b"B"]),
        (b"--b\r\n\r\nA\r--b--\r\n--b--", [b"A\r--b--"]),
        (b"", []),
    ],
)
def test_delimiters(body: bytes, expected: list[bytes]) -> None:
    assert bodies(MIXED + body) == expected
    lf = (MIXED + body).replace(b"\r\n", b"\n")
    assert bodies(lf) == [part.replace(b"\r\n", b"\n") for part in expected]


def test_nested_multipart_ended_by_the_outer_boundary() -> None:
    inner = b"Content-Type: multipart/alternative; boundary=in\r\n\r\n--in\r\n\r\nA\r\n--in\r\n\r\nB"
    root = parse(MIXED + b"--b\r\n" + inner + b"\r\n--b\r\n\r\nC\r\n--in\r\n--b--")
    assert shape(root) == (
        "multipart/mixed",
        ("multipart/alternative", ("text/plain", b"A"), ("text/plain", b"B")),
        ("text/plain", b"C\r\n--in"),
    )
    assert Finding.UNTERMINATED in root.children[0].findings
    assert Finding.UNTERMINATED not in root.findings


def test_boundaries_that_begin_alike() -> None:
    data = (
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=bb\n\n"
        b"--bb\n\nA\n--bb\n\nB\n--bb--\n--b\n\nC\n--b--\n"
    )
    assert shape(parse(data)) == (
        "multipart/mixed",
        ("multipart/mixed", ("text/plain", b"A"), ("text/plain", b"B")),
        ("text/plain", b"C"),
    )
    swapped = (
        data.replace(b"bb", b"X").replace(b"b\n", b"bb\n").replace(b"--b-", b"--bb-").replace(b"X", b"b")
    )
    assert shape(parse(swapped))[0] == "multipart/mixed"  # type: ignore[index]  # a tuple


def test_one_boundary_on_two_levels_belongs_to_the_inner() -> None:
    data = MIXED + b"--b\r\n" + MIXED + b"--b\r\n\r\nA\r\n--b--\r\n--b\r\n\r\nB\r\n--b--\r\n"
    assert shape(parse(data)) == (
        "multipart/mixed",
        ("multipart/mixed", ("text/plain", b"A")),
        ("text/plain", b"B"),
    )


def test_boundary_ending_in_dashes() -> None:
    data = b'Content-Type: multipart/mixed; boundary="b--"\n\n--b--\n\nA\n--b----\n'
    assert shape(parse(data)) == ("multipart/mixed", ("text/plain", b"A"))


def test_messages_inside() -> None:
    inner = b"Subject: in\r\n" + MIXED.replace(b"=b", b"=c") + b"--c\r\n\r\nX\r\n--c--\r\n"
    root = parse(MIXED + b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + inner + b"\r\n--b--\r\n")
    outer = root.children[0]
    assert outer.message is outer.children[0]
    assert outer.body() == inner and outer.message is not None
    assert outer.message.header.first(b"subject") == b"in"
    assert (outer.message.start, outer.message.end) == (outer.body_start, outer.end)
    assert shape(outer.message) == ("multipart/mixed", ("text/plain", b"X"))


def test_encoded_message_stays_a_leaf() -> None:
    data = b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogeAoK\n"
    root = parse(data)
    assert root.message is None and root.children == []
    assert root.findings == {Finding.ENCODED_COMPOSITE}
    assert root.decoded() == b"Subject: x\n\n"
    assert (
        parse(b"Content-Type: message/global\nContent-Transfer-Encoding: 8BIT\n\nA: b\n\n").message
        is not None
    )


def test_digest_default() -> None:
    data = b"Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: 1\n\nA\n--b\nContent-Type: text/x\n\nB\n--b--"
    assert shape(parse(data)) == (
        "multipart/digest",
        ("message/rfc822", ("text/plain", b"A")),
        ("text/x", b"B"),
    )


@pytest.mark.parametrize(
    "value", [b"multipart/mixed", b'multipart/mixed; boundary=""', b'multipart/mixed; boundary="  "']
)
def test_multipart_without_boundary_is_a_leaf(value: bytes) -> None:
    root = parse(b"Content-Type: " + value + b"\r\n\r\n--\r\n\r\nA\r\n----\r\n")
    assert not root.is_multipart and not root.children
    assert root.findings == {Finding.MISSING_BOUNDARY}
    assert root.ctype == "multipart"


def test_boundaries_of_odd_make() -> None:
    for written in (
        b'"a b"',
        b"a'()+_,./:=?b",
        b'"a\\"b"',
        b'"b  "',
        "bäh".encode(),
        b"bu\xdf",
        b"b*0=x",
        b"x" * 900,
    ):
        header = b"Content-Type: multipart/mixed; boundary" + (
            b"*0=x" if written == b"b*0=x" else b"=" + written
        )
        real = {b'"a b"': b"a b", b'"a\\"b"': b'a"b', b'"b  "': b"b", b"b*0=x": b"x", b"a'()+_,./:=?b": b"a'"}
        boundary = real.get(written, written)
        data = header + b"\n\n--" + boundary + b"\n\nA\n--" + boundary + b"--\n"
        assert bodies(data) == [b"A"], written


def test_findings() -> None:
    twice = parse(b"Content-Type: text/html\nContent-Type: text/plain\nContent-Transfer-Encoding: 8bit\n"
                  b"Content-Transfer-Encoding: base64\n\nx")  # fmt: skip
    assert twice.findings == {Finding.DUPLICATE_CONTENT_TYPE, Finding.DUPLICATE_ENCODING}
    assert (twice.subtype, twice.encoding) == ("html", "8bit")
    bad = parse(b"Content-Type: text\n\nx")
    assert (bad.ctype, bad.subtype) == ("text", "plain")
    assert bad.findings == {Finding.BAD_CONTENT_TYPE}
    assert Finding.NO_PARTS in parse(MIXED + b"nothing").findings
    assert Finding.UNTERMINATED in parse(MIXED + b"--b\r\n\r\nA").findings
    assert parse(MIXED + b"--b\r\n\r\nA\r\n--b--").findings == frozenset()


def test_decoding_and_names() -> None:
    part = parse(
        b"Content-Type: text/html; charset=iso-8859-1; name=x\nContent-Transfer-Encoding: Quoted-Printable\n"
        b"Content-Disposition: ATTACHMENT; filename*=utf-8''%C3%A9.html\n\ncaf=E9=\n"
    )
    assert part.decoded() == b"caf\xe9" and part.text() == "café"
    disposition = part.disposition()
    assert disposition is not None and disposition.value == "attachment"
    assert part.filename() == "é.html"
    bad = parse(b"Content-Transfer-Encoding: base64\n\nYW*Jj")
    assert bad.text() == "abc" and bad.findings == {Finding.BAD_BASE64}
    assert parse(b"Content-Type: image/png\n\nx").text() is None


def test_section_numbers() -> None:
    # RFC 9051 6.4.5, the example of the section numbers
    inner4 = (
        b"Content-Type: multipart/mixed; boundary=d\n\n--d\nContent-Type: image/gif\n\ng\n--d\n"
        b"Content-Type: message/rfc822\n\nSubject: deep\nContent-Type: multipart/mixed; boundary=e\n\n"
        b"--e\n\nP\n--e\nContent-Type: multipart/alternative; boundary=f\n\n--f\n\nt\n--f\nContent-Type: text/richtext\n\nr\n"
        b"--f--\n--e--\n--d--\n"
    )
    inner3 = b"Content-Type: multipart/mixed; boundary=c\n\n--c\n\n1\n--c\nContent-Type: application/x\n\n2\n--c--\n"
    data = (
        b"Content-Type: multipart/mixed; boundary=a\n\n--a\n\nT\n--a\nContent-Type: application/x\n\nO\n"
        b"--a\nContent-Type: message/rfc822\n\n" + inner3 + b"\n--a\n" + inner4 + b"\n--a--\n"
    )
    root = parse(data)
    found = {number: f"{part.ctype}/{part.subtype}" for number, part in numbered(root)}
    assert found == {
        "1": "text/plain", "2": "application/x", "3": "message/rfc822", "3.1": "text/plain", "3.2": "application/x",
        "4": "multipart/mixed", "4.1": "image/gif", "4.2": "message/rfc822", "4.2.1": "text/plain",
        "4.2.2": "multipart/alternative", "4.2.2.1": "text/plain", "4.2.2.2": "text/richtext",
    }  # fmt: skip
    for number, part in numbered(root):
        assert section(root, [int(digit) for digit in number.split(".")]) is part
    for path in ([5], [0], [1, 1], [3, 3], [4, 2, 2, 3], [2, 1], [-1]):
        assert section(root, path) is None
    assert section(root, []) is root
    single = parse(b"\nx")
    assert section(single, [1]) is single and section(single, [1, 1]) is None
    forwarded = parse(b"Content-Type: message/rfc822\n\nSubject: x\n\nbody")
    assert section(forwarded, [1]) is forwarded and section(forwarded, [1, 1]) is forwarded.message


def nest(count: int) -> bytes:
    opening = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (i, i) for i in range(count)
    )
    return opening + b"\r\nx" + b"".join(b"\r\n--b%d--" % i for i in reversed(range(count)))


def test_depth_limit() -> None:
    root = parse(nest(500))
    assert sum(1 for _ in walk(root)) <= 500
    assert Finding.DEPTH in all_findings(root)
    fine = parse(nest(limits.MIME_DEPTH - 1))
    assert sum(1 for _ in walk(fine)) == limits.MIME_DEPTH
    assert all_findings(fine) == {Finding.NO_BODY} or not all_findings(fine)
    messages = parse(b"Content-Type: message/rfc822\n\n" * 1000)
    assert sum(1 for _ in walk(messages)) == limits.MIME_DEPTH
    assert Finding.DEPTH in all_findings(messages)


def test_part_limit() -> None:
    root = parse(MIXED + b"--b\r\n\r\nx\r\n" * (limits.MIME_PARTS + 100) + b"--b--")
    assert len(root.children) == limits.MIME_PARTS - 1
    assert Finding.PARTS in root.findings
    assert root.children[-1].end == root.end == len(root.data)


def test_children_lie_inside_their_parents() -> None:
    data = MIXED + b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n--b--"
    for part in walk(parse(data)):
        assert part.start <= part.body_start <= part.end
        for child in part.children:
            assert part.body_start <= child.start and child.end <= part.end


def test_all_parts_share_one_budget_of_parameters() -> None:
    field = b"Content-Type: a/b" + b"".join(b";p%d=v" % at for at in range(100)) + b"\r\n"
    count = limits.MESSAGE_PARAMETERS // 100
    root = parse(MIXED + (b"--b\r\n" + field + b"Content-Disposition: x; filename=y\r\n\r\n") * (count + 50))
    assert len(root.children[0].params) == 100 and root.children[0].filename() == "y"
    last = root.children[-1]
    assert last.content_type.value == "a/b" and list(last.params) == ["p0", "p1", "p2", "p3"]
    assert last.filename() == "y"  # what is written as people's programs write it is still read
    assert Finding.PARAMETERS in last.findings


def test_a_disposition_is_read_once() -> None:
    part = parse(b"Content-Disposition: attachment; filename=y\r\n\r\nx")
    assert part.disposition() is part.disposition() is not None
    assert parse(b"\r\nx").disposition() is None


def test_lines_of_dashes_are_found_in_any_order_of_boundaries() -> None:
    inner = (
        b"--out\nContent-Type: multipart/mixed; boundary=in\n\n--in\n\na\n--x\n--in--\n--out\n\nb\n--out--\n"
    )
    root = parse(b"Content-Type: multipart/mixed; boundary=out\n\n" + inner)
    assert [len(part.children) for part in walk(root)] == [2, 1, 0, 0]
