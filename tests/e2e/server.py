"""The real ``filterd serve`` as a child process, for the end-to-end tests: its folder, its names, its next hop.

``Server`` owns a temporary folder, a loopback name server (``pipeline.zone_server``), a next hop that keeps what it gets
(``filterd.demo.lab``) and the process group of the program. ``close`` ends only what this object began, by process id.
"""

from __future__ import annotations

import contextlib
import imaplib
import json
import os
import poplib
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from filterd.demo.lab import Names, NextHop, hold_ports
from filterd.workers import die_with

DOMAIN = "home.example"
DOORS = ("smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s", "sieve")
START_SECONDS = 30.0
STOP_SECONDS = 15.0
PASSWORD = "correct horse 7"
ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}  # the code beside these tests, whatever is installed
ZONE = f"""
shop.example TXT v=spf1 ip4:198.51.100.7 -all
shop.example MX 10 mx.shop.example
mx.shop.example A 198.51.100.7
{DOMAIN} MX 10 mx.{DOMAIN}
mx.{DOMAIN} A 127.0.0.1
elsewhere.example MX 10 mx.elsewhere.example
mx.elsewhere.example A 127.0.0.1
"""
# imaplib remembers of a command it does not know only the state it was first used in: later tests of this process would fail.
imaplib.Commands["SETMETADATA"] = ("AUTH", "SELECTED")
INSECURE = ssl.create_default_context()
INSECURE.check_hostname = False
INSECURE.verify_mode = ssl.CERT_NONE


class NotStarted(Exception):
    """The server ended or did not answer; the text is the end of its log."""


def wait_for(true: Callable[[], object], seconds: float = 10.0, what: str = "it") -> None:
    """Poll until ``true()``; the only way these tests wait."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)


@dataclass
class Server:
    """``people``: local parts that get accounts. ``extra``: TOML appended. ``domain``: lines of the [[domain]] table."""

    people: Iterable[str] = ("ann", "bob", "carol")
    extra: str = ""
    domain: str = ""
    server: str = ""
    doors: Iterable[str] = DOORS
    scripts: Mapping[str, str] = field(default_factory=dict)
    zone: str = ZONE
    quota: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-e2e-"))
        self.names, self.hop = Names(self.zone), NextHop()
        resolver = self.names.up()
        self.hop.start()
        doors = tuple(self.doors)
        self._holders = hold_ports(len(doors))  # also while the server is down
        self.ports = {
            door: int(held.getsockname()[1]) for door, held in zip(doors, self._holders, strict=True)
        }
        self.config = self.folder / "filterd.toml"
        self.data = self.folder / "data"
        self.process: subprocess.Popen[bytes] | None = None
        listen = "\n".join(f'{door} = ["127.0.0.1:{port}"]' for door, port in self.ports.items())
        relay = "" if "[queue]" in self.extra else f'[queue]\nrelay = "smtp://127.0.0.1:{self.hop.port}"\n'
        limits = (
            "" if "[limits]" in self.extra else "[limits]\nconnections = { total = 2000, per_ip = 400 }\n"
        )
        self.config.write_text(
            f"""version = 1
