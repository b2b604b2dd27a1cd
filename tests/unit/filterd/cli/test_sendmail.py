"""`filterd-sendmail`: flags as cron, PHP, mutt and git send them; the header it completes."""

from pathlib import Path

import pytest

from filterd.cli.localmail import ExitWith
from filterd.cli.sendmail import Flags, completed, header_recipients, main, parse
from rules.mail import header


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-t", "-i"], Flags(from_header=True, dots=False)),
        (["-ti"], Flags(from_header=True, dots=False)),
        (["-oi", "-f", "a@b.c", "x@y.z"], Flags(dots=False, sender="a@b.c", recipients=["x@y.z"])),
        (["-fa@b.c", "x"], Flags(sender="a@b.c", recipients=["x"])),
        (["-r", "a@b.c", "--", "-x@y.z"], Flags(sender="a@b.c", recipients=["-x@y.z"])),
        (["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root"],
         Flags(from_header=True, dots=False, sender="root", full_name="CronDaemon")),
        (["-B8BITMIME", "-oi", "-f", "<>", "-N", "never", "-R", "hdrs", "-V", "id", "x"],
         Flags(dots=False, sender="<>", recipients=["x"],
               params={"BODY": "8BITMIME", "NOTIFY": "NEVER", "RET": "HDRS", "ENVID": "id"})),
        (["-Nfailure,Delay", "-V", "a+b c", "-Rfull", "x"],
         Flags(recipients=["x"], params={"NOTIFY": "FAILURE,DELAY", "ENVID": "a+2Bb+20c", "RET": "FULL"})),
        (["-oem", "-oi", "--", "a", "b"], Flags(dots=False, recipients=["a", "b"])),
        (["-v", "-n", "-m", "-G", "-U", "-h", "5", "-O", "Timeout=1", "-L", "tag", "x"], Flags(recipients=["x"])),
        (["-bp"], Flags(mode="p")),
        (["-q30m"], Flags(mode="q", which="30m")),
        (["-qRexample.net"], Flags(mode="q", which="Rexample.net")),
        (["-XV", "x"], Flags(verp="+=", recipients=["x"])),
        (["-XV-+", "x"], Flags(verp="-+", recipients=["x"])),
        (["-X", "/var/log/x", "x"], Flags(recipients=["x"])),
        (["-oAhash:/etc/aliases", "-bi"], Flags(mode="i", aliases="hash:/etc/aliases")),
        (["-C", "f.toml", "x"], Flags(config="f.toml", recipients=["x"])),
        (["-bm", "x"], Flags(recipients=["x"])),
        (["-em", "-ep", "-x", "y"], Flags(recipients=["y"])),
        (["-e", "m", "-Am", "-pESMTP:host", "-X", "/tmp/log", "x"], Flags(recipients=["x"])),
        (["-I"], Flags(mode="i")),
        (["-o", "i", "x"], Flags(dots=False, recipients=["x"])),
    ],
)  # fmt: skip
def test_flags(argv: list[str], expected: Flags) -> None:
    assert parse(argv) == expected


@pytest.mark.parametrize(("name", "mode"), [("mailq", "p"), ("newaliases", "i"), ("sendmail", "m")])
def test_other_names(name: str, mode: str) -> None:
    assert parse([], name).mode == mode


@pytest.mark.parametrize("argv", [
        ["-f"], ["-Z"], ["-C"], ["-N", "often"], ["-N", "never,delay"], ["-R", "all"], ["-B", "9BIT"], ["-V", "\x07"],
    ],
)  # fmt: skip
def test_wrong_use(argv: list[str]) -> None:
    with pytest.raises(ExitWith) as caught:
        parse(argv)
    assert caught.value.code == 64


def test_exit_codes(tmp_path, capsys) -> None:
    assert main(["-Z"]) == 64
    assert main(["-bd"]) == 69
    assert main(["-C", str(tmp_path / "none.toml"), "x"]) == 78


MESSAGE = b"To: Ann <ann@example.org>, bob@example.org\nBcc: carl@example.org,\n dora@example.org\nSubject: x\n\nhello\n"


def test_recipients_of_the_header() -> None:
    assert header_recipients(header.scan(MESSAGE)) == [
        "ann@example.org",
        "bob@example.org",
        "carl@example.org",
        "dora@example.org",
    ]
    resent = b"Resent-To: eve@example.org\n" + MESSAGE
    assert header_recipients(header.scan(resent)) == ["eve@example.org"]


def test_the_header_is_completed_and_bcc_goes() -> None:
    text = completed(MESSAGE, header.scan(MESSAGE), "me@example.org", "Me Myself", "mail.example.org")
    block = header.scan(text)
    assert block.first(b"from") == b"Me Myself <me@example.org>"
    assert block.first(b"date") and b"@mail.example.org>" in (block.first(b"message-id") or b"")
    assert block.first(b"bcc") is None and block.first(b"subject") == b"x"
    assert text.endswith(b"Subject: x\n\nhello\n") and b"\r" not in text


def test_a_complete_message_stays_octet_for_octet() -> None:
    data = b"From: a@b.c\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <x@y>\r\nTo: q\r\n\r\n\xff\x00\r\n"
    assert completed(data, header.scan(data), "me@example.org", "", "h") == data


def test_no_header_field_can_be_injected() -> None:
    text = completed(
        b"\nbody\n", header.scan(b"\nbody\n"), "me@example.org", "Eve\r\nBcc: all@example.org", "h.example"
    )
    assert header.scan(text).first(b"bcc") is None


def test_newaliases_checks_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, aliases = tmp_path / "filterd.toml", tmp_path / "aliases"
    config.write_text(
        f'[server]\nhostname = "m.us.example"\ndata_dir = "{tmp_path}"\n[[domain]]\nname = "us.example"\n'
        'alias_files = ["aliases:aliases"]\n'
    )
    aliases.write_text("ann: bob\nprog: |x\n")
    assert main(["-bi", "-C", str(config)]) == 0
    assert "aliases:2" in capsys.readouterr().err
    aliases.write_text("ann: bob\nnonsense\n")
    assert main(["-bi", "-C", str(config)]) == 78
