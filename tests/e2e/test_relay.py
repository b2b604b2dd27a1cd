"""Not an open relay by any known trick, no password before TLS, nothing of the plain part survives STARTTLS."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.e2e.server import DOMAIN, INSECURE, PASSWORD, Raw, Server, mail

pytestmark = pytest.mark.e2e

FOREIGN = "victim@elsewhere.example"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(server="", people=("ann", "bob")) as running:
        yield running


TRICKS = (
    FOREIGN,
    f"victim%elsewhere.example@{DOMAIN}",
    f"elsewhere.example!victim@{DOMAIN}",
    "elsewhere.example!victim",
    "victim%elsewhere.example",
    f'"{FOREIGN}"@{DOMAIN}',
    f'"{FOREIGN}"',
    f'"victim%elsewhere.example"@{DOMAIN}',
    f"{FOREIGN}@{DOMAIN}",
    f"@{DOMAIN}:{FOREIGN}",
    f"@{DOMAIN},@elsewhere.example:{FOREIGN}",
    f"@elsewhere.example:{FOREIGN}",
    "victim@[203.0.113.9]",
    "victim@[127.0.0.1]",
    "victim@[IPv6:2001:db8::9]",
    "victim@[IPv6:::1]",
    "victim@",
    "victim@.",
    "victim@elsewhere.example.",
    "victim@ELSEWHERE.EXAMPLE",
    f"victim@elsewhere.example.{DOMAIN}",
    f"victim@sub.{DOMAIN}",
    f"victim%elsewhere.example@mx.{DOMAIN}",
    f"victim@x{DOMAIN}",
    "victim@localhost",
    f"SRS0=abcd=XX=elsewhere.example=victim@{DOMAIN}",
    f"SRS1=abcd=elsewhere.example==efgh=XX=third.example=victim@{DOMAIN}",
    f"SRS0+abcd+XX+elsewhere.example+victim@{DOMAIN}",
    f"victim+{FOREIGN}@{DOMAIN}",
    f"victim\\@elsewhere.example@{DOMAIN}",
)


@pytest.mark.parametrize("sender", ("stranger@shop.example", f"ann@{DOMAIN}", "", "ann@[127.0.0.1]"))
@pytest.mark.parametrize("door", ("smtp", "lmtp"))
def test_no_trick_relays(server: Server, sender: str, door: str) -> None:
    with Raw(server.ports[door]) as raw:
        assert raw.reply()[0] == 220
        assert raw.ask(f"{'LHLO' if door == 'lmtp' else 'EHLO'} client.example\r\n")[0] == 250
        assert raw.ask(f"MAIL FROM:<{sender}>\r\n")[0] == 250
        taken = []
        for trick in TRICKS:
            code, text = raw.ask(f"RCPT TO:<{trick}>\r\n")
            if code == 421:
                raw.close()
                pytest.fail(f"cut off at {trick}: {text!r}")
            if not 500 <= code < 600:
                taken.append((trick, text))
        assert not taken
    assert not server.hop.arrivals


def test_our_own_person_without_angle_brackets_or_with_tricks_is_one_of_ours(server: Server) -> None:
    with Raw(server.ports["smtp"]) as raw:
        raw.reply()
        raw.ask("EHLO client.example\r\n")
        raw.ask("MAIL FROM:<>\r\n")
        assert raw.ask(f"RCPT TO:<ann@{DOMAIN}>\r\n")[0] == 250
        assert raw.ask(f"RCPT TO:<ANN@{DOMAIN.upper()}>\r\n")[0] == 250
        assert raw.ask(f'RCPT TO:<"ann"@{DOMAIN}>\r\n')[0] == 250
        assert raw.ask(f"RCPT TO:<@relay.example:ann@{DOMAIN}>\r\n")[0] == 250
        assert raw.ask("RCPT TO:<Postmaster>\r\n")[0] == 250
        assert raw.ask(f"RCPT TO:<nobody@{DOMAIN}>\r\n") == (
            550,
            b"550 5.1.1 No such user here\r\n",
        )


@pytest.mark.parametrize("door", ("submission", "submissions"))
def test_submission_needs_a_login(server: Server, door: str) -> None:
    with Raw(server.ports[door]) as raw:
        if door == "submissions":
            raw.tls()
        assert raw.reply()[0] == 220
        raw.ask("EHLO client.example\r\n")
        code, text = raw.ask(f"MAIL FROM:<ann@{DOMAIN}>\r\n")
        assert code == 530, text


def plain(login: str, password: str) -> str:
    return base64.b64encode(f"\0{login}\0{password}".encode()).decode()


def test_no_password_before_tls(server: Server) -> None:
    """Even the right one is refused, and AUTH is not offered; port 25 offers none at all."""
    for door in ("submission", "smtp"):
        with Raw(server.ports[door]) as raw:
            raw.reply()
            assert b"AUTH" not in raw.ask("EHLO client.example\r\n")[1]
            for way in (f"AUTH PLAIN {plain(f'ann@{DOMAIN}', PASSWORD)}", "AUTH LOGIN", "AUTH PLAIN"):
                code, text = raw.ask(way + "\r\n")
                assert 500 <= code < 600 and code != 535, text
    with Raw(server.ports["imap"]) as raw:
        assert b"LOGINDISABLED" in raw.line()
        raw.send(f'a LOGIN ann@{DOMAIN} "{PASSWORD}"\r\n')
        assert raw.line().startswith(b"a NO")
        raw.send(f"b AUTHENTICATE PLAIN {plain(f'ann@{DOMAIN}', PASSWORD)}\r\n")
        assert raw.line().startswith(b"b NO")
    with Raw(server.ports["pop3"]) as raw:
        assert raw.line().startswith(b"+OK")
        raw.send(f"USER ann@{DOMAIN}\r\n")
        assert raw.line().startswith(b"-ERR")
        raw.send(f"AUTH PLAIN {plain(f'ann@{DOMAIN}', PASSWORD)}\r\n")
        assert raw.line().startswith(b"-ERR")
    with Raw(server.ports["sieve"]) as raw:
        greeting = b""
        while not greeting.endswith(b"\r\n") or (b"\nOK" not in greeting and not greeting.startswith(b"OK")):
            greeting += raw.line()
        assert b'"SASL" ""' in greeting
        raw.send(f'AUTHENTICATE "PLAIN" "{plain(f"ann@{DOMAIN}", PASSWORD)}"\r\n')
        assert raw.line().startswith(b"NO")


def test_starttls_drops_what_came_before(server: Server) -> None:
    """Commands sent in the same packet as STARTTLS are never answered (CVE-2011-0411 and its forty sisters)."""
    with Raw(server.ports["smtp"]) as raw:
        raw.reply()
        raw.ask("EHLO evil.example\r\n")
        raw.send(f"STARTTLS\r\nMAIL FROM:<evil@shop.example>\r\nRCPT TO:<ann@{DOMAIN}>\r\n")
        code, _ = raw.reply()
        if code == 220:
            raw.tls()
            assert raw.silent()
            assert raw.ask("RCPT TO:<ann@home.example>\r\n")[0] == 503
            assert raw.ask("MAIL FROM:<evil@shop.example>\r\n")[0] == 503  # no EHLO since TLS
    with Raw(server.ports["imap"]) as raw:
        raw.line()
        raw.send("a STARTTLS\r\nb NOOP\r\n")
        if raw.line().startswith(b"a OK"):
            try:
                raw.tls()
            except (ssl.SSLError, OSError):
                return_ = True
            else:
                return_ = raw.silent()
            assert return_
    with Raw(server.ports["pop3"]) as raw:
        raw.line()
        raw.send("STLS\r\nCAPA\r\n")
        if raw.line().startswith(b"+OK"):
            raw.tls()
            assert raw.silent()
    with Raw(server.ports["sieve"]) as raw:
        while not raw.line().startswith(b"OK"):
            pass
        raw.send('STARTTLS\r\nNOOP "injected"\r\n')
        if raw.line().startswith(b"OK"):
            raw.tls()
            text = b""
            while not text.startswith(b"OK"):
                text = raw.line()
                assert b"injected" not in text
            assert raw.silent()


@pytest.mark.parametrize("version", (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1))
def test_old_tls_is_refused(server: Server, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    for door in ("imaps", "pop3s", "submissions"):
        with (
            socket.create_connection(("127.0.0.1", server.ports[door]), 5) as sock,
            pytest.raises((ssl.SSLError, OSError)),
        ):
            context.wrap_socket(sock).recv(1)
    with Raw(server.ports["smtp"]) as raw:
        raw.reply()
        raw.ask("EHLO client.example\r\n")
        assert raw.ask("STARTTLS\r\n")[0] == 220
        with pytest.raises((ssl.SSLError, OSError)):
            raw.tls(context)
    with Raw(server.ports["imaps"]) as raw:  # and the others are still served
        raw.tls(INSECURE)
        assert raw.line().startswith(b"* OK")


def test_a_login_may_only_send_as_itself(server: Server) -> None:
    with server.submission("ann") as smtp:
        assert smtp.mail(f"bob@{DOMAIN}")[0] == 550
        assert smtp.mail("president@shop.example")[0] == 550
        assert smtp.mail(f"ann+list@{DOMAIN}")[0] == 250
        assert smtp.rcpt(FOREIGN)[0] == 250
        smtp.rset()
        assert smtp.mail(f"ANN@{DOMAIN}")[0] == 250


def test_smuggling_leaves_one_message(server: Server) -> None:
    """A second envelope hidden behind a wrong end of data never becomes a second message."""
    ends = (b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"\r\n\0.\r\n", b"\r.\r\n")
    with server.imap("bob") as imap:
        imap.select("INBOX")
        before = len(imap.uid("SEARCH", "ALL")[1][0].split())
    for end in ends:
        with Raw(server.ports["smtp"]) as raw:
            raw.reply()
            raw.ask("EHLO evil.example\r\n")
            raw.ask("MAIL FROM:<evil@shop.example>\r\n")
            raw.ask(f"RCPT TO:<ann@{DOMAIN}>\r\n")
            assert raw.ask("DATA\r\n")[0] == 354
            inner = f"MAIL FROM:<admin@{DOMAIN}>\r\nRCPT TO:<bob@{DOMAIN}>\r\nDATA\r\n".encode()
            raw.send(mail("outer") + end + inner + mail("smuggled") + b"\r\n.\r\n")
            raw.reply()
    with server.imap("bob") as imap:
        imap.select("INBOX")
        assert len(imap.uid("SEARCH", "ALL")[1][0].split()) == before
