"""The demonstration's little world: a folder, a name server, a next hop, and the real server as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from filterd.demo import samples
from pipeline.zone import Zone
from pipeline.zone_server import ZoneServer

START_SECONDS = 30.0
DOORS = ("smtp", "submissions", "submission", "lmtp", "imap", "imaps", "pop3", "pop3s", "sieve")


class DemoFailed(Exception):
    """The demonstration could not go on; the text says why and what to do."""


def hold_ports(count: int) -> list[socket.socket]:
    """Sockets on loopback whose ports are a server's to listen on, and nobody else's, until they are closed: bound, not
    listening, and both sides say SO_REUSEADDR. No connection of another program starts from such a port."""
    holders = []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        holders.append(sock)
    return holders


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on right now, on loopback."""
    holders = hold_ports(count)
    ports = [sock.getsockname()[1] for sock in holders]
    for sock in holders:
        sock.close()
    return ports


@dataclass(slots=True)
class Arrival:
    """A message that reached the next hop."""

    reverse_path: str
    recipients: tuple[str, ...]
    data: bytes


class NextHop(threading.Thread):
    """Another mail server, as small as can be: takes everything, keeps it in memory. Stands for the outside world."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="next hop")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.arrivals: list[Arrival] = []

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            # A sender with many messages opens several connections and keeps them open for a while (Postfix): one at a time
            # made the others wait for up to 47 seconds.
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(30)
            self._serve(connection)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self, connection: socket.socket) -> None:
        file = connection.makefile("rb")
        connection.sendall(b"220 mx.elsewhere.example ready\r\n")
        sender = ""
        recipients: list[str] = []
        while line := file.readline(4096):
            verb = line[:4].upper()
            if verb == b"EHLO":
                connection.sendall(
                    b"250-mx.elsewhere.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
                )
                continue
            if verb == b"MAIL":
                sender, recipients = _path(line), []
            elif verb == b"RCPT":
                recipients.append(_path(line))
            elif verb == b"DATA":
                connection.sendall(b"354 go on\r\n")
                text, whole_line = b"", True
                while (row := file.readline(65_536)) != b".\r\n" or not whole_line:
                    if not row:
                        return  # cut off within the text: nothing arrived
                    text += row[1:] if whole_line and row.startswith(b".") else row
                    whole_line = row.endswith(b"\n")
                self.arrivals.append(Arrival(sender, tuple(recipients), text))
            elif verb == b"QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            connection.sendall(b"250 ok\r\n")


def _path(line: bytes) -> str:
    return line.partition(b"<")[2].partition(b">")[0].decode("utf-8", "replace")


class Names(threading.Thread):
    """The demonstration's DNS, in a thread of its own."""

    def __init__(self, zone: str) -> None:
        super().__init__(daemon=True, name="dns")
        self._zone = zone
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self.address = ""

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = ZoneServer(Zone.parse(self._zone))
        await server.start()
        self.address = server.address
        self._ready.set()
        await self._end.wait()
        await server.close()

    def up(self) -> str:
        """Start; ``HOST:PORT``."""
        self.start()
        if not self._ready.wait(10):
            raise DemoFailed("the demonstration's name server did not start")
        return self.address

    def close(self) -> None:
        if self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)


