"""RFC 5435 and 5436."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rules.actions import Notify, RunResult
from rules.ext.enotify import parse_mailto
from rules.mail.message import Message

MAIL = b"From: a@b\r\nSubject: Hi\r\nMessage-ID: <m@x>\r\n\r\n"
Go = Callable[..., RunResult]


def sent(result: RunResult) -> list[Notify]:
    assert result.error is None, result.error
    return [action for action in result.actions if isinstance(action, Notify)]


def test_a_notification(go: Go) -> None:
    text = 'require "enotify"; notify :importance "1" :message "News é" '
    text += '"mailto:x@y.example,z@y.example?cc=c@y.example&body=B%0D%0Ab&X-Own=1&From=evil@y";'
    (note,) = sent(go(text, MAIL))
    assert note.recipients == ("x@y.example", "z@y.example", "c@y.example")
    assert (note.subject, note.sender, note.importance) == ("News é", "me@example.org", 1)
    assert note.message is not None
    message = Message(note.message)
    assert message.subject() == "News é" and message.root.text() == "B\r\nb\r\n"
    first = message.header.first
    assert first(b"auto-submitted") == b'auto-notified; owner-email="me@example.org"'
    assert first(b"to") == b"x@y.example, z@y.example" and first(b"cc") == b"c@y.example"
    assert (
        first(b"from") == b"me@example.org" and first(b"x-own") == b"1" and first(b"references") == b"<m@x>"
    )


def test_subject_falls_back(go: Go) -> None:
    assert sent(go('require "enotify"; notify "mailto:x@y.example?subject=U%20v";', MAIL))[0].subject == "U v"
    assert sent(go('require "enotify"; notify "mailto:x@y.example";', MAIL))[0].subject == "Hi"


def test_null_sender_stays_null(go: Go) -> None:
    assert sent(go('require "enotify"; notify "mailto:x@y.example";', MAIL, None, ""))[0].sender == ""


def test_once_to_each(go: Go) -> None:
    text = 'require "enotify"; notify "mailto:x@y.example"; notify "mailto:x@y.example,z@y.example"; notify "mailto:z@y.example";'
    assert [note.recipients for note in sent(go(text, MAIL))] == [("x@y.example",), ("z@y.example",)]


def test_not_for_automatic_mail(go: Go) -> None:
    assert (
        sent(go('require "enotify"; notify "mailto:x@y.example";', b"Auto-Submitted: auto-replied\r\n\r\n"))
        == []
    )


@pytest.mark.parametrize(
    "uri",
    [
        "xmpp:x@y",
        "mailto:",
        "nonsense",
        "mailto:%ZZ",
        "mailto:a b@c.example",
        "mailto:x#y.example",
        "mailto:x@y.example?a<=b",
    ],
)
def test_invalid(holds: Callable[..., bool], go: Go, uri: str) -> None:
    assert isinstance(parse_mailto(uri), str)
    assert not holds(f'valid_notify_method ["mailto:x@y.example", "{uri}"]', "enotify")
    text = f'require ["enotify", "variables"]; set "u" "{uri}"; notify "${{u}}";'
    assert go(text, MAIL).error is not None


def test_capability(holds: Callable[..., bool]) -> None:
    assert holds('notify_method_capability "mailto:x@y.example" "Online" "maybe"', "enotify")
    assert not holds('notify_method_capability "mailto:x@y.example" "other" "maybe"', "enotify")
    assert not holds('notify_method_capability "xmpp:x@y" "online" ["yes", "maybe"]', "enotify")


def test_encodeurl_modifier(go: Go) -> None:
    text = 'require ["enotify", "variables", "fileinto"]; set :encodeurl "a" "a é/~"; fileinto "${a}";'
    (action,) = go(text, MAIL).actions
    assert action.mailbox == "a%20%C3%A9%2F~"  # type: ignore[union-attr]  # a FileInto


def test_limit(go: Go) -> None:
    text = 'require "enotify"; ' + "".join(f'notify "mailto:x{number}@y.example";' for number in range(9))
    assert go(text, MAIL).error is not None
