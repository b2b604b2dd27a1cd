"""Learning through real doors: moves by IMAP teach the builtin classifier, and the next spam goes to Junk."""

from __future__ import annotations

import contextlib
import imaplib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, ENVIRONMENT, Server, wait_for

pytestmark = pytest.mark.e2e

ANN = f"ann@{DOMAIN}"
EXTRA = '[stage.spamassassin]\nengine = "builtin"\nmin_learned = 3\n'
PITCH = (
    "Cheap pills without prescription! Click http://pills.example/{n} now, limited offer, winner number {n}."
)
NOTE = (
    "Dear Ann, the meeting about the garden plans is on day {n}; bring the drawings and the list of plants."
)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(people=("ann", "bob"), extra=EXTRA) as running:
        yield running


def spam(n: int) -> bytes:
    text = f"From: Deals <d{n}@pills.example>\r\nTo: {ANN}\r\nSubject: Winner {n}: cheap pills\r\n"
    return f"{text}Message-ID: <s{n}@pills.example>\r\n\r\n{PITCH.format(n=n)}\r\n".encode()


def ham(n: int) -> bytes:
    text = f"From: Carol <carol@garden.example>\r\nTo: {ANN}\r\nSubject: garden plans {n}\r\n"
    return f"{text}Message-ID: <h{n}@garden.example>\r\n\r\n{NOTE.format(n=n)}\r\n".encode()


def command(server: Server, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "filterd", *words, "-c", str(server.config)],
        capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def lessons(server: Server, account: str = ANN) -> dict[str, int]:
    told = json.loads(command(server, "learn", "status", "--json"))
    for row in told["learned"]:
        if row["account"] == account and row["engine"] == "builtin":
            return {"spam": row["spam"], "ham": row["ham"]}
    return {}


def teach_ham(server: Server, folder: Path) -> None:
    mbox = folder / "ham.mbox"
    mbox.write_bytes(b"".join(b"From x\n" + ham(n).replace(b"\r\n", b"\n") + b"\n" for n in range(4)))
    assert "4 message(s) read" in command(server, "learn", "ham", "--account", ANN, str(mbox))


def deliver(server: Server, data: bytes) -> None:
    with server.smtp() as client:
        client.sendmail("x@shop.example", [ANN], data)


def boxes(server: Server) -> dict[str, int]:
    return {name: len(texts) for name, texts in server.read("ann").items()}


def count(imap: imaplib.IMAP4, mailbox: str) -> int:
    return int(imap.select(mailbox)[1][0] or b"0")


def test_a_move_to_junk_teaches_and_the_next_one_goes_there(server: Server, tmp_path: Path) -> None:
    teach_ham(server, tmp_path)
    for n in range(3):
        deliver(server, spam(n))
    assert boxes(server)["INBOX"] == 3
    with server.imap("ann") as imap:
        imap.select("INBOX")
        assert imap.uid("MOVE", "1:*", "Junk")[0] == "OK"
        imap.select("Junk")
        imap.store("1:*", "+FLAGS", "\\Deleted")
        imap.expunge()  # at once: the lesson has the text
    wait_for(lambda: lessons(server).get("spam") == 3, 60, "three lessons")
    deliver(server, spam(7))
    deliver(server, ham(7))
    found = server.read("ann")
    assert len(found["Junk"]) == 1 and len(found["INBOX"]) == 1
    (junk,) = found["Junk"].values()
    assert b"X-Spam-Flag: YES" in junk and b"Winner 7" in junk
    with server.imap("ann") as imap:  # a change of mind
        imap.select("Junk")
        assert imap.uid("MOVE", "1:*", "INBOX")[0] == "OK"
        wait_for(lambda: lessons(server).get("ham") == 5, 60, "the lesson that it is ham")
        imap.select("INBOX")
        imap.store("1:*", "+FLAGS", "($Junk)")
        wait_for(lambda: lessons(server).get("spam") == 5, 60, "both by their flag")
        imap.store("1:*", "-FLAGS", "($Junk)")
        wait_for(lambda: lessons(server).get("spam") == 3, 60, "both forgotten")
        imap.uid("COPY", "1:*", "Trash")
        imap.select("Trash")
        imap.uid("COPY", "1:*", "INBOX")
    assert lessons(server)["ham"] == 4
    assert lessons(server, f"bob@{DOMAIN}") == {}


def test_appended_flags_teach_and_nothing_is_learned_twice(server: Server, tmp_path: Path) -> None:
    teach_ham(server, tmp_path)
    with server.imap("ann") as imap:
        imap.create("Archive")
        assert imap.append("Archive", "($Junk)", None, spam(1))[0] == "OK"  # a flag, not a folder
        assert imap.append("INBOX", "(\\Seen $NotJunk)", None, ham(9))[0] == "OK"
        assert imap.append("INBOX", "(\\Seen)", None, spam(2))[0] == "OK"
        wait_for(lambda: lessons(server) == {"spam": 1, "ham": 5}, 60, "one lesson of each")
        for name in ("Archive", "INBOX"):  # the same message in every way there is
            assert imap.append(name, "($Junk)", None, spam(1))[0] == "OK"
        imap.select("Archive")
        imap.uid("COPY", "1:*", "Junk")
        imap.store("1:*", "-FLAGS", "(\\Seen)")
        imap.store("1:*", "+FLAGS", "(Junk)")
        imap.uid("MOVE", "1:*", "Junk")
    told = json.loads(command(server, "learn", "status", "--json"))
    wait_for(
        lambda: not json.loads(command(server, "learn", "status", "--json"))["waiting"], 60, "all lessons"
    )
    assert lessons(server) == {"spam": 1, "ham": 5}, told


def test_a_kill_right_after_the_answer_loses_no_lesson(server: Server, tmp_path: Path) -> None:
    with contextlib.suppress(OSError, imaplib.IMAP4.abort), server.imap("ann") as imap:
        for n in range(3):
            assert imap.append("Junk", None, None, spam(n))[0] == "OK"
        server.kill()
    server.start()
    wait_for(lambda: lessons(server).get("spam") == 3, 60, "three lessons")
    assert "known already" in command(
        server, "learn", "spam", "--account", ANN, str(_file(tmp_path, spam(1)))
    )
    assert lessons(server)["spam"] == 3


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "one.eml"
    path.write_bytes(data)
    return path
