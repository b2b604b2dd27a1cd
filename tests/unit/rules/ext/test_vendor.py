"""filterd's own words: header_block, score, age, attachment, lists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from rules.actions import FileInto, Keep, ListStore, RunResult, SetScore
from rules.compiler import compile_script
from rules.errors import ScriptErrors
from rules.registry import capabilities
from rules.simplehost import SimpleHost

Go = Callable[..., RunResult]
Holds = Callable[..., bool]

MAIL = (
    b"Received: from a by b;\r\n\tMon, 1 Dec 2025 10:00:00 +0000\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\n two\r\n"
    b"Date: Wed, 31 Dec 2025 22:00:00 -0200\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: multipart/alternative; boundary="c"\r\n\r\n'
    b"--c\r\nContent-Type: text/plain\r\n\r\nhello\r\n--c\r\nContent-Type: text/html\r\n\r\n<p>hello\r\n--c--\r\n"
    b'--b\r\nContent-Type: application/pdf; name="Bill 1.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\nMTIzNDU2Nzg5MA==\r\n'
    b"--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename*=utf-8''b%C3%BC.txt\r\n\r\n0123456789012345\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\nContent-Type: image/png; name=in.png\r\n\r\nxx\r\n--b--\r\n"
)
NOW = SimpleHost(moment=datetime(2026, 1, 1, tzinfo=UTC))


def test_they_are_announced() -> None:
    words = ("header-block", "score", "age", "attachment", "list")
    assert {f"vnd.filterd.{word}" for word in words} <= set(capabilities())


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('header_block :regex "(?m)^Subject: =.utf-8.*two$"', True),
        ('header_block :regex "(?m)^subject: .*two$"', True),
        ('header_block :regex :comparator "i;octet" "(?m)^subject:"', False),
        ('header_block :contains "from a by b;\tMon, 1 Dec"', True),
        ('header_block :contains :decoded "Subject: café two"', True),
        ('header_block :contains "café"', False),
        ('header_block :matches "Received:*Content-Type:*"', True),
        ('header_block :contains "hello"', False),
        ('header_block :count "eq" :comparator "i;ascii-numeric" "1"', True),
    ],
)
def test_header_block(holds: Holds, test: str, expected: bool) -> None:
    needs = "vnd.filterd.header-block regex relational comparator-i;ascii-numeric"
    assert holds(test, needs, MAIL) is expected


def test_header_block_in_a_dispatch(go: Go) -> None:
    rules = "".join(
        f'if header_block :contains ["no{number}", "{"two" if number == 7 else "zzz"}"] {{ fileinto "f{number}"; stop; }}\n'
        for number in range(20)
    )
    result = go('require ["fileinto", "vnd.filterd.header-block"];\n' + rules, MAIL)
    assert isinstance(result.actions[0], FileInto) and result.actions[0].mailbox == "f7"


@pytest.mark.parametrize(
    ("commands", "total"),
    [
        ('score "5"; score "-2";', 3),
        ('score "5"; score :set "2";', 2),
        ('score "+999999999999999"; score "999999999999999";', 1999999999999998),
        ('set "n" "7"; score "${n}"; score "-${n}"; score "${score.total}";', 0),
        ("", None),
    ],
)
def test_score(go: Go, commands: str, total: int | None) -> None:
    text = 'require ["vnd.filterd.score", "variables"];\n' + commands
    result = go(text)
    assert result.error is None
    assert [action.value for action in result.actions if isinstance(action, SetScore)] == (
        [] if total is None else [total]
    )
    assert result.keeps


def test_score_test(go: Go) -> None:
    text = (
        'require ["vnd.filterd.score", "fileinto", "variables"]; score "10";\n'
        "if allof (score :atleast 10, score :atmost 10, score :over 9, score :under 11, not score :over 10) {\n"
        '  fileinto "sum${score.total}";\n}'
    )
    assert any(isinstance(action, FileInto) and action.mailbox == "sum10" for action in go(text).actions)
    below = 'require "vnd.filterd.score"; score "-5"; if score :under 0 { discard; }'
    assert not go(below).keeps


@pytest.mark.parametrize(
    "text",
    ['score "x";', 'score "1.5";', "if score { }", "if score :over 1 :under 2 { }", 'set "a" "${score.x}";'],
)
def test_wrong_scores(text: str) -> None:
    with pytest.raises(ScriptErrors):
        compile_script('require ["vnd.filterd.score", "variables"];' + text)


def test_a_score_that_is_no_number_keeps_the_message(go: Go) -> None:
    result = go('require ["vnd.filterd.score", "variables"]; set "a" "x"; score "${a}"; discard;')
    assert "whole number" in (result.error or "") and result.keeps


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("age :under 1", True),  # the date is exactly now
        ("age :over 0", False),
        ('age :field "received" :days :over 30', True),
        ('age :days :field "received" :over 31', False),
        ('age :field "received" :weeks :under 5', True),
        ('age :field "received" :hours :over 733', True),
        ('age :field "x-none" :under 9G', False),
        ('age :field "subject" :over 0', False),
    ],
)
def test_age(holds: Holds, test: str, expected: bool) -> None:
    assert holds(test, "vnd.filterd.age", MAIL, NOW) is expected


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ('attachment :matches "*.pdf"', True),
        ('attachment :name "bü.txt"', True),
        ('attachment :is :type "application/pdf"', True),
        ('attachment :type ["text/html", "image/png"]', False),
        ('attachment :type "message/rfc822"', True),
        ('attachment :count "eq" :comparator "i;ascii-numeric" "3"', True),
        ('attachment :name "in.png"', False),
        ("attachment_size :over 15", True),
        ("attachment_size :over 200", False),
        ("attachment_size :under 11", True),
        ("attachment_size :total :over 40", True),
    ],
)
def test_attachment(holds: Holds, test: str, expected: bool) -> None:
    needs = "vnd.filterd.attachment relational comparator-i;ascii-numeric"
    assert holds(test, needs, MAIL) is expected


def test_no_attachment(holds: Holds) -> None:
    plain = b"Subject: x\r\n\r\nbody\r\n"
    assert not holds('attachment :contains ""', "vnd.filterd.attachment", plain)
    assert holds("attachment_size :total :under 1", "vnd.filterd.attachment", plain)
    assert not holds("attachment_size :under 1", "vnd.filterd.attachment", plain)


def test_lists(go: Go) -> None:
    host = SimpleHost(lists={"friends": {"Ann@example.org"}})
    text = (
        'require ["vnd.filterd.list", "extlists", "fileinto", "variables"];\n'
        'if not inlist "friends" ["bob@example.org", "ANN@example.org"] { error; }\n'
        'addtolist "friends" ["bob@example.org", "ann@example.org", " ", "carl@example.org"];\n'
        'removefromlist "friends" "carl@example.org";\n'
        'removefromlist "friends" "Ann@Example.org";\n'
        'if address :list "from" "friends" { fileinto "a"; }\n'
        'if inlist ["none", "friends"] "ann@example.org" { fileinto "b"; }\n'
    ).replace("{ error; }", "{ stop; }")
    result = go(text, b"From: bob@example.org\r\n\r\n", host)
    assert result.error is None
    stores = [action for action in result.actions if isinstance(action, ListStore)]
    assert [(one.name, one.value, one.remove) for one in stores] == [
        ("friends", "bob@example.org", False),
        ("friends", "Ann@Example.org", True),
    ]
    assert [action.mailbox for action in result.actions if isinstance(action, FileInto)] == ["a"]


def test_many_changes_of_lists(go: Go) -> None:
    values = ", ".join(f'"v{number}"' for number in range(65))
    result = go(f'require "vnd.filterd.list"; addtolist "x" [{values}];')
    assert "at most 64" in (result.error or "") and result.actions == [Keep(implicit=True)]


def test_address_books(holds: Holds) -> None:
    host = SimpleHost(lists={"urn:ietf:params:sieve:addrbook:default": {"joe@example.com"}})
    mail = b"From: Joe@example.com\r\n\r\n"
    for name in (":addrbook:default", ":ADDRBOOK:DeFault", ":AddrBook:%44%65%66ault"):
        assert holds(f'address :list "from" "{name}"', "extlists", mail, host)
    assert holds('valid_ext_list ":addrbook:default"', "extlists")
    assert not holds('valid_ext_list "tag:example.com,2026:x"', "extlists")
