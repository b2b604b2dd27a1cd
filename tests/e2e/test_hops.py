"""Other programs before and behind us: PROXY headers at every door, a store behind us by LMTP, whom XFORWARD tells about."""

from __future__ import annotations

import json
import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, DOORS, INSECURE, PASSWORD, Server, mail, wait_for

pytestmark = pytest.mark.e2e

BEHIND = "behind.example"
HEAD = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 25\r\n"
GREETINGS = {
    "smtp": b"220 ",
    "submission": b"220 ",
    "submissions": b"220 ",
    "lmtp": b"220 ",
    "imap": b"* OK ",
    "imaps": b"* OK ",
    "pop3": b"+OK ",
    "pop3s": b"+OK ",
    "sieve": b'"IMPLEMENTATION"',
}


@pytest.fixture(scope="module")
def proxied() -> Iterator[Server]:
    names = ", ".join(f'"{door}"' for door in DOORS)
    with Server(
        server=f'proxy_listeners = [{names}]\nproxy_trusted = ["127.0.0.1"]', people=("ann",)
    ) as running:
        yield running


def opened(server: Server, door: str, head: bytes, source: str = "127.0.0.1") -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", server.ports[door]), 10, source_address=(source, 0))
    raw.sendall(head)
    return INSECURE.wrap_socket(raw) if door in ("submissions", "imaps", "pop3s") else raw


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_the_header_and_nothing_else(proxied: Server, door: str) -> None:
    with opened(proxied, door, HEAD) as client:
        assert client.recv(1000).startswith(GREETINGS[door])
    for head, source in ((b"EHLO client.example\r\n\r\n\r\n", "127.0.0.1"), (HEAD, "127.0.0.2")):
        try:
            with opened(proxied, door, head, source) as client:
                assert client.recv(1000) == b""
        except (ConnectionError, ssl.SSLError):
            continue  # cut off


def test_checks_are_about_the_client_that_the_proxy_names(proxied: Server) -> None:
    with opened(proxied, "smtp", HEAD) as client:
        lines = client.makefile("rb")

        def said(command: bytes) -> bytes:
            if command:
                client.sendall(command + b"\r\n")
            while (line := lines.readline())[3:4] == b"-":
                continue
            return line

        said(b"")
        for command in (
            b"EHLO mx.shop.example",
            b"MAIL FROM:<orders@shop.example>",
            b"RCPT TO:<ann@%b>" % DOMAIN.encode(),
        ):
            assert said(command).startswith(b"250 "), command
        assert said(b"DATA").startswith(b"354 ")
        assert said(mail("through a proxy") + b".").startswith(b"250 ")
    with opened(proxied, "imaps", HEAD) as box:
        box.sendall(b'a LOGIN "ann@%b" "%b"\r\n' % (DOMAIN.encode(), PASSWORD.encode()))
        text = b""
        while b"a OK" not in text:
            text += box.recv(4096)
    trace = _newest(proxied)
    assert trace["client_ip"] == "198.51.100.7"
    assert "told by PROXY v1 by 127.0.0.1" in json.dumps(trace)


def test_by_lmtp_too_the_checks_are_about_the_client_that_the_proxy_names(proxied: Server) -> None:
    for client_ip, told in (("203.0.113.9", True), ("10.9.8.7", False)):
        head = HEAD.replace(b"198.51.100.7", client_ip.encode())
        with opened(proxied, "lmtp", head) as client:
            lines = client.makefile("rb")
            assert lines.readline().startswith(b"220 ")
            for command, code in (
                (b"LHLO hop.example", b"250 "),
                (b"MAIL FROM:<orders@shop.example>", b"250 "),
                (b"RCPT TO:<ann@%b>" % DOMAIN.encode(), b"250 "),
                (b"DATA", b"354 "),
                (mail(f"by LMTP for {client_ip}") + b".", b"250 "),
                (b"QUIT", b"221 "),
            ):
                client.sendall(command + b"\r\n")
                while (line := lines.readline())[3:4] == b"-":
                    continue
                assert line.startswith(code), (command, line)
        trace = _newest(proxied)
        assert trace["client_ip"] == client_ip
        spans = trace["spans"]
        assert isinstance(spans, list)
        (spf,) = (one for one in spans if one["stage"] == "spf")
        assert ("hop of ours" not in json.dumps(spf)) == told, spf