@dataclass(slots=True)
class Lab:
    """Everything the story needs. ``ports`` by door; ``passwords`` by address."""

    folder: Path
    config: Path
    ports: dict[str, int]
    passwords: dict[str, str]
    hop: NextHop
    names: Names
    keep: bool
    server: subprocess.Popen[bytes] | None = None
    holders: list[socket.socket] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def command(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``filterd ARGUMENTS`` as a person would."""
        return subprocess.run(
            [sys.executable, "-m", "filterd", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def serve(self) -> None:
        """Start the real server and wait until it answers."""
        with open(self.folder / "server.log", "wb") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "filterd", "serve", "-c", str(self.config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        for door in DOORS:
            while True:
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", self.ports[door]), 1),
                ):
                    break
                if self.server.poll() is not None or time.monotonic() > deadline:
                    raise DemoFailed(f"the server did not start; its log: {self.log_tail()}")
                time.sleep(0.02)

    def log_tail(self) -> str:
        path = self.folder / "server.log"
        return path.read_text("utf-8", "replace")[-2000:] if path.exists() else "(none)"

    def close(self) -> None:
        """Stop the server and leave nothing behind (but for ``--keep``)."""
        if self.server is not None and self.server.poll() is None:
            self.server.send_signal(signal.SIGTERM)
            try:
                self.server.wait(15)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait(5)
        for holder in self.holders:
            holder.close()
        self.hop.close()
        self.names.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def build(zone: str, keep: str = "", ports: str = "auto") -> Lab:
    """A lab with its configuration and accounts, the server not yet started."""
    folder = Path(keep).absolute() if keep else Path(tempfile.mkdtemp(prefix="filterd-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    if keep and any(folder.iterdir()):
        raise DemoFailed(f"{folder} is not empty: give another folder to --keep")
    names, hop = Names(zone), NextHop()
    resolver = names.up()
    hop.start()
    chosen, holders = _ports(ports), list[socket.socket]()
    if not chosen:
        holders = hold_ports(len(DOORS))
        chosen = {door: int(held.getsockname()[1]) for door, held in zip(DOORS, holders, strict=True)}
    config = folder / "filterd.toml"
    listen = "\n".join(f'{door} = ["127.0.0.1:{port}"]' for door, port in chosen.items())
    config.write_text(
        f"""# written by `filterd demo`
version = 1
[server]
hostname = "mx.{samples.DOMAIN}"
data_dir = "{folder / "data"}"
xclient_trusted = ["127.0.0.1"]
[[domain]]
name = "{samples.DOMAIN}"
aliases = {{ team = ["ann@{samples.DOMAIN}", "bob@{samples.DOMAIN}"] }}
[tls]
mode = "self-signed"
[listen]
{listen}
[dns]
resolver = ["{resolver}"]
[queue]
relay = "smtp://127.0.0.1:{hop.port}"
"""
    )
    passwords = {f"{person}@{samples.DOMAIN}": secrets.token_urlsafe(9) for person in samples.PEOPLE}
    return Lab(folder, config, chosen, passwords, hop, names, bool(keep), holders=holders)


def _ports(wish: str) -> dict[str, int]:
    """The ports somebody asked for; none: any that are free."""
    if wish.startswith("+") and wish[1:].isdigit():
        base = int(wish[1:])
        standard = dict(zip(DOORS, (25, 465, 587, 24, 143, 993, 110, 995, 4190), strict=True))
        return {door: base + port for door, port in standard.items()}
    if wish != "auto":
        raise DemoFailed('--ports is "auto" or +NUMBER, for example +10000')
    return {}


def make_accounts(lab: Lab) -> None:
    """The people of the demonstration, all in this process: `filterd account add` takes one process each."""
    from filterd.accounts.database import AccountDatabase, Record
    from filterd.accounts.password import Passwords
    from filterd.accounts.places import database_path
    from filterd.accounts.provision import provision
    from filterd.cli.storage import open_store
    from filterd.config.load import load
    from filterd.ports import SystemClock

    config = load(str(lab.config))
    clock = SystemClock()
    Path(config.server.data_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    database, store, passwords = (
        AccountDatabase(database_path(config), clock),
        open_store(config),
        Passwords(clock),
    )
    try:
        for address, password in lab.passwords.items():
            provision(store, address)
            name = address.partition("@")[0].capitalize()
            database.add(
                Record(address, name, passwords.hash(password), None, enabled=True, created=clock.time())
            )
    finally:
        store.close()
        database.close()


def as_json(lab: Lab) -> str:
    """Where everything is, for programs."""
    return json.dumps(
        {"config": str(lab.config), "ports": lab.ports, "passwords": lab.passwords, "pid": os.getpid()}
    )
