"""`filterd-deliver`: its flags, what comes before the message, its exit codes."""

import io

import pytest

from filterd.cli import deliver, localmail
from filterd.cli.localmail import ExitWith, exit_code, guarded
from filterd.config.load import parse
from pipeline.reply import Reply


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(250, "2.0.0", "ok"), 0),
        (Reply(450, "4.3.0", "later"), 75),
        (Reply(452, "4.2.2", "full"), 75),
        (Reply(550, "5.1.1", "nobody"), 67),
        (Reply(552, "5.2.2", "full"), 69),
        (Reply(550, "5.7.1", "refused"), 77),
    ],
)
def test_replies_as_exit_codes(reply: Reply, code: int) -> None:
    assert exit_code(reply) == code


def test_whatever_happens_is_try_again(capsys) -> None:
    def fails(arguments) -> int:
        raise RuntimeError("a bug")

    def interrupted(arguments) -> int:
        raise KeyboardInterrupt

    def told(arguments) -> int:
        raise ExitWith(78, "why")

    assert guarded("x", fails, []) == 75
    assert guarded("x", interrupted, []) == 75
    assert guarded("x", told, []) == 78


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--nonsense"], 64),
        (["-c", "/nonexistent/filterd.toml", "ann@example.org"], 78),
        (["--help"], 0),
    ],
)
def test_exit_codes_of_wrong_use(argv: list[str], code: int, capsys) -> None:
    assert deliver.main(argv) == code


def test_nobody_named(tmp_path, capsys) -> None:
    file = tmp_path / "f.toml"
    file.write_text('[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "example.org"\n')
    assert deliver.main(["-c", str(file)]) == 64


@pytest.mark.parametrize(
    ("data", "message", "sender"),
    [
        (b"Subject: x\n\ny", b"Subject: x\n\ny", ""),
        (b"From a@b.c Mon Jan  1 00:00:00 2024\nSubject: x\n\n", b"Subject: x\n\n", "a@b.c"),
        (b"From MAILER-DAEMON Mon Jan  1 00:00:00 2024\r\nSubject: x\r\n\r\n", b"Subject: x\r\n\r\n", ""),
        (b"Return-Path: <a@b.c>\nSubject: x\n\n", b"Subject: x\n\n", "a@b.c"),
        (b"Return-Path: <>\r\nX: y\r\n", b"X: y\r\n", ""),
        (b"From: a@b.c\n\nFrom here on", b"From: a@b.c\n\nFrom here on", ""),
        (b"", b"", ""),
    ],
)
def test_what_stands_before_the_message(data: bytes, message: bytes, sender: str) -> None:
    assert deliver._without_envelope(data) == (message, sender)


@pytest.mark.parametrize(
    ("user", "original", "recipient"),
    [
        ("ann", "", "ann"),
        ("", "ann+x@example.org", "ann+x@example.org"),
        ("ann@example.org", "ann+list@example.org", "ann+list@example.org"),
        ("ann", "ann+list@example.org", "ann+list"),
        ("ann@example.org", "info@example.org", "ann@example.org"),
    ],
)
def test_account_and_original_address(user: str, original: str, recipient: str) -> None:
    assert deliver._recipient(user, original, "+") == recipient


def test_too_large_is_refused_before_it_is_read_whole(monkeypatch) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b"x" * size

    class Input:
        buffer = Endless()

    monkeypatch.setattr("sys.stdin", Input())
    with pytest.raises(ExitWith) as caught:
        localmail.read_message(5 << 20)
    assert caught.value.code == 65


def test_names_without_a_domain_are_ours() -> None:
    config = parse('[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "example.org"\n')
    assert localmail.with_domain("<ann>", config) == "ann@example.org"
    assert localmail.with_domain("<>", config) == ""
    assert localmail.with_domain("a@b.c", config) == "a@b.c"
