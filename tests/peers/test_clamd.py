"""The clamav stage against a daemon that misbehaves, and against the real clamd with a signature file of our own."""

from __future__ import annotations

import asyncio
import base64
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from pipeline import endpoint
from pipeline.adapters.pyclamd import CHUNK
from pipeline.ambiguity import VIEWS
from pipeline.clamsweep import Sweep
from pipeline.edits import apply
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.errors import StageFault
from pipeline.registry import StageContext
from pipeline.runner import Runner, RunOutcome
from pipeline.stage import Phase
from pipeline.stages.clamav import ClamavSettings, ClamavStage
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.header import scan
from rules.mail.message import Message
from tests import faultserver
from tests.faultserver import clamd_request as read

HAM = b"From: a@example.net\r\nSubject: hello\r\nX-Virus-Status: Clean, trust me\r\n\r\nbody\r\n"
# In two pieces, so that no scanner stops at this file.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"
ZONE = Zone()
LIMIT = 0.6  # seconds, the stage's own


def ask(
    where: str, message: bytes = HAM, limit: float = LIMIT, profile: Profile = Profile.MX, **settings: object
) -> RunOutcome:
    """One message through a runner with the clamav stage only."""
    clock = SystemClock()

    async def main() -> RunOutcome:
        chosen = ClamavSettings(**{"enabled": "on", "socket": where, "timeout": limit, **settings})  # type: ignore[arg-type]  # free settings
        stage = ClamavStage(chosen, StageContext(clock, SystemIds(), ZoneResolver(ZONE), "mx.example.org"))
        runner = Runner([stage], clock)
        envelope = Envelope("a@example.net", (Recipient("b@example.org"),), Client(), profile)
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
    "drip": faultserver.drip(read, b"stream: OK\n", 0.2),
    "reset": faultserver.reset(read),
    "reset in the answer": faultserver.reset(read, b"stream: OK"),
    "reset at once": faultserver.reset_at_once,
    "eof": faultserver.honest(read, b""),
    "eof at once": faultserver.eof_at_once,
    "cut": faultserver.honest(read, b"stream: OK"),
    "cut short": faultserver.honest(read, b"stream: "),
    "garbage": faultserver.honest(read, b"\x00\xff\xfe HTTP/1.1 200 OK\n"),
    "http": faultserver.honest(read, b"HTTP/1.1 200 OK\r\n\r\n"),
    "empty line": faultserver.honest(read, b"\n"),
    "two lines": faultserver.honest(read, b"stream: OK\nstream: Eicar FOUND\n"),
    "case": faultserver.honest(read, b"STREAM: ok\n"),
    "trailing blank": faultserver.honest(read, b"stream: OK \n"),
    "cr": faultserver.honest(read, b"stream: OK\r\n"),
    "nul ended": faultserver.honest(read, b"stream: OK\0"),
    "other stream": faultserver.honest(read, b"stream2: OK\n"),
    "error": faultserver.honest(read, b"stream: Can't allocate memory ERROR\n"),
    "size": faultserver.honest(read, b"INSTREAM size limit exceeded. ERROR\n"),
    "unknown command": faultserver.honest(read, b"UNKNOWN COMMAND\n"),
    "endless": faultserver.endless,
    "never reads": faultserver.never_reads,
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("message", [HAM, HAM + b"x" * (3 << 20)], ids=["small", "large"])
def test_an_error_within_the_limit_and_never_clean(name: str, message: bytes) -> None:
    with faultserver.serve(FAULTS[name]) as where:
        began = time.monotonic()
        outcome = ask(where, message)
        assert time.monotonic() - began < LIMIT + 1.0
    assert outcome.verdict.disposition is Disposition.TEMPFAIL
    assert only(outcome).result in ("error", "timeout")
    assert "virus.status" not in only(outcome).tags
    out = apply(message, outcome.verdict.edits)
    assert scan(out).get_all(b"x-virus-status") == [b"Unknown (not scanned)"]


@pytest.mark.parametrize(
    "reply",
    [b"stream: OK\n", b"INSTREAM size limit exceeded. ERROR\n", b"stream: X FOUND\n"],
    ids=["ok", "size", "found"],
)
def test_a_good_word_before_the_message_was_sent_is_not_believed(reply: bytes) -> None:
    with faultserver.serve(faultserver.early(reply)) as where:
        outcome = ask(where, HAM + b"x" * (8 << 20))
    assert outcome.verdict.disposition is Disposition.TEMPFAIL
    assert only(outcome).result in ("error", "timeout")


def test_refused_connection() -> None:
    where = faultserver.refused()
    assert ask(where).verdict.disposition is Disposition.TEMPFAIL
    skipped = only(ask(where, enabled="auto"))
    assert skipped.result == "skipped" and skipped.summary == "not scanned: no clamd here"


