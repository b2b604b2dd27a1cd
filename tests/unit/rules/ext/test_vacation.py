"""RFC 5230, 6131, 3834: who gets an answer, and what it looks like."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from rules.actions import RunResult, Vacation
from rules.mail.message import Message
from rules.simplehost import SimpleHost

MAIL = (
    b"From: Joe Doe <joe@example.com>\r\nTo: me@example.org\r\nSubject: Hi\r\nMessage-ID: <m@x>\r\n"
    b"References: <r@x>\r\n{}\r\nbody\r\n"
)
Go = Callable[..., RunResult]


def host(**more: object) -> SimpleHost:
    return SimpleHost(
        addresses=["me@example.org", "alias@example.org"], moment=datetime(2026, 5, 4, tzinfo=UTC), **more
    )  # type: ignore[arg-type]  # by name


def mail(more: bytes = b"", to: bytes = b"me@example.org") -> bytes:
    return MAIL.replace(b"{}\r\n", more + b"\r\n" if more else b"\r\n").replace(b"me@example.org", to)


def answer(result: RunResult) -> Vacation | None:
    assert result.error is None, result.error
    found = [action for action in result.actions if isinstance(action, Vacation)]
    return found[0] if found else None


def test_the_answer(go: Go) -> None:
    found = answer(go('require "vacation"; vacation "Gone\nfishing é";', mail(), host()))
    assert found is not None
    assert (found.to, found.sender, found.subject) == ("joe@example.com", "me@example.org", "Auto: Hi")
    assert found.memory_seconds == 7 * 86_400
    message = Message(found.message)
    head = {
        name: message.header.first(name)
        for name in (b"to", b"from", b"in-reply-to", b"references", b"auto-submitted")
    }
    assert head == {
        b"to": b'"Joe Doe" <joe@example.com>',
        b"from": b"me@example.org",
        b"in-reply-to": b"<m@x>",
        b"references": b"<r@x> <m@x>",
        b"auto-submitted": b"auto-replied (vacation)",
    }
    assert message.root.text() == "Gone\r\nfishing é\r\n"
    assert message.date() == datetime(2026, 5, 4, tzinfo=UTC)
    assert b"\n" not in found.message.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    "more",
    [
        b"List-Id: <x>",
        b"List-Unsubscribe: <x>",
        b"Auto-Submitted: auto-generated",
        b"Auto-Submitted: auto-replied (no)",
        b"Precedence: bulk",
        b"X-Auto-Response-Suppress: DR, OOF",
    ],
)
def test_not_to_machines(go: Go, more: bytes) -> None:
    assert answer(go('require "vacation"; vacation "x";', mail(more), host())) is None


@pytest.mark.parametrize(
    "more",
    [
        b"Auto-Submitted: no",
        b"Auto-Submitted: No (a person); x=y",
        b"Precedence: normal",
        b"X-Auto-Response-Suppress: None",
    ],
)
def test_to_people(go: Go, more: bytes) -> None:
    assert answer(go('require "vacation"; vacation "x";', mail(more), host())) is not None


@pytest.mark.parametrize(
    "sender",
    [
        "",
        "<>",
        "me@example.org",
        "alias+x@example.org",
        "MAILER-DAEMON@x.example",
        "owner-list@x.example",
        "l-request@x.example",
        "broken",
    ],
)
def test_not_to_these(go: Go, sender: str) -> None:
    assert answer(go('require "vacation"; vacation "x";', mail(), host(), sender)) is None


@pytest.mark.parametrize(
    ("to", "arguments", "answered"),
    [
        (b"all@example.org", "", False),
        (b"ALIAS@example.org", "", True),
        (b"me+box@example.org", "", True),
        (b"other@example.net", ':addresses ["Other@example.NET"]', True),
        (b"undisclosed:;", "", False),
    ],
)
def test_only_when_addressed(go: Go, to: bytes, arguments: str, answered: bool) -> None:
    found = answer(go(f'require "vacation"; vacation {arguments} "x";', mail(to=to), host()))
    assert (found is not None) is answered


def test_catch_all_is_silent(go: Go) -> None:
    quiet = host(items={"vnd.filterd.recipient-path": "catch-all"})
    assert answer(go('require "vacation"; vacation "x";', mail(), quiet)) is None


def test_memory(go: Go) -> None:
    head = 'require ["vacation-seconds", "variables"]; '
    found = answer(go(head + 'vacation :days 3 "x";', mail(), host()))
    assert found is not None and found.memory_seconds == 3 * 86_400
    known = host(remembered={found.memory_key})
    assert answer(go(head + 'vacation :days 3 "x";', mail(), known)) is None
    assert answer(go(head + 'vacation "y";', mail(), known)) is not None
    assert answer(go(head + 'vacation :handle "h" "x";', mail(), known)) is not None
    assert answer(go(head + 'vacation "x";', mail(), known, "jane@example.com")) is not None
    zero = answer(go(head + 'vacation :seconds 0 "x";', mail(), known))
    assert zero is not None and zero.memory_seconds == 0


def test_memory_goes_by_unexpanded_arguments(go: Go) -> None:
    text = 'require ["vacation", "variables"]; if header :matches "subject" "*" { vacation :subject "Re: ${1}" "x"; }'
    one = answer(go(text, mail(), host()))
    other = answer(go(text, mail().replace(b"Hi", b"Ho"), host()))
    assert one is not None and other is not None
    assert one.memory_key == other.memory_key and (one.subject, other.subject) == ("Re: Hi", "Re: Ho")


def test_from_subject_mime(go: Go) -> None:
    text = (
        'require "vacation"; vacation :mime :subject "=?utf-8?q?=C3=A9?= x" :from "Günther <g@example.org>" '
        '"Content-Type: text/html\r\n\r\n<b>x</b>";'
    )
    found = answer(go(text, mail(), host()))
    assert found is not None and found.subject == "é x"
    message = Message(found.message)
    assert message.root.subtype == "html" and message.subject() == "é x"
    assert message.from_addresses()[0].name == "Günther"
    assert message.header.first(b"mime-version") == b"1.0"


def test_a_subject_cannot_add_fields(go: Go) -> None:
    found = answer(
        go('require "vacation"; vacation :subject "x\r\nBcc: all@example.com" "y";', mail(), host())
    )
    assert found is not None
    assert Message(found.message).header.first(b"bcc") is None


def test_only_once(go: Go) -> None:
    result = go('require "vacation"; vacation "x"; vacation "y";', mail(), host())
    assert result.error is not None


def test_settings(go: Go) -> None:
    asked = host()
    asked.setting("vacation_min_period", "10d")
    asked.setting("vacation_default_subject_template", "Weg: %{subject}")
    found = answer(go('require "vacation"; vacation "x";', mail(), asked))
    assert found is not None and found.memory_seconds == 864_000 and found.subject == "Weg: Hi"
    asked.setting("vacation_check_recipient", "no")
    assert answer(go('require "vacation"; vacation "x";', mail(to=b"all@x.example"), asked)) is not None


def test_fcc(go: Go) -> None:
    text = 'require ["vacation", "fcc", "mailbox", "imap4flags"]; vacation :fcc "Sent" :create :flags "\\\\Seen" "x";'
    found = answer(go(text, mail(), host()))
    assert found is not None and found.fcc is not None
    assert (found.fcc.mailbox, found.fcc.create, found.fcc.flags) == ("Sent", True, ("\\Seen",))


@pytest.mark.parametrize(
    ("fields", "references"),
    [
        (b"In-Reply-To: <q@x>\r\n", b"<q@x> <m@x>"),
        (b"In-Reply-To: <q@x> <p@x>\r\n", b"<m@x>"),
        (b"In-Reply-To: Your mail of Monday\r\n", b"<m@x>"),
        (b"References: <r@x>\r\nIn-Reply-To: <q@x>\r\n", b"<r@x> <m@x>"),
    ],
)
def test_references_of_an_answer_to_an_answer(go: Go, fields: bytes, references: bytes) -> None:
    """RFC 5322 3.6.4: without References, a single In-Reply-To stands in."""
    text = mail().replace(b"References: <r@x>\r\n", fields)
    found = answer(go('require "vacation"; vacation "x";', text, host()))
    assert found is not None and Message(found.message).header.first(b"references") == references


def test_the_older_template_of_subjects(go: Go) -> None:
    asked = host()
    asked.setting("vacation_default_subject_template", "Weg: %$ (%{subject})")
    found = answer(go('require "vacation"; vacation "x";', mail().replace(b"Hi", b"%{subject} \\1"), asked))
    assert found is not None and found.subject == "Weg: %{subject} \\1 (%{subject} \\1)"
