"""Exim as the next hop that checks SPF, DKIM: what we forward and what our people send passes; and its own SRS reads ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.adapters.crypto import PrivateKey, generate
from pipeline.adapters.dkimpy import sign
from tests import eximlab
from tests.e2e.server import DOMAIN, ZONE, Server, mail, wait_for
from tests.programs import no_namespaces

pytestmark = pytest.mark.peer
THEIRS = "sender.example"  # its people write to ours


@pytest.fixture(scope="module")
def found() -> eximlab.Exim:
    made = eximlab.exim()
    if isinstance(made, str):
        pytest.skip(made)
    if said := no_namespaces("--mount"):
        pytest.skip(f"no mount namespace for a resolv.conf of Exim's own: {said}")
    return made


@pytest.fixture(scope="module")
def keys() -> tuple[PrivateKey, PrivateKey]:
    return generate(), generate()


@pytest.fixture(scope="module")
def world(
    found: eximlab.Exim, keys: tuple[PrivateKey, PrivateKey], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, eximlab.Checking]]:
    theirs, ours = keys
    zone = (
        ZONE
        + f"""
{THEIRS} TXT v=spf1 ip4:198.51.100.7 -all
s1._domainkey.{THEIRS} TXT {theirs.record()}
_dmarc.{THEIRS} TXT v=DMARC1; p=reject
{DOMAIN} TXT v=spf1 ip4:{eximlab.CLIENT} -all
h1._domainkey.{DOMAIN} TXT {ours.record()}
mx.{DOMAIN} TXT v=spf1 a -all
forged.example TXT v=spf1 -all
"""
    )
    key: Path = tmp_path_factory.mktemp("exim") / "key.pem"
    key.write_bytes(ours.pem())
    key.chmod(0o600)
    with (
        eximlab.Checking(found, zone) as exim,
        Server(
            people=("ann", "bob"),
            zone=zone,
            domain=f'aliases = {{ away = "x@next.example", team = ["ann@{DOMAIN}", "y@next.example"] }}\n'
            f'dkim = {{ selector = "h1", key = "{key}" }}',
            extra=f'[queue]\nrelay = "smtp://127.0.0.1:{exim.port}"\n[batv]\nenabled = true\n',
            scripts={"bob": 'redirect "z@next.example";'},
        ) as server,
    ):
        yield server, exim


def signed(key: PrivateKey, subject: str) -> bytes:
    text = mail(
        subject,
        "Text.",
        f"far@{THEIRS}",
        "Date: Mon, 1 Jan 2024 00:00:00 +0000",
        f"Message-ID: <{subject}@x>",
    )
    return sign(text, THEIRS, "s1", key) + text


def from_outside(server: Server, text: bytes, *recipients: str) -> None:
    with server.smtp() as smtp:
        assert smtp.docmd("XCLIENT", "ADDR=198.51.100.7 NAME=mx.sender.example")[0] == 220
        smtp.ehlo("mx.sender.example")
        assert smtp.mail(f"far@{THEIRS}")[0] == 250
        for one in recipients:
            code, words = smtp.rcpt(one)
            assert code == 250, words
        code, words = smtp.data(text)
        assert code == 250, words


def test_what_is_forwarded_passes_spf_and_dkim(
    world: tuple[Server, eximlab.Checking], keys: tuple[PrivateKey, PrivateKey]
) -> None:
    """The first sender's signature holds (so DMARC of his domain does), and SPF is ours by SRS."""
    server, exim = world
    before = len(exim.saw(0))
    for subject, address in (("alias", "away"), ("group", "team"), ("script", "bob")):
        from_outside(server, signed(keys[0], subject), f"{address}@{DOMAIN}")
    notes = exim.saw(before + 3)[before:]
    for note in notes:
        assert f"@{DOMAIN} spf=pass" in note and "sender=SRS0=" in note, (note, exim.log())
        assert f"{THEIRS}=pass" in note and "=fail" not in note, (note, exim.log())


def test_what_our_people_send_passes(world: tuple[Server, eximlab.Checking]) -> None:
    server, exim = world
    before = len(exim.saw(0))
    with server.submission() as smtp:
        smtp.sendmail(f"ann@{DOMAIN}", ["x@next.example"], mail("sent", "Hi", f"ann@{DOMAIN}"))
    (note,) = exim.saw(before + 1)[before:]
    assert "sender=prvs=" in note and f"=ann@{DOMAIN} spf=pass" in note and f"{DOMAIN}=pass" in note, note
    # and the tag is good for a bounce, where the plain address is not
    sender = note.partition("sender=")[2].partition(" ")[0]
    with server.smtp() as smtp:
        smtp.mail("")
        assert smtp.rcpt(f"ann@{DOMAIN}")[0] == 550
        assert smtp.rcpt(sender)[0] == 250
        assert smtp.data(mail("Undelivered", "no such user", "MAILER-DAEMON@next.example"))[0] == 250
    wait_for(
        lambda: any(b"Undelivered" in text for text in server.read("ann")["INBOX"].values()), 15, "the bounce"
    )


def test_exim_refuses_a_sender_that_we_must_not_use(world: tuple[Server, eximlab.Checking]) -> None:
    """So the checks above are no formality."""
    import smtplib

    _, exim = world
    with smtplib.SMTP("127.0.0.1", exim.port, "client.example", timeout=60) as smtp:
        smtp.ehlo()
        code, words = smtp.mail("a@forged.example")
        assert code == 550 and b"SPF" in words
