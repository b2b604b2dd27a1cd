"""250 means on disk: the process group is killed under load, again and again, and nothing that was answered is lost or doubled.

The clients retry like a mail server does: when they have no reply they send the same message again. Each message has a
number in its subject; in the end every number answered with 250 is in the mailbox exactly once and whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import select
import smtplib
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, Raw, Server, mail, wait_for

pytestmark = pytest.mark.e2e

MESSAGES = 300
CLIENTS = 4
KILLS = 4
PATIENCE = 60.0  # for one message


def text(number: int) -> bytes:
    body = (f"line of {number} " * 4 + "\n") * (number % 40 + 1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return mail(f"number {number}", body, "orders@shop.example", f"X-Digest: {digest}")


def client(port: int, numbers: list[int], done: str) -> None:
    """Sends all; without a reply it comes again. What was answered 250 is written down at once."""
    smtp: smtplib.SMTP | None = None
    with open(done, "a") as log:
        for number in numbers:
            deadline = time.monotonic() + PATIENCE
            while True:
                assert time.monotonic() < deadline, "the server is not back in time"
                try:
                    if smtp is None:
                        smtp = smtplib.SMTP("127.0.0.1", port, "client.example", timeout=10)
                        smtp.ehlo("client.example")
                    code, reply = smtp.mail("orders@shop.example")
                    if code == 250:
                        code, reply = smtp.rcpt(f"ann@{DOMAIN}")
                    if code == 250:
                        code, reply = smtp.data(text(number))
                    if code == 250:
                        log.write(f"{number}\n")
                        log.flush()
                        break
                    assert 400 <= code < 500, (code, reply)
                    smtp.close()
                except (smtplib.SMTPException, OSError):
                    if smtp is not None:
                        smtp.close()
                smtp = None
                time.sleep(0.05)
    if smtp is not None:
        with contextlib.suppress(smtplib.SMTPException, OSError):
            smtp.quit()


def check_whole(data: bytes) -> int:
    """The message's number; its octets are those that were sent."""
    number = int(data.partition(b"Subject: number ")[2].split(b"\r\n")[0])
    assert data.endswith(text(number)), number
    return number


SCRIPTS = {
    "one store": "",
    "two stores": 'require ["fileinto", "copy", "mailbox"]; fileinto :copy :create "Second";',
    "store and send": 'require ["copy"]; redirect :copy "ann@elsewhere.example";',
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCRIPTS)
def test_sigkill_under_load_loses_nothing_and_doubles_nothing(kind: str, tmp_path: Path) -> None:
    scripts = {"ann": SCRIPTS[kind]} if SCRIPTS[kind] else {}
    count = MESSAGES if kind == "one store" else MESSAGES // 2
    with Server(people=("ann",), server="workers = 2", scripts=scripts) as server:
        context = multiprocessing.get_context("fork")
        logs = [str(tmp_path / f"done-{at}") for at in range(CLIENTS)]
        clients = [
            context.Process(
                target=client, args=(server.ports["smtp"], list(range(at, count, CLIENTS)), logs[at])
            )
            for at in range(CLIENTS)
        ]
        for one in clients:
            one.start()
        try:
            for at in range(KILLS):
                goal = count * (at + 1) // (KILLS + 2)
                deadline = time.monotonic() + 30
                while acknowledged(logs) < goal and time.monotonic() < deadline:
                    time.sleep(0.005)
                server.kill()
                server.start()
            for one in clients:
                one.join(4 * PATIENCE)
                assert one.exitcode == 0
        finally:
            for one in clients:
                if one.is_alive():
                    one.kill()
                    one.join()
        assert acknowledged(logs) == count
        verify(server, kind, count)
        server.kill()
        server.start()
        verify(server, kind, count)


def verify(server: Server, kind: str, count: int) -> None:
    folders = ("INBOX", "Second") if kind == "two stores" else ("INBOX",)
    deadline = time.monotonic() + 45  # what a crash left half done is rolled forward by the sender
    while True:
        found = server.read("ann")
        if all(len(found.get(folder, ())) >= count for folder in folders) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for folder in folders:
        numbers = Counter(check_whole(data) for data in found.get(folder, {}).values())
        assert not [number for number in range(count) if number not in numbers], (folder, "lost")
        assert not {number: times for number, times in numbers.items() if times != 1}, (folder, "doubled")
    if kind == "store and send":
        wait_for(
            lambda: len({check_whole(one.data) for one in list(server.hop.arrivals)}) == count,
            45,
            "all at the next hop",
        )
        sent = Counter(check_whole(arrival.data) for arrival in server.hop.arrivals)
        # at least once: the next hop may have taken one whose success we had not yet written down when killed
        assert sum(sent.values()) - count <= (KILLS + 1) * 20, sum(sent.values())


def acknowledged(logs: list[str]) -> int:
    return sum(Path(log).read_bytes().count(b"\n") for log in logs if os.path.exists(log))


# -- the lost reply ---------------------------------------------------------------------------------------


