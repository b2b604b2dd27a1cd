"""RFC 5293."""

from __future__ import annotations

from collections.abc import Callable

from rules.actions import FileInto, Keep, RunResult
from rules.simplehost import SimpleHost

MAIL = b"Received: x\r\nA: 1\r\nSubject: s\r\nA: 2\r\nA: 3\r\n\r\nbody\r\n"
HEAD = 'require ["editheader", "fileinto", "copy"]; '
Go = Callable[..., RunResult]


def final(result: RunResult) -> bytes | None:
    assert result.error is None, result.error
    (keep,) = [action for action in result.actions if isinstance(action, Keep)]
    return keep.message


def test_add(go: Go) -> None:
    assert final(go(HEAD + 'addheader "X" "y";', MAIL)) == b"X: y\r\n" + MAIL
    assert final(go(HEAD + 'addheader :last "X" "é";', MAIL)) == MAIL.replace(
        b"\r\n\r\n", b"\r\nX: =?utf-8?b?w6k=?=\r\n\r\n"
    )
    assert final(go(HEAD + "keep;", MAIL)) is None


def test_injection(go: Go) -> None:
    message = final(go(HEAD + 'addheader "X" "a\r\nBcc: b\r\n\r\nbody";', MAIL))
    assert message is not None and b"\r\nBcc" not in message and message.endswith(MAIL)


def test_delete(go: Go) -> None:
    def left(arguments: str) -> list[bytes]:
        message = final(go(HEAD + f"deleteheader {arguments};", MAIL)) or MAIL
        return [line for line in message.split(b"\r\n") if line.startswith(b"A")]

    assert left('"a"') == []
    assert left(':index 1 "a"') == [b"A: 2", b"A: 3"]
    assert left(':index 1 :last "a"') == [b"A: 1", b"A: 2"]
    assert left(':contains "a" ["2", "3"]') == [b"A: 1"]
    assert left(':index 1 :contains "a" "2"') == [b"A: 1", b"A: 2", b"A: 3"]
    assert left(':index 9 "a"') == [b"A: 1", b"A: 2", b"A: 3"]
    assert final(go(HEAD + 'deleteheader "Received"; deleteheader "auto-submitted";', MAIL)) is None


def test_tests_and_actions_see_the_edits(go: Go) -> None:
    text = (
        HEAD
        + 'addheader "X" "y"; if header "x" "y" { fileinto :copy "a"; } deleteheader "x"; deleteheader :index 1 "a";'
    )
    result = go(text, MAIL)
    (store,) = [action for action in result.actions if isinstance(action, FileInto)]
    assert store.message == b"X: y\r\n" + MAIL
    assert final(result) == MAIL.replace(b"A: 1\r\n", b"")


def test_an_edited_message_is_the_same_message(go: Go) -> None:
    assert len(go(HEAD + 'keep; addheader "X" "y"; keep;', MAIL).actions) == 1


def test_lf_messages_come_out_with_crlf(go: Go) -> None:
    message = final(go(HEAD + 'addheader "X" "y";', b"A: b\n\nc\n"))
    assert message == b"X: y\r\nA: b\r\n\r\nc\r\n"


def test_forbidden(go: Go) -> None:
    host = SimpleHost()
    host.setting("editheader_forbid_add", "x-no subject")
    host.setting("editheader_forbid_delete", "a")
    assert final(go(HEAD + 'addheader "X-No" "y"; deleteheader "a";', MAIL, host)) is None
    assert final(go(HEAD + 'addheader "Subject" "y";', MAIL, host)) is not None


def test_limits(go: Go) -> None:
    assert go(HEAD + 'addheader "X" "y";' * 65, MAIL).error is not None


def test_a_line_that_continues_nothing_does_not_become_part_of_what_is_added(go: Go) -> None:
    mail = b" a blank first\r\n\tand more\r\n" + MAIL
    message = final(go(HEAD + 'addheader "X" "y"; if header "x" "y" { addheader "Z" "z"; }', mail))
    assert message == b" a blank first\r\n\tand more\r\nZ: z\r\nX: y\r\n" + MAIL
