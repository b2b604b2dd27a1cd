"""RFC 7352: keys are asked of the host and remembered with the delivery."""

from __future__ import annotations

from collections.abc import Callable

from rules.actions import Remember, RunResult
from rules.simplehost import SimpleHost

MAIL = b"Message-ID: <a@b>\r\nX-Id:  =?utf-8?q?=C3=A9?= \r\n\r\n"
Go = Callable[..., RunResult]


def remembered(result: RunResult) -> list[Remember]:
    return [action for action in result.actions if isinstance(action, Remember)]


def test_first_and_second_time(go: Go) -> None:
    text = 'require "duplicate"; if duplicate { discard; }'
    first = go(text, MAIL)
    (key,) = remembered(first)
    assert key.seconds == 7 * 86_400 and len(first.actions) == 2
    second = go(text, MAIL, SimpleHost(remembered={key.key}))
    assert [type(action).__name__ for action in second.actions] == ["Discard"]


def test_two_tests_in_one_run_agree(go: Go) -> None:
    text = 'require "duplicate"; if anyof (duplicate, duplicate :header "message-id", duplicate :uniqueid "<a@b>") { discard; }'
    result = go(text, MAIL)
    assert len(remembered(result)) == 1 and result.error is None


def test_arguments(go: Go) -> None:
    keys = set()
    for arguments in ("", ':handle "x"', ':handle ""', ':header "x-id"', ':uniqueid "<A@b>"'):
        (key,) = remembered(go(f'require "duplicate"; if duplicate {arguments} {{ }}', MAIL))
        keys.add(key.key)
    assert len(keys) == 5
    for arguments in (":seconds 0", ':header "x-none"', ':header "not a name"'):
        assert remembered(go(f'require "duplicate"; if duplicate {arguments} {{ }}', MAIL)) == []
    (key,) = remembered(go('require "duplicate"; if duplicate :seconds 99999999999 { }', MAIL))
    assert key.seconds == 90 * 86_400


def test_last_is_remembered_anew(go: Go) -> None:
    (key,) = remembered(go('require "duplicate"; if duplicate { }', MAIL))
    host = SimpleHost(remembered={key.key})
    assert remembered(go('require "duplicate"; if duplicate { }', MAIL, host)) == []
    assert remembered(go('require "duplicate"; if duplicate :last :seconds 60 { }', MAIL, host)) == [
        Remember(key.key, 60)
    ]


def test_nothing_is_remembered_by_a_failed_run(go: Go) -> None:
    result = go('require ["duplicate", "ihave"]; if duplicate { } error "x";', MAIL)
    assert remembered(result) == [] and result.error == "x"
