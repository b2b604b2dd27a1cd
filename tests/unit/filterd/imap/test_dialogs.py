"""``tests/scripts/imap/*.dialog`` in each of their modes: whole, octet by octet, with trailing octets."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from filterd.accounts.directory import Account
from filterd.imap.config import ImapServerConfig
from filterd.proto.sasl import Evidence
from filterd.servers.imap import ImapConnection, ImapDoor
from filterd.store.base import AccountStore
from filterd.store.memory import MemoryAccount, MemoryStore
from pipeline.envelope import Client
from tests import dialog, saslclient
from tests.dialog import Door

from .conftest import CountingIds, FakeClock

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts" / "imap"
CASES = [
    pytest.param(script, mode, id=f"{script.path.stem}-{mode}")
    for script in map(dialog.load, sorted(SCRIPTS.glob("*.dialog")))
    for mode in script.modes
]
T = TypeVar("T")


class Services:
    """Login, jobs and notices of one account, without threads."""

    def __init__(self, account: MemoryAccount) -> None:
        self.account = account

    async def authenticate(self, login: str, password: str, client: Client, service: str) -> Account | None:
        return Account("ann@example.org") if password == "pw" else None

    async def judge(self, evidence: Evidence, client: Client, service: str) -> Account | None:
        return saslclient.judged(evidence)

    async def run(self, account: str, work: Callable[[AccountStore], T]) -> T:
        return work(self.account)

    def ready(self, account: str, work: Callable[[AccountStore], T]) -> T | None:
        return None

    def watch(self, account: str, mailbox: str, wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def make_door(options: Mapping[str, str]) -> Door:
    services = Services(MemoryStore(FakeClock(), CountingIds()).account("ann@example.org"))
    door = ImapDoor(
        ImapServerConfig(
            tls=True,
            message_size=100_000,
            message_limit=int(options.get("message_limit", 0)),
            save_limit=int(options.get("save_limit", 0)),
            mechanisms=saslclient.offer(options),
        ),
        services,
        services,
        services,
        FakeClock(),
        context=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
    )
    return Door(lambda: ImapConnection(door), [], tls=options.get("tls") == "yes")


@pytest.mark.parametrize(("script", "mode"), CASES)
def test_dialog(script: dialog.Script, mode: str) -> None:
    dialog.run(script, mode, make_door)


def test_there_are_scripts() -> None:
    assert CASES
