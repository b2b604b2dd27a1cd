"""The quarantine of a real server: held before the reply, looked at and released by the command line, once, killed or not."""

from __future__ import annotations

import email
import email.policy
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import faultserver
from tests.e2e.server import DOMAIN, INSECURE, Server, mail, wait_for

pytestmark = pytest.mark.e2e

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
VIRUS = mail("an invoice", "VIRUS-OF-THE-TESTS")
SCRIPT = (
    'require ["fileinto", "mailbox"]; if header :contains "subject" "invoice" { fileinto :create "Bills"; }'
)


def clamd(conn: socket.socket, stop: threading.Event) -> None:
    """A clamd that knows one virus."""
    request = faultserver.clamd_request(conn)
    if request.startswith(b"nVERSION"):
        conn.sendall(b"ClamAV 1.4.2/27000/Mon Nov 23 08:00:00 2026\n")
    elif request.startswith(b"nPING"):
        conn.sendall(b"PONG\n")
    else:
        found = b"VIRUS-OF-THE-TESTS" in request
        conn.sendall(b"stream: Test.Virus FOUND\n" if found else b"stream: OK\n")


@contextmanager
def serving(found: str = "quarantine", more: str = "", **scripts: str) -> Iterator[Server]:
    with faultserver.serve(clamd) as where:
        extra = f'[stage.clamav]\nenabled = "on"\nsocket = "inet:{where.rpartition(":")[2]}@127.0.0.1"\nfound = "{found}"\n{more}'
        with Server(
            people=("ann", "bob"),
            extra=extra,
            server="workers = 1",
            scripts=scripts,
            doors=("smtp", "lmtp", "imaps", "web"),
        ) as server:
            yield server


def held(server: Server, *more: str) -> list[dict[str, object]]:
    done = server.command("quarantine", "list", "--json", *more)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def said(server: Server, *words: str, code: int = 0) -> str:
    done = server.command("quarantine", *words)
    assert done.returncode == code, (done.stdout, done.stderr)
    return (done.stdout + done.stderr).decode()


def test_a_virus_is_held_shown_released_once_and_explained() -> None:
    with serving(ann=SCRIPT) as server:
        assert said(server, "list") == "0 message(s)\n"
        trace = server.send(VIRUS, ANN, BOB)
        assert all(not texts for person in ("ann", "bob") for texts in server.read(person).values())
        rows = held(server)
        assert {row["account"] for row in rows} == {ANN, BOB} and {row["trace"] for row in rows} == {trace}
        mine = next(str(row["id"]) for row in rows if row["account"] == ANN)
        assert server.explain(mine)["now"].startswith("in the quarantine until ")  # type: ignore[attr-defined]
        shown = said(server, "show", mine)
        assert (
            "an invoice" in shown and "Test.Virus" in shown and f"filterd quarantine release {mine}" in shown
        )
        raw = server.command("quarantine", "show", mine, "--raw").stdout
        assert raw.endswith(VIRUS) and b"X-Virus-Status: Infected" in raw
        said(server, "show", mine, "--account", BOB, code=1)
        said(server, "release", mine, "--account", BOB, code=1)
        assert "learned as spam" in said(server, "learn", "spam", mine)
        assert "released: Bills uid 1; learned as ham" in said(server, "release", mine, "--learn")
        assert "released: Bills uid 1" in said(server, "release", mine)
        said(server, "learn", "ham", mine, code=1)
        (text,) = server.read("ann")["Bills"].values()
        assert text.endswith(VIRUS) and f"X-Filterd-Trace: {mine}".encode() in text
        assert not server.read("bob")["INBOX"]
        story = server.command("explain", mine).stdout.decode()
        for word in ("held", "released", "Bills", "Test.Virus", f"Now: {ANN}/Bills uid 1"):
            assert word in story, story
        own = server.command("explain", mine, "--account", ANN).stdout.decode()
        assert "released" in own and BOB not in own
        other = server.command("explain", trace, "--account", BOB).stdout.decode()
        assert "released" not in other and "Bills" not in other and ANN not in other
        his = next(str(row["id"]) for row in rows if row["account"] == BOB)
        said(server, "drop", his, code=2)
        assert "1 message(s) dropped" in said(server, "drop", his, "--yes")
        said(server, "release", his, code=1)
        assert held(server) == [] and {row["state"] for row in held(server, "--all")} == {
            "released",
            "dropped",
        }


def test_a_release_waits_for_the_server_and_survives_kills() -> None:
    with serving() as server:
        ids = []
        for number in range(6):
            server.send(mail(f"number {number}", f"VIRUS-OF-THE-TESTS {number}"), ANN)
        server.kill()  # what was answered is held
        ids = [str(row["id"]) for row in held(server)]
        assert len(ids) == 6
        assert "as soon as it runs" in said(server, "release", *ids, "--no-wait")
        server.start()
        wait_for(lambda: any(row["state"] == "released" for row in held(server, "--all")), 30, "one release")
        server.kill()
        server.start()
        wait_for(lambda: not held(server), 90, "all releases")
        texts = list(server.read("ann")["INBOX"].values())
        assert len(texts) == 6
        assert len({text.partition(b"\r\nSubject: ")[2][:10] for text in texts}) == 6


