"""A relaying Postfix and a sink that counts, for tests/perf/test_relay.py. ``stop`` ends only what was begun here."""

from __future__ import annotations

import asyncio
import mmap
import multiprocessing
import pwd
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

from tests.perf.authchain import SERVICES, program, wait_for_port

COUNT = struct.Struct("<Q")
REPLIES = {
    b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 0\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}
OK = b"250 2.0.0 Ok\r\n"


class _Session(asyncio.Protocol):
    """As little as a server can do: commands by lines, a text by its end."""

    memory: mmap.mmap

    def __init__(self) -> None:
        self.waiting, self.text = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        out = b""
        while True:
            if self.text:
                at = self.waiting.find(b"\r\n.\r\n")
                if at < 0:
                    break
                self.waiting, self.text = self.waiting[at + 5 :], False
                COUNT.pack_into(self.memory, 0, COUNT.unpack_from(self.memory, 0)[0] + 1)
                out += OK
                continue
            line, newline, rest = self.waiting.partition(b"\r\n")
            if not newline:
                break
            self.waiting, word = rest, line[:4].upper()
            if word == b"DATA":
                self.text, out = True, out + b"354 Go\r\n"
                self.waiting = b"\r\n" + self.waiting if self.waiting.startswith(b".\r\n") else self.waiting
            else:
                out += REPLIES.get(word, OK)
        if out:
            self.transport.write(out)


class Sink:
    """Takes all mail in a process of its own; ``count`` of the texts."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, COUNT.size)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = int(self._socket.getsockname()[1])
        self._process = multiprocessing.get_context("fork").Process(target=self._serve, daemon=True)
        self._process.start()

    def _serve(self) -> None:
        _Session.memory = self._memory

        async def forever() -> None:
            server = await asyncio.get_running_loop().create_server(_Session, sock=self._socket)
            await server.serve_forever()

        asyncio.run(forever())

    @property
    def count(self) -> int:
        return int(COUNT.unpack_from(self._memory, 0)[0])

    def stop(self) -> None:
        self._process.kill()
        self._process.join(5)
        self._socket.close()


class Postfix:
    """Takes everything from this machine and sends it to ``sink``."""

    def __init__(self, folder: Path, sink: int) -> None:
        self.folder, self._etc, self._sink = folder, folder / "postfix", sink
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def start(self) -> None:
        self.folder.chmod(0o755)
        for name in ("queue", "data", "postfix"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "data", pwd.getpwnam("postfix").pw_uid)
        (self._etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {self.folder}/queue
data_directory = {self.folder}/data
maillog_file = {self.folder}/postfix.log
maillog_file_prefixes = {self.folder}
myhostname = mx.relay.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
relayhost = [127.0.0.1]:{self._sink}
disable_dns_lookups = yes
smtpd_client_connection_count_limit = 0
smtpd_tls_security_level = none
default_process_limit = 100
biff = no
"""
        )
        smtp = ("smtp unix - - n - - smtp", "relay unix - - n - - smtp")
        smtpd = f"127.0.0.1:{self.port} inet n - n - - smtpd"
        (self._etc / "master.cf").write_text("\n".join([smtpd, *smtp, *SERVICES]) + "\n")
        command = [str(program("postfix")), "-c", str(self._etc), "start"]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        wait_for_port("127.0.0.1", self.port)

    @property
    def pid(self) -> int:
        return int((self.folder / "queue/pid/master.pid").read_text())

    def stop(self) -> None:
        if (self.folder / "queue/pid/master.pid").exists():
            subprocess.run(
                [str(program("postfix")), "-c", str(self._etc), "stop"], capture_output=True, timeout=30
            )


def load(port: int, messages: int, connections: int, octets: int) -> None:
    """By Postfix's own generator."""
    command = [
        str(program("smtp-source")), "-s", str(connections), "-m", str(messages), "-l", str(octets),
        "-f", "far@away.example", "-t", "x@far.example", f"127.0.0.1:{port}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()


def through(port: int, sink: Sink, messages: int, connections: int, octets: int) -> float:
    """Messages a second from the first connection until the sink has all."""
    goal, started = sink.count + messages, time.perf_counter()
    load(port, messages, connections, octets)
    while sink.count < goal:
        assert time.perf_counter() - started < 120, f"{goal - sink.count} messages did not arrive"
        time.sleep(0.002)
    return messages / (time.perf_counter() - started)
