"""Dovecot and filterd side by side on the same messages: two servers, two raw clients, taking turns."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filterd.demo.lab import free_ports
from tests.e2e.server import DOMAIN, PASSWORD, Server
from tests.programs import running

DOVECOT = shutil.which("dovecot") or shutil.which("dovecot", path="/usr/sbin")
OWNER = 5000  # Dovecot wants a uid that is not root's
FIELDS = (
    "FROM TO CC BCC SUBJECT DATE MESSAGE-ID PRIORITY X-PRIORITY REFERENCES NEWSGROUPS IN-REPLY-TO CONTENT-TYPE "
    "REPLY-TO LIST-UNSUBSCRIBE RECEIVED"
)
WORDS = [
    "the",
    "of",
    "and",
    "invoice",
    "meeting",
    "tomorrow",
    "please",
    "find",
    "attached",
    "report",
    "number",
]
WORDS += ["order", "client", "budget", "late", "early"]


def message(pick: random.Random, number: int) -> bytes:
    """Some 20 KB on the average, as real mail is spread: most are small, few are large."""
    size = int(min(pick.lognormvariate(8.6, 1.4), 400_000))
    received = "".join(
        f"Received: from a{n}.example (a{n}.example [192.0.2.{n}])\r\n\tby b{n}.example with ESMTP id AB{n};"
        f" Tue, 14 Nov 2023 10:00:0{n} +0000\r\n"
        for n in range(3)
    )
    lines = (" ".join(pick.choices(WORDS, k=11)) for _ in range(size // 70 + 1))
    return (
        f"Return-Path: <a{number}@s{number % 9}.example>\r\n{received}"
        f'From: "{pick.choice(WORDS).title()} {number}" <a{number}@s{number % 9}.example>\r\nTo: ann@{DOMAIN}\r\n'
        f"Subject: {' '.join(pick.choices(WORDS, k=5))}\r\nDate: Tue, 14 Nov 2023 10:00:00 +0000\r\n"
        f"Message-ID: <{number}@s.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"User-Agent: bench\r\n\r\n" + "\r\n".join(lines) + "\r\n"
    ).encode()


def fill(maildir: Path, count: int) -> None:
    pick = random.Random(7)
    for place in ("cur", "new", "tmp"):
        (maildir / place).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        at = 1_700_000_000 + 60 * number
        data = message(pick, number)
        flags = "S" if pick.random() < 0.7 else ""
        path = maildir / "cur" / f"{at}.M{number}P1.bench,S={len(data)},W={len(data)}:2,{flags}"
        path.write_bytes(data)
        os.utime(path, (at, at))


class Client:
    """Reads megabytes at a time and looks only for the tagged line."""

    def __init__(self, port: int, user: str, password: str, select: bytes = b"SELECT INBOX") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray(1 << 20)
        self.socket.recv(65536)
        self(f'LOGIN "{user}" "{password}"'.encode())
        self(select)

    def __call__(self, command: bytes) -> int:
        """Octets of the answer."""
        self.socket.sendall(b"z " + command + b"\r\n")
        total, tail = 0, b""
        while True:
            count = self.socket.recv_into(self.buffer)
            assert count, "the connection ended"
            total += count
            tail = (tail + bytes(self.buffer[max(0, count - 2000) : count]))[-2000:]
            last = tail[tail.rfind(b"\r\n", 0, -2) + 2 :] if b"\r\n" in tail[:-2] else tail
            if tail.endswith(b"\r\n") and last.startswith(b"z "):
                assert last.startswith(b"z OK"), last
                return total

    def timed(self, *commands: bytes) -> float:
        started = time.perf_counter()
        for command in commands:
            self(command)
        return time.perf_counter() - started


@dataclass
class Pair:
    dovecot: Client
    ours: Client

    def ratio(self, *commands: bytes, pairs: int = 7) -> tuple[float, float, float]:
        """(Dovecot / ours, Dovecot's ms, ours): the best of ``pairs`` turns on each side, after one to warm up."""
        best = [9e9, 9e9]
        for turn in range(pairs + 1):
            for side, client in enumerate((self.dovecot, self.ours)):
                took = client.timed(*commands)
                best[side] = min(best[side], took) if turn else best[side]
        return best[0] / best[1], 1000 * best[0], 1000 * best[1]


@contextmanager
def dovecot(folder: Path, home: str, more: str, port: int) -> Iterator[None]:
    """A Dovecot on Maildirs below ``home`` (%n: the user), with ``more`` of a configuration that listens on ``port``."""
    config = folder / "dovecot.conf"
    config.write_text(
        f"""listen = 127.0.0.1
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
ssl = no
userdb {{
  driver = static
  args = uid={OWNER} gid={OWNER} home={home} allow_all_users=yes
}}
first_valid_uid = 1
mail_location = maildir:~/Maildir
{more}"""
    )
    assert DOVECOT is not None
    with running([DOVECOT, "-F", "-c", str(config)], port, folder / "out"):
        yield


@contextmanager
def imap(folder: Path, count: int) -> Iterator[Client]:
    """Dovecot with so many messages of ann's."""
    (port,) = free_ports(1)
    home = folder / "ann"
    fill(home / "Maildir", count)
    subprocess.run(["chown", "-R", f"{OWNER}:{OWNER}", str(home)], check=True)
    (folder / "users").write_text("ann:{PLAIN}pw\n")
    more = f"""protocols = imap
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
}}
"""
    with dovecot(folder, str(home), more, port):
        yield Client(port, "ann", "pw")


@contextmanager
def pair(folder: Path, count: int) -> Iterator[Pair]:
    extra = '[tls]\nmode = "self-signed"\nallow_plaintext_login = true\n'
    server = Server(people=("ann",), extra=extra, server="workers = 2", doors=("imap", "pop3"))
    fill(server.data / "mail" / DOMAIN / "ann", count)
    with server, imap(folder, count) as theirs:
        yield Pair(theirs, Client(server.ports["imap"], f"ann@{DOMAIN}", PASSWORD))