def test_behind_another_server_a_refusal_is_held_and_so_is_a_late_reject() -> None:
    with serving("reject", ann='require "reject"; reject "no";') as server:
        server.send(VIRUS, BOB, door="lmtp")
        server.send(mail("hello"), ANN, door="lmtp")
        assert {row["account"]: row["stage"] for row in held(server)} == {BOB: "clamav", ANN: "sieve"}
        assert "released: INBOX" in said(server, "release", *(str(row["id"]) for row in held(server)))
        assert len(server.read("ann")["INBOX"]) == len(server.read("bob")["INBOX"]) == 1
        with server.smtp() as smtp:
            smtp.mail("orders@shop.example")
            smtp.rcpt(BOB)
            assert smtp.data(VIRUS)[0] == 550


def fetched(server: Server, method: str, path: str, tls: bool = False) -> tuple[int, str]:
    port = server.ports["web"]
    client = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=INSECURE)
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    )
    try:
        client.request(method, path)
        answer = client.getresponse()
        return answer.status, answer.read().decode()
    finally:
        client.close()


def test_links_that_are_forged_used_twice_or_too_old_over_tls() -> None:
    more = '[quarantine]\nbase_url = "https://mail.home.example/"\nhttps = true\n'
    with serving(more=more) as server:
        server.send(VIRUS, ANN, BOB)
        mine, his = (re.findall(r"/q/(\S+)", said(server, "digest", who))[0] for who in (ANN, BOB))
        middle = len(mine) // 2
        forged = [
            mine[:-2] + ("AA" if mine[-2:] != "AA" else "BB"),
            mine[:middle] + his[middle:],
            his[:middle] + mine[middle:],
            mine + "A",
            mine.swapcase(),
            "",
            "../" + mine,
            "A" * 4000,
        ]
        for one in forged:
            assert fetched(server, "POST", f"/q/{one}", tls=True)[0] in (400, 404, 414), one
            assert fetched(server, "GET", f"/q/{one}", tls=True)[0] in (400, 404, 414), one
        assert len(held(server)) == 2
        with pytest.raises((http.client.HTTPException, OSError)):
            fetched(server, "GET", f"/q/{mine}")  # no plain HTTP by this door
        for _ in range(2):
            assert fetched(server, "POST", f"/q/{mine}", tls=True)[0] == 200
        wait_for(lambda: not held(server, ANN), 30, "the release")
        assert fetched(server, "POST", f"/q/{mine}", tls=True)[0] == 200
        assert len(server.read("ann")["INBOX"]) == 1 and len(held(server)) == 1
        (row,) = held(server)
        said(server, "drop", str(row["id"]), "--yes")
        code, shown = fetched(
            server, "POST", f"/q/{his}", tls=True
        )  # dropped meanwhile: said, and nothing comes back
        assert code in (200, 404, 410) and not server.read("bob")["INBOX"], shown


def test_the_link_of_a_digest_releases_by_its_button_only() -> None:
    more = '[quarantine]\nbase_url = "https://mail.home.example/"\n'
    with serving(more=more) as server:
        server.send(VIRUS, ANN, BOB)
        assert "https://mail.home.example/q/" in said(server, "digest", ANN)
        assert "queued for ann@" in said(server, "digest", ANN, "--send")
        wait_for(lambda: server.read("ann")["INBOX"], 30, "the digest")
        (text,) = server.read("ann")["INBOX"].values()
        mail_ = email.message_from_bytes(text, policy=email.policy.default)
        body = mail_.get_body(("plain",))
        assert body is not None
        links = re.findall(r"https://mail[.]home[.]example(/q/\S+)", body.get_content())
        assert len(links) == 1 and not server.read("bob")["INBOX"]
        for _ in range(2):  # as a scanner of links does
            code, shown = fetched(server, "GET", links[0])
            assert code == 200 and "an invoice" in shown and '<form method="post">' in shown
        assert len(held(server, ANN)) == 1
        assert fetched(server, "POST", links[0][:-1])[0] == 404 == fetched(server, "GET", "/")[0]
        assert fetched(server, "POST", links[0])[0] == 200
        wait_for(lambda: not held(server, ANN), 30, "the release")
        assert fetched(server, "POST", links[0])[0] == 200
        assert len(server.read("ann")["INBOX"]) == 2
        with socket.create_connection(("127.0.0.1", server.ports["web"]), 10) as raw:
            raw.sendall(b"\x16\x03\x01 no request\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
        token = re.findall(r"/q/(\S+)", said(server, "digest", BOB))[0]
        assert "released: INBOX uid 1" in said(server, "release", "--token", token)
        said(server, "release", "--token", token[:-1], code=1)
