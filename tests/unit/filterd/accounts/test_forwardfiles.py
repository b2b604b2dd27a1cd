"""``.forward``: what is understood, which files are believed, and where an account's mail goes then."""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.accounts import forwardfiles
from filterd.accounts.builtin import BuiltinDirectory
from filterd.accounts.database import AccountDatabase, Record
from filterd.accounts.directory import Forward, Local, Targets, TryLater
from filterd.accounts.forwardfiles import MAX_OCTETS, MAX_TARGETS, ForwardFiles
from filterd.accounts.outlets import Permits
from filterd.accounts.password import Passwords
from filterd.cli import route
from filterd.config.load import parse
from tests.house import TestClock

CONFIG = """
[server]
hostname = "mail.example.org"
[[domain]]
name = "example.org"
aliases = { info = "ann@example.org", keep = ["keep@example.org", "x@far.example"] }
[[domain]]
name = "two.example"
[accounts.forward]
enabled = true
"""
PEOPLE = ("ann", "bob", "keep")


class Machine:
    """A machine with users and homes below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uid = os.getuid()
        for name in PEOPLE:
            (root / name).mkdir(mode=0o755)

    def passwd(self, name: str) -> pwd.struct_passwd:
        if name not in PEOPLE:
            raise KeyError(name)
        return pwd.struct_passwd((name, "x", self.uid, 100, "", str(self.root / name), "/bin/sh"))

    def files(self, template: str = "%{home}/.forward") -> ForwardFiles:
        return ForwardFiles("example.org", template, self.passwd)

    def put(self, text: str, name: str = "ann") -> Path:
        path = self.root / name / ".forward"
        path.write_text(text)
        path.chmod(0o644)
        return path

    def found(self, name: str = "ann") -> tuple[tuple[str, ...], str] | None:
        entry = self.files().find(name)
        return None if entry is None else (entry.targets, entry.refused)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("bob@far.example\n", ["bob@far.example"]),
        ("\\ann, bob@far.example", ["ann@example.org", "bob@far.example"]),
        ("# away\n\n  bob\n\\ann\n", ["bob@example.org", "ann@example.org"]),
        ('"\\ann", "bob@far.example"\n', ["ann@example.org", "bob@far.example"]),
        ('"odd name"@far.example', ['"odd name"@far.example']),
        ("bob@far.example,\n", ["bob@far.example"]),
    ],
)
def test_what_is_understood(machine: Machine, text: str, targets: list[str]) -> None:
    machine.put(text)
    assert machine.found() == (tuple(targets), "")


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", " , ,\n"])
def test_what_says_nothing(machine: Machine, text: str) -> None:
    machine.put(text)
    assert machine.found() is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('\\ann, "|/usr/bin/vacation ann"', "runs a program"),
        ("|/bin/true", "runs a program"),
        ("/var/mail/ann", "writes to a file"),
        (":include:/etc/passwd", ":include: is off"),
        ("bob@far.example\nno good at all\n", "not an address"),
        ('"bob', "quote is not closed"),
        ("b\0b@far.example", "not an address"),
        ("bob@far.example\nx>\n", "not an address"),
        (",".join(f"u{n}@far.example" for n in range(MAX_TARGETS + 1)), "more than"),
        ("#" * (MAX_OCTETS + 1), "octets"),
    ],
)
def test_what_is_not_followed_as_a_whole(machine: Machine, text: str, why: str) -> None:
    machine.put(text)
    found = machine.found()
    assert found is not None and found[0] == () and why in found[1]


def _mode(machine: Machine) -> None:
    machine.put("bob").chmod(0o664)


def _world(machine: Machine) -> None:
    machine.put("bob").chmod(0o646)


def _home(machine: Machine) -> None:
    machine.put("bob")
    (machine.root / "ann").chmod(0o775)


def _link(machine: Machine) -> None:
    target = machine.root / "elsewhere"
    target.write_text("bob")
    (machine.root / "ann" / ".forward").symlink_to(target)


def _dangling(machine: Machine) -> None:
    (machine.root / "ann" / ".forward").symlink_to(machine.root / "nowhere")


def _hard(machine: Machine) -> None:
    os.link(machine.put("bob"), machine.root / "second")


def _fifo(machine: Machine) -> None:
    os.mkfifo(machine.root / "ann" / ".forward", 0o644)


def _folder(machine: Machine) -> None:
    (machine.root / "ann" / ".forward").mkdir()


def _stranger(machine: Machine) -> None:
    machine.put("bob")
    machine.uid = os.getuid() + 1


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_mode, "it can be written by others"),
        (_world, "it can be written by others"),
        (_home, "its folder can be written by others"),
        (_link, "it is a link"),
        (_dangling, "it is a link"),
        (_hard, "another name"),
        (_fifo, "it is no file"),
        (_folder, "it is no file"),
    ],
)
def test_which_files_are_believed(machine: Machine, make: Callable[[Machine], None], why: str) -> None:
    make(machine)
    found = machine.found()
    assert found is not None and found[0] == () and why in found[1]


def test_a_file_of_somebody_else(machine: Machine) -> None:
    _stranger(machine)
    if os.getuid() == 0:  # root's files are believed everywhere
        assert machine.found() == (("bob@example.org",), "")
        path = machine.root / "ann" / ".forward"
        os.chown(path, os.getuid() + 2, -1)
        assert machine.found() == ((), "it belongs to somebody else")
    else:
        assert machine.found() == ((), "its folder belongs to somebody else")


def test_nobody_and_no_home(machine: Machine) -> None:
    assert machine.files().find("carl") is None and machine.files().find("") is None
    os.rmdir(machine.root / "bob")
    assert machine.files().find("bob") is None
    (machine.root / "bob").write_text("no folder")
    assert machine.files().find("bob") is None
    assert machine.files().find("a\0b") is None


def test_another_place(machine: Machine) -> None:
    folder = machine.root / "forwards"
    folder.mkdir(mode=0o755)
    (folder / "ann").write_text("bob@far.example")
    entry = machine.files(f"{folder}/%{{user}}").find("ann")
    assert entry is not None and entry.targets == ("bob@far.example",) and entry.source == str(folder / "ann")


def test_a_disk_that_fails_for_now_keeps_the_last_state(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.put("bob@far.example")
    files = machine.files()
    assert files.find("ann") is not None
    monkeypatch.setattr(forwardfiles, "LOOK_SECONDS", -1.0)

    def fails(path: str, uid: int) -> str:
        raise OSError(errno.EIO, "the disk sleeps")

    monkeypatch.setattr(forwardfiles, "_text", fails)
    entry = files.find("ann")
    assert entry is not None and entry.targets == ("bob@far.example",)
    with pytest.raises(forwardfiles.Later):
        files.find("bob")


def test_a_change_is_seen(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwardfiles, "LOOK_SECONDS", -1.0)
    files = machine.files()
    assert files.find("ann") is None
    machine.put("bob")
    entry = files.find("ann")
    assert entry is not None and entry.targets == ("bob@example.org",)
    (machine.root / "ann" / ".forward").unlink()
    assert files.find("ann") is None


def test_how_many_users_are_remembered(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwardfiles, "USERS_KNOWN", 2)
    files = machine.files()
    for name in PEOPLE:
        files.find(name)
    assert len(files._users) == 1


OPEN = Permits(frozenset({"forward"}), frozenset({"forward"}), ("/srv/%{user}",), "/usr/lib/filters")


def test_programs_and_files_where_they_are_allowed(machine: Machine) -> None:
    files = ForwardFiles("example.org", "%{home}/.forward", machine.passwd, permits=OPEN)
    machine.put("\\ann, \"|/usr/lib/filters/away -s 'a b'\", /srv/ann/copy\n")
    entry = files.find("ann")
    assert entry is not None and entry.targets == ("ann@example.org",)
    assert [(str(one), one.owner) for one in entry.outlets] == [
        ("|away -s 'a b'", "ann"),
        ("/srv/ann/copy", "ann"),
    ]
    for text, why in (("/srv/ann/copy", "not below"), ("|/bin/sh", "exec.directory"), ("|x;y", "shell")):
        machine.put(text, "bob")
        other = files.read("bob")
        assert other is not None and why in other.refused and not other.outlets


def test_includes_where_they_are_allowed(machine: Machine) -> None:
    files = ForwardFiles("example.org", "%{home}/.forward", machine.passwd, includes=True, permits=OPEN)
    listed = machine.root / "ann" / "list"
    listed.write_text("bob, far@else.example\n")
    listed.chmod(0o644)
    machine.put(f":include:{listed}, \\ann")
    entry = files.find("ann")
    assert entry is not None
    assert entry.targets == ("bob@example.org", "far@else.example", "ann@example.org")
    for prepare, why in (
        (lambda: listed.chmod(0o666), "written by others"),
        (lambda: machine.put(":include:list"), "whole path"),
        (lambda: machine.put(f":include:{machine.root}/absent"), "No such file"),
        (
            lambda: (listed.chmod(0o644), listed.write_text("|x"), machine.put(f":include:{listed}")),
            '"include"',
        ),
    ):
        prepare()
        entry = files.read("ann")
        assert entry is not None and not entry.targets and why in entry.refused


def test_a_loop_never_reads_and_a_thread_waits_for_what_is_new(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwardfiles, "LOOK_SECONDS", -1.0)
    machine.put("bob")
    where: list[str] = []
    slow = threading.Event()

    def passwd(name: str) -> pwd.struct_passwd:
        where.append(threading.current_thread().name)
        slow.wait(5.0)
        return machine.passwd(name)

    files = ForwardFiles("example.org", "%{home}/.forward", passwd)

    async def ask() -> tuple[str, ...]:
        with pytest.raises(forwardfiles.Later):
            files.find("ann")  # at once: nothing is known yet
        waiting = asyncio.create_task(asyncio.to_thread(files.find, "ann"))
        await asyncio.sleep(0)
        assert not waiting.done()
        slow.set()
        entry = await waiting
        assert entry is not None and entry.targets == ("bob@example.org",)
        machine.put("keep")
        entry = await asyncio.to_thread(files.find, "ann")  # not what was known before
        return entry.targets if entry is not None else ()

    assert asyncio.run(ask()) == ("keep@example.org",)
    assert where and all(name.startswith("forward file of ann") for name in where)


def test_a_home_that_hangs_is_waited_for_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwardfiles, "WAIT_SECONDS", 0.05)
    hangs = threading.Event()

    def passwd(name: str) -> pwd.struct_passwd:
        if name == "ann":
            hangs.wait(30.0)
        return machine.passwd(name)

    files = ForwardFiles("example.org", "%{home}/.forward", passwd)
    machine.put("bob")
    with pytest.raises(forwardfiles.Later):
        files.find("ann")
    monkeypatch.setattr(forwardfiles, "WAIT_SECONDS", 3600.0)
    with pytest.raises(forwardfiles.Later):
        files.find("ann")
    assert files.find("bob") is None  # nobody else waits
    readers = [one for one in threading.enumerate() if one.name == "forward file of ann"]
    assert len(readers) == 1
    hangs.set()
    readers[0].join(10.0)
    entry = files.find("ann")
    assert entry is not None and entry.targets == ("bob@example.org",)


def test_so_many_that_hang_take_no_more_threads(machine: Machine) -> None:
    files = machine.files()
    files.readers = threading.Semaphore(0)
    with pytest.raises(forwardfiles.Later):
        files.find("ann")


# -- in the directory --------------------------------------------------------------------------------------------------


class House:
    def __init__(self, machine: Machine, folder: Path) -> None:
        clock = TestClock()
        database = AccountDatabase(str(folder / "accounts.db"), clock)
        passwords = Passwords(clock, time_cost=1, memory_kib=8)
        self.directory = BuiltinDirectory(parse(CONFIG), database, passwords)
        assert self.directory._forwards is not None
        self.directory._forwards._passwd = machine.passwd
        for address in ("ann@example.org", "bob@example.org", "keep@example.org", "ann@two.example"):
            database.add(Record(address, "", passwords.hash("x"), enabled=True, created=1.0))

    def where(self, address: str) -> list[str]:
        found = self.directory.lookup(address)
        targets = found.targets if isinstance(found, Targets) else (found,)
        return [
            target.account.id if isinstance(target, Local) else target.address
            for target in targets
            if isinstance(target, (Local, Forward))
        ]


@pytest.fixture
def house(machine: Machine, tmp_path: Path) -> House:
    return House(machine, tmp_path)


def test_mail_goes_where_the_file_says(machine: Machine, house: House) -> None:
    machine.put("\\ann, copy@far.example")
    machine.put("ann", "bob")
    assert house.where("ann@example.org") == ["ann@example.org", "copy@far.example"]
    assert house.where("ann+x@example.org") == ["ann@example.org", "copy@far.example"]
    assert house.where("info@example.org") == ["ann@example.org", "copy@far.example"]
    assert house.where("bob@example.org") == ["ann@example.org", "copy@far.example"]
    assert house.where("ann@two.example") == [
        "ann@two.example"
    ]  # users of this machine are in the first domain
    entry = house.directory.alias_of("ann@example.org")
    assert entry is not None and entry.source.endswith("/ann/.forward")


def test_circles_end_in_a_mailbox(machine: Machine, house: House) -> None:
    machine.put("bob")
    machine.put("ann", "bob")
    assert house.where("ann@example.org") == ["ann@example.org"]
    assert house.where("bob@example.org") == ["bob@example.org"]
    machine.put("info", "keep")
    assert house.where("keep@example.org") == ["keep@example.org", "x@far.example"]


def test_what_is_not_believed_is_as_if_it_were_not_there(machine: Machine, house: House) -> None:
    machine.put("|/bin/sh")
    assert house.where("ann@example.org") == ["ann@example.org"]
    entry = house.directory.forward_of("ann@example.org")
    assert entry is not None and "program" in entry.refused


def test_whoever_sends_his_mail_on_may_still_send(machine: Machine, house: House) -> None:
    machine.put("copy@far.example")
    account = house.directory.account("ann@example.org")
    assert account is not None
    for address, may in (("ann@example.org", True), ("ann+x@example.org", True), ("info@example.org", True),
                         ("bob@example.org", False), ("copy@far.example", False)):  # fmt: skip
        assert house.directory.may_send_as(account, address) is may
    assert house.directory.own_addresses(account) == ("ann@example.org", "info@example.org")


def test_route_tells_it(machine: Machine, house: House) -> None:
    machine.put("\\ann, copy@far.example")
    story = route._told(parse(CONFIG), house.directory, "ann@example.org", "", offline=True)
    assert [(step.kind, step.address) for step in story.steps] == [
        ("alias", "ann@example.org"),
        ("here", "ann@example.org"),
        ("mx", "copy@far.example"),
    ]
    assert "/ann/.forward" in story.steps[0].text
    machine.put("bob", "bob").chmod(0o666)
    story = route._told(parse(CONFIG), house.directory, "bob@example.org", "", offline=True)
    assert [step.kind for step in story.steps] == ["forward", "here"]
    assert "can be written by others" in story.steps[0].text


def test_later(machine: Machine, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str, uid: int) -> str:
        raise OSError(errno.ESTALE, "the server of homes is away")

    monkeypatch.setattr(forwardfiles, "_text", fails)
    assert isinstance(house.directory.lookup("ann@example.org"), TryLater)
    assert house.directory.forward_of("ann@example.org") is None
    assert isinstance(house.directory.lookup("ann@two.example"), Local)
