"""`filterd-sendmail`: flags as cron, PHP, mutt and git send them; the header it completes."""

import time
from pathlib import Path

import pytest

from filterd import local_text
from filterd.cli.localmail import ExitWith
from filterd.cli.sendmail import (
    Flags,
    completed,
    envelopes,
    header_recipients,
    main,
    own_name,
    parse,
    sender_of,
    written,
)
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


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        (b"body\n", b"\nbody\n"),
        (b"Subject: s\nno colon\n\nx\n", b"Subject: s\n\nno colon\n\nx\n"),
        (b"Subject: s\r\nno colon\r\n\r\nx\r\n", b"Subject: s\r\n\r\nno colon\r\n\r\nx\r\n"),
        (b"From me Mon Nov  1\n>From you\nSubject: s\n\nx\n", b"Subject: s\n\nx\n"),
        (b" folded\nSubject: s\n\nx\n", b"\n folded\nSubject: s\n\nx\n"),
        (b"Subject: s\n\nFrom x\n", b"Subject: s\n\nFrom x\n"),
        (b"", b""),
        (b"\nx\n", b"\nx\n"),
    ],
)
def test_where_the_header_ends(given: bytes, becomes: bytes) -> None:
    assert local_text.headed(given) == becomes


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        (b" root (Cron Daemon)", b" root@h.example (Cron Daemon)"),
        (b" Me <root>, b@x.y, bob", b" Me <root@h.example>, b@x.y, bob@h.example"),
        (b" Team: bob, x@y.example;", b" Team: bob@h.example, x@y.example;"),
        (b' "Doe, J" <b>, "j d"', b' "Doe, J" <b@h.example>, "j d"@h.example'),
        (b" a@[IPv6:::1],\r\n\tz", b" a@[IPv6:::1],\r\n\tz@h.example"),
        (b" undisclosed-recipients:;", b" undisclosed-recipients:;"),
        (b" a b, <>, (only a comment)", b" a b, <>, (only a comment)"),
        (b"(" * 3000, b"(" * 3000),
        (b" <", b" <"),
        (b' "open, ann', b' "open, ann'),
        # hours, if what is not closed were read again and again
        (b"(" + rb"\(" * 300_000, b"(" + rb"\(" * 300_000),
        (b'"' + rb"\"" * 300_000, b'"' + rb"\"" * 300_000),
        (b"[" * 300_000 + b"@", b"[" * 300_000 + b"@"),
        (b"a," * 300_000, b"a@h.example," * 300_000),
    ],
)
def test_names_get_our_domain(given: bytes, becomes: bytes) -> None:
    assert local_text.Qualifier(b"h.example").whole(given) == becomes


def test_what_is_resent_is_completed() -> None:
    data = b"Resent-To: r@x.example\n" + MESSAGE
    block = header.scan(completed(data, header.scan(data), "me@example.org", "Me", "mail.example.org"))
    assert block.first(b"resent-from") == b"Me <me@example.org>" and block.first(b"resent-date")
    assert (block.first(b"resent-message-id") or b"").startswith(b"<resent.")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("a@x.example,b@y.example", ["a@x.example", "b@y.example"]),
        ("Ann <a@x.example>", ["a@x.example"]),
        ("Doe, Ann <a@x.example>", ["Doe", "a@x.example"]),
        ("a@x.example b@y.example", ["a@x.example", "b@y.example"]),
        ('"a b"@x.example', ['"a b"@x.example']),
        ("ann", ["ann"]),
        ("<>", [""]),
        ("@", ["@"]),
        ("j\udcf6rg@x.example", ["j\udcf6rg@x.example"]),
    ],
)
def test_a_recipient_may_be_a_list(text: str, addresses: list[str]) -> None:
    assert written(text) == addresses


def test_no_address_of_a_header_is_left_out() -> None:
    assert header_recipients(header.scan(b"To: a@x.example b@y.example; c\n\n")) == [
        "a@x.example",
        "b@y.example",
        "c",
    ]


@pytest.mark.parametrize(
    ("verp", "sender", "expected"),
    [
        ("", "l@us.example", [("l@us.example", ["a@x.example", "bob"])]),
        ("+=", "l@us.example", [("l+a=x.example@us.example", ["a@x.example"]), ("l@us.example", ["bob"])]),
        ("-+", "l", [("l-a+x.example", ["a@x.example"]), ("l", ["bob"])]),
        ("+=", "", [("", ["a@x.example", "bob"])]),
    ],
)
def test_a_sender_for_each(verp: str, sender: str, expected: list[tuple[str, list[str]]]) -> None:
    assert envelopes(verp, sender, ["a@x.example", "bob"]) == expected


def test_our_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "Ann Smith")
    assert own_name() == "Ann Smith"
    monkeypatch.setenv("NAME", "")
    assert "," not in own_name() and "&" not in own_name()


def test_a_sender_that_is_no_address_is_ourselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert sender_of(Flags(sender="bad address")) is None
    assert "bad address" in capsys.readouterr().err
    assert sender_of(Flags(sender="Ann <a@x.example>")) == "a@x.example"
    assert sender_of(Flags(sender="<>")) == "" and sender_of(Flags()) is None


def test_the_queue_is_tried_now(tmp_path: Path) -> None:
    from filterd.queue.base import Outgoing
    from filterd.queue.journal import Journal

    config = tmp_path / "filterd.toml"
    config.write_text(
        f'[server]\nhostname = "m.us.example"\ndata_dir = "{tmp_path}"\n[[domain]]\nname = "us.example"\n'
    )
    assert main(["-q", "-C", str(config)]) == 0  # there is no queue yet
    journal = Journal(tmp_path / "queue")
    with journal.transaction():
        mail = [
            Outgoing(b"k%d" % n, f"s{n}@us.example", f"a@x{n}.example", b"t", "submission") for n in range(3)
        ]
        journal.add(mail, [], time.time() + 1e6)
    names = [item.id for item in sorted(journal.items(), key=lambda item: item.recipient)]

    def late() -> list[bool]:
        return [
            item.next_at > time.time() + 5e5
            for item in sorted(journal.items(), key=lambda item: item.recipient)
        ]

    assert late() == [True, True, True]
    for words, expected in (
        (["-q30m"], [True, True, True]),
        ([f"-qI{names[0]}"], [False, True, True]),
        (["-qRX1.example"], [False, False, True]),
        (["-qSnobody@us.example"], [False, False, True]),
        (["-qSs2@us.example"], [False, False, False]),
    ):
        assert main([*words, "-C", str(config)]) == 0
        assert late() == expected, words
    assert main(["-qX", "-C", str(config)]) == 64
    journal.close()


def test_newaliases_of_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, aliases = tmp_path / "filterd.toml", tmp_path / "aliases"
    config.write_text(
        f'[server]\nhostname = "m.us.example"\ndata_dir = "{tmp_path}"\n[[domain]]\nname = "us.example"\n'
    )
    aliases.write_text("ann: bob\nnonsense\n")
    assert main(["-bi", "-C", str(config)]) == 0
    assert main([f"-oAhash:{aliases}", "-bi", "-C", str(config)]) == 78
    assert "aliases:2" in capsys.readouterr().err
    assert main(["-oA/nonexistent", "-bi", "-C", str(config)]) == 78
