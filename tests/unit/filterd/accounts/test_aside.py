"""What takes long is read in a thread when a loop asks: filterd/accounts/aside.py, and who leans on it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from filterd.accounts import aliases, aside
from filterd.accounts.aliases import Aliases
from filterd.accounts.aliasfile import Entry, Table
from filterd.accounts.aside import Aside
from filterd.accounts.builtin import BuiltinDirectory
from filterd.accounts.database import LOOK_EVERY, AccountDatabase, Record
from filterd.accounts.directory import Local, TryLater, Unknown
from filterd.accounts.password import Passwords
from filterd.accounts.relayed import Recipients
from filterd.config.load import parse
from pipeline.ports import Clock


class Hands(Clock):
    at = 0.0

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Shelf:
    """Something whose state changes; reading waits for ``go_on``."""

    def __init__(self) -> None:
        self.now = self.read_as = 0
        self.go_on = Event()
        self.readers: list[str] = []
        self.aside = Aside("shelf", lambda: self.now != self.read_as, self.read)

    def read(self) -> None:
        assert self.go_on.wait(60)
        self.readers.append(threading.current_thread().name)
        self.read_as = self.now


def on_a_loop(ask: Callable[[], object]) -> object:
    async def go() -> object:
        return ask()

    return asyncio.run(go())


def readers_end() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith(("shelf", "accounts", "own addresses", "aliases of", "recipients of")):
            thread.join(60)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes long."""
    monkeypatch.setattr(aside, "LONG", -1.0)


def test_short_things_are_read_at_once() -> None:
    shelf = Shelf()
    shelf.go_on.set()
    shelf.now = 1
    assert on_a_loop(shelf.aside.fresh) and shelf.read_as == 1
    assert shelf.readers == [threading.current_thread().name]


def test_long_things_are_read_by_one_thread_while_the_loop_goes_on(slow: None) -> None:
    shelf = Shelf()
    shelf.now = 1
    for _ in range(3):
        assert on_a_loop(shelf.aside.fresh) is False
    shelf.go_on.set()
    readers_end()
    assert on_a_loop(shelf.aside.fresh) is True
    assert shelf.readers == ["shelf"]
    shelf.now = 2
    assert shelf.aside.fresh(), "who is on no loop waits"
    shelf.now = 3
    assert on_a_loop(lambda: shelf.aside.fresh(wait=True)) and shelf.read_as == 3


