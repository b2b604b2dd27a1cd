"""Address lists: RFC 5322 examples, obsolete forms, broken mail."""

import pytest

from rules.mail import limits
from rules.mail.address import Group, Mailbox, parse_list, parse_one, quote_local, render, split
from rules.mail.findings import Finding


def shown(value: bytes) -> list[tuple[str, str]]:
    return [(m.name, m.address) for m in parse_list(value).mailboxes]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", []),
        (b" , ,, ", []),
        (b"a@b.example", [("", "a@b.example")]),
        (b"<a@b>", [("", "a@b")]),
        (b"John Doe <jdoe@machine.example>", [("John Doe", "jdoe@machine.example")]),
        (b'"Joe Q. Public" <john.q.public@example.com>', [("Joe Q. Public", "john.q.public@example.com")]),
        (b"Joe Q. Public <john@example.com>", [("Joe Q. Public", "john@example.com")]),
        (b'Who? <one@y.test>, <boss@nil.test>, "Giant; \\"Big\\" Box" <sysservices@example.net>',
         [("Who?", "one@y.test"), ("", "boss@nil.test"), ('Giant; "Big" Box', "sysservices@example.net")]),
        (b"Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>", [("Pete", "pete@silly.test")]),
        (b"Mary Smith <@node.test:mary@example.net>, , jdoe@test  . example",
         [("Mary Smith", "mary@example.net"), ("", "jdoe@test.example")]),
        (b"john . doe @ example . org", [("", "john.doe@example.org")]),
        (b"(a (nested (deep)) comment) a@b", [("a (nested (deep)) comment", "a@b")]),
        (b"a@b (Real Name)", [("Real Name", "a@b")]),
        (b'"quoted \\" local"@x', [("", '"quoted \\" local"@x')]),
        (b'"a@b"@c.d', [("", '"a@b"@c.d')]),
        (b'"john".doe@x', [("", "john.doe@x")]),
        (b"user@[192.0.2.1]", [("", "user@[192.0.2.1]")]),
        (b"X <user@[IPv6:2001:db8::1]>", [("X", "user@[IPv6:2001:db8::1]")]),
        (b"=?utf-8?q?J=C3=B6rg?= <j@x>", [("Jörg", "j@x")]),
        ("Jörg <jörg@bücher.example>".encode(), [("Jörg", "jörg@bücher.example")]),
        (b"J\xf6rg <j@x>", [("Jörg", "j@x")]),
        # broken
        (b"John Doe jdoe@example.org", [("John Doe", "jdoe@example.org")]),
        (b"John <jdoe@example.org", [("John", "jdoe@example.org")]),
        (b"jdoe@example.org>", [("", "jdoe@example.org")]),
        (b"root", [("", "root")]),
        (b"two words", [("two words", "")]),
        (b"<>", [("", "")]),
        (b"a@b@c", [("", '"a@b"@c')]),
        (b'"never closed <a@b>, c@d', [("", '"never closed <a@b>, c@d"')]),
        (b"(never closed a@b", []),
        (b"a@b; c@d", [("", "a@b"), ("", "c@d")]),
        (b"a@b <c@d>", [("a@b", "c@d")]),
        (b"\0a@b\0", [("", "a@b")]),
        (b"a@b\r\n ,\r\n\tc@d", [("", "a@b"), ("", "c@d")]),
        (b'"folded\r\n name" <a@b>', [("folded name", "a@b")]),
    ],
)  # fmt: skip
def test_mailboxes(value: bytes, expected: list[tuple[str, str]]) -> None:
    assert shown(value) == expected


def test_groups() -> None:
    parsed = parse_list(
        b"A Group:Ed Jones <joe@a.test>,joe@where.test,John <jdoe@one.test>; x@y, undisclosed-recipients:;"
    )
    group, single, empty = parsed.items
    assert isinstance(group, Group) and isinstance(empty, Group)
    assert group.name == "A Group" and [m.local for m in group.members] == ["joe", "joe", "jdoe"]
    assert isinstance(single, Mailbox) and single.address == "x@y"
    assert empty == Group("undisclosed-recipients", (), b"undisclosed-recipients")
    assert len(parsed.mailboxes) == 4
    assert parsed.findings == frozenset()
    open_group = parse_list(b"g: a@b, c@d")
    assert open_group.findings == {Finding.UNTERMINATED}
    assert [m.address for m in open_group.mailboxes] == ["a@b", "c@d"]


def test_routes_and_raw_names() -> None:
    found = parse_one(b'=?utf-8?q?a?= "b \\" c" <@one.test,@two . test:joe@three.test>')
    assert found == Mailbox('a b " c', "joe", "three.test", b'=?utf-8?q?a?= b " c', "@one.test,@two.test")
    assert parse_one(b"") is None


def test_findings_and_limits() -> None:
    assert parse_list(b"a@b, c <d@e>").findings == frozenset()
    assert Finding.BAD_ADDRESS in parse_list(b"nobody").findings
    assert Finding.UNTERMINATED in parse_list(b'"x').findings
    many = parse_list(b",".join(b"u%d@x" % i for i in range(limits.ADDRESSES + 10)))
    assert len(many.items) == limits.ADDRESSES
    assert Finding.ADDRESSES in many.findings
    nested = parse_list(b"(" * 50_000 + b")" * 50_000 + b" a@b")
    assert nested.findings == {Finding.COMMENT_DEPTH}
    assert [m.address for m in nested.mailboxes] == ["a@b"]


@pytest.mark.parametrize(
    ("address", "local", "domain"),
    [
        ("a@b", "a", "b"),
        ("a", "a", ""),
        ('"a b"@c', "a b", "c"),
        ('"a@b"@c', "a@b", "c"),
        ('"a\\"b"@c', 'a"b', "c"),
        ("", "", ""),
    ],
)
def test_split(address: str, local: str, domain: str) -> None:
    assert split(address) == (local, domain)
    if domain:
        assert Mailbox("", local, domain).address == address


def test_writing() -> None:
    assert quote_local("a.b") == "a.b"
    assert quote_local("a..b") == '"a..b"'
    assert quote_local("a b") == '"a b"'
    assert render(Mailbox("Doe, John", "j", "x.org")) == b'"Doe, John" <j@x.org>'
    assert render(Mailbox("Jörg", "j", "x")) == b"=?utf-8?q?J=C3=B6rg?= <j@x>"
    assert render(Mailbox("", "", "")) == b"<>"
    group = Group("Team", (Mailbox("", "a", "b"), Mailbox("C", "c", "d")))
    assert render(group) == b"Team: a@b, C <c@d>;"
