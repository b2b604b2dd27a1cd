"""A virus deep inside a message, found by the real clamd with a signature of our own: held, shown, released."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from tests import programs
from tests.e2e.server import DOMAIN, Server

pytestmark = [pytest.mark.peer, pytest.mark.slow]

ANN = f"ann@{DOMAIN}"
# In two pieces, so that no scanner stops at this file.
VIRUS = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"
SCRIPT = (
    'require ["fileinto", "mailbox"]; if header :contains "subject" "invoice" { fileinto :create "Bills"; }'
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("clamd")
    with programs.clamd(home, f"Own.Eicar:0:*:{VIRUS.hex()}\n") as where:
        extra = f'[stage.clamav]\nenabled = "on"\nsocket = "{where}"\nfound = "quarantine"\ntimeout = "20s"\n'
        extra += 'ambiguous = "quarantine"\n'
        with Server(people=("ann",), extra=extra, server="workers = 1", scripts={"ann": SCRIPT}) as running:
            yield running


def multipart(boundary: bytes, *parts: bytes) -> bytes:
    head = b'Content-Type: multipart/mixed; boundary="' + boundary + b'"\r\n\r\n'
    return (
        head
        + b"".join(b"--" + boundary + b"\r\n" + one + b"\r\n" for one in parts)
        + b"--"
        + boundary
        + b"--\r\n"
    )


def attached(octets: bytes, more: bytes = b"") -> bytes:
    body = base64.encodebytes(octets).replace(b"\n", b"\r\n")
    return b"Content-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n" + more + body


def mail(subject: bytes, body: bytes) -> bytes:
    head = b"From: Shop <billing@shop.example>\r\nTo: ann@home.example\r\nSubject: " + subject + b"\r\n"
    return (
        head
        + b"Message-ID: <"
        + subject.replace(b" ", b".")
        + b"@shop.example>\r\nMIME-Version: 1.0\r\n"
        + body
    )


TEXT = b"Content-Type: text/plain\r\n\r\nsee below\r\n"
INNER = b"Content-Type: message/rfc822\r\n\r\nFrom: x@shop.example\r\nSubject: inner\r\n" + multipart(
    b"inner", TEXT, attached(b"MZ" + VIRUS)
)
NESTED = mail(b"an invoice", multipart(b"outside", TEXT, INNER))
ODD = mail(b"an odd invoice", multipart(b"outside", TEXT, attached(b"harmless", more=b"!!\r\n")))


def held(server: Server) -> list[dict[str, object]]:
    done = server.command("quarantine", "list", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def said(server: Server, *words: str) -> str:
    done = server.command("quarantine", *words)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("data", "why"), [(NESTED, "Own.Eicar"), (ODD, "other characters")], ids=["virus", "odd"]
)
def test_held_shown_released(server: Server, data: bytes, why: str) -> None:
    assert VIRUS[:20] not in data  # a reader without MIME sees none of it
    before = len(server.read("ann").get("Bills", {}))
    trace = server.send(data, ANN)
    (row,) = held(server)
    assert row["trace"] == trace and row["account"] == ANN
    assert not server.read("ann")["INBOX"] and len(server.read("ann").get("Bills", {})) == before
    mine = str(row["id"])
    shown = said(server, "show", mine)
    assert why in shown and "invoice" in shown, shown
    spans = {span["stage"]: span for span in server.explain(trace)["spans"]}  # type: ignore[attr-defined]
    assert why in spans["clamav"]["summary"], spans["clamav"]
    assert "released: Bills" in said(server, "release", mine)
    texts = server.read("ann")["Bills"]
    assert len(texts) == before + 1 and max(texts.items())[1].endswith(data)
    assert held(server) == []


def test_a_clean_message_passes(server: Server) -> None:
    count = len(server.read("ann")["INBOX"])
    server.send(mail(b"hello", multipart(b"outside", TEXT, attached(b"harmless"))), ANN)
    texts = server.read("ann")["INBOX"]
    assert len(texts) == count + 1
    assert any(b"X-Virus-Status: Clean" in text for text in texts.values())
