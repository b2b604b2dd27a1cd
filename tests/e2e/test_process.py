"""The program as a process: it starts, reloads, stops, dies, and is told apart from one that runs already."""

from __future__ import annotations

import contextlib
import imaplib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, INSECURE, Raw, Server, mail, wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(people=("ann",), server="workers = 2") as running:
        yield running


def idling(server: Server, person: str = "ann") -> imaplib.IMAP4_SSL:
    imap = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE, timeout=20)
    imap.login(f"{person}@{DOMAIN}", "correct horse 7")
    imap.select("INBOX")
    imap.send(b"i1 IDLE\r\n")
    while not imap.readline().startswith(b"+"):
        pass
    return imap


def until(imap: imaplib.IMAP4_SSL, word: bytes, seconds: float) -> float:
    """Seconds until a line with ``word`` came."""
    began = time.monotonic()
    imap.sock.settimeout(seconds)
    while word not in imap.readline():
        assert time.monotonic() - began < seconds
    return time.monotonic() - began


def test_sigterm_ends_every_process_in_seconds(server: Server) -> None:
    imap = idling(server)  # an idle session does not hold it up
    holders = [
        socket.create_connection(("127.0.0.1", server.ports[door])) for door in ("smtp", "imaps", "pop3")
    ]
    server.settled()
    pid_file = server.data / "run" / "filterd.pid"
    assert int(pid_file.read_text()) == server.process.pid
    began = time.monotonic()
    assert server.stop() == 0
    took = time.monotonic() - began
    assert not server.group()
    assert took < 5, took
    assert not pid_file.exists()
    for holder in holders:
        holder.close()
    with contextlib.suppress(OSError, imaplib.IMAP4.error):
        imap.shutdown()
    assert not list((server.data / "run").glob("notice-*"))
    server.start()  # and the ports are free again
    server.send(mail(), f"ann@{DOMAIN}")


def test_sigint_ends_it_too(server: Server) -> None:
    os.kill(server.process.pid, signal.SIGINT)
    assert server.process.wait(8) == 0
    wait_for(lambda: not server.group(), 2, "all processes to end")
    assert "is killed" not in server.log()  # each ended by itself


def test_sighup_keeps_serving(server: Server) -> None:
    """New processes take over; nobody is turned away meanwhile, and notices between processes still arrive."""
    before = server.settled()
    session = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE, timeout=20)
    session.login(f"ann@{DOMAIN}", "correct horse 7")
    failed: list[str] = []
    going = threading.Event()

    def load() -> None:
        while not going.is_set():
            try:
                server.send(mail("load"), f"ann@{DOMAIN}")
                sent.append(1)
            except Exception as error:
                failed.append(repr(error))

    sent: list[int] = []
    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(2):
            os.kill(server.process.pid, signal.SIGHUP)
            wait_for(lambda was=before: len(set(server.group()) - was) == 3, 15, "new processes")  # type: ignore[misc]  # bound now
            wait_for(lambda was=before: len(set(server.group()) & was) <= 2, 15, "old processes to end")  # type: ignore[misc]  # bound now
            before = set(server.group())
    finally:
        going.set()
        thread.join(20)
    assert not failed, failed
    assert session.noop()[0] == "OK"  # who was there before still is
    session.logout()
    found = server.read("ann")["INBOX"]
    assert len(found) == len(sent)
    assert server.process.poll() is None
    watchers = [idling(server) for _ in range(4)]
    server.send(mail("after"), f"ann@{DOMAIN}")
    for watcher in watchers:
        until(watcher, b"EXISTS", 5)
        watcher.shutdown()


