"""POP3 programs, unmodified, against the real server: getmail, fetchmail and mpop, with TLS at once and by STLS."""

from __future__ import annotations

import os
import poplib
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rules.mail import downgrade
from tests.e2e.server import DOMAIN, PASSWORD, Server, mail
from tests.peers.test_clients import need

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

PEOPLE = ("gus", "flo", "mia", "max")
ADDED = re.compile(rb"(?mi)^(?:Received|Delivered-To|Return-Path|X-getmail[^:\n]*):.*\n(?:[ \t].*\n)*")
ODD = (
    mail("dots", ".\n..\n.a\n...\n\n.\nend"),
    mail("empty", "").removesuffix(b"\r\n"),
    mail("eight bit", "Grüße, 日本\n" + "x" * 900),
    "From: Jürgen <j@shop.example>\r\nTo: Ännchen <a@home.example>\r\nSubject: Köln\r\n\r\nHeader in UTF-8\r\n".encode(),
    mail("From", "From the beginning\n>From quoted\nFrom"),
    mail("large", "".join(f"line {number} {'y' * 70}\n" for number in range(4_000))),
    mail("tabs", "\ta\t\n \n\f\n"),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(people=PEOPLE, server="workers = 2") as running:
        yield running


def fill(server: Server, person: str) -> None:
    with server.imap(person) as imap:
        for data in (*ODD, *(mail(f"number {number}") for number in range(30))):
            assert imap.append("INBOX", "", None, data)[0] == "OK"


def plain(data: bytes) -> bytes:
    """Without the fields that programs put into a header; LF; no line ends at the end."""
    header, blank, body = data.replace(b"\r\n", b"\n").partition(b"\n\n")
    return ADDED.sub(b"", header + b"\n") + blank[1:] + body.rstrip(b"\n")


def stored(folder: Path) -> list[bytes]:
    return sorted(plain(path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def there(server: Server, person: str) -> list[bytes]:
    """What these programs get: none says UTF8, so ASCII in the header (RFC 6856 2.1)."""
    return sorted(plain(downgrade.surrogate(data)) for data in server.read(person)["INBOX"].values())


def fetch(*words: str, home: Path, good: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        words, capture_output=True, timeout=120, check=False,
        env={**os.environ, "HOME": str(home), "LC_ALL": "C.UTF-8", "FETCHMAILHOME": str(home)},
    )  # fmt: skip
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode in good, (done.returncode, text)
    return text


def keeps_and_deletes(server: Server, person: str, folder: Path, run: Callable[[bool], None]) -> None:
    """``run(keep)``: fetches into ``folder``. What is kept is fetched once; in the end the maildrop is empty."""
    fill(server, person)
    expected = there(server, person)
    run(True)
    assert stored(folder) == expected
    run(True)
    assert stored(folder) == expected
    with server.imap(
        person
    ) as imap:  # others take some away meanwhile, and some come: the ids stay with their messages
        imap.select("INBOX")
        imap.uid("MOVE", "9,12:14", "Archive")
    for number in range(2):
        server.send(mail(f"late {number}"), f"{person}@{DOMAIN}")
    expected = sorted(expected + [data for data in there(server, person) if b"Subject: late" in data])
    run(True)
    assert stored(folder) == expected
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()
    server.send(mail("the last"), f"{person}@{DOMAIN}")
    run(False)
    assert b"Subject: the last" in b"".join(stored(folder))
    assert [data for data in there(server, person) if b"Subject: the last" in data] == []


def test_getmail(server: Server, tmp_path: Path) -> None:
    program = need("getmail")
    folder = tmp_path / "mail"
    folder.mkdir()

    def run(keep: bool) -> None:
        (tmp_path / "rc").write_text(
            f"""[retriever]
type = SimplePOP3SSLRetriever
server = 127.0.0.1
port = {server.ports["pop3s"]}
username = gus@{DOMAIN}
password = {PASSWORD}
ca_certs = {server.data / "tls" / "self-signed.crt"}
[destination]
type = MDA_external
path = /bin/sh
arguments = ("-c", "cat > $(mktemp {folder}/XXXXXXXX)")
allow_root_commands = true
[options]
read_all = false
delete = {str(not keep).lower()}
received = true
delivered_to = true
"""
        )
        fetch(program, "--getmaildir", str(tmp_path), "--rcfile", "rc", home=tmp_path)

    keeps_and_deletes(server, "gus", folder, run)
    assert there(server, "gus") == []


@pytest.mark.parametrize(("door", "tls"), (("pop3s", "ssl"), ("pop3", "sslproto TLS1.2+")))
def test_fetchmail(server: Server, tmp_path: Path, door: str, tls: str) -> None:
    program = need("fetchmail")
    folder = tmp_path / "mail"
    folder.mkdir()
    with server.imap("flo") as imap:
        imap.select("INBOX")
        imap.store("1:*", "+FLAGS", "\\Deleted")
        imap.expunge()

    def run(keep: bool) -> None:
        rc = tmp_path / "rc"
        rc.write_text(
            f"""poll 127.0.0.1 protocol pop3 port {server.ports[door]} uidl
  username "flo@{DOMAIN}" password "{PASSWORD}"
  {tls} sslcertfile "{server.data / "tls" / "self-signed.crt"}" no sslcertck
  {"keep" if keep else "no keep fetchall"} no rewrite
  mda "/bin/sh -c 'cat > $(mktemp {folder}/XXXXXXXX)'"
"""
        )
        rc.chmod(0o700)
        fetch(
            program,
            "-f",
            str(rc),
            "--nodetach",
            "--idfile",
            str(tmp_path / "ids"),
            home=tmp_path,
            good=(0, 1),
        )

    keeps_and_deletes(server, "flo", folder, run)
    assert there(server, "flo") == []


@pytest.mark.parametrize(
    ("person", "door", "starttls", "way"),
    (("mia", "pop3s", "off", "scram-sha-256"), ("max", "pop3", "on", "plain")),
)
def test_mpop(server: Server, tmp_path: Path, person: str, door: str, starttls: str, way: str) -> None:
    program = need("mpop")
    folder = tmp_path / "Maildir"
    for name in ("new", "cur", "tmp"):
        (folder / name).mkdir(parents=True)

    def run(keep: bool) -> None:
        rc = mpoprc(server, tmp_path, person, door, starttls, way, f"keep {'on' if keep else 'off'}")
        fetch(program, "-C", str(rc), "-q", home=tmp_path)

    keeps_and_deletes(server, person, folder, run)


def mpoprc(server: Server, here: Path, person: str, door: str, starttls: str, way: str, *more: str) -> Path:
    rc = here / "mpoprc"
    lines = (
        "account default", "host localhost", f"port {server.ports[door]}", "tls on", f"tls_starttls {starttls}",
        "tls_certcheck off", f"auth {way}", f"user {person}@{DOMAIN}",
        f"password {PASSWORD}", f"delivery maildir {here / 'Maildir'}", f"uidls_file {here / 'uidls'}", *more,
    )  # fmt: skip
    rc.write_text("".join(f"{line}\n" for line in lines))
    rc.chmod(0o600)
    return rc


def test_a_log_in_too_soon_is_refused_by_every_process(tmp_path: Path) -> None:
    program = need("mpop")
    for name in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True)
    limits = '[limits]\npop3_delay = "1h"\nconnections = { total = 2000, per_ip = 400 }\n'
    with Server(people=("mia", "max"), server="workers = 2", extra=limits) as server:
        with server.pop3("max") as pop3:
            assert pop3.capa()["LOGIN-DELAY"] == ["3600"]
            assert pop3.capa()["EXPIRE"] == ["NEVER"]
        rc = mpoprc(server, tmp_path, "mia", "pop3s", "off", "plain")
        fetch(program, "-C", str(rc), "-q", home=tmp_path)
        for _ in range(4):  # not every connection comes to the same worker
            assert "failed" in fetch(program, "-C", str(rc), "-q", home=tmp_path, good=(77,))
            with pytest.raises(poplib.error_proto, match=r"\[LOGIN-DELAY\]"), server.pop3("mia"):
                pass
