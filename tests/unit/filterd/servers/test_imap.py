"""The IMAP shell over real sockets: Python's imaplib and imapclient, IDLE, COMPRESS, STARTTLS' injection, slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import random
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import imapclient
import pytest

from filterd.accounts.directory import Account
from filterd.imap.config import ImapLimits, ImapServerConfig
from filterd.imap.filtering import Filter, Filtered
from filterd.net.limits import Admission, AdmissionLimits
from filterd.net.listen import ListenAddress, Server, bind
from filterd.ports import SystemClock, SystemIds
from filterd.proto.sasl import Evidence
from filterd.servers.imap import PORTION, ImapDoor, portions
from filterd.store.base import AccountStore, NewMessage
from filterd.store.memory import MemoryStore
from pipeline.envelope import Client

pytestmark = pytest.mark.e2e
T = TypeVar("T")
MESSAGE = b"From: ann@example.org\r\nSubject: hello\r\n\r\nText\r\n"


class Login:
    async def judge(self, evidence: Evidence, client: Client, service: str) -> Account | None:
        return None

    async def authenticate(self, login: str, password: str, client: Client, service: str) -> Account | None:
        return Account(login) if password == "pw" else None


class Pool:
    """Jobs over the memory store, one at a time for each account."""

    def __init__(self) -> None:
        self.store = MemoryStore(SystemClock(), SystemIds())
        self.pool = ThreadPoolExecutor(2)
        self.lock = threading.Lock()

    async def run(self, account: str, work: Callable[[AccountStore], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.do, account, work)

    def ready(self, account: str, work: Callable[[AccountStore], T]) -> T | None:
        return None

    def do(self, account: str, work: Callable[[AccountStore], T]) -> T:
        with self.lock:
            return work(self.store.account(account))


class Watches:
    def __init__(self) -> None:
        self.watches: dict[tuple[str, str], list[Callable[[], None]]] = {}

    def watch(self, account: str, mailbox: str, wake: Callable[[], None]) -> Callable[[], None]:
        watching = self.watches.setdefault((account, mailbox), [])
        watching.append(wake)
        return lambda: watching.remove(wake)

    def tell(self, account: str, mailbox: str) -> None:
        for wake in list(self.watches.get((account, mailbox), [])):
            wake()


class Running:
    """A server in a thread of its own."""

    def __init__(self, config: ImapServerConfig) -> None:
        self.jobs = Pool()
        self.notices = Watches()
        self.loop = asyncio.new_event_loop()
        self.socket = bind(ListenAddress("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        door = ImapDoor(config, Login(), self.jobs, self.notices, SystemClock())
        started = threading.Event()

        def serve() -> None:
            asyncio.set_event_loop(self.loop)

            async def begin() -> None:
                self.server = Server(
                    self.socket, door.connection, Admission(AdmissionLimits()), refusal=ImapDoor.REFUSAL
                )
                self.server.start()
                started.set()

            self.loop.run_until_complete(begin())
            self.loop.run_forever()

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        assert started.wait(5)

    def deliver(self, mailbox: str = "INBOX") -> None:
        self.jobs.do("ann", lambda store: store.append(mailbox, [NewMessage(MESSAGE)]))
        self.loop.call_soon_threadsafe(self.notices.tell, "ann", mailbox)

    def stop(self) -> None:
        async def end() -> None:
            self.server.stop()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self.loop)
        self.thread.join(5)
        self.socket.close()
        self.jobs.pool.shutdown()
        self.loop.close()


@pytest.fixture
def server() -> Iterator[Running]:
    running = Running(ImapServerConfig(allow_plaintext=True, message_size=5_000_000))
    yield running
    running.stop()


def test_imaplib(server: Running) -> None:
    client = imaplib.IMAP4("127.0.0.1", server.port, timeout=10)
    assert "IMAP4REV1" in client.capabilities
    with pytest.raises(imaplib.IMAP4.error):
        client.login("ann", "wrong")
    client.login("ann", "pw")
    assert client.append("INBOX", r"(\Flagged)", None, MESSAGE)[0] == "OK"
    assert client.select() == ("OK", [b"1"])
    assert client.search(None, "FLAGGED") == ("OK", [b"1"])
    kind, data = client.fetch("1", "(RFC822 FLAGS)")
    assert kind == "OK" and data[0][1] == MESSAGE
    assert b"\\Seen" in b" ".join(part if isinstance(part, bytes) else part[0] for part in data)
    assert client.create("Sent")[0] == "OK"
    assert client.copy("1", "Sent")[0] == "OK"
    assert client.store("1", "+FLAGS", r"\Deleted")[0] == "OK"
    assert client.expunge() == ("OK", [b"1"])
    assert client.status("Sent", "(MESSAGES UNSEEN)") == ("OK", [b'"Sent" (MESSAGES 1 UNSEEN 0)'])
    assert client.list()[0] == "OK"
    assert client.logout()[0] == "BYE"


def test_authenticate_plain(server: Running) -> None:
    client = imaplib.IMAP4("127.0.0.1", server.port, timeout=10)
    assert client.authenticate("PLAIN", lambda challenge: b"\0ann\0pw")[0] == "OK"
    client.logout()


def test_imapclient_and_idle(server: Running) -> None:
    client = imapclient.IMAPClient("127.0.0.1", server.port, ssl=False, timeout=10)
    client.login("ann", "pw")
    client.create_folder("Entwürfe & mehr")
    assert ((b"\\HasNoChildren",), b"/", "Entwürfe & mehr") in client.list_folders()
    assert client.select_folder("INBOX")[b"EXISTS"] == 0
    client.idle()
    begun = time.monotonic()
    server.deliver()
    assert client.idle_check(timeout=5) == [(1, b"EXISTS")]
    assert time.monotonic() - begun < 1.0
    client.idle_done()
    assert client.fetch([1], ["ENVELOPE", "BODYSTRUCTURE"])[1][b"ENVELOPE"].subject == b"hello"
    assert client.thread() == ((1,),)
    assert client.sort("SUBJECT") == [1]
    client.move([1], "Entwürfe & mehr")
    assert client.search() == []
    client.logout()
    assert not any(server.notices.watches.values())


def test_compress(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.recv(4096)
        sock.sendall(b"a LOGIN ann pw\r\n")
        sock.recv(4096)
        sock.sendall(b"b COMPRESS DEFLATE\r\n")
        assert sock.recv(4096).startswith(b"b OK")
        deflate, inflate = zlib.compressobj(wbits=-15), zlib.decompressobj(wbits=-15)
        sock.sendall(deflate.compress(b"c NOOP\r\n" * 3) + deflate.flush(zlib.Z_SYNC_FLUSH))
        out = b""
        while out.count(b"c OK") < 3:
            out += inflate.decompress(sock.recv(4096))


def compressed(server: Running, data: bytes) -> socket.socket:
    """A connection on which these octets were sent, compressed."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    sock.sendall(b"a LOGIN ann pw\r\nb COMPRESS DEFLATE\r\n")
    out = b""
    while b"DEFLATE active\r\n" not in out:
        out += sock.recv(4096)
    deflate = zlib.compressobj(wbits=-15)
    sock.sendall(deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))
    return sock