def test_sighup_reads_the_configuration_again(server: Server) -> None:
    """A new alias works, a broken file changes nothing; the sender is never two at once."""
    good = server.config.read_text()
    first = server.settled()
    server.config.write_text(
        good.replace("[listen]", f'aliases = {{ office = "ann@{DOMAIN}" }}\n[listen]', 1)
    )
    with server.smtp() as smtp:
        smtp.mail("a@shop.example")
        assert smtp.rcpt(f"office@{DOMAIN}")[0] == 550
    os.kill(server.process.pid, signal.SIGHUP)

    def known() -> bool:
        with server.smtp() as smtp:
            smtp.mail("a@shop.example")
            return smtp.rcpt(f"office@{DOMAIN}")[0] == 250

    wait_for(known, 10, "the new alias")
    before = server.settled(but=first)  # the new sender starts when the old one has ended
    server.config.write_text("version = 1\nnonsense = true\n")
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for(lambda: "nonsense" in server.log(), 10, "the complaint")
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:  # nobody is replaced, then or a moment later
        assert known() and set(server.group()) == before
    (server.folder / "no.pem").write_text("no certificate\n")
    pair = f'[tls]\nmode = "files"\ncert = "{server.folder}/no.pem"\nkey = "{server.folder}/no.pem"\n'
    server.config.write_text(good + pair if "[tls]" not in good else good.replace("[tls]", pair, 1))
    complaints = server.log().count("stays in force")
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for(lambda: server.log().count("stays in force") > complaints, 10, "the second complaint")
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert known() and set(server.group()) == before
    server.config.write_text(good)


def test_a_killed_worker_is_replaced(server: Server) -> None:
    children = server.settled() - {server.process.pid}
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    server.settled(but=children)
    server.send(mail(), f"ann@{DOMAIN}")


def test_a_killed_parent_leaves_no_orphans_and_the_ports_free(server: Server) -> None:
    """``kill -9`` of the main process alone: the next start must not find its ports taken by children of the last."""
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(5)
    wait_for(lambda: not server.group(), 3, "the children of a killed parent to end")
    server.start()
    server.send(mail(), f"ann@{DOMAIN}")


def test_a_start_right_after_a_kill(server: Server) -> None:
    for _ in range(3):
        server.kill()
        server.start()
    server.send(mail(), f"ann@{DOMAIN}")


def test_a_port_in_use_is_said_and_ends_with_78(server: Server) -> None:
    done = server.command("serve")
    assert done.returncode == 78, done
    text = done.stderr.decode()
    assert "in use" in text and "127.0.0.1:" in text and "Traceback" not in text
    server.send(mail(), f"ann@{DOMAIN}")  # the first one is none the worse
    assert int((server.data / "run" / "filterd.pid").read_text()) == server.process.pid


