"""The IMAP shell over real sockets: Python's imaplib and imapclient, IDLE, COMPRESS, STARTTLS' injection, slow clients."""

from __future__ import annotations

import asyncio
import imaplib
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
from filterd.imap.config import ImapServerConfig
from filterd.net.limits import Admission, AdmissionLimits
from filterd.net.listen import ListenAddress, Server, bind
from filterd.ports import SystemClock, SystemIds
from filterd.proto.sasl import Evidence
from filterd.servers.imap import ImapDoor
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
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
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