def test_a_thread_that_cannot_be_started_is_started_the_next_time(
    slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    shelf = Shelf()
    shelf.now = 1
    shelf.go_on.set()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        assert on_a_loop(shelf.aside.fresh) is False
    assert on_a_loop(shelf.aside.fresh) is False
    readers_end()
    assert on_a_loop(shelf.aside.fresh) is True and shelf.readers == ["shelf"]


def test_a_name_that_came_while_it_was_looked_up_is_not_unknown(
    tmp_path: Path, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader ends between the look into the old table and the question whether that was the newest, in each domain passed."""
    database = AccountDatabase(str(tmp_path / "accounts.db"), Hands())
    virtual, other = tmp_path / "virtual", tmp_path / "other"
    virtual.write_text("info@us.example new@them.example\n")
    other.write_text("old@them.example ann@us.example\n")
    second = f'[[domain]]\nname = "them.example"\nalias_files = ["hash:{other}"]'
    directory = people(tmp_path, database, f'alias_files = ["hash:{virtual}"]\n{second}')
    database.add(Record("ann@us.example", "", "x"))
    assert isinstance(on_a_loop(lambda: directory.lookup("sales@us.example")), Unknown)
    find, load, go_on = Aliases.find, aliases._File.load, Event()

    def found_early(them: Aliases, local: str, written: str = "") -> Entry | None:
        entry = find(them, local, written)
        go_on.set()
        readers_end()
        return entry

    def loaded_late(file: aliases._File) -> Table:
        assert go_on.wait(60)
        return load(file)

    monkeypatch.setattr(Aliases, "find", found_early)
    monkeypatch.setattr(aliases._File, "load", loaded_late)
    virtual.write_text("info@us.example new@them.example\nsales@us.example ann@us.example\n")
    os.utime(virtual, ns=(0, 1))
    assert not isinstance(on_a_loop(lambda: directory.lookup("sales@us.example")), Unknown)
    assert isinstance(on_a_loop(lambda: directory.lookup("sales@us.example")), Local)
    go_on.clear()
    other.write_text("old@them.example ann@us.example\nnew@them.example ann@us.example\n")
    os.utime(other, ns=(0, 1))
    assert not isinstance(on_a_loop(lambda: directory.lookup("info@us.example")), Unknown)
    assert isinstance(on_a_loop(lambda: directory.lookup("info@us.example")), Local)
    database.close()


def test_a_loop_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    clock = Hands()
    database = AccountDatabase(str(tmp_path / "accounts.db"), clock)
    directory = people(tmp_path, database)
    database.add(Record("ann@us.example", "", "x"))
    clock.at += 1
    with database._lock:  # as while a commit is on its way to the disk
        found = on_a_loop(lambda: (directory.lookup("ann@us.example"), directory.lookup("no@us.example")))
    assert isinstance(found, tuple) and isinstance(found[0], Local) and isinstance(found[1], TryLater)
    assert isinstance(on_a_loop(lambda: directory.lookup("no@us.example")), Unknown)
    database.close()


def people(folder: Path, database: AccountDatabase, more: str = "") -> BuiltinDirectory:
    text = f'[server]\nhostname = "mail.us.example"\n[[domain]]\nname = "us.example"\n{more}\n'
    passwords = Passwords(Hands(), time_cost=1, memory_kib=8)
    return BuiltinDirectory(parse(text, str(folder / "filterd.toml")), database, passwords)


def test_accounts_and_aliases_read_aside(tmp_path: Path, slow: None) -> None:
    clock = Hands()
    database = AccountDatabase(str(tmp_path / "accounts.db"), clock)
    other = AccountDatabase(str(tmp_path / "accounts.db"), clock)
    virtual = tmp_path / "virtual"
    virtual.write_text("info@us.example ann@us.example\n")
    directory = people(tmp_path, database, f'alias_files = ["hash:{virtual}"]')
    database.add(Record("ann@us.example", "", "x"))
    (ann,) = directory.accounts()

    def look(address: str) -> object:
        return on_a_loop(lambda: directory.lookup(address))

    assert isinstance(look("info@us.example"), Local) and isinstance(look("new@us.example"), Unknown)
    assert on_a_loop(lambda: directory.own_addresses(ann)) == ("ann@us.example", "info@us.example")

    other.add(Record("new@us.example", "", "x", created=1.0))
    clock.at += 2 * LOOK_EVERY
    found = look("new@us.example")  # the reader may be done before the last look of one look-up
    assert isinstance(found, TryLater | Local), "never unknown"
    readers_end()
    assert isinstance(look("new@us.example"), Local)

    virtual.write_text("info@us.example ann@us.example\nsales@us.example ann@us.example\n")
    os.utime(virtual, ns=(0, 1))
    found = look("sales@us.example")
    assert isinstance(found, TryLater | Local)
    readers_end()
    assert isinstance(look("sales@us.example"), Local)
    on_a_loop(lambda: directory.own_addresses(ann))
    readers_end()
    own = on_a_loop(lambda: directory.own_addresses(ann))
    assert own == ("ann@us.example", "info@us.example", "sales@us.example")
    for one in (database, other):
        one.close()


def test_recipients_read_aside(tmp_path: Path, slow: None) -> None:
    names = tmp_path / "names"
    names.write_text("ann\n")
    behind = Recipients("us.example", [f"file:{names}"], "+")
    assert on_a_loop(lambda: behind.knows("ann")) is True
    assert on_a_loop(lambda: behind.knows("bob")) is False
    names.write_text("ann\nbob\n")
    os.utime(names, ns=(0, 1))
    assert on_a_loop(lambda: behind.knows("ann")) is True
    assert on_a_loop(lambda: behind.knows("bob")) is not False
    readers_end()
    assert on_a_loop(lambda: behind.knows("bob")) is True
    assert on_a_loop(lambda: behind.knows("carl")) is False
