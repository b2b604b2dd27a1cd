"""Signals at the worst moments: while processes start, together, to everybody. None is lost, nobody is killed for being slow."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, ENVIRONMENT, Raw, Server, mail, wait_for

pytestmark = pytest.mark.e2e

STOP_SECONDS = 5.0  # half of what a process that does not listen is given before it is killed
KILLED = "is killed"  # in the log, when that happened
GROUP = """
import asyncio, logging, os, sys, time
from pathlib import Path
from filterd import app
from filterd.workers import RETIRE, Group, Role

logging.basicConfig()
os.register_at_fork(after_in_child=lambda: time.sleep(0.3))  # a busy machine: the child is forked and does not get on

async def work(serving):
    stop, retired = app.stop_event(), app.stop_event(RETIRE)
    serving()
    ends = [asyncio.ensure_future(event.wait()) for event in (stop, retired)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    return 0

roles = [Role(f"worker-{number}", lambda serving: app.run_loop(work(serving))) for number in range(2)]
roles.append(Role("sender", lambda serving: app.run_loop(work(serving)), exclusive=True))
sys.exit(Group(roles, Path(sys.argv[1])).run())
"""


def children(parent: int) -> set[int]:
    with contextlib.suppress(OSError):
        return {int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}
    return set()


def blocked(pid: int, number: signal.Signals) -> bool:
    """Does the process hold this signal back?"""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigBlk:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def ends(process: subprocess.Popen[bytes]) -> int:
    """The exit code; nobody stays behind."""
    began = time.monotonic()
    code = process.wait(15)
    took = time.monotonic() - began
    assert took < STOP_SECONDS, took
    return code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("forked", [1, 2, 3])
def test_a_child_that_was_just_forked_hears_it(number: signal.Signals, forked: int, tmp_path: Path) -> None:
    """It has the parent's handlers then, which set a flag that nobody in the child reads."""
    command = [sys.executable, "-c", GROUP, str(tmp_path / "pid")]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as group:
        try:
            wait_for(lambda: len(children(group.pid)) >= forked, 20, "children")
            group.send_signal(number)
            assert ends(group) == 0
            assert group.stderr is not None and KILLED not in group.stderr.read().decode()
            assert not (tmp_path / "pid").exists()
        finally:
            group.kill()


def test_reloads_and_a_stop_while_children_start(tmp_path: Path) -> None:
    """Every generation is told to go before it knows how to: each ends, none is left over, none counts as a failure."""
    command = [sys.executable, "-c", GROUP, str(tmp_path / "pid")]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as group:
        try:
            wait_for(lambda: len(children(group.pid)) == 3, 20, "children")
            first = children(group.pid)
            for _ in range(3):
                group.send_signal(signal.SIGHUP)
                time.sleep(0.05)
            wait_for(
                lambda: len(now := children(group.pid)) == 3 and not now & first, 20, "the last generation"
            )
            last = children(group.pid)
            group.send_signal(signal.SIGHUP)
            wait_for(lambda: children(group.pid) - last, 20, "the next generation")
            group.send_signal(signal.SIGTERM)
            assert ends(group) == 0
            assert group.stderr is not None
            said = group.stderr.read().decode()
            assert KILLED not in said and "again in" not in said, said
        finally:
            group.kill()


@pytest.mark.slow
def test_a_stop_at_any_moment_of_the_start() -> None:
    """From the first child on; before that it is Python that starts, with the signals' own meaning."""
    with Server(people=("ann",), server="workers = 2") as server:
        server.kill()
        numbers = itertools.cycle((signal.SIGTERM, signal.SIGINT))
        for milliseconds in (0, 1, 3, 5, 8, 12, 18, 30, 50, 90, 150, 300):
            process = server.spawn()
            wait_for(lambda parent=process.pid: children(parent), 20, "a child")  # type: ignore[misc]  # bound now
            time.sleep(milliseconds / 1000)
            process.send_signal(next(numbers))
            assert ends(process) == 0, milliseconds
            assert not server.group()
        assert KILLED not in server.log()
        server.start()  # and it is none the worse
        server.send(mail(), f"ann@{DOMAIN}")


def test_a_reload_during_the_start_waits_for_it() -> None:
    """``kill -HUP`` ends a program that has no handler; from the moment the configuration is read this one has a reload due."""
    with Server(people=("ann",), server="workers = 2") as server:
        server.kill()
        process = server.spawn()
        wait_for(lambda: blocked(process.pid, signal.SIGHUP), 20, "the start of the start")
        process.send_signal(signal.SIGHUP)
        server.answers()
        server.settled()
        server.send(mail(), f"ann@{DOMAIN}")
        assert server.stop() == 0 and KILLED not in server.log()


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGHUP, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGHUP),
        (signal.SIGHUP, signal.SIGHUP, signal.SIGINT),
    ],
    ids=lambda numbers: "-".join(number.name for number in numbers),
)
def test_a_reload_and_a_stop_together(numbers: tuple[signal.Signals, ...]) -> None:
    with Server(people=("ann",), server="workers = 2") as server:
        server.settled()
        with server.imap("ann") as imap:  # a session of the generation that goes
            imap.select("INBOX")
            assert server.process is not None
            for number in numbers:
                server.process.send_signal(number)
            assert ends(server.process) == 0
        assert not server.group() and KILLED not in server.log()
        server.start()
        server.send(mail(), f"ann@{DOMAIN}")


