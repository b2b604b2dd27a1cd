"""A session core over the memory store, driven without sockets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from filterd.accounts.directory import Account
from filterd.imap.config import ImapServerConfig
from filterd.imap.session import Authenticate, Close, Session, StartTls
from filterd.imap.work import IdleWork, Work
from filterd.store.base import NewMessage
from filterd.store.memory import MemoryAccount, MemoryStore

NOW = 1_800_000_000


class FakeClock:
    now = float(NOW)

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class CountingIds:
    def __init__(self) -> None:
        self.count = 0

    def token(self, octets: int) -> str:
        self.count += 1
        return f"{self.count:0{octets * 2}x}"


class Client:
    """Sends commands, runs the core's work at once, gives what came back."""

    def __init__(self, account: MemoryAccount, config: ImapServerConfig, *, tls: bool = True) -> None:
        self.account = account
        self.session = Session(config, FakeClock(), tls=tls)
        self.closed = False
        self.count = 0
        self.events: list[str] = []
        self.greeting = self.pump()

    def pump(self) -> bytes:
        out = b""
        while True:
            event = self.session.next_event()
            out += self.session.data_to_send()
            match event:
                case None:
                    return out
                case Work() | IdleWork():
                    while not event.done:
                        out += b"".join(event.step(self.account))
                    self.session.work_done(event)
                case Authenticate(_, password):
                    self.session.authenticated(Account("ann@example.org") if password == "pw" else None)
                case StartTls():
                    self.session.tls_started()
                case Close():
                    self.closed = True
                case _:
                    self.events.append(type(event).__name__)

    def raw(self, data: bytes) -> bytes:
        self.session.receive_data(data)
        return self.pump()

    def __call__(self, command: str | bytes) -> list[str]:
        """The untagged lines and the tagged one without its tag; literals stay inside the text."""
        self.count += 1
        tag = b"t%d" % self.count
        if isinstance(command, str):
            command = command.encode()
        out = self.raw(tag + b" " + command + b"\r\n").decode("utf-8", "surrogateescape")
        lines = out.split("\r\n")
        assert lines[-1] == "", out
        return [line.removeprefix(tag.decode() + " ") for line in lines[:-1]]

    def ok(self, command: str | bytes) -> list[str]:
        """The untagged lines; the command must have succeeded."""
        lines = self(command)
        assert lines[-1].startswith("OK"), lines
        return lines[:-1]


def message(number: int, body: str = "", **fields: str) -> bytes:
    head = {
        "From": f"Ann {number} <ann{number}@example.org>",
        "To": "bob@example.net",
        "Subject": f"Subject {number}",
        "Date": f"Mon, {1 + number % 28} Jun 2026 10:00:00 +0000",
        "Message-ID": f"<m{number}@example.org>",
        "Content-Type": "text/plain; charset=utf-8",
    }
    head.update({name.replace("_", "-"): value for name, value in fields.items()})
    text = "".join(f"{name}: {value}\r\n" for name, value in head.items() if value)
    return (text + "\r\n" + (body or f"Body {number}\r\n")).encode()


@pytest.fixture
def account() -> MemoryAccount:
    return MemoryStore(FakeClock(), CountingIds()).account("ann@example.org")


@pytest.fixture
def connect(account: MemoryAccount) -> Callable[..., Client]:
    """Another client of the same account; logged in, ``mailbox`` selected unless empty."""

    def make(mailbox: str = "INBOX", enable: str = "", config: ImapServerConfig | None = None) -> Client:
        client = Client(account, config or ImapServerConfig(message_size=100_000))
        client.ok("LOGIN ann@example.org pw")
        if enable:
            client.ok(f"ENABLE {enable}")
        if mailbox:
            client.ok(f"SELECT {mailbox}")
        return client

    return make


@pytest.fixture
def fill(account: MemoryAccount) -> Callable[..., None]:
    def make(count: int, mailbox: str = "INBOX", first: int = 1) -> None:
        account.append(
            mailbox,
            [NewMessage(message(number), date=NOW - 86_400) for number in range(first, first + count)],
        )

    return make
