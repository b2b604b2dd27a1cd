"""The spam stage and copies of one mail: who is asked about again, and who never is; with spamd, rspamd, and the real spamd."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from pipeline.edits import apply
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.registry import StageContext
from pipeline.runner import Runner
from pipeline.stage import Phase
from pipeline.stages.spamassassin import EXACT_MARGIN, MARGIN, SpamassassinSettings, SpamassassinStage
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message
from tests import faultserver, programs
from tests.e2e.server import wait_for

MAIL = b"From: a@example.net\r\nTo: ann@x.example\r\nSubject: hello\r\nMessage-ID: <one@example.net>\r\n\r\nbody\r\n"
ANN, BOB = (Recipient(f"{name}@x.example", account=f"{name}@x.example") for name in ("ann", "bob"))
CLIENT = Client(ip="192.0.2.1", helo="mx.example.net", name="mx.example.net")
ENVELOPE = Envelope("list+ann=x.example@example.net", (ANN,), CLIENT, Profile.MX)


class LaterClock(SystemClock):
    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Engine:
    """A daemon that counts what it is asked. ``score``: of every message, or made from it."""

    def __init__(self, rspamd: bool = False) -> None:
        self.score: float | Callable[[bytes], float] = 0.5
        self.action = "no action"
        self.asked: list[bytes] = []
        self.broken = False
        self.hold: threading.Event | None = None
        self._rspamd = rspamd

    def behave(self, conn: socket.socket, stop: threading.Event) -> None:
        data = self._request(conn) if self._rspamd else faultserver.spamd_request(conn)
        self.asked.append(data)
        if self.hold is not None:
            self.hold.wait(20)
        if self.broken:
            return
        score = self.score(data) if callable(self.score) else self.score
        if self._rspamd:
            facts = {
                "score": score,
                "required_score": 15.0,
                "action": self.action,
                "symbols": {"ONE": {"score": score}},
            }
            body = json.dumps(facts).encode()
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        body = (
            b"ONE,TWO"
            if data.startswith((b"REPORT", b"SYMBOLS"))
            else b"X-Spam-Status: No, score=0\r\n\r\n" + MAIL
        )
        head = f"SPAMD/1.1 0 EX_OK\r\nContent-length: {len(body)}\r\nSpam: False ; {score} / 5.0\r\n\r\n"
        conn.sendall(head.encode() + body)

    @staticmethod
    def _request(conn: socket.socket) -> bytes:
        """The message comes last and ends with ``body`` and a line end."""
        out = b""
        while not out.endswith(b"body\r\n"):
            part = conn.recv(65536)
            if not part:
                raise EOFError
            out += part
        return out


class Bench:
    """One stage in its runner."""

    def __init__(self, where: str, **settings: object) -> None:
        self.clock = LaterClock()
        base = {
            "enabled": "on",
            "socket": where,
            "rspamd_socket": where,
            "timeout": 20.0,
            "on_error": "defer",
        }
        chosen = SpamassassinSettings(**{**base, **settings})  # type: ignore[arg-type]  # free settings
        self.taught = 0
        context = StageContext(self.clock, SystemIds(), ZoneResolver(Zone.parse("")), "mx.example.org")
        self.runner = Runner([SpamassassinStage(chosen, context, lessons=lambda: self.taught)], self.clock)
        self._count = 0

    async def ask(self, data: bytes = MAIL, envelope: Envelope = ENVELOPE) -> Verdict:
        self._count += 1
        one = Transaction(Message(data), envelope, f"TRACE-{self._count}", self.clock.monotonic() + 100)
        (verdict,) = (await self.runner.run(Phase.EOM, one)).verdicts
        assert verdict.result in ("ham", "spam") or verdict.disposition is Disposition.TEMPFAIL
        return verdict


def play(daemon: Engine, story: Callable[[Bench], Awaitable[None]], **settings: object) -> None:
    async def main(where: str) -> None:
        bench = Bench(where, **settings)
        try:
            async with asyncio.timeout(60):
                await story(bench)
        finally:
            await bench.runner.close()

    with faultserver.serve(daemon.behave) as where:
        asyncio.run(main(where))


def for_(*recipients: Recipient, **more: object) -> Envelope:
    return replace(ENVELOPE, recipients=recipients, **more)  # type: ignore[arg-type]  # free fields


@pytest.mark.parametrize("score", [0.5, 5 + MARGIN, 400.0])
def test_a_copy_gets_the_same_verdict_and_nobody_is_asked(score: float) -> None:
    engine = Engine()
    engine.score = score

    async def story(bench: Bench) -> None:
        first = await bench.ask()
        bench.clock.ahead += 35
        again = await bench.ask(MAIL.replace(b"<one@", b"<two@"))
        assert len(engine.asked) == 1
        assert again.evidence["remembered"] == "TRACE-1, 35 s ago" and "remembered" not in first.evidence
        assert again.summary == f"{first.summary}  (remembered from TRACE-1, 35 s ago)"
        same = replace(again, summary=first.summary, evidence=first.evidence)
        assert same == first and apply(MAIL, first.edits) == apply(MAIL, again.edits)
        assert (first.disposition is Disposition.REJECT) is (score == 400)
        bench.clock.ahead += 600
        assert "remembered" not in (await bench.ask()).evidence and len(engine.asked) == 2

    play(engine, story)


def test_fields_of_this_message_are_removed_not_those_of_the_other() -> None:
    async def story(bench: Bench) -> None:
        await bench.ask()
        forged = b"X-Spam-Flag: NO\r\n" + MAIL
        for _ in range(2):
            verdict = await bench.ask(forged)
            assert b"X-Spam-Flag" not in apply(forged, verdict.edits)
        assert "remembered" in verdict.evidence

    play(Engine(), story)


@pytest.mark.parametrize(
    "other",
    [
        for_(BOB),  # his own preferences
        for_(ANN, reverse_path="x@other.example"),
        for_(ANN, reverse_path=""),
        for_(ANN, client=replace(CLIENT, ip="192.0.2.2")),
        for_(ANN, client=replace(CLIENT, helo="other.example")),
        for_(ANN, client=replace(CLIENT, name="other.example")),
        for_(ANN, client=replace(CLIENT, facts_trusted=False)),
        for_(ANN, client=Client()),
        for_(ANN, profile=Profile.LMTP),
    ],
)
def test_what_the_engine_is_told_of_the_sender_makes_another_mail(other: Envelope) -> None:
    engine = Engine()

    async def story(bench: Bench) -> None:
        for number in range(2):
            assert ("remembered" in (await bench.ask(envelope=ENVELOPE)).evidence) is bool(number)
            assert ("remembered" in (await bench.ask(envelope=other)).evidence) is bool(number)

    play(engine, story)
    assert len(engine.asked) == 2


def test_a_copy_for_somebody_else_is_asked_about_with_his_preferences() -> None:
    engine = Engine()

    async def story(bench: Bench) -> None:
        for _ in range(2):
            await bench.ask()
            await bench.ask(MAIL.replace(b"ann@", b"bob@"), for_(BOB))

    play(engine, story)
    assert [b"User: bob@x.example\r\n" in data for data in engine.asked] == [False, True]


def test_without_preferences_a_verdict_counts_for_everybody() -> None:
    """A list that writes whom a copy is for into the reverse-path and into To."""
    engine = Engine()

    async def story(bench: Bench) -> None:
        await bench.ask()
        for name in ("bob", "eve"):
            recipient = Recipient(f"{name}@x.example", account=f"{name}@x.example")
            mail = MAIL.replace(b"ann@", name.encode() + b"@")
            verdict = await bench.ask(
                mail, for_(recipient, reverse_path=f"list+{name}=x.example@example.net")
            )
            assert "remembered" in verdict.evidence
        await bench.ask(MAIL, for_(ANN, BOB))  # To is about one of several

    play(engine, story, user="")
    assert len(engine.asked) == 1


def test_a_harmless_mail_does_not_open_the_door_to_another() -> None:
    """Whatever a spammer changes that a reader sees, or that the engine would mind: it is asked."""
    engine = Engine()
    engine.score = lambda data: 9.0 if b"pills" in data or b"bank" in data else 0.1
    bad = [
        MAIL.replace(b"body", b"pills, body"),
        MAIL.replace(b"From: a@example.net", b"From: bank <a@example.net>"),
        MAIL.replace(b"Subject: hello", b"Subject: pills"),
        MAIL.replace(b"To: ann", b"To: pills <ann@x.example>, ann"),
        MAIL.replace(b"Message-ID", b"Reply-To: pills@example.net\r\nMessage-ID"),
        MAIL.replace(b"Message-ID", b"Delivered-To: x\rSubject: pills\r\nMessage-ID"),
        MAIL.replace(b"Message-ID", b"Message-ID: <1@pills>\r\nMessage-ID"),
        MAIL.replace(b"Message-ID", b"Date: Fri, 1 Jan 2038 00:00:00 +0000 (pills)\r\nMessage-ID"),
        MAIL.replace(b"Message-ID", b"Content-Type: text/plain; name=pills\r\nMessage-ID"),
        MAIL.replace(b"\r\n\r\n", b"\r\n\r\npills\r\n\r\n"),
        b"Subject: pills\r\n" + MAIL,
        b"pills\r\n" + MAIL,
        b"Received: from pills\r\n" + MAIL,
    ]

    async def story(bench: Bench) -> None:
        assert (await bench.ask()).result == (await bench.ask()).result == "ham"
        for data in bad:
            assert (await bench.ask(data)).result == "spam", data
        assert (await bench.ask()).result == "ham"

    play(engine, story)
    assert len(engine.asked) == 1 + len(bad)


@pytest.mark.parametrize("score", [3.6, 4.8, 5.0, 6.4, 13.6, 15.0, 15.2, 16.4])
def test_near_a_threshold_it_is_asked_again(score: float) -> None:
    """An exact copy is not, unless it is very near."""
    engine = Engine()
    engine.score = score
    near = min(abs(score - 5), abs(score - 15)) < EXACT_MARGIN

    async def story(bench: Bench) -> None:
        for name in (b"one", b"two", b"ten"):
            assert "remembered" not in (await bench.ask(MAIL.replace(b"<one@", b"<%s@" % name))).evidence
        again = await bench.ask(MAIL.replace(b"<one@", b"<ten@"))
        assert ("remembered" in again.evidence) is not near

    play(engine, story)
    assert len(engine.asked) == (4 if near else 3)


def test_without_a_refusal_there_is_one_threshold() -> None:
    engine = Engine()
    engine.score = 15.0

    async def story(bench: Bench) -> None:
        await bench.ask()
        assert "remembered" in (await bench.ask()).evidence

    play(engine, story, reject_at=0.0)


@pytest.mark.parametrize("settings", [{"remember": 0.0}, {"command": "headers"}, {"command": "process"}])
def test_what_is_never_remembered(settings: dict[str, object]) -> None:
    engine = Engine()

    async def story(bench: Bench) -> None:
        for _ in range(2):
            assert "remembered" not in (await bench.ask()).evidence

    play(engine, story, **settings)
    assert len(engine.asked) == 2


def test_failures_are_not_remembered_and_lessons_make_forget() -> None:
    engine = Engine()
    engine.broken = True

    async def story(bench: Bench) -> None:
        for _ in range(2):
            assert (await bench.ask()).disposition is Disposition.TEMPFAIL
        engine.broken = False
        await bench.ask()
        assert "remembered" in (await bench.ask()).evidence
        engine.broken = True
        assert (await bench.ask()).result == "ham", "what is known needs no daemon"
        bench.taught += 1
        assert (await bench.ask()).disposition is Disposition.TEMPFAIL

    play(engine, story)
    assert len(engine.asked) == 4


def test_copies_that_come_together_are_asked_about_once() -> None:
    engine = Engine()
    engine.hold = threading.Event()

    async def story(bench: Bench) -> None:
        assert engine.hold is not None
        tasks = [asyncio.ensure_future(bench.ask()) for _ in range(8)]
        while not engine.asked:
            await asyncio.sleep(0.005)
        tasks[3].cancel()
        engine.hold.set()
        told = [await task for at, task in enumerate(tasks) if at != 3]
        assert sum("remembered" in verdict.evidence for verdict in told) == 6
        assert {verdict.tags["spam.score"] for verdict in told} == {"0.50"}

    play(engine, story, parallel=2)
    assert len(engine.asked) == 1


def test_copies_of_what_fails_each_ask() -> None:
    engine = Engine()
    engine.hold = threading.Event()
    engine.broken = True

    async def story(bench: Bench) -> None:
        assert engine.hold is not None
        tasks = [asyncio.ensure_future(bench.ask()) for _ in range(3)]
        while not engine.asked:
            await asyncio.sleep(0.005)
        engine.hold.set()
        assert {(await task).disposition for task in tasks} == {Disposition.TEMPFAIL}

    play(engine, story)
    assert len(engine.asked) == 3


@pytest.mark.parametrize(
    ("action", "score", "kept"),
    [
        ("no action", 1.0, True),
        ("add header", 8.0, True),
        ("rewrite subject", 8.0, True),
        ("reject", 20.0, True),
        ("reject", 15.2, False),
        ("soft reject", 1.0, False),
        ("greylist", 1.0, False),
        ("quarantine", 30.0, False),
    ],
)
def test_rspamd(action: str, score: float, kept: bool) -> None:
    engine = Engine(rspamd=True)
    engine.score, engine.action = score, action

    async def story(bench: Bench) -> None:
        first, again = await bench.ask(), await bench.ask()
        assert ("remembered" in again.evidence) is kept
        assert again.disposition is first.disposition and again.edits == first.edits
        other = await bench.ask(envelope=for_(BOB))  # its settings may be about recipients
        assert "remembered" not in other.evidence

    play(engine, story, engine="rspamd", user="")


@pytest.fixture(scope="module")
def spamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    home = tmp_path_factory.mktemp("spamd")
    with programs.spamd(home) as where:
        yield where, home / "log"


@pytest.mark.peer
@pytest.mark.slow
def test_the_real_spamd_is_asked_once(spamd: tuple[str, Path]) -> None:
    where, log = spamd
    mail = b"From: Ann <ann@example.net>\r\nTo: bob@x.example\r\nSubject: lunch\r\nMessage-ID: <1.2@example.net>\r\n"
    mail += f"Date: {formatdate()}\r\n\r\nShall we meet at noon? Yours, Ann\r\n".encode()

    async def main() -> None:
        bench = Bench(where, user="", timeout=60.0)
        first = await bench.ask(mail, for_(BOB))
        others = [
            await bench.ask(mail.replace(b"bob@", b"ann@").replace(b"<1.2@", b"<3.4@"), for_(ANN))
            for _ in range(3)
        ]
        assert [one.tags for one in others] == [first.tags] * 3
        await bench.ask(mail + b"Or at one?\r\n", for_(ANN))
        await bench.runner.close()

    asyncio.run(main())
    wait_for(lambda: log.read_text().count("spamd: result:") >= 2, 20, "spamd's log")  # it answers first
    assert log.read_text().count("spamd: result:") == 2