def test_a_stop_at_any_moment_of_a_reload() -> None:
    with Server(people=("ann",), server="workers = 2") as server:
        for milliseconds in (0, 1, 3, 8, 20, 60, 150):
            server.settled()
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            time.sleep(milliseconds / 1000)
            server.process.send_signal(signal.SIGTERM)
            assert ends(server.process) == 0, milliseconds
            assert not server.group()
            server.start()
        assert KILLED not in server.log()


def test_a_hang_up_for_the_whole_group_cuts_nobody_off() -> None:
    """A terminal that closes, ``pkill -HUP``: the parent reloads, its children serve whom they have."""
    with Server(people=("ann",), server="workers = 2") as server:
        before = server.settled()
        with server.imap("ann") as imap:
            imap.select("INBOX")
            assert server.process is not None
            os.killpg(server.process.pid, signal.SIGHUP)
            wait_for(lambda: len(set(server.group()) - before) == 3, 15, "a new generation")
            assert imap.noop()[0] == "OK"
        server.settled(but=before)
        assert "ended with status" not in server.log()


def half_a_message(server: Server) -> Raw:
    raw = Raw(server.ports["smtp"])
    raw.reply()
    raw.ask("EHLO client.example\r\n")
    raw.ask("MAIL FROM:<orders@shop.example>\r\n")
    raw.ask(f"RCPT TO:<ann@{DOMAIN}>\r\n")
    assert raw.ask("DATA\r\n")[0] == 354
    raw.send("Subject: half\r\n\r\nand no more")
    return raw


def half_a_handshake(server: Server) -> Raw:
    raw = Raw(server.ports["imaps"])
    raw.send(b"\x16\x03\x01\x02\x00\x01")
    return raw


def half_a_literal(server: Server) -> Raw:
    raw = Raw(server.ports["imaps"])
    raw.tls()
    raw.line()
    raw.send(f'1 LOGIN ann@{DOMAIN} "correct horse 7"\r\n')
    while not raw.line().startswith(b"1 OK"):
        pass
    raw.send("2 APPEND INBOX {100}\r\n")
    assert raw.line().startswith(b"+")
    raw.send("Subject: half")
    return raw


@pytest.mark.parametrize("begin", [half_a_message, half_a_handshake, half_a_literal])
def test_who_never_goes_on_holds_nobody_up(begin: Callable[[Server], Raw]) -> None:
    """Clients in the middle of something get their moment (GRACE_SECONDS); then the process ends, by itself."""
    with Server(people=("ann",), server="workers = 2") as server:
        held = [begin(server) for _ in range(4)]
        server.settled()
        assert server.stop() == 0
        assert not server.group() and KILLED not in server.log()
        for raw in held:
            raw.close()
        server.start()
        assert not server.read("ann")["INBOX"]