def _newest(server: Server) -> dict[str, object]:
    def found() -> list[Path]:
        return [
            path
            for path in (server.data / "mail").rglob("*")
            if path.is_file() and path.parent.name in ("new", "cur")
        ]

    wait_for(found, 10, "the message")
    newest = max(found(), key=lambda path: path.stat().st_ctime_ns)
    field = next(line for line in newest.read_bytes().split(b"\r\n") if line.startswith(b"X-Filterd-Trace: "))
    return server.explain(field.split(b" ")[1].decode().partition(".")[0])


# -- two of us, one behind the other -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    """The front filters for behind.example; the store behind it is another filterd, by LMTP."""
    store = Server(server='xforward_trusted = ["127.0.0.1"]', people=("ann", "bob"))
    text = store.config.read_text().replace(f'name = "{DOMAIN}"', f'name = "{DOMAIN}"\n[[domain]]\nname = "{BEHIND}"\n'
        f'aliases = {{ ann = "ann@{DOMAIN}", bob = "bob@{DOMAIN}", gone = "ann@nowhere.invalid" }}')  # fmt: skip
    store.config.write_text(text)
    with store:
        relay = f'relay = "lmtp://127.0.0.1:{store.ports["lmtp"]}"\nrecipients = ["ann", "bob", "carl"]'
        with Server(extra=f'[[domain]]\nname = "{BEHIND}"\n{relay}\n', people=("ann",)) as front:
            yield front, store


def test_mail_goes_through_us_to_the_store_and_the_first_client_with_it(pair: tuple[Server, Server]) -> None:
    front, store = pair
    with front.smtp() as client:
        code, _ = client.docmd("XCLIENT", "ADDR=198.51.100.7 NAME=mx.shop.example HELO=mx.shop.example")
        assert code == 220
        client.ehlo("mx.shop.example")
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            client.sendmail("orders@shop.example", [f"nobody@{BEHIND}"], mail("x"))
        assert refused.value.recipients[f"nobody@{BEHIND}"][0] == 550
        client.rset()
        # carl is on our list and not in the store: he is refused there, ann has it all the same
        to = [f"ann@{BEHIND}", f"carl@{BEHIND}"]
        assert not client.sendmail("orders@shop.example", to, mail("through"))
    wait_for(lambda: list((store.data / "mail").rglob("new/*")), 60, "the message in the store behind")
    trace = _newest(store)
    assert trace["client_ip"] == "198.51.100.7" and trace["helo"] == "mx.shop.example"
    assert "told by XFORWARD by 127.0.0.1" in json.dumps(trace)
    text = next((store.data / "mail").rglob("new/*")).read_bytes()
    assert text.count(b"\nReceived: ") + text.startswith(b"Received: ") == 2 and b"Subject: through" in text

    def bounced() -> bool:
        return any(b"carl@behind.example" in arrival.data for arrival in front.hop.arrivals)

    wait_for(bounced, 60, "the bounce for carl")
    assert not any(
        b"Subject: through" in arrival.data and arrival.recipients == (f"ann@{BEHIND}",)
        for arrival in front.hop.arrivals
    )


def test_for_later(pair: tuple[Server, Server]) -> None:
    """FUTURERELEASE over the wire: announced with a date, held, shown, and sent in its time."""
    front, _ = pair
    before = len(front.hop.arrivals)
    with front.submission("ann") as client:
        client.ehlo("client.example")
        limit, last = client.esmtp_features["futurerelease"].split()
        assert limit == "2592000" and last.endswith("Z")
        client.sendmail(f"ann@{DOMAIN}", ["x@elsewhere.example"], mail("later"), mail_options=["HOLDFOR=4"])
        began = time.monotonic()
    listed = front.command("queue", "list").stdout.decode()
    assert "as its sender asked" in listed or time.monotonic() - began > 3
    wait_for(lambda: len(front.hop.arrivals) > before, 60, "the message in its time")
    assert time.monotonic() - began >= 3.5
    assert b"Subject: later" in front.hop.arrivals[before].data