def test_no_socket(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/clamd.ctl"
    assert ask(where).verdict.disposition is Disposition.TEMPFAIL
    outcome = ask(where, enabled="auto")
    assert only(outcome).summary == "not scanned: no clamd here"
    assert outcome.verdict.disposition is Disposition.CONTINUE
    assert b"trust me" not in apply(HAM, outcome.verdict.edits)  # the forged result goes in any case
    behind = ask(where, enabled="auto", profile=Profile.LMTP)  # but may be our front end's honest one
    assert b"trust me" in apply(HAM, behind.verdict.edits)


def test_a_split_reply_is_whole() -> None:
    with faultserver.serve(faultserver.split(read, b"stream: OK\n")) as where:
        outcome = ask(where)
    assert only(outcome).result == "clean"
    assert scan(apply(HAM, outcome.verdict.edits)).get_all(b"x-virus-status") == [b"Clean"]


@pytest.mark.parametrize("unix", [True, False])
def test_a_slow_reader_gets_the_whole_message(unix: bool, tmp_path: Path) -> None:
    data = HAM + bytes(range(256)) * (CHUNK // 64)  # several chunks, the last one full
    data = data[: len(data) // CHUNK * CHUNK]

    def reply(stream: bytes) -> bytes:
        return b"stream: OK\n" if stream == data else b"stream: misframed FOUND\n"

    behave = faultserver.slow_reader(read, reply)
    with faultserver.serve(behave, tmp_path / "s" if unix else None, buffer=4096) as where:
        assert only(ask(where, data, limit=5)).result == "clean"


@pytest.mark.parametrize(
    ("policy", "disposition"),
    [
        ("reject", Disposition.REJECT),
        ("quarantine", Disposition.QUARANTINE),
        ("discard", Disposition.DISCARD),
        ("tag", Disposition.CONTINUE),
    ],
)
def test_what_a_find_means(policy: str, disposition: Disposition) -> None:
    with faultserver.serve(faultserver.honest(read, b"stream: Win.Test.EICAR_HDB-1 FOUND\n")) as where:
        outcome = ask(where, found=policy)
    verdict = outcome.verdict
    assert verdict.disposition is disposition
    assert verdict.tags == {"virus.status": "5", "virus.name": "Win.Test.EICAR_HDB-1"}
    if policy == "reject":
        assert verdict.reply is not None
        assert verdict.reply.render() == b"550 5.7.1 The message contains a virus: Win.Test.EICAR_HDB-1\r\n"
    assert scan(apply(HAM, verdict.edits)).get_all(b"x-virus-status") == [b"Infected (Win.Test.EICAR_HDB-1)"]


def test_a_hostile_name_stays_in_its_field() -> None:
    with faultserver.serve(faultserver.honest(read, b"stream: a) b;\tc FOUND\n")) as where:
        assert ask(where).verdict.disposition is Disposition.TEMPFAIL
    with faultserver.serve(faultserver.honest(read, b"stream: a) (b \\ FOUND\n")) as where:
        outcome = ask(where, found="tag")
    assert scan(apply(HAM, outcome.verdict.edits)).get_all(b"x-virus-status") == [b"Infected (a___b__)"]


@pytest.mark.parametrize(
    ("policy", "disposition"),
    [("skip", Disposition.CONTINUE), ("reject", Disposition.REJECT), ("defer", Disposition.TEMPFAIL)],
)
def test_too_large_is_judged_before_anything_is_sent(policy: str, disposition: Disposition) -> None:
    outcome = ask(faultserver.refused(), max_size=20, oversize=policy)
    assert outcome.verdict.disposition is disposition
    assert only(outcome).result == "skipped"


def test_a_scan_that_is_cancelled_frees_its_thread() -> None:
    clock = SystemClock()

    async def main(where: str) -> None:
        settings = ClamavSettings(enabled="on", socket=where, timeout=30, parallel=2)
        stage = ClamavStage(settings, StageContext(clock, SystemIds(), ZoneResolver(ZONE), "mx.example.org"))
        envelope = Envelope("", (), Client(), Profile.MX)
        one = Transaction(Message(HAM), envelope, "T", clock.monotonic() + 60)
        tasks = [asyncio.create_task(stage.check(one)) for _ in range(2)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(stage._pool, lambda: None), 2)
        stage.close()

    with faultserver.serve(faultserver.silent(read)) as where:
        asyncio.run(main(where))


# -- the decoded parts ----------------------------------------------------------------------------------------------

HIDDEN = b"Subject: x\r\nContent-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
TEXT = base64.encodebytes(b"what a scanner may not decode")


def knows(stream: bytes) -> bytes:
    """A clamd that reads no MIME."""
    return b"stream: Own.Find FOUND\n" if b"may not decode" in stream else b"stream: OK\n"


def test_each_decoded_part_is_scanned() -> None:
    with faultserver.serve(faultserver.slow_reader(read, knows)) as where:
        found = ask(where, HIDDEN + TEXT, limit=5)
        assert found.verdict.disposition is Disposition.REJECT
        assert only(found).evidence["found_in"] == "decoded part 1"
        clean = only(ask(where, HIDDEN + base64.encodebytes(b"nothing"), limit=5))
        assert clean.result == "clean" and clean.evidence["scanned"] == "the message and 1 decoded part"
        assert only(ask(where, HIDDEN + TEXT, limit=5, parts="ambiguous")).result == "clean"
        odd = ask(where, HIDDEN + b"!" + TEXT, limit=5, parts="ambiguous")
        assert odd.verdict.tags["virus.name"] == "Own.Find"


@pytest.mark.parametrize("parts", ["all", "ambiguous"])
def test_decoys_in_front_do_not_make_it_clean(parts: str) -> None:
    boundary = b"--b\r\n" + HIDDEN.partition(b"\r\n")[2]
    decoys = b"".join(boundary + base64.encodebytes(b"decoy %d" % number) for number in range(VIEWS))
    data = (
        b"Subject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        + decoys
        + boundary
        + TEXT
        + b"--b--\r\n"
    )
    with faultserver.serve(faultserver.slow_reader(read, knows, late=0)) as where:
        outcome = ask(where, data, limit=30, parts=parts)
    assert only(outcome).result == "partial" and "not every part" in only(outcome).summary
    assert outcome.verdict.tags["virus.status"] == "0"
    assert not scan(apply(data, outcome.verdict.edits)).get_all(b"x-virus-status")


@pytest.mark.parametrize("name", FAULTS)
def test_a_part_that_is_not_scanned_is_never_clean(name: str) -> None:
    """The first question is answered well, the second as the fault has it."""
    asked: list[int] = []

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        asked.append(1)
        (faultserver.honest(read, b"stream: OK\n") if len(asked) == 1 else FAULTS[name])(conn, stop)

    clock = SystemClock()
    with faultserver.serve(behave) as where:
        began = time.monotonic()
        with pytest.raises(StageFault):
            Sweep(endpoint.parse(where, default_port=1), LIMIT, clock).run(
                Message(HIDDEN + TEXT), True, 1 << 20
            )
        assert time.monotonic() - began < LIMIT + 1.0
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("policy", "disposition"),
    [
        ("note", Disposition.CONTINUE),
        ("tag", Disposition.CONTINUE),
        ("quarantine", Disposition.QUARANTINE),
        ("reject", Disposition.REJECT),
    ],
)
def test_what_an_ambiguity_means(policy: str, disposition: Disposition) -> None:
    odd = HIDDEN + b"!" + base64.encodebytes(b"nothing")
    with faultserver.serve(faultserver.slow_reader(read, knows)) as where:
        outcome = ask(where, odd, limit=5, ambiguous=policy)
        assert ask(where, HAM, limit=5, ambiguous=policy).verdict.disposition is Disposition.CONTINUE
        worse = ask(where, HIDDEN + b"!" + TEXT, limit=5, ambiguous=policy, found="discard")
        assert worse.verdict.disposition is max(Disposition.DISCARD, disposition)
    verdict = outcome.verdict
    assert verdict.disposition is disposition
    assert only(outcome).result == "clean" and "other characters" in only(outcome).evidence["ambiguous"]
    fields = scan(apply(odd, verdict.edits)).get_all(b"x-virus-ambiguous")
    assert fields == ([b"base64 with other characters in it"] if policy == "tag" else [])
    if policy == "reject":
        assert verdict.reply is not None and verdict.reply.enhanced_code == "5.6.0"
    without = ask(faultserver.refused(), odd, enabled="auto", ambiguous=policy)  # no clamd: told all the same
    assert without.verdict.disposition is disposition


# -- the real one ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("clamd") or "/usr/sbin/clamd"
    if not Path(program).exists():
        pytest.skip("clamd is not installed (Debian: clamav-daemon)")
    home = tmp_path_factory.mktemp("clamd")
    database = home / "db"
    database.mkdir()
    (database / "own.ndb").write_text(f"Own.Eicar:0:*:{EICAR.hex()}\n")
    config = home / "clamd.conf"
    config.write_text(
        f"LocalSocket {home}/ctl\nDatabaseDirectory {database}\nForeground yes\nUser {pwd.getpwuid(os.getuid()).pw_name}\n"
        f"StreamMaxLength 4M\nLogFile {home}/log\nTemporaryDirectory {home}\nConcurrentDatabaseReload no\nSelfCheck 0\n"
    )
    with (home / "out").open("wb") as out:
        process = subprocess.Popen([program, "-c", str(config)], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(home / "ctl"))
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        pytest.fail(f"clamd did not start: {(home / 'out').read_text()}")
            time.sleep(0.1)
        yield f"unix:{home}/ctl"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.peer
@pytest.mark.slow
def test_real_clamd(clamd: str) -> None:
    clean = only(ask(clamd, limit=20))
    assert clean.result == "clean"
    assert clean.evidence["engine"] and clean.summary.startswith("engine ")
    found = ask(clamd, HAM + EICAR + b"\r\n", limit=20)
    assert found.verdict.disposition is Disposition.REJECT
    assert found.verdict.tags["virus.name"].startswith("Own.Eicar")
    assert only(ask(clamd, HAM + b"x" * (1 << 20), limit=20)).result == "clean"
    assert only(ask(clamd, HAM + b"x" * CHUNK * 2, limit=20)).result == "clean"
    large = only(ask(clamd, HAM + b"x" * (6 << 20), limit=20))
    assert large.result == "error" and "StreamMaxLength" in large.evidence["reason"]