def test_a_configuration_with_errors_ends_with_78(server: Server, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("version = 1\n[server]\nhostnam = 'x'\n")
    for command in ("serve",):
        done = subprocess.run(
            [str(Path(sys.executable).parent / "filterd"), command, "-c", str(bad)],
            capture_output=True,
            timeout=30,
        )
        assert done.returncode in (2, 78), done
        assert f"{bad}:3:1".encode() in done.stderr and b"hostname" in done.stderr


def test_idle_wakes_at_once_for_mail_that_another_process_took(server: Server) -> None:
    """Several sessions land on both workers; every one of them hears of each delivery within 200 ms."""
    watchers = [idling(server) for _ in range(6)]
    try:
        for number in range(3):
            trace = server.send(mail(f"number {number}"), f"ann@{DOMAIN}")
            assert trace
            slowest = max(until(watcher, b"EXISTS", 5) for watcher in watchers)
            assert slowest < 0.2, slowest
        done = server.command(
            f"ann@{DOMAIN}", program="filterd-deliver", stdin=mail("by the command")
        )  # and for mail that no worker took
        assert done.returncode == 0, done.stderr
        assert max(until(watcher, b"EXISTS", 5) for watcher in watchers) < 0.2
    finally:
        for watcher in watchers:
            watcher.shutdown()


def test_a_file_that_another_program_drops_appears(server: Server) -> None:
    folder = server.data / "mail" / DOMAIN / "ann"
    watcher = idling(server)
    try:
        (folder / "tmp" / "1.drop.host").write_bytes(mail("dropped").replace(b"\r\n", b"\n"))
        (folder / "tmp" / "1.drop.host").rename(folder / "new" / "1.drop.host")
        assert until(watcher, b"EXISTS", 5) < 0.5
        with server.imap("ann") as imap:
            imap.select("INBOX", readonly=True)
            _, parts = imap.fetch("1", "(FLAGS RFC822.SIZE BODY.PEEK[])")
            assert isinstance(parts[0], tuple)
            assert parts[0][1] == mail("dropped")
            assert f"RFC822.SIZE {len(mail('dropped'))}".encode() in parts[0][0]
        name = next((folder / "cur").iterdir(), None) or next((folder / "new").iterdir())
        base = name.name.partition(":2,")[0]
        name.rename(folder / "cur" / f"{base}:2,FS")  # and a flag that it sets
        until(watcher, b"FETCH", 5)
        with server.imap("ann") as imap:
            imap.select("INBOX", readonly=True)
            answer = imap.fetch("1", "(FLAGS)")[1][0]
            assert b"\\Flagged" in answer and b"\\Seen" in answer
        for entry in (folder / "cur").iterdir():
            entry.unlink()
        until(watcher, b"EXPUNGE", 5)
    finally:
        watcher.shutdown()


def served(server: Server) -> float:
    """Seconds that a client needs who sends a message and one who looks into the mailbox."""
    began = time.monotonic()
    server.send(mail("a good client"), f"ann@{DOMAIN}")
    with server.imap("ann") as imap:
        imap.select("INBOX")
    return time.monotonic() - began


def test_idle_connections_of_one_address_do_not_delay_another() -> None:
    """600 connections from one address that never say a word; a client at another one is served at once."""
    with Server(people=("ann",), server="workers = 2", extra='[limits]\nmessage_size = "1 MiB"\n') as server:
        idle: list[socket.socket] = []
        alone = max(served(server) for _ in range(3))
        try:
            for number in range(600):
                door = ("smtp", "imaps", "pop3")[number % 3]
                sock = socket.socket()
                sock.settimeout(10)
                sock.bind(("127.0.0.2", 0))
                with contextlib.suppress(OSError):
                    sock.connect(("127.0.0.1", server.ports[door]))
                idle.append(sock)
            for _ in range(3):
                assert served(server) < max(2, 3 * alone)  # the machine itself may be slow
        finally:
            for sock in idle:
                sock.close()


def test_a_slow_reader_costs_only_itself(server: Server) -> None:
    """A client that asks for much and reads nothing does not stop the others."""
    big = mail("big", "x" * 70 + "\n" + ("y" * 70 + "\n") * 60_000)
    server.send(big, f"ann@{DOMAIN}")
    imap = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE, timeout=20)
    imap.login(f"ann@{DOMAIN}", "correct horse 7")
    imap.select("INBOX", readonly=True)
    imap.send(b"".join(b"x%d FETCH 1 BODY.PEEK[]\r\n" % at for at in range(10)))
    began = time.monotonic()
    for number in range(4):
        server.send(mail(f"other {number}"), f"ann@{DOMAIN}")
    assert time.monotonic() - began < 3
    imap.shutdown()
    assert not select.select([], [], [], 0)[0]


def test_both_families_and_every_door_greets(server: Server) -> None:
    for door, first in (
        ("smtp", b"220 "),
        ("submission", b"220 "),
        ("lmtp", b"220 "),
        ("imap", b"* OK "),
        ("pop3", b"+OK "),
        ("sieve", b'"IMPLEMENTATION"'),
    ):
        with Raw(server.ports[door]) as raw:
            assert raw.line().startswith(first)


def test_imap_limits_are_those_of_the_configuration() -> None:
    extra = "[limits]\nimap_messages = 3\nimap_saved = 2\n"
    with Server(people=("ann",), extra=extra, doors=("imaps",)) as server, server.imap("ann") as imap:
        assert {b"MESSAGELIMIT=3", b"SAVELIMIT=2"} <= set(imap.capability()[1][0].split())
        for number in range(4):
            assert imap.append("INBOX", "", "", mail(f"number {number}"))[0] == "OK"
        imap.select("INBOX")
        assert imap.search(None, "ALL")[1] == [b"2 3 4"]
        assert imap.copy("1:2", "INBOX")[0] == "OK"
        assert imap.copy("1:3", "INBOX")[0] == "NO"
