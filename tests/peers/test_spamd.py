"""The spamassassin stage against a daemon that misbehaves, and against the real spamd."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from filterd.generation import Judged, run_stages
from filterd.ports import SystemClock, SystemIds
from pipeline.edits import apply
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.registry import StageContext
from pipeline.runner import Runner, RunOutcome
from pipeline.stage import Phase
from pipeline.stages.spamassassin import SpamassassinSettings, SpamassassinStage
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.header import scan
from rules.mail.message import Message
from tests import faultserver, programs
from tests.faultserver import spamd_request as read

HAM = b"From: a@example.net\r\nSubject: hello\r\nX-Spam-Flag: NO\r\nx-spam-karma : good\r\n\r\nbody\r\n"
# In two pieces, so that no scanner stops at this file.
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-" + b"ANTI-UBE-TEST-EMAIL*C.34X"
LIMIT = 0.6
ZONE = Zone.parse("""
7.100.51.198.in-addr.arpa PTR mx.example.net
mx.example.net A 198.51.100.7
2.100.51.198.in-addr.arpa PTR mx.example.net
""")


def answer(
    spam: str = "True ; 6.2 / 5.0", body: bytes = b"BAYES_99,HTML_IMAGE_ONLY", extra: str = ""
) -> bytes:
    head = f"SPAMD/1.1 0 EX_OK\r\nContent-length: {len(body)}\r\nSpam: {spam}\r\n{extra}\r\n"
    return head.encode() + body


def ask(
    where: str,
    message: bytes = HAM,
    limit: float = LIMIT,
    client: Client = Client(ip="192.0.2.1"),
    **settings: object,
) -> RunOutcome:
    """One message through a runner with the spamassassin stage only."""
    clock = SystemClock()

    async def main() -> RunOutcome:
        base = {"enabled": "on", "socket": where, "timeout": limit, "on_error": "defer"}
        chosen = SpamassassinSettings(**{**base, **settings})  # type: ignore[arg-type]  # free settings
        stage = SpamassassinStage(
            chosen, StageContext(clock, SystemIds(), ZoneResolver(ZONE), "mx.example.org")
        )
        runner = Runner([stage], clock)
        recipient = Recipient("b@example.org", account="b@example.org")
        envelope = Envelope("a@example.net", (recipient,), client, Profile.MX)
        one = Transaction(Message(message), envelope, "TRACE-00001", clock.monotonic() + 25)
        try:
            return await runner.run(Phase.EOM, one)
        finally:
            await runner.close()

    return asyncio.run(main())


def only(outcome: RunOutcome) -> Verdict:
    (verdict,) = outcome.verdicts
    return verdict


FAULTS = {
    "silent": faultserver.silent(read),
    "drip": faultserver.drip(read, answer(), 0.2),
    "reset": faultserver.reset(read),
    "reset in the answer": faultserver.reset(read, answer()[:30]),
    "reset at once": faultserver.reset_at_once,
    "eof": faultserver.honest(read, b""),
    "eof at once": faultserver.eof_at_once,
    "cut": faultserver.honest(read, answer()[:-1]),
    "cut in the header": faultserver.honest(read, answer()[:40]),
    "too much": faultserver.honest(read, answer() + b"x"),
    "garbage": faultserver.honest(read, b"\x00\xff\xfe HTTP/1.1 200 OK\n"),
    "http": faultserver.honest(read, b"HTTP/1.1 200 OK\r\nContent-length: 0\r\nSpam: False ; 0 / 5\r\n\r\n"),
    "no verdict": faultserver.honest(read, b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\n\r\n"),
    "two verdicts": faultserver.honest(read, answer(extra="Spam: False ; 0.0 / 5.0\r\n")),
    "no length": faultserver.honest(read, b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 0.0 / 5.0\r\n\r\nX"),
    "two lengths": faultserver.honest(read, answer(extra="Content-length: 24\r\n")),
    "nan": faultserver.honest(read, answer("False ; nan / 5.0")),
    "inf": faultserver.honest(read, answer("False ; inf / 5.0")),
    "huge": faultserver.honest(read, answer("True ; 999999999 / 5.0")),
    "pong": faultserver.honest(read, b"SPAMD/1.5 0 PONG\r\n"),
    "busy": faultserver.honest(read, b"SPAMD/1.0 75 EX_TEMPFAIL\r\nContent-length: 0\r\n\r\n"),
    "timeout": faultserver.honest(
        read, b"SPAMD/1.0 79 Timeout: (30 second timeout while trying to SYMBOLS)\r\n"
    ),
    "endless header": faultserver.honest(read, b"SPAMD/1.1 0 EX_OK\r\n" + b"X: y\r\n" * 60000),
    "huge length": faultserver.honest(read, b"SPAMD/1.1 0 EX_OK\r\nContent-length: 999999999\r\n\r\n"),
    "endless": faultserver.endless,
    "never reads": faultserver.never_reads,
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("message", [HAM, HAM + b"x" * 500_000], ids=["small", "large"])
def test_an_error_within_the_limit_and_never_ham(name: str, message: bytes) -> None:
    with faultserver.serve(FAULTS[name]) as where:
        began = time.monotonic()
        outcome = ask(where, message)
        assert time.monotonic() - began < LIMIT + 1.0
    assert outcome.verdict.disposition is Disposition.TEMPFAIL
    assert only(outcome).result in ("error", "timeout")
    assert "spam.score" not in only(outcome).tags
    assert b"pam-" not in apply(HAM, outcome.verdict.edits)  # forged results go all the same


def test_absent() -> None:
    where = faultserver.refused()
    assert ask(where).verdict.disposition is Disposition.TEMPFAIL
    assert ask(where, on_error="accept").verdict.disposition is Disposition.CONTINUE
    outcome = ask(where, enabled="auto")
    assert only(outcome).summary == "not scored: no spamd here"
    assert b"pam-" not in apply(HAM, outcome.verdict.edits)


def test_skips_without_asking() -> None:
    where = faultserver.refused()
    assert only(ask(where, client=Client(auth="ann"))).summary == "not scored: authenticated"
    assert only(ask(where, max_size=10)).result == "skipped"
    assert only(ask(where, enabled="off")).result == "skipped"


def test_what_is_asked() -> None:
    asked: list[bytes] = []

    def remember(conn: socket.socket) -> bytes:
        asked.append(read(conn))
        return asked[0]

    with faultserver.serve(faultserver.split(remember, answer("False ; -0.5 / 5.0", b""))) as where:
        outcome = ask(where, client=Client(ip="198.51.100.7", helo="helo.example.net"))
    assert only(outcome).result == "ham"
    head, _, rest = asked[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"REPORT SPAMC/1.") and b"User: b@example.org" in lines
    assert f"Content-length: {len(rest)}".encode() in lines
    assert rest.startswith(
        b"X-Envelope-From: <a@example.net>\r\n"
        b"Received: from helo.example.net (mx.example.net [198.51.100.7])\r\n\tby mx.example.org with ESMTP id"
    )
    assert rest.endswith(HAM)


@pytest.mark.parametrize("user", ["a\r\nCompress: zlib", "a b", "", "-x", "é"])
def test_a_user_that_is_no_name_is_not_told(user: str) -> None:
    asked: list[bytes] = []

    def remember(conn: socket.socket) -> bytes:
        asked.append(read(conn))
        return asked[0]

    with faultserver.serve(faultserver.honest(remember, answer())) as where:
        ask(where, user=user)
    assert b"User:" not in asked[0].partition(b"\r\n\r\n")[0]


def test_marks_and_refuses() -> None:
    with faultserver.serve(faultserver.honest(read, answer())) as where:
        marked, refused = ask(where), ask(where, reject_at=6.0)
        lenient = ask(where, junk_at=7.0)
    assert marked.verdict.disposition is Disposition.CONTINUE
    assert marked.verdict.tags == {"spam.score": "6.20", "spam.threshold": "5", "spam.flag": "YES"}
    block = scan(apply(HAM, marked.verdict.edits))
    assert block.get_all(b"x-spam-flag") == [b"YES"]
    assert block.get_all(b"x-spam-level") == [b"******"]
    assert block.get_all(b"x-spam-status") == [b"Yes, score=6.2 required=5.0 tests=BAYES_99, HTML_IMAGE_ONLY"]
    assert b"x-spam-karma" not in block
    assert refused.verdict.reply is not None
    assert refused.verdict.reply.render() == b"550 5.7.1 The message looks like spam and is not accepted\r\n"
    assert lenient.verdict.tags["spam.flag"] == "NO"
    assert scan(apply(HAM, lenient.verdict.edits)).get_all(b"x-spam-flag") == []


def test_a_report_in_the_messages_own_words_is_not_believed() -> None:
    body = (
        b"Content preview: \n pts rule name              description\n"
        b"---- ---------------------- --------------------------------------------------\n99.0 FAKE_RULE mine\n\n"
        b"---- ---------------------- --------------------------------------------------\n 3.5 BAYES_99  BODY: x\n"
        b"                            [score: 1.0]\n-0.1 DKIM_VALID  y\n"
    )
    with faultserver.serve(faultserver.honest(read, answer(body=body))) as where:
        outcome = ask(where)
    assert only(outcome).evidence["rules"] == "BAYES_99 +3.5 DKIM_VALID -0.1"
    assert only(outcome).summary == "6.2 of 5  BAYES_99 +3.5  DKIM_VALID -0.1"


GIVEN_BACK = (
    b"X-Spam-Checker-Version: SpamAssassin 4.0.0 on there\nX-Spam-Flag: YES\nX-Spam-Status: Yes, score=6.2 required=5.0\n"
    b"\ttests=BAYES_99,HTML_IMAGE_ONLY,\n\tMISSING_DATE autolearn=no\nX-Spam-Relays: 3\nReceived: from nowhere\n"
    b"From: a@example.net\nSubject: *****SPAM***** hello\nX-Added: not believed\n"
)


def test_headers_takes_over_what_spamd_writes() -> None:
    with faultserver.serve(faultserver.honest(read, answer(body=GIVEN_BACK + b"\n"))) as where:
        outcome = ask(where, command="headers")
        lenient = ask(where, command="headers", junk_at=7.0)
    block = scan(apply(HAM, outcome.verdict.edits))
    assert block.get_all(b"x-spam-relays") == [b"3"] and block.get_all(b"x-spam-flag") == [b"YES"]
    (status,) = block.get_all(b"x-spam-status")
    assert status.startswith(b"Yes, score=6.2 required=5.0") and b"autolearn=no" in status
    assert block.get_all(b"subject") == [b"*****SPAM***** hello"] and block.get_all(b"x-spam-score") == [
        b"6.2"
    ]
    assert b"x-added" not in block and b"received" not in block and b"x-spam-karma" not in block
    assert only(outcome).evidence["rules"] == "BAYES_99 HTML_IMAGE_ONLY MISSING_DATE"
    assert scan(apply(HAM, lenient.verdict.edits)).get_all(b"x-spam-flag") == []
    assert outcome.verdict.body is None


def test_process_takes_over_the_report() -> None:
    wrapped = (
        GIVEN_BACK + b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="r"\n\n--r\n\nSpam!\n--r\n'
        b"Content-Type: message/rfc822\n\n" + HAM.replace(b"\r\n", b"\n") + b"\n--r--\n"
    )
    with faultserver.serve(faultserver.honest(read, answer(body=wrapped))) as where:
        verdict = ask(where, command="process").verdict
        same = GIVEN_BACK + b"\n" + HAM.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n")
    assert verdict.body is not None and verdict.body.startswith(b"--r\r\n\r\nSpam!\r\n")
    assert scan(apply(HAM, verdict.edits)).get_all(b"content-type") == [b'multipart/mixed; boundary="r"']
    with faultserver.serve(faultserver.honest(read, answer(body=same))) as where:
        assert ask(where, command="process").verdict.body is None


def test_a_report_is_not_judged_again() -> None:
    """A new body makes another generation (filterd/generation.py): spamd is not asked about its own words."""
    wrapped = GIVEN_BACK + b"Content-Type: text/plain\n\nSpam!\n"
    asked: list[int] = []

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        asked.append(1)
        faultserver.honest(read, answer(body=wrapped))(conn, stop)

    clock = SystemClock()

    async def main(where: str) -> Judged:
        chosen = SpamassassinSettings(enabled="on", socket=where, timeout=5, command="process")
        stage = SpamassassinStage(
            chosen, StageContext(clock, SystemIds(), ZoneResolver(ZONE), "mx.example.org")
        )
        runner = Runner([stage], clock)
        envelope = Envelope(
            "a@example.net", (Recipient("b@example.org"),), Client(ip="192.0.2.1"), Profile.MX
        )
        one = Transaction(Message(HAM), envelope, "TRACE-00001", clock.monotonic() + 25)
        try:
            return await run_stages(runner, one)
        finally:
            await runner.close()

    with faultserver.serve(behave) as where:
        judged = asyncio.run(main(where))
    assert asked == [1] and judged.work.message.data.endswith(b"\r\n\r\nSpam!\r\n")
    assert judged.outcome.verdict.tags["spam.score"] == "6.20"
    out = scan(apply(judged.work.message.data, judged.outcome.verdict.edits))
    assert out.get_all(b"x-spam-relays") == [b"3"] and out.get_all(b"content-type") == [b"text/plain"]


@pytest.mark.parametrize("command", ["headers", "process"])
@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_longer_answers(command: str, name: str) -> None:
    with faultserver.serve(FAULTS[name]) as where:
        began = time.monotonic()
        outcome = ask(where, command=command)
        assert time.monotonic() - began < LIMIT + 1.0
    assert (
        only(outcome).result in ("error", "timeout") and outcome.verdict.disposition is Disposition.TEMPFAIL
    )


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("command", ["headers", "process", "symbols"])
def test_real_spamd_gives_the_message_back(spamd: str, command: str) -> None:
    bad = HAM + GTUBE + b"\r\n"
    outcome = ask(spamd, bad, limit=60, command=command)
    block = scan(apply(bad, outcome.verdict.edits))
    assert outcome.verdict.disposition is Disposition.REJECT and "GTUBE" in only(outcome).evidence["rules"]
    assert block.get_all(b"x-spam-flag") == [b"YES"] and len(block.get_all(b"x-spam-status")) == 1
    assert (b"x-spam-checker-version" in block) is (command != "symbols")
    body = outcome.verdict.body
    assert (body is not None and GTUBE in body and b"message/rfc822" in body) is (command == "process")
    friendly = (
        b"From: Ann <ann@example.net>\r\nTo: b@example.org\r\nSubject: lunch\r\nDate: "
        + formatdate().encode()
    )
    friendly += b"\r\nMessage-ID: <20261123.120000.1234567@mx.example.net>\r\n\r\nShall we meet at noon? Yours, Ann\r\n"
    good = ask(spamd, friendly, limit=60, client=Client(), command=command)
    assert good.verdict.body is None and good.verdict.disposition is Disposition.CONTINUE


@pytest.fixture(scope="module")
def spamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with programs.spamd(tmp_path_factory.mktemp("spamd")) as where:
        yield where


@pytest.mark.peer
@pytest.mark.slow
def test_real_spamd(spamd: str) -> None:
    good = b"From: Ann <ann@example.net>\r\nTo: b@example.org\r\nSubject: lunch\r\n"
    good += b"Message-ID: <20261123.120000.1234567@mx.example.net>\r\n"
    good += f"Date: {formatdate()}\r\n\r\nShall we meet at noon? Yours, Ann\r\n".encode()
    ham = only(
        ask(spamd, good, limit=30, client=Client(ip="198.51.100.7", helo="mx.example.net", esmtp=True))
    )
    assert ham.result == "ham", ham.summary
    assert ham.evidence["spamd_threshold"] == "5"
    outcome = ask(spamd, good + GTUBE + b"\r\n", limit=30)
    assert outcome.verdict.disposition is Disposition.REJECT
    assert float(only(outcome).tags["spam.score"]) > 900
    assert "GTUBE +1000.0" in only(outcome).evidence["rules"]
    symbols = only(ask(spamd, good + GTUBE + b"\r\n", limit=30, command="symbols", reject_at=0.0))
    assert symbols.result == "spam" and "GTUBE" in symbols.evidence["rules"].split()