def test_what_a_few_octets_grow_to_is_done_in_turns_with_others(server: Running) -> None:
    """200,000 commands in 3 KB: another client is served meanwhile."""
    other = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    other.recv(4096)
    with compressed(server, b"c NOOP\r\n" * 200_000) as sock, other:
        inflate = zlib.decompressobj(wbits=-15)
        done = inflate.decompress(sock.recv(4096)).count(b"c OK")
        other.sendall(b"d NOOP\r\n")
        assert other.recv(4096).startswith(b"d OK")
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                done += inflate.decompress(sock.recv(1 << 20)).count(b"c OK")
        assert done < 200_000


def test_scripts_that_take_long_are_heard_of() -> None:
    """RFC 9585 beside FILTER, whose scripts run outside of the command's steps."""

    class Scripts:
        async def filter(self, request: Filter) -> Filtered:
            while told < 2:
                await asyncio.sleep(0.01)
            return Filtered()

    told = 0
    limits = ImapLimits(progress=0.01)
    running = Running(ImapServerConfig(allow_plaintext=True, filters=Scripts(), limits=limits))
    try:
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as sock:
            sock.sendall(b'a LOGIN ann pw\r\nb SELECT INBOX\r\nc FILTER SIEVE SCRIPT "keep;" ALL\r\n')
            with sock.makefile("rb") as lines:
                for line in lines:
                    told += line == b'* OK [INPROGRESS ("c" NIL NIL)] Still working\r\n'
                    if line.startswith(b"c "):
                        break
        assert line == b"c OK Filter completed\r\n" and told >= 2
    finally:
        running.stop()


