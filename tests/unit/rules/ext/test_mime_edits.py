"""replace and enclose on messages as they come: bare LF, boundaries in the text, odd trees; bytes around stay."""

from __future__ import annotations

import pytest

from rules.actions import FileInto, Keep, Redirect, RunResult
from rules.compiler import compile_script
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.mail.message import Message
from rules.simplehost import SimpleHost

TREE = (
    b"From: ann@example.com\r\nSubject: tree\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="B"\r\n\r\npreamble\r\n--B\r\nContent-Type: text/plain\r\n\r\none\r\n'
    b"--B\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n"
    b"--B\r\nContent-Type: message/rfc822\r\n\r\nFrom: inner@example.com\r\nSubject: inner\r\n\r\ninner text\r\n"
    b"--B--\r\nepilogue\r\n"
)
REQUIRE = (
    'require ["replace", "enclose", "foreverypart", "mime", "fileinto", "copy", "editheader", "variables"];\n'
)


def decide(script: str, message: bytes = TREE) -> RunResult:
    result = run(
        [compile_script(REQUIRE + script)],
        Message(message),
        ScriptEnvelope("ann@example.com", "bob@example.org", "bob@example.org"),
        SimpleHost(),
    )
    assert result.error is None, result.error
    return result


def kept(result: RunResult) -> bytes:
    (action,) = [one for one in result.actions if isinstance(one, Keep)]
    assert action.message is not None
    return action.message


IMAGE = 'if header :mime :type "content-type" "image" '


@pytest.mark.parametrize("data", [TREE, TREE.replace(b"\r\n", b"\n")], ids=["crlf", "lf"])
def test_only_the_part_changes(data: bytes) -> None:
    new = kept(decide(f'foreverypart {{ {IMAGE} {{ replace "gone"; }} }}', data))
    start = TREE.index(b"Content-Type: image/png")
    end = TREE.index(b"\r\n--B\r\nContent-Type: message")
    expected = b"Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\ngone"
    assert new == TREE[:start] + expected + TREE[end:]


def test_several_parts_and_a_header_edit_between() -> None:
    new = kept(
        decide(
            'foreverypart { if header :mime "content-type" "text/plain" { replace "first"; addheader "X-A" "1"; }\n'
            f'{IMAGE} {{ replace "second"; }} }}'
        )
    )
    root = Message(new).root
    assert [part.text() for part in root.children[:2]] == ["first", "second"]
    assert new.startswith(b"X-A: 1\r\n") and new.endswith(b"--B--\r\nepilogue\r\n")


def test_replaced_twice_the_last_counts() -> None:
    new = kept(decide(f'foreverypart {{ {IMAGE} {{ replace "a"; replace "b"; }} }}'))
    assert Message(new).root.children[1].text() == "b"
    assert len(Message(new).root.children) == 3


@pytest.mark.parametrize("text", ["--B", "x\r\n--B--\r\ny", "--Bother\r\n"])
def test_a_boundary_in_the_text_is_encoded(text: str) -> None:
    new = kept(decide(f'foreverypart {{ {IMAGE} {{ replace "{text}"; }} }}'))
    root = Message(new).root
    assert len(root.children) == 3
    found = root.children[1].text()
    assert found is not None and found.strip() == text.strip()


def test_a_boundary_in_a_mime_entity_fails_the_run() -> None:
    script = f'foreverypart {{ {IMAGE} {{ replace :mime "Content-Type: text/plain\r\n\r\n--B\r\n"; }} }}'
    result = run(
        [compile_script(REQUIRE + script)],
        Message(TREE),
        ScriptEnvelope("a@b.example", "c@d.example"),
        SimpleHost(),
    )
    assert result.error is not None and "boundary" in result.error
    assert result.actions == [Keep(implicit=True)]


def test_an_inner_message_keeps_its_header() -> None:
    new = kept(decide('foreverypart { if header :mime "subject" "inner" { replace "no letter"; } }'))
    inner = Message(new).root.children[2].message
    assert inner is not None
    assert inner.header.first(b"from") == b"inner@example.com"
    assert inner.text() == "no letter"


def test_the_whole_message_in_a_loop_ends_its_parts() -> None:
    new = kept(decide('set "n" ""; foreverypart { replace "all"; set "n" "${n}x"; } addheader "X-N" "${n}";'))
    assert Message(new).first(b"x-n") == b"x"
    assert Message(new).root.text() == "all\r\n"


def test_enclose_leaves_the_message_as_it_was() -> None:
    result = decide('enclose "look out"; redirect :copy "erin@example.net"; keep;')
    redirect = next(one for one in result.actions if isinstance(one, Redirect))
    assert redirect.message is None
    root = Message(kept(result)).root
    assert [(part.ctype, part.subtype) for part in root.children] == [
        ("text", "plain"),
        ("message", "rfc822"),
    ]
    assert root.children[1].body() == TREE
    assert Message(kept(result)).first(b"date") is not None


def test_enclose_with_copied_fields_has_each_once() -> None:
    data = b"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <a@b>\r\n" + TREE
    result = decide(
        'enclose :headers ["date", "message-id", "from", "content-type"] "x"; fileinto "A";', data
    )
    (action,) = [one for one in result.actions if isinstance(one, FileInto)]
    assert action.message is not None
    header = Message(action.message).header
    for name in (b"date", b"message-id", b"from", b"content-type", b"mime-version"):
        assert len(header.get_all(name)) == 1, name
    assert header.first(b"message-id") == b"<a@b>"


def test_limits() -> None:
    script = REQUIRE + "".join(f'enclose "{number}";' for number in range(9))
    result = run(
        [compile_script(script)], Message(TREE), ScriptEnvelope("a@b.example", "c@d.example"), SimpleHost()
    )
    assert result.error is not None and "enclosed at most" in result.error


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n", b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x", b"no header at all", b"\xff\0"],
)
def test_odd_messages(data: bytes) -> None:
    result = decide('foreverypart { replace :subject "s" "new"; } enclose "e"; keep;', data)
    assert isinstance(kept(result), bytes)


def test_enclose_of_8_bit_data_says_so() -> None:
    """RFC 2045 6.4: without it the parts would be declared 7bit."""
    root = Message(kept(decide('enclose "e";', TREE.replace(b"one", "früh".encode())))).root
    assert root.encoding == "8bit" and root.children[1].encoding == "8bit"
    assert Message(kept(decide('enclose "e";'))).header.first(b"content-transfer-encoding") is None
