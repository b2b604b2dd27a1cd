"""Many sessions on one mailbox, in several workers, doing everything at once while mail is delivered.

Messages called ``keep-N`` are never deleted or copied, only moved to and fro: at the end each that was acknowledged is there
exactly once; what REPLACE took the place of is gone. In the end all sessions have the same messages with the same flags, and kept
results of searches are what a new search finds. Beside them sessions read mailboxes that others rename and delete meanwhile.
FILTERD_STRESS_SECONDS makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import smtplib
import threading
import time
from collections import Counter

import pytest

from tests.e2e.server import DOMAIN, PASSWORD, Server
from tests.stress.imapclient_state import Ended, Known, Session

pytestmark = [pytest.mark.slow, pytest.mark.e2e]
SESSIONS = 20
SECONDS = float(os.environ.get("FILTERD_STRESS_SECONDS", "20"))
BOXES = ("INBOX", "Other")
PASSING = ("P0", "P1", "P2")  # mailboxes that come and go
KEYS = (
    b"UNSEEN",
    b"FLAGGED",
    b"KEYWORD custom",
    b"NOT ANSWERED",
    b"SUBJECT keep",
    b"OR SEEN FLAGGED",
    b"BODY word7",
)
SCRIPTS = (
    b'require "imap4flags"; addflag "custom";',
    b'require "imap4flags"; if hasflag "\\Flagged" { removeflag "\\Flagged"; } else { addflag "\\Flagged"; }',
    b'require "fileinto"; if header :matches "subject" "drop*" { fileinto "Other"; }',
    b'if header :matches "subject" "drop*" { discard; }',
)
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


async def play(session: Session, pick: random.Random, until: float, kept: list[str], gone: list[str]) -> int:
    done = 0
    await session.select("INBOX")
    while time.monotonic() < until:
        done += 1
        count = len(session.uids)
        number = pick.randint(1, count) if count else 0
        match pick.randint(0, 19):
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
            case 13:
                kept += await several(
                    session, [f"keep-{id(session)}-{done}-{each}" for each in range(pick.randint(2, 5))]
                )
            case 14 if number:
                await replace(session, session.uids[number - 1], f"keep-{id(session)}-{done}", kept, gone)
            case 15 if number:
                await run_script(session, pick.choice(SCRIPTS), session.uids[number - 1 : number + 20])
            case 16 if len(session.contexts) < 5:
                await session.follow(pick.choice(KEYS))
            case 17 if session.contexts and pick.random() < 0.2:
                await session.forget(pick.choice(list(session.contexts)))
            case 18 if pick.random() < 0.3:
                await passing(session.port, pick)
            case 19:
                await session(b"UID EXPUNGE %d:*" % (session.uids[-1] or 1) if count else b"CHECK")
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


async def several(session: Session, names: list[str]) -> list[str]:
    """MULTIAPPEND: all or none."""
    texts = [text(name) for name in names]
    command = b"APPEND INBOX" + b"".join(b" {%d+}\r\n%b" % (len(one), one) for one in texts)
    return names if (await session(command))[-1].split()[1] == b"OK" else []


async def replace(session: Session, uid: int | None, name: str, kept: list[str], gone: list[str]) -> None:
    await session(b"UID FETCH %d BODY.PEEK[HEADER.FIELDS (SUBJECT)]" % (uid or 1))
    old = session.known.subjects.get((session.mailbox, uid or 0))
    if old is None:
        return
    target = BOXES[len(name) % 2].encode()
    if (await session(b"UID REPLACE %d %b" % (uid, target), text(name)))[-1].split()[1] == b"OK":
        kept.append(name)
        gone.append(old.decode())


async def run_script(session: Session, script: bytes, uids: list[int | None]) -> None:
    """FILTER=SIEVE over some messages."""
    quoted = script.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    chosen = b",".join(b"%d" % uid for uid in uids if uid)
    if chosen:
        for line in await session(b'UID FILTER SIEVE SCRIPT "%b" UID %b' % (quoted, chosen)):
            if b"FILTERED" in line and not line.endswith(b" OK"):
                session.broken(f"{script!r}: {line!r}")


async def passing(port: int, pick: random.Random) -> None:
    """Reads a mailbox that others rename and delete."""
    reader = Session(port, f"ann@{DOMAIN}", PASSWORD, Known(), volatile=True)
    try:
        await reader.open()
        name = pick.choice(PASSING)
        await reader(b"CREATE %b" % name.encode())
        await reader.select(name)
        for _ in range(pick.randint(1, 10)):
            one, other = (each.encode() for each in pick.sample(PASSING, 2))
            match pick.randint(0, 7):
                case 0 | 1:
                    await reader(b"APPEND %b" % name.encode(), text("passing"))
                case 2:
                    await reader(b"RENAME %b %b" % (one, other))
                case 3:
                    await reader(b"DELETE %b" % one)
                case 4 if reader.mailbox:
                    await reader(b"STORE 1:* +FLAGS (\\Deleted)")
                    await reader(b"EXPUNGE")
                case 5 if reader.mailbox:
                    await reader(b"FETCH 1:* (UID FLAGS BODY.PEEK[])")
                case 6:
                    await reader.idle(pick.random() * 0.1)
                case _:
                    await reader(b"NOOP")
    except Ended:
        pass
    finally:
        reader.close()


async def story(server: Server, mail: Mail) -> list[str]:
    known, kept, gone = Known(), [], []
    sessions = [Session(server.ports["imap"], f"ann@{DOMAIN}", PASSWORD, known) for _ in range(SESSIONS)]
    for session in sessions:
        await session.open()
    await sessions[0](b"CREATE Other")
    until = time.monotonic() + SECONDS
    picks = [random.Random(number) for number in range(SESSIONS)]
    counts = await asyncio.gather(
        *[play(session, pick, until, kept, gone) for session, pick in zip(sessions, picks, strict=True)]
    )
    mail.stop.set()
    await asyncio.to_thread(mail.thread.join)
    kept += mail.acknowledged
    print(f"{sum(len(session.contexts) for session in sessions)} results of searches kept")
    for session in sessions:
        await session.compare()
    print(
        f"{sum(counts)} commands, {len(kept)} messages, {len(gone)} of them replaced, by {SESSIONS} sessions"
    )
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
    count, replaced = Counter(there), set(gone)
    lost = [
        f"{name} is there {count[name]} times{' and was replaced' * (name in replaced)}"
        for name in kept
        if name.startswith("keep") and count[name] != (name not in replaced)
    ]
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
