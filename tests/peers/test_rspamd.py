"""The spam stage with ``engine = "rspamd"`` against a daemon that misbehaves, and against the real rspamd; learning too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest

from filterd.learning.lesson import (
    AGAIN,
    CHANGED,
    FAILED,
    HAM,
    LEARNED,
    NONE,
    SKIPPED,
    SPAM,
    Lesson,
    Outcome,
    digest,
)
from filterd.learning.teachers import DaemonTeacher
from filterd.ports import SystemClock, SystemIds
from pipeline.edits import apply
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.registry import StageContext
from pipeline.runner import Runner, RunOutcome
from pipeline.stage import Phase
from pipeline.stages.spamassassin import SpamassassinSettings, SpamassassinStage
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message
from tests import faultserver

LIMIT = 0.8
HAM_MAIL = b"From: a@example.net\r\nSubject: hello\r\nX-Spam-Flag: YES\r\nX-Bar: old\r\n\r\nbody\r\n"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-" + b"ANTI-UBE-TEST-EMAIL*C.34X"
FACTS = {
    "score": 7.25,
    "required_score": 15.0,
    "action": "add header",
    "symbols": {
        "BAYES_SPAM": {"name": "BAYES_SPAM", "score": 5.1},
        "R_ODD": {"score": 2.15},
        "bad\nname": {},
    },
    "milter": {"add_headers": {"X-Bar": {"value": "+++\r\nEvil: 1", "order": 1}, "Subject": {"value": "no"}}},
}


def read(conn: socket.socket) -> bytes:
    """One request with its Content-Length."""
    out = b""
    while b"\r\n\r\n" not in out:
        part = conn.recv(65536)
        if not part:
            raise EOFError
        out += part
    head, _, body = out.partition(b"\r\n\r\n")
    (length,) = (
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        part = conn.recv(65536)
        if not part:
            raise EOFError
        body += part
    return head + b"\r\n\r\n" + body


def answer(facts: object = FACTS, status: str = "200 OK", extra: str = "") -> bytes:
    body = json.dumps(facts).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def chunked(facts: object = FACTS) -> bytes:
    body = json.dumps(facts).encode()
    pieces = b"".join(b"%x;x=1\r\n%b\r\n" % (len(part), part) for part in (body[:10], body[10:]))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\nTrailer: x\r\n\r\n"


def settings(where: str, **more: object) -> SpamassassinSettings:
    base = {"enabled": "on", "engine": "rspamd", "rspamd_socket": where, "rspamd_controller": where,
            "timeout": LIMIT, "on_error": "defer"}  # fmt: skip
    return SpamassassinSettings(**{**base, **more})  # type: ignore[arg-type]  # free settings


def ask(where: str, message: bytes = HAM_MAIL, **more: object) -> RunOutcome:
    clock = SystemClock()

    async def main() -> RunOutcome:
        context = StageContext(clock, SystemIds(), ZoneResolver(Zone.parse("")), "mx.example.org")
        runner = Runner([SpamassassinStage(settings(where, **more), context)], clock)
        recipient = Recipient("b@example.org", account="b@example.org")
        client = Client(ip="192.0.2.1", helo="he\r\nlo")
        envelope = Envelope("a@example.net", (recipient,), client, Profile.MX)
        one = Transaction(Message(message), envelope, "TRACE-00001", clock.monotonic() + 60)
        try:
            return await runner.run(Phase.EOM, one)
        finally:
            await runner.close()

    return asyncio.run(main())


FAULTS = {
    "silent": faultserver.silent(read),
    "drip": faultserver.drip(read, answer(), 0.2),
    "reset": faultserver.reset(read),
    "reset in the answer": faultserver.reset(read, answer()[:60]),
    "reset at once": faultserver.reset_at_once,
    "eof": faultserver.honest(read, b""),
    "eof at once": faultserver.eof_at_once,
    "cut": faultserver.honest(read, answer()[:-1]),
    "cut chunk": faultserver.honest(read, chunked()[:-9]),
    "too much": faultserver.honest(read, answer() + b"x"),
    "garbage": faultserver.honest(read, b"\x00\xff\xfe SPAMD/1.1 0 EX_OK\n"),
    "spamd": faultserver.honest(
        read, b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: False ; 0 / 5\r\n\r\n"
    ),
    "no json": faultserver.honest(read, answer()[:-3].replace(b"Content-Length", b"X-Length")),
    "no object": faultserver.honest(read, answer([1])),
    "deep": faultserver.honest(read, b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000),
    "no action": faultserver.honest(read, answer({**FACTS, "action": "none"})),
    "no score": faultserver.honest(read, answer({**FACTS, "score": "7"})),
    "flag as score": faultserver.honest(read, answer({**FACTS, "score": True})),
    "nan": faultserver.honest(read, answer({**FACTS, "score": float("nan")})),
    "huge": faultserver.honest(read, answer({**FACTS, "score": 1e300})),
    "error": faultserver.honest(read, answer({"error": "busy"}, "503 Busy")),
    "two lengths": faultserver.honest(read, answer(extra="Content-Length: 1\r\n")),
    "length and chunks": faultserver.honest(read, answer(extra="Transfer-Encoding: chunked\r\n")),
    "gzip": faultserver.honest(read, answer(extra="Content-Encoding: gzip\r\n")),
    "endless header": faultserver.honest(read, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 60_000),
    "endless interim": faultserver.honest(read, b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000),
    "huge length": faultserver.honest(read, b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"),
    "huge chunk": faultserver.honest(
        read, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"
    ),
    "endless": faultserver.endless,
    "never reads": faultserver.never_reads,
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_error_within_the_limit_and_never_ham(name: str) -> None:
    with faultserver.serve(FAULTS[name]) as where:
        began = time.monotonic()
        outcome = ask(where, HAM_MAIL + b"x" * 300_000)
        assert time.monotonic() - began < LIMIT + 5
    (verdict,) = outcome.verdicts
    assert verdict.disposition is Disposition.TEMPFAIL and verdict.tags.get("spamassassin.fault"), verdict


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_while_learning_is_tried_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filterd.learning.teachers.LEARN_SECONDS", LIMIT)
    with faultserver.serve(FAULTS[name]) as where:
        (outcome,) = teach(settings(where), SPAM)
    assert outcome.what == FAILED and outcome.reason


def teach(chosen: SpamassassinSettings, kind: str, data: bytes = HAM_MAIL, before: str = "") -> list[Outcome]:
    lesson = Lesson(digest(data), data, kind, before)
    return asyncio.run(DaemonTeacher(chosen).teach("b@example.org", [lesson]))


@pytest.mark.parametrize("way", ["whole", "split", "chunked", "closed"])
def test_score_action_symbols_and_headers(way: str) -> None:
    behave = {
        "whole": faultserver.honest(read, b"HTTP/1.1 100 Continue\r\n\r\n" + answer()),
        "split": faultserver.split(read, answer()),
        "chunked": faultserver.split(read, chunked()),
        "closed": faultserver.honest(read, answer().replace(b"Content-Length", b"X-Length")),
    }[way]
    with faultserver.serve(behave) as where:
        outcome = ask(where)
    (verdict,) = outcome.verdicts
    assert verdict.result == "spam" and verdict.disposition is Disposition.CONTINUE
    assert verdict.evidence["action"] == "add header" and "BAYES_SPAM +5.1" in verdict.evidence["rules"]
    assert verdict.tags["spam.score"] == "7.25"
    text = apply(HAM_MAIL, verdict.edits)
    assert text.count(b"X-Spam-Flag: YES") == 1 and b"X-Bar: old" not in text
    assert b"X-Bar: +++ Evil: 1\r\n" in text and b"Subject: no" not in text


@pytest.mark.parametrize(
    ("facts", "follow", "result", "disposition"),
    [
        ({"score": 1.0, "action": "reject"}, True, "spam", Disposition.REJECT),
        ({"score": 1.0, "action": "reject"}, False, "ham", Disposition.CONTINUE),
        ({"score": 1.0, "action": "soft reject"}, True, "deferred", Disposition.TEMPFAIL),
        ({"score": 1.0, "action": "add header"}, True, "spam", Disposition.CONTINUE),
        ({"score": 1.0, "action": "rewrite subject"}, True, "spam", Disposition.CONTINUE),
        ({"score": 1.0, "action": "greylist"}, True, "ham", Disposition.CONTINUE),
        ({"score": 20, "action": "no action"}, True, "spam", Disposition.REJECT),
        ({"score": -3.5, "action": "no action"}, True, "ham", Disposition.CONTINUE),
    ],
)
def test_actions(facts: dict[str, object], follow: bool, result: str, disposition: Disposition) -> None:
    with faultserver.serve(faultserver.honest(read, answer({**FACTS, **facts}))) as where:
        (verdict,) = ask(where, rspamd_actions=follow).verdicts
    assert (verdict.result, verdict.disposition) == (result, disposition)


def test_a_message_that_its_settings_leave_out_is_not_scored() -> None:
    facts = {**FACTS, "is_skipped": True, "action": "no action"}
    with faultserver.serve(faultserver.honest(read, answer(facts))) as where:
        (verdict,) = ask(where).verdicts
    assert verdict.result == "skipped" and b"X-Spam-Flag" not in apply(HAM_MAIL, verdict.edits)


def test_what_it_is_told() -> None:
    seen: list[bytes] = []

    def behave(conn: socket.socket, stop: object) -> None:
        seen.append(read(conn))
        conn.sendall(answer())

    with faultserver.serve(behave) as where:
        ask(where)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /checkv2 HTTP/1.1" and body == HAM_MAIL
    for line in (b"IP: 192.0.2.1", b"Helo: he  lo", b"From: a@example.net", b"Rcpt: b@example.org",
                 b"Queue-Id: TRACE-00001", b"MTA-Tag: filterd", b"Deliver-To: b@example.org"):  # fmt: skip
        assert line in lines, lines


def test_learning_answers() -> None:
    for reply, kind, before, what in (
        (answer({"success": True}), SPAM, "", LEARNED),
        (answer({"success": True}), HAM, SPAM, CHANGED),
        (
            answer({"error": "<x> has been already learned as spam, ignore it"}, "208 Already"),
            SPAM,
            "",
            AGAIN,
        ),
        (answer({"error": "Unauthorized"}, "403 Forbidden"), SPAM, "", FAILED),
        (answer({"success": True}), NONE, SPAM, SKIPPED),
    ):
        with faultserver.serve(faultserver.honest(read, reply)) as where:
            (outcome,) = teach(settings(where), kind, before=before)
        assert outcome.what == what, outcome


def test_nobody_there() -> None:
    (verdict,) = ask(faultserver.refused(), enabled="auto").verdicts
    assert verdict.summary == "not scored: no rspamd here"
    (outcome,) = teach(settings(faultserver.refused(), enabled="auto"), SPAM)
    assert outcome.what == FAILED and outcome.absent


# -- the real one -----------------------------------------------------------------------------------------------------------

CONFIG = """.include "/etc/rspamd/common.conf"
options {{ pidfile = "{dir}/pid"; control_socket = "{dir}/control.sock"; hs_cache_dir = "{dir}"; rrd = "{dir}/rrd";
  history_file = "{dir}/history"; dns {{ nameserver = ["127.0.0.1:{dns}:1"]; timeout = 0.1s; retransmits = 1; }} }}