def test_all_that_was_sent_before_a_half_close_is_done(server: Running) -> None:
    with compressed(server, b"c NOOP\r\n" * 30_000 + b"d NOOP\r\n") as sock:
        sock.shutdown(socket.SHUT_WR)
        inflate, out = zlib.decompressobj(wbits=-15), bytearray()
        while data := sock.recv(1 << 20):
            out += inflate.decompress(data)
        assert out.count(b"c OK") == 30_000 and out.count(b"d OK") == 1


def test_large_answers_reach_a_slow_client_whole(server: Running) -> None:
    body = MESSAGE + b"0123456789abcdef" * 60_000
    server.jobs.do("ann", lambda store: store.append("INBOX", [NewMessage(body)] * 12))
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(b"a LOGIN ann pw\r\nb SELECT INBOX\r\nc FETCH 1:* BODY.PEEK[]\r\nd NOOP\r\n")
        time.sleep(0.3)
        out = bytearray()
        while b"\r\nd OK" not in out[-200:]:
            out += sock.recv(1 << 20)
        assert out.count(body) == 12


@pytest.mark.parametrize(
    "sizes", [[], [0], [5], [PORTION], [PORTION + 1], [3, 3 * PORTION, 0, 7, PORTION - 1, 9]]
)
def test_portions_of_an_answer(sizes: list[int]) -> None:
    pieces = [random.randbytes(size) for size in sizes]
    found = list(portions(pieces))
    assert b"".join(map(b"".join, found)) == b"".join(pieces)
    assert max(sum(map(len, portion)) for portion in found) <= PORTION
    assert sum(sizes) > PORTION or found == [pieces]


def test_a_large_answer_under_compression(server: Running) -> None:
    """It is packed a portion at a time, so that others come to their turn."""
    body = MESSAGE + random.randbytes(1_000_000).hex().encode()
    server.jobs.do("ann", lambda store: store.append("INBOX", [NewMessage(body)] * 3))
    with compressed(server, b"c SELECT INBOX\r\nd FETCH 1:* (UID BODY.PEEK[])\r\ne NOOP\r\n") as sock:
        inflate, out = zlib.decompressobj(wbits=-15), bytearray()
        while b"\r\ne OK" not in out[-200:]:
            out += inflate.decompress(sock.recv(1 << 20))
        assert out.count(body) == 3


def test_byte_by_byte_and_cut(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        for octet in b"a LOGIN {3}\r\n":
            sock.sendall(bytes([octet]))
        out = b""
        while b"+ " not in out:
            out += sock.recv(4096)
        sock.sendall(b"ann {2+}\r\npw\r\nb SELECT INBOX\r\nc IDLE\r\n")
        while b"+ idling" not in out:
            out += sock.recv(4096)
    deadline = time.monotonic() + 5
    while any(server.notices.watches.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(server.notices.watches.values())
