"""Who sent it, at the real door: what SPF, DKIM, ARC and DMARC say of real deliveries, and what becomes of each.

The names are a loopback zone; clients come from elsewhere by XCLIENT. One server, one connection a case.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pipeline.adapters.crypto import PrivateKey, generate
from pipeline.adapters.dkimpy import sign
from pipeline.dkim.arc import ArcResult
from pipeline.dkim.seal import seal
from tests.e2e.server import DOMAIN, Server

pytestmark = pytest.mark.e2e
ANN = f"ann@{DOMAIN}"
GOOD, OTHER = "198.51.100.7", "203.0.113.9"
ZONE = """
mx.shop.example A 198.51.100.7
7.100.51.198.in-addr.arpa PTR mx.shop.example
mx.shop.example TXT v=spf1 a -all
shop.example TXT v=spf1 ip4:198.51.100.0/28 -all exp=why.shop.example
why.shop.example TXT %{i} may not say it is %{s}
_dmarc.shop.example TXT v=DMARC1; p=reject; sp=quarantine
_dmarc.soft.example TXT v=DMARC1; p=quarantine
_dmarc.broken.example TXT SERVFAIL
broken.example TXT SERVFAIL
9.113.0.203.zen.test A 127.0.0.2
"""
EXTRA = """
[stage.clamav]
enabled = false
[stage.spamassassin]
enabled = false
[stage.spf]
fail = "note"
[stage.dmarc]
trusted_sealers = ["list.example"]
[stage.dnsbl]
lists = ["zen.test=2:127.0.0.2", "zen.test=5:127.0.0.4"]
junk_at = 3
[pipeline]
incoming = ["dnsbl", "spf", "dkim", "arc", "dmarc", "sieve", "privacy", "srs"]
"""


@dataclass(frozen=True)
class Place:
    server: Server
    key: PrivateKey


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    key = generate("rsa", 2048)
    zone = ZONE
    for domain in ("shop.example", "list.example"):
        zone += f"s1._domainkey.{domain} TXT {key.record()}\n"
    with Server(
        people=("ann",), zone=zone, extra=EXTRA, server="workers = 1", doors=("smtp", "imaps")
    ) as server:
        yield Place(server, key)


def text(author: str = "orders@shop.example", *fields: str, body: str = "hello") -> bytes:
    head = [
        f"From: <{author}>",
        f"To: <{ANN}>",
        "Subject: x",
        "Date: Mon, 1 Jan 2024 00:00:00 +0000",
        *fields,
    ]
    head.append(f"Message-ID: <{time.monotonic_ns()}@test.example>")
    return ("\r\n".join(head) + f"\r\n\r\n{body}\r\n").encode()


def signed(place: Place, message: bytes, domain: str = "shop.example") -> bytes:
    return sign(message, domain, "s1", place.key) + message


def send(
    place: Place,
    message: bytes,
    ip: str = GOOD,
    sender: str = "orders@shop.example",
    helo: str = "mx.shop.example",
) -> tuple[int, str]:
    """The final reply."""
    address = f"IPV6:{ip}" if ":" in ip else ip
    with place.server.smtp() as client:
        code, said = client.docmd("XCLIENT", f"ADDR={address} NAME=[UNAVAILABLE] HELO={helo}")
        assert code == 220, said
        client.ehlo(helo)
        assert client.mail(sender)[0] == 250
        assert client.rcpt(ANN)[0] == 250
        code, said = client.data(message)
    return code, said.decode()


def stored(place: Place, message: bytes) -> tuple[str, str]:
    """(folder, header) of the one copy; the header unfolded."""
    wanted = re.search(rb"Message-ID: <\d+@test.example>", message)
    assert wanted is not None
    found = [
        (folder, octets)
        for folder, messages in place.server.read("ann").items()
        for octets in messages.values()
        if wanted[0] in octets
    ]
    assert len(found) == 1
    head = found[0][1].partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    return found[0][0], re.sub(r"\r\n[ \t]+", " ", head)


def delivered(place: Place, message: bytes, **how: str) -> tuple[str, str]:
    code, said = send(place, message, **how)
    assert code == 250, said
    return stored(place, message)


def test_all_pass_and_each_is_said(place: Place) -> None:
    folder, head = delivered(place, signed(place, text()))
    assert folder == "INBOX"
    (line,) = re.findall(rf"^Authentication-Results: mx\.{re.escape(DOMAIN)};.*$", head, re.MULTILINE)
    for result in ("spf=pass", "smtp.mailfrom=orders@shop.example", "smtp.helo=mx.shop.example", "dkim=pass",
                   "header.d=shop.example", "dmarc=pass", "header.from=shop.example", "iprev=pass"):  # fmt: skip
        assert result in line
    assert re.search(r"^Received-SPF: pass .*client-ip=198\.51\.100\.7;", head, re.MULTILINE)


def test_an_ipv4_client_on_an_ipv6_socket_is_that_client(place: Place) -> None:
    _, head = delivered(place, text(), ip=f"::ffff:{GOOD}")
    assert "spf=pass" in head and "dmarc=pass" in head


def test_a_bounce_is_judged_by_its_helo_name(place: Place) -> None:
    _, head = delivered(place, text(), sender="")
    assert "spf=pass" in head and "smtp.helo=mx.shop.example" in head
    assert "dmarc=pass" in head  # aligned: the HELO name is of the author's organisation


@pytest.mark.parametrize("what", ["forged", "changed", "added"])
def test_what_the_owner_wants_refused_is_refused(place: Place, what: str) -> None:
    message = text()
    if what != "forged":
        message = signed(place, message)
        message = message.replace(b"hello", b"HELLO" if what == "changed" else b"hello\r\nand more")
    code, said = send(place, message, ip=OTHER)
    assert (code, said[:6]) == (550, "5.7.26")
    assert "shop.example" in said


@pytest.mark.parametrize("author", ["a@soft.example", "a@sub.shop.example"])
def test_what_the_owner_wants_set_aside_is_in_junk(place: Place, author: str) -> None:
    folder, head = delivered(place, text(author), ip=OTHER)
    assert (folder, "dmarc=fail" in head) == ("Junk", True)


def test_two_authors_are_junk(place: Place) -> None:
    folder, head = delivered(place, b"From: <boss@home.example>\r\n" + text())
    assert folder == "Junk" and "dmarc=permerror" in head


def test_no_dns_is_no_verdict(place: Place) -> None:
    folder, head = delivered(place, text("a@broken.example"), ip=OTHER, sender="a@broken.example")
    assert folder == "INBOX"
    assert "spf=temperror" in head and "dmarc=temperror" in head


def test_a_list_is_at_most_junk(place: Place) -> None:
    message = signed(place, text("orders@shop.example", "List-Id: <talk.list.example>"), "list.example")
    folder, head = delivered(place, message, ip=OTHER, sender="bounce@list.example")
    assert folder == "Junk" and "dmarc=fail" in head


def test_a_trusted_forwarder_that_saw_a_pass_is_believed(place: Place) -> None:
    message = text(body="hello, changed by the list")
    results = "mx.list.example; dmarc=pass header.from=shop.example"
    chain = ArcResult("none")
    message = (
        seal(message, "list.example", "s1", place.key, results=results, chain=chain, now=time.time())
        + message
    )
    folder, head = delivered(place, message, ip=OTHER, sender="bounce@list.example")
    assert folder == "INBOX"
    assert "arc=pass" in head and "dmarc=fail" in head
    code, _ = send(place, message.replace(b"dmarc=pass", b"dmarc=none", 1), ip=OTHER, sender="b@list.example")
    assert code == 550  # the seal is broken


def test_results_that_pretend_to_be_ours_are_gone(place: Place) -> None:
    ours = f"mx.{DOMAIN}"
    lies = [
        f"Authentication-Results: {ours}; dmarc=pass (lie)",
        f"AUTHENTICATION-RESULTS : (a) {ours.upper()}. (b) 1 ; spf=pass (lie)",
        f'Authentication-Results: "{ours}"; dkim=pass (lie)',
        f"Authentication-Results:\r\n {ours} ; dkim=pass (lie)",
        f"Authentication-Results: {DOMAIN}; dkim=pass (lie)",
        "Authentication-Results: ; dkim=pass (lie)",
        "Received-SPF: pass (lie)",
    ]
    theirs = "Authentication-Results: mx.other.example; dkim=pass (theirs)"
    _, head = delivered(place, text("a@plain.example", *lies, theirs), ip=OTHER, sender="a@plain.example")
    assert "(lie)" not in head
    assert theirs in head
    assert len(re.findall(rf"^Authentication-Results: {re.escape(ours)};", head, re.MULTILINE)) == 1


def test_the_same_by_the_command(place: Place) -> None:
    asked = ("--nameserver", place.server.names.address, "--ip", OTHER, "--helo", "mx.shop.example")
    done = place.server.command(
        "check", "spf", *asked, "--mail-from", "orders@shop.example", config=False
    ).stdout.decode()
    assert "spf=fail" in done and f"{OTHER} may not say it is orders@shop.example" in done
    done = place.server.command(
        "check", "dmarc", *asked, "-", stdin=signed(place, text()), config=False
    ).stdout.decode()
    assert "dkim=pass" in done and "dmarc=pass" in done