def speak(
    server: Server,
    data: bytes,
    *,
    read_reply: bool,
    quit_: bool = True,
    done: Callable[[], bool] | None = None,
) -> bytes:
    """One transaction by hand; without ``read_reply`` the connection is cut before the final reply is read, when the text is
    in the mailbox or ``done`` says that the server has promised it."""
    with Raw(server.ports["smtp"]) as raw:
        raw.reply()
        raw.ask("EHLO client.example\r\n")
        raw.ask("MAIL FROM:<orders@shop.example>\r\n")
        assert raw.ask(f"RCPT TO:<ann@{DOMAIN}>\r\n")[0] == 250
        assert raw.ask("DATA\r\n")[0] == 354
        raw.send(data + b".\r\n")
        if not read_reply:

            def promised() -> bool:
                if done is not None:
                    return done()
                return data in b"".join(path.read_bytes() for path in files(server))

            if (
                promised()
            ):  # a retry: it is over when the server has answered, or it might be served after the next one
                select.select([raw.sock], [], [], 10)
            stored = time.monotonic() + 10
            while not promised() and time.monotonic() < stored:
                time.sleep(0.005)
            # RST: the client's machine went away; it never sees what we answered
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return b""
        code, reply = raw.reply()
        assert code == 250, reply
        if quit_:
            raw.ask("QUIT\r\n")
        return reply


def files(server: Server) -> list[Path]:
    folder = server.data / "mail" / DOMAIN / "ann"
    return [path for name in ("new", "cur") for path in (folder / name).glob("*")]


def count(server: Server) -> int:
    with server.imap("ann") as imap:
        return int(imap.select("INBOX", readonly=True)[1][0])


@pytest.fixture(scope="module")
def quiet():  # type: ignore[no-untyped-def]  # a fixture
    with Server(people=("ann",), server="workers = 2") as server:
        yield server


def test_a_client_that_lost_our_reply_leaves_one_copy(quiet: Server) -> None:
    before = count(quiet)
    data = mail("lost reply")
    speak(quiet, data, read_reply=False)
    assert count(quiet) == before + 1
    for _ in range(4):  # whichever worker gets it
        speak(quiet, data, read_reply=False)
    speak(quiet, data, read_reply=True)
    assert count(quiet) == before + 1


def test_killed_between_store_and_reply_the_retry_leaves_one_copy(quiet: Server) -> None:
    before = count(quiet)
    data = mail("killed before the reply")
    speak(quiet, data, read_reply=False)
    quiet.kill()
    quiet.start()
    assert count(quiet) == before + 1
    speak(quiet, data, read_reply=True)
    assert count(quiet) == before + 1


def test_the_same_octets_sent_again_on_purpose_are_stored_again(quiet: Server) -> None:
    """An acknowledged delivery never suppresses: whoever got our 250 and sends the same again means it."""
    before = count(quiet)
    data = mail("the same thing")
    for _ in range(20):
        speak(quiet, data, read_reply=True)
    assert count(quiet) == before + 20
    with quiet.smtp() as smtp:  # in one session, too
        for _ in range(5):
            smtp.mail("orders@shop.example")
            smtp.rcpt(f"ann@{DOMAIN}")
            assert smtp.data(data)[0] == 250
    assert count(quiet) == before + 25


def test_a_client_that_got_the_reply_but_does_not_say_goodbye(quiet: Server) -> None:
    """It hangs up after 250 without QUIT, as spammers and many scripts do; later mail of other content is not harmed."""
    before = count(quiet)
    for number in range(5):
        speak(quiet, mail(f"rude {number}"), read_reply=True, quit_=False)
    assert count(quiet) == before + 5


REDIRECT = 'redirect "ann@elsewhere.example";'


def test_the_same_octets_redirected_twice_on_purpose_leave_twice() -> None:
    with Server(people=("ann",), server="workers = 2", scripts={"ann": REDIRECT}) as server:
        data = mail("sent on")
        for _ in range(10):
            speak(server, data, read_reply=True)
        server.arrived(10, 3)
        assert count(server) == 0


def test_a_redirect_whose_reply_was_lost_leaves_once() -> None:
    """Retried at once, whichever worker gets it, and after a kill of all."""
    with Server(people=("ann",), server="workers = 2", scripts={"ann": REDIRECT}) as server:
        data = mail("lost reply")
        queued = server.hop.arrivals
        for _ in range(6):
            speak(server, data, read_reply=False, done=lambda: len(queued) >= 1)
        server.kill()
        server.start()
        speak(server, data, read_reply=True)
        other = mail("another one")
        speak(server, other, read_reply=True)
        server.arrived(2)
        time.sleep(0.5)  # nothing more comes
        assert [data in one.data for one in list(queued)] == [True, False]


def test_the_same_octets_stored_and_sent_on_purpose_are_stored_and_sent_again() -> None:
    """A record's keys are held only until it is struck out."""
    scripts = {"ann": 'require "copy"; redirect :copy "ann@elsewhere.example";'}
    with Server(people=("ann",), server="workers = 2", scripts=scripts) as server:
        data = mail("kept and sent on")
        for _ in range(10):
            speak(server, data, read_reply=True)
        server.arrived(10, 5)
        assert count(server) == 10
        for _ in range(4):
            speak(server, data, read_reply=False, done=lambda: count(server) >= 11)
        speak(server, data, read_reply=True)
        server.arrived(11, 5)
        assert count(server) == 11