[server]
hostname = "mx.{DOMAIN}"
data_dir = "{self.data}"
xclient_trusted = ["127.0.0.1"]
{self.server}
[[domain]]
name = "{DOMAIN}"
{self.domain}
[listen]
{listen}
[dns]
resolver = ["{resolver}"]
{relay}{limits}{self.extra}
"""
        )
        try:
            self._accounts()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- people -----------------------------------------------------------------------------------
    def _accounts(self) -> None:
        """In this process: `filterd account add` takes one process each (tests of the command use the command)."""
        from filterd.accounts.database import AccountDatabase, Record
        from filterd.accounts.password import Passwords
        from filterd.accounts.places import database_path, scripts_of
        from filterd.accounts.provision import provision
        from filterd.cli.storage import open_store
        from filterd.config.load import load
        from filterd.ports import SystemClock
        from filterd.store.durable import RealDisk

        people = list(self.people)
        if not people:
            return
        config, clock = load(str(self.config)), SystemClock()
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        database, store = AccountDatabase(database_path(config), clock), open_store(config)
        hashed = Passwords(clock).hash(PASSWORD)
        try:
            for person in people:
                address = f"{person}@{DOMAIN}"
                provision(store, address)
                quota = self.quota.get(person)
                database.add(Record(address, person, hashed, quota, enabled=True, created=clock.time()))
                if person in self.scripts:
                    scripts = scripts_of(config, address, RealDisk())
                    scripts.put("main", self.scripts[person])
                    scripts.activate("main")
        finally:
            store.close()
            database.close()

    # -- the process --------------------------------------------------------------------------------
    def start(self) -> None:
        """In a process group of its own; returns when every door greets."""
        self.spawn()
        self.answers()

    def spawn(self) -> subprocess.Popen[bytes]:
        """Only begin."""
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "filterd", "serve", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                start_new_session=True,
                preexec_fn=partial(
                    die_with, os.getpid()
                ),  # a test run that is killed leaves no server behind
            )
        return self.process

    def answers(self) -> None:
        """Wait until every door takes connections and there are workers to serve them."""
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        for door, port in self.ports.items():
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise NotStarted(f"{door}: {self.log()[-3000:]}")
                time.sleep(0.02)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while len(children.read_text().split()) < 2:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NotStarted(f"no workers: {self.log()[-3000:]}")
            time.sleep(0.02)

    def log(self) -> str:
        path = self.folder / "server.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def group(self) -> list[int]:
        """Processes of the server's session that are alive, the parent among them."""
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(words[3]) == self.process.pid and words[0] != "Z":
                        found.append(int(entry.name))
        return found

    def settled(self, but: Iterable[int] = (), count: int = 4, seconds: float = 15.0) -> set[int]:
        """The processes, once there are ``count`` of them (parent, two workers, sender) and none of ``but`` but the parent."""
        assert self.process is not None
        gone = set(but) - {self.process.pid}
        found: set[int] = set()

        def whole() -> bool:
            found.clear()
            found.update(self.group())
            return len(found) == count and not found & gone

        wait_for(whole, seconds, f"{count} processes, none of {sorted(gone)}")
        return found

    def kill(self) -> None:
        """SIGKILL to the whole process group: as if the power went, for the processes."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)
        wait_for(lambda: not self.group(), 5, "the killed processes to go")

    def stop(self) -> int:
        """SIGTERM to the parent; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def close(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_SECONDS)
            for pid in self.group():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
        for holder in self._holders:
            holder.close()
        self.hop.close()
        self.names.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- the command line -----------------------------------------------------------------------------
    def command(
        self, *arguments: str, stdin: str | bytes = b"", program: str = "filterd", config: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """``filterd ARGUMENTS -c our file`` as a person would run it."""
        where = ("-c", str(self.config)) if config else ()
        path = str(Path(sys.executable).parent / program)
        words = (path, *arguments, *where) if program == "filterd" else (path, *where, *arguments)
        return subprocess.run(
            words,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=ENVIRONMENT,
            timeout=60,
        )

    def explain(self, what: str, *more: str) -> dict[str, object]:
        """``filterd explain WHAT --json``; traces are written a moment after the reply, until then only the decision is known."""
        deadline = time.monotonic() + 5
        while True:
            done = self.command("explain", what, "--json", *more)
            late = time.monotonic() > deadline
            if done.returncode == 0 and (late or b"the details are lost" not in done.stdout):
                found: dict[str, object] = json.loads(done.stdout)
                return found
            if late:
                raise AssertionError(done.stderr.decode())
            time.sleep(0.05)

    # -- clients ----------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def smtp(self, door: str = "smtp", source: str = "127.0.0.1") -> Iterator[smtplib.SMTP]:
        kind = smtplib.LMTP if door == "lmtp" else smtplib.SMTP
        client = kind("127.0.0.1", self.ports[door], "client.example", source_address=(source, 0))
        try:
            client.ehlo("client.example")
            yield client
        finally:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                client.quit()
            client.close()

    @contextlib.contextmanager
    def submission(self, person: str = "ann") -> Iterator[smtplib.SMTP_SSL]:
        client = smtplib.SMTP_SSL(
            "127.0.0.1", self.ports["submissions"], "client.example", context=INSECURE, timeout=30
        )
        try:
            client.login(f"{person}@{DOMAIN}", PASSWORD)
            yield client
        finally:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                client.quit()
            client.close()

    @contextlib.contextmanager
    def imap(self, person: str) -> Iterator[imaplib.IMAP4_SSL]:
        client = imaplib.IMAP4_SSL("127.0.0.1", self.ports["imaps"], ssl_context=INSECURE, timeout=60)
        try:
            client.login(f"{person}@{DOMAIN}", PASSWORD)
            yield client
        finally:
            with contextlib.suppress(imaplib.IMAP4.error, OSError):
                client.logout()

    @contextlib.contextmanager
    def pop3(self, person: str, utf8: bool = False) -> Iterator[poplib.POP3_SSL]:
        client = poplib.POP3_SSL("127.0.0.1", self.ports["pop3s"], context=INSECURE, timeout=60)
        try:
            if utf8:
                client.utf8()
            client.user(f"{person}@{DOMAIN}")
            client.pass_(PASSWORD)
            yield client
        finally:
            with contextlib.suppress(poplib.error_proto, OSError):
                client.quit()

    def read(self, person: str) -> dict[str, dict[int, bytes]]:
        """Every message of every folder by IMAP: folder -> uid -> octets."""
        found: dict[str, dict[int, bytes]] = {}
        with self.imap(person) as imap:
            for folder in folders(imap):
                imap.select(f'"{folder}"', readonly=True)
                found[folder] = fetch_all(imap)
        return found

    def send(
        self, data: bytes, *recipients: str, sender: str = "orders@shop.example", door: str = "smtp"
    ) -> str:
        """One message in; the trace id of the reply."""
        with self.smtp(door) as smtp:
            code, text = smtp.mail(sender)
            assert code == 250, text
            for recipient in recipients:
                code, text = smtp.rcpt(recipient)
                assert code == 250, (recipient, code, text)
            code, text = smtp.data(data)
            assert code == 250, text
            return text.split()[-1].decode()

    def arrived(self, count: int, seconds: float = 10.0) -> None:
        wait_for(lambda: len(self.hop.arrivals) >= count, seconds, f"message {count} at the next hop")


def folders(imap: imaplib.IMAP4) -> list[str]:
    _, rows = imap.list()
    return [row.rpartition(b' "/" ')[2].decode().strip('"') for row in rows if isinstance(row, bytes)]


def fetch_all(imap: imaplib.IMAP4) -> dict[int, bytes]:
    """uid -> octets of the selected folder."""
    _, parts = imap.uid("FETCH", "1:*", "(UID BODY.PEEK[])")
    out = {}
    for part in parts:
        if isinstance(part, tuple):
            out[int(part[0].partition(b"UID ")[2].split()[0].rstrip(b")"))] = part[1]
    return out


def mail(
    subject: str = "Hello", body: str = "Text.", sender: str = "orders@shop.example", *extra: str
) -> bytes:
    """A small message with CRLF line ends."""
    fields = (f"From: <{sender}>", f"To: <someone@{DOMAIN}>", f"Subject: {subject}", *extra)
    return ("\r\n".join(fields) + "\r\n\r\n" + body.replace("\n", "\r\n") + "\r\n").encode()


class Raw:
    """A bare connection: what a hostile client would use."""

    def __init__(self, port: int, source: str = "127.0.0.1", seconds: float = 10.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), seconds, source_address=(source, 0))
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def line(self) -> bytes:
        return self._file.readline(65_536)

    def reply(self) -> tuple[int, bytes]:
        """An SMTP reply, all its lines."""
        text = b""
        while line := self.line():
            text += line
            if line[3:4] != b"-":
                break
        return (int(text[:3]) if text[:3].isdigit() else 0), text

    def send(self, text: bytes | str) -> None:
        self.sock.sendall(text.encode() if isinstance(text, str) else text)

    def ask(self, text: bytes | str) -> tuple[int, bytes]:
        self.send(text)
        return self.reply()

    def tls(self, context: ssl.SSLContext = INSECURE) -> None:
        """The handshake, now."""
        self._file.close()
        self.sock = context.wrap_socket(self.sock)
        self._file = self.sock.makefile("rb")

    def silent(self, seconds: float = 0.3) -> bool:
        """Nothing more comes."""
        self.sock.settimeout(seconds)
        try:
            return (
                self.sock.recv(1, socket.MSG_PEEK if not isinstance(self.sock, ssl.SSLSocket) else 0) == b""
            )
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(10)
