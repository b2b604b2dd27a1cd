"""Many sessions on one mailbox, in several workers, doing everything at once while mail is delivered.

Messages called ``keep-N`` are never deleted or copied, only moved to and fro: at the end each that was acknowledged is there
exactly once. In the end all sessions have the same messages with the same flags. FILTERD_STRESS_SECONDS makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import smtplib
import threading
import time

import pytest

from tests.e2e.server import DOMAIN, PASSWORD, Server
from tests.stress.imapclient_state import Known, Session

pytestmark = [pytest.mark.slow, pytest.mark.e2e]
SESSIONS = 20
SECONDS = float(os.environ.get("FILTERD_STRESS_SECONDS", "20"))
BOXES = ("INBOX", "Other")
FLAGS = (b"\\Seen", b"\\Flagged", b"\\Answered", b"$Forwarded", b"custom")
PLAIN = (
    b"NOOP", b"CHECK", b"FETCH 1:* (FLAGS)", b"FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE)", b"SEARCH ALL",
    b"UID SEARCH UNSEEN", b"SEARCH SUBJECT keep", b"SEARCH BODY word7", b"UID FETCH 1:* (ENVELOPE BODYSTRUCTURE)",
    b"STATUS INBOX (MESSAGES UNSEEN UIDNEXT)", b"UID SEARCH RETURN (COUNT MAX) FLAGGED", b"EXPUNGE",
)  # fmt: skip


def text(name: str) -> bytes:
    words = " ".join(f"word{number}" for number in range(random.randint(1, 40)))
    return f"From: a@shop.example\r\nTo: ann@{DOMAIN}\r\nSubject: {name}\r\n\r\n{words}\r\n".encode()


class Mail:
    """Deliveries by LMTP, in a thread, until told to stop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.acknowledged: list[str] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        with smtplib.LMTP("127.0.0.1", self.port, "localhost") as client:
            number = 0
            while not self.stop.wait(0.01):
                number += 1
                name = f"{'keep' if number % 3 else 'drop'}-lmtp{number}"
                client.sendmail("a@shop.example", [f"ann@{DOMAIN}"], text(name))
                self.acknowledged.append(name)


async def play(session: Session, pick: random.Random, until: float, kept: list[str]) -> int:
    done = 0
    await session.select("INBOX")
    while time.monotonic() < until:
        done += 1
        count = len(session.uids)
        number = pick.randint(1, count) if count else 0
        match pick.randint(0, 12):
            case 0 | 1 | 2:
                await session(pick.choice(PLAIN))
            case 3 | 4 if number:
                last = min(count, number + pick.randint(0, 10))
                sign, silent = pick.choice([b"+", b"-"]), pick.choice([b"", b".SILENT"])
                flag = pick.choice(FLAGS)
                command = b"STORE %d:%d %bFLAGS%b (%b)" % (number, last, sign, silent, flag)
                if silent:
                    await session.silently(command, session.uids[number - 1 : last], sign, flag)
                else:
                    await session(command)
            case 5 | 6 if number:
                await session(b"FETCH %d (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)] RFC822.SIZE)" % number)
            case 7 if number:
                await session(b"UID FETCH %d:* (FLAGS BODY.PEEK[])" % (session.uids[-1] or 1))
            case 8:
                await drop(session, pick)
            case 9:
                name = f"{pick.choice(['keep', 'drop'])}-{id(session)}-{done}"
                if (await session(b"APPEND INBOX", text(name)))[-1].split()[1] == b"OK":
                    kept.append(name)
            case 10 if number:
                target = BOXES[session.mailbox == "INBOX"].encode()
                uid = session.uids[number - 1]
                if uid is not None:
                    await session(b"UID MOVE %d %b" % (uid, target))
            case 11:
                await session.idle(pick.random() * 0.1)
            case 12 if pick.random() < 0.2:
                await session.select(pick.choice(BOXES))
            case _:
                await session(b"NOOP")
    return done


async def drop(session: Session, pick: random.Random) -> None:
    """Delete or copy what may be."""
    await session(b"UID FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    subjects, mailbox = session.known.subjects, session.mailbox
    some = [uid for uid in session.uids if uid and subjects.get((mailbox, uid), b"").startswith(b"drop")]
    if not some:
        return
    sample = pick.sample(some, min(len(some), 5))
    chosen = b",".join(b"%d" % uid for uid in sample)
    if pick.random() < 0.2 and len(some) < 50:
        await session(b"UID COPY %b %b" % (chosen, pick.choice(BOXES).encode()))
    else:
        command = b"UID STORE %b +FLAGS.SILENT (\\Deleted)" % chosen
        await session.silently(command, sample, b"+", b"\\Deleted")
        await session(pick.choice([b"EXPUNGE", b"UID EXPUNGE " + chosen, b"NOOP"]))


async def story(server: Server, mail: Mail) -> list[str]:
    known, kept = Known(), []
    sessions = [Session(server.ports["imap"], f"ann@{DOMAIN}", PASSWORD, known) for _ in range(SESSIONS)]
    for session in sessions:
        await session.open()
    await sessions[0](b"CREATE Other")
    until = time.monotonic() + SECONDS
    picks = [random.Random(number) for number in range(SESSIONS)]
    counts = await asyncio.gather(
        *[play(session, pick, until, kept) for session, pick in zip(sessions, picks, strict=True)]
    )
    mail.stop.set()
    await asyncio.to_thread(mail.thread.join)
    kept += mail.acknowledged
    print(f"{sum(counts)} commands, {len(kept)} messages by {SESSIONS} sessions")
    there: list[str] = []
    for box in BOXES:
        views = []
        for session in sessions:
            if session.mailbox != box:
                await session.select(box)
            await session(b"NOOP")
            told = dict(session.flags)
            await session(b"UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
            now = {uid: session.flags[uid] for uid in session.uids if uid is not None}
            for uid, flags in told.items():
                assert now[uid] == flags, f"UID {uid}: was told {flags}, is {now[uid]}"
            views.append(now)
        assert all(view == views[0] for view in views)
        there += [known.subjects[box, uid].decode() for uid in views[0]]
    lost = [name for name in kept if name.startswith("keep") and there.count(name) != 1]
    assert not lost, lost
    for session in sessions:
        session.close()
    return there


def test_everything_at_once() -> None:
    extra = '[pipeline]\nincoming = []\n[tls]\nmode = "self-signed"\nallow_plaintext_login = true\n'
    with Server(people=("ann",), extra=extra, server="workers = 2", doors=("lmtp", "imap")) as server:
        mail = Mail(server.ports["lmtp"])
        mail.thread.start()
        try:
            there = asyncio.run(story(server, mail))
        finally:
            mail.stop.set()
            mail.thread.join()
        assert there
        assert "Traceback" not in server.log(), server.log()[-3000:]