logging {{ type = "file"; filename = "{dir}/log"; level = "info"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
worker "controller" {{ bind_socket = "127.0.0.1:{learn}"; password = "a longer password"; secure_ip = [];
  count = 1; stats_path = "{dir}/stats.ucl"; }}
classifier "bayes" {{ tokenizer {{ name = "osb"; }} backend = "sqlite3"; min_tokens = 1; min_learns = 1;
  learn_cache {{ path = "{dir}/cache.sqlite"; }}
  statfile {{ symbol = "BAYES_HAM"; path = "{dir}/ham.sqlite"; spam = false; }}
  statfile {{ symbol = "BAYES_SPAM"; path = "{dir}/spam.sqlite"; spam = true; }} }}
"""


def _port() -> int:
    return int(faultserver.refused().rpartition(":")[2])


@pytest.fixture(scope="module")
def rspamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Where it answers and where it learns."""
    program = shutil.which("rspamd")
    if program is None:
        pytest.skip("rspamd is not installed (Debian: rspamd)")
    folder = tmp_path_factory.mktemp("rspamd")
    port, learn = _port(), _port()
    (folder / "rspamd.conf").write_text(CONFIG.format(dir=folder, port=port, learn=learn, dns=_port()))
    with open(folder / "out", "wb") as out:
        process = subprocess.Popen(
            [program, "-f", "-i", "-c", str(folder / "rspamd.conf")],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError):
                for one in (port, learn):
                    with urllib.request.urlopen(f"http://127.0.0.1:{one}/ping", timeout=2) as answered:
                        assert answered.status == 200
                break
            if process.poll() is not None or time.monotonic() > deadline:
                logged = "".join(
                    (folder / name).read_text()[-1500:] for name in ("out", "log") if (folder / name).exists()
                )
                pytest.fail(f"rspamd did not start: {logged}")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", f"127.0.0.1:{learn}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@pytest.mark.peer
@pytest.mark.slow
def test_the_real_rspamd(rspamd: tuple[str, str]) -> None:
    where, learn = rspamd
    (verdict,) = ask(where, timeout=20.0, junk_at=12.0).verdicts
    assert verdict.result == "ham" and "MISSING_DATE" in verdict.evidence["rules"], verdict
    (verdict,) = ask(where, HAM_MAIL + GTUBE + b"\r\n", timeout=20.0).verdicts
    assert verdict.disposition is Disposition.REJECT and verdict.evidence["action"] == "reject", verdict

    text = (
        b"From: x@y.example\r\nSubject: pills\r\n\r\n" + b" ".join(b"word%d" % n for n in range(60)) + b"\r\n"
    )
    chosen = settings(where, rspamd_controller=learn, rspamd_password=("a longer password",))
    wrong = settings(where, rspamd_controller=learn, rspamd_password=("another",))
    assert [one.what for one in teach(wrong, SPAM, text)] == [FAILED]
    assert teach(chosen, SPAM, text) == [Outcome(LEARNED)]
    assert teach(chosen, SPAM, text) == [Outcome(AGAIN)]
    assert teach(chosen, HAM, text, SPAM) == [Outcome(CHANGED)]
