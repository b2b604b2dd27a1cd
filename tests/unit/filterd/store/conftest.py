"""A clock that is set by hand, ids that count, and the stores under the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from filterd.store.base import AccountStore, Store
from filterd.store.durable import RealDisk
from filterd.store.maildir import MaildirStore
from filterd.store.mbox import MboxStore
from filterd.store.memory import MemoryStore
from pipeline.ports import Clock, Ids

START = 1_790_000_000.25


@dataclass
class HandClock(Clock):
    now: float = START

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class CountingIds(Ids):
    def __init__(self, start: int = 0) -> None:
        self.last = start

    def token(self, octets: int) -> str:
        self.last += 1
        return f"{self.last:0{2 * octets}x}"


@dataclass
class World:
    """A kind of store that can be opened again on the same files."""

    kind: str
    root: Path
    clock: HandClock = field(default_factory=HandClock)
    ids: CountingIds = field(default_factory=CountingIds)
    limit: int = 0
    notices: list[tuple[str, str, int]] = field(default_factory=list)
    opened: list[Store] = field(default_factory=list)

    def store(self, boot: str | None = None) -> Store:
        if self.kind == "memory":
            store: Store = MemoryStore(self.clock, self.ids, lambda account: self.limit)
        elif self.kind == "mbox":
            store = MboxStore(
                self.root,
                "mx.example.org",
                lambda account: self.limit,
                self.clock,
                self.ids,
                disk=RealDisk(boot),
                notify=lambda *notice: self.notices.append(notice),
            )
        else:
            newline = "lf" if self.kind == "maildir-lf" else "crlf"
            notify: Callable[[str, str, int], None] = lambda *notice: self.notices.append(notice)  # noqa: E731
            store = MaildirStore(
                self.root,
                "mx.example.org",
                newline,
                lambda account: self.limit,
                self.clock,
                self.ids,
                disk=RealDisk(boot),
                notify=notify,
            )
        self.opened.append(store)
        return store

    def account(self, boot: str | None = None) -> AccountStore:
        return self.store(boot).account("ann@example.org")

    @property
    def maildir(self) -> Path:
        return self.root / "example.org" / "ann"

    def close(self) -> None:
        for store in self.opened:
            store.close()
        self.opened.clear()


@pytest.fixture(params=["memory", "maildir-crlf", "maildir-lf", "mbox"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    world = World(request.param, tmp_path)
    yield world
    world.close()


@pytest.fixture
def maildir(tmp_path: Path) -> Iterator[World]:
    world = World("maildir-crlf", tmp_path)
    yield world
    world.close()


@pytest.fixture
def real_clock() -> Clock:
    return SystemClock()


@pytest.fixture
def new_store(tmp_path: Path, real_clock: Clock) -> Iterator[Callable[[], MaildirStore]]:
    """Stores on the same files, as in so many processes: file times and confirming looks are those of the machine."""
    opened: list[MaildirStore] = []

    def make() -> MaildirStore:
        opened.append(MaildirStore(tmp_path, "host", "crlf", lambda account: 0, real_clock, SystemIds()))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[[str], World]]:
    worlds: list[World] = []

    def make(kind: str) -> World:
        worlds.append(World(kind, tmp_path / f"{kind}-{len(worlds)}"))
        worlds[-1].root.mkdir()
        return worlds[-1]

    yield make
    for each in worlds:
        each.close()
