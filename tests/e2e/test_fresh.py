"""What one connection was told is done, every other one sees at once, whichever process serves it.

RFC 3501 5.2 lets a server be later; people with two programs open do not. The short cut past the pool (``filterd.store.ready``)
must not make it so, nor the change notices, which are datagrams and may be late.
"""

from __future__ import annotations

import imaplib
import random
import re
from collections.abc import Iterator

import pytest

from tests.e2e.server import DOMAIN, INSECURE, PASSWORD, Server, mail

pytestmark = pytest.mark.e2e

SESSIONS = 6
TURNS = 160


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(people=("ann",), server="workers = 2") as running:
        yield running


def session(server: Server) -> imaplib.IMAP4_SSL:
    imap = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE, timeout=20)
    imap.login(f"ann@{DOMAIN}", PASSWORD)
    return imap


def exists(imap: imaplib.IMAP4_SSL, how: str) -> int:
    """How many messages INBOX has, asked in one of the ways a client may."""
    if how == "examine":
        kind, data = imap.select("INBOX", readonly=True)
        assert kind == "OK"
        return int(data[0] or b"-1")
    if how == "status":
        kind, data = imap.status("INBOX", "(MESSAGES)")
        assert kind == "OK"
        return int(re.findall(rb"MESSAGES (\d+)", data[0])[0])
    if how == "noop":
        assert imap.noop()[0] == "OK"
    kind, data = imap.uid("SEARCH", "ALL")
    assert kind == "OK"
    return len((data[0] or b"").split())


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_answered_is_seen_by_all(server: Server, seed: int) -> None:
    dice = random.Random(seed)
    sessions = [session(server) for _ in range(SESSIONS)]
    for imap in sessions:
        imap.select("INBOX")
    count = exists(sessions[0], "examine")
    try:
        for turn in range(TURNS):
            writer, reader = dice.choice(sessions), dice.choice(sessions)
            act = dice.choice(("append", "append", "deliver", "expunge"))
            if act == "append":
                assert writer.append("INBOX", "", None, mail(f"{seed}.{turn}"))[0] == "OK"  # type: ignore[arg-type]  # None: now
                count += 1
            elif act == "deliver":
                server.send(mail(f"{seed}.{turn}"), f"ann@{DOMAIN}")
                count += 1
            else:
                writer.select("INBOX")
                _, data = writer.uid("SEARCH", "ALL")
                uids = (data[0] or b"").split()
                assert len(uids) == count, (turn, act, "writer")
                gone = dice.sample(uids, min(len(uids), dice.randint(0, 2)))
                if gone:
                    assert writer.uid("STORE", b",".join(gone).decode(), "+FLAGS", r"(\Deleted)")[0] == "OK"
                    assert writer.expunge()[0] == "OK"
                    count -= len(gone)
            how = dice.choice(("examine", "status", "noop"))
            if how == "noop":
                reader.noop()
            assert exists(reader, how) == count, (turn, act, how, writer is reader)
    finally:
        for imap in sessions:
            imap.logout()
