"""Teaching spamd (TELL), against a daemon that misbehaves and against the real one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.learning.lesson import (
    AGAIN,
    CHANGED,
    FAILED,
    FORGOTTEN,
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
from pipeline.stages.spamassassin import SpamassassinSettings
from tests import faultserver, programs
from tests.faultserver import spamd_request as read

MAIL = b"From: a@example.net\r\nMessage-ID: <1@example.net>\r\nSubject: pills\r\n\r\n"
MAIL += b" ".join(b"word%d" % n for n in range(60)) + b"\r\n"
LIMIT = 0.8


def answer(did: str = "DidSet: local\r\n") -> bytes:
    return f"SPAMD/1.1 0 EX_OK\r\n{did}Content-length: 2\r\n\r\n\r\n".encode()


def teach(where: str, kind: str, before: str = "", data: bytes = MAIL, **more: object) -> Outcome:
    chosen = SpamassassinSettings(**{"enabled": "on", "socket": where, **more})  # type: ignore[arg-type]  # free
    lesson = Lesson(digest(data), data, kind, before)
    (outcome,) = asyncio.run(DaemonTeacher(chosen).teach("ann@x.example", [lesson]))
    return outcome


FAULTS = {
    "silent": faultserver.silent(read),
    "drip": faultserver.drip(read, answer(), 0.2),
    "reset": faultserver.reset(read),
    "reset at once": faultserver.reset_at_once,
    "eof": faultserver.honest(read, b""),
    "cut": faultserver.honest(read, answer()[:-1]),
    "cut in the header": faultserver.honest(read, answer()[:30]),
    "too much": faultserver.honest(read, answer() + b"x"),
    "garbage": faultserver.honest(read, b"\x00\xff HTTP/1.1 200 OK\n"),
    "not enabled": faultserver.honest(
        read,
        b"SPAMD/1.0 69 Service Unavailable: TELL commands are not enabled, set the --allow-tell switch.\r\n",
    ),
    "endless": faultserver.endless,
    "never reads": faultserver.never_reads,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_never_a_lesson_learned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filterd.learning.teachers.LEARN_SECONDS", LIMIT)
    with faultserver.serve(FAULTS[name]) as where:
        outcome = teach(where, SPAM, data=MAIL + b"x" * 300_000, timeout=LIMIT)
    assert outcome.what == FAILED and outcome.reason, outcome


@pytest.mark.parametrize(
    ("kind", "before", "reply", "what", "line"),
    [
        (SPAM, "", answer(), LEARNED, b"Set: local"),
        (HAM, SPAM, answer(), CHANGED, b"Set: local"),
        (SPAM, "", answer(""), AGAIN, b"Message-class: spam"),
        (SPAM, "", b"SPAMD/1.1 0 EX_OK\r\nDidSet: local\r\n\r\n\r\n", LEARNED, b"Set: local"),
        (NONE, HAM, answer("DidRemove: local\r\n"), FORGOTTEN, b"Remove: local"),
    ],
)
def test_what_is_told(kind: str, before: str, reply: bytes, what: str, line: bytes) -> None:
    seen: list[bytes] = []

    def behave(conn: socket.socket, stop: object) -> None:
        seen.append(read(conn))
        conn.sendall(reply)

    with faultserver.serve(behave) as where:
        assert teach(where, kind, before).what == what
    lines = seen[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert lines[0].startswith(b"TELL SPAMC/") and line in lines and b"User: ann@x.example" in lines
    assert seen[0].endswith(MAIL)


def test_large_messages_are_left_out() -> None:
    assert teach(faultserver.refused(), SPAM, max_size=100).what == SKIPPED


@pytest.fixture(scope="module")
def spamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real one that may be told, with tables of its own."""
    tables = Path(tempfile.mkdtemp(prefix="filterd-spamd-"))
    tables.chmod(0o777)  # started by root, it works as nobody
    options = ("--allow-tell", f"--cf=bayes_path {tables}/bayes")
    try:
        with programs.spamd(tmp_path_factory.mktemp("spamd"), *options) as where:
            yield where
    finally:
        shutil.rmtree(tables, ignore_errors=True)


@pytest.mark.peer
@pytest.mark.slow
def test_the_real_spamd(spamd: str) -> None:
    first = teach(spamd, SPAM, user="")
    assert first == Outcome(LEARNED), first.reason
    assert teach(spamd, SPAM, user="") == Outcome(AGAIN)
    assert teach(spamd, HAM, SPAM, user="") == Outcome(CHANGED)
    assert teach(spamd, NONE, HAM, user="") == Outcome(FORGOTTEN)
