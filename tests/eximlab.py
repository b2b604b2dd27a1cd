"""Debian's Exim beside Postfix: unpacked, not installed, and with a name server of its own.

Exim looks up its user at its start by a name compiled in (Debian-exim), which only installing makes. A copy of the program, in
which that name is ``mail``, needs no such user. It asks the name servers of /etc/resolv.conf, at port 53: the tests give it a
file of its own in a mount namespace. Both need root. Its SPF library lets 127.0.0.0/8 pass whatever the record says, so a small
proxy stands before it and tells by the PROXY protocol that the client is CLIENT.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from filterd.demo.lab import Names, free_ports
from pipeline.zone import Zone
from pipeline.zone_server import ZoneServer
from tests import unpacked
from tests.e2e.server import wait_for

PACKAGE, LIBRARIES = "exim4-daemon-heavy", ("libspf2-2", "libmariadb3")
BINARY = "usr/sbin/exim4"
CLIENT = "192.0.2.25"  # where all connections seem to come from
COMPILED_IN, USER = b"Debian-exim\0", b"mail"


@dataclass(frozen=True)
class Exim:
    """``program`` and what its environment needs."""

    program: str
    libraries: str

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": self.libraries}

    def copied(self, folder: Path) -> Exim:
        """All of it where other users may run it."""
        for place in self.libraries.split(":"):
            for library in Path(place).glob("*.so.*"):
                shutil.copy(library, folder)
        return Exim(shutil.copy(self.program, folder / "exim"), str(folder))


@functools.cache
def exim() -> Exim | str:
    """Exim, or why there is none."""
    if os.geteuid() != 0:
        return "not root: Exim becomes other users"
    source = unpacked.program(PACKAGE, BINARY)
    if not source:
        return f"Exim is not here (Debian: {PACKAGE}, unpacked by `make test`)"
    folders = [
        str(folder)
        for package in LIBRARIES
        for folder in (unpacked.folder(package) / "usr/lib").glob("**")
        if any(folder.glob("*.so.*"))
    ]
    made = unpacked.folder(PACKAGE) / "exim-of-the-tests"
    data = Path(source).read_bytes()
    if not made.exists() or made.stat().st_mtime < Path(source).stat().st_mtime:
        with tempfile.NamedTemporaryFile(
            dir=made.parent if made.parent.is_dir() else None, delete=False
        ) as file:
            file.write(data.replace(COMPILED_IN, USER.ljust(len(COMPILED_IN), b"\0")))
        os.chmod(file.name, 0o755)
        if not made.parent.is_dir():
            made = Path(file.name)
        else:
            os.rename(file.name, made)
    found = Exim(str(made), ":".join(folders))
    if libraries := unpacked.lacking(found.program, found.environment):
        return f"Exim's libraries are not here: {libraries}"
    done = subprocess.run([found.program, "-bV"], env=found.environment, capture_output=True, timeout=30)
    assert b"Exim version" in done.stdout, f"the patched Exim does not run: {done.stderr!r}"
    return found


class NamesAt(Names):
    """At port 53 of a loopback address, as resolv.conf wants it; and the proxy from ``outer`` to ``inner``."""

    def __init__(self, zone: str, host: str, outer: int, inner: int) -> None:
        super().__init__(zone)
        self._host, self._outer, self._inner = host, outer, inner

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = ZoneServer(Zone.parse(self._zone), self._host)
        await server.start(53)
        proxy = await asyncio.start_server(self._pass_on, "127.0.0.1", self._outer)
        self.address = server.address
        self._ready.set()
        await self._end.wait()
        proxy.close()
        await server.close()

    async def _pass_on(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        try:
            answer, to = await asyncio.open_connection("127.0.0.1", self._inner)
        except OSError:
            answers.close()
            return
        to.write(f"PROXY TCP4 {CLIENT} 127.0.0.1 40000 25\r\n".encode())
        await asyncio.gather(_copy(client, to), _copy(answer, answers))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()


CONFIG = """
exim_user = mail
exim_group = mail
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/pid
primary_hostname = next.hop.example
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
hosts_proxy = 127.0.0.1
never_users =
keep_environment = LD_LIBRARY_PATH
queue_only
queue_run_max = 0
tls_advertise_hosts =
hosts_treat_as_local = *
rfc1413_query_timeout = 0s
acl_smtp_mail = mail
acl_smtp_rcpt = accept
acl_smtp_dkim = dkim
acl_smtp_data = data
dkim_verify_signers = $dkim_signers
begin acl
mail:
  deny message = SPF says no: $spf_smtp_comment
    spf = fail
  accept
    spf = pass
    set acl_m_spf = pass
  accept
    set acl_m_spf = other
dkim:
  accept
    set acl_m_dkim = $acl_m_dkim $dkim_cur_signer=$dkim_verify_status
data:
  accept add_header = X-Exim-Saw: sender=$sender_address spf=$acl_m_spf dkim=[$acl_m_dkim ]
"""


class Checking:
    """Exim as a next hop that refuses what SPF fails, verifies DKIM and keeps what it takes in its spool."""

    def __init__(self, found: Exim, zone: str) -> None:
        self._exim = found
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-exim-"))
        self.folder.chmod(0o755)
        self.port, self._inner = free_ports(2)
        host = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() % 254 + 1}"
        self._names = NamesAt(zone, host, self.port, self._inner)
        (self.folder / "resolv.conf").write_text(f"nameserver {host}\noptions timeout:5 attempts:2\n")
        (self.folder / "spool").mkdir()
        shutil.chown(self.folder / "spool", "mail", "mail")
        shutil.chown(self.folder, "mail", "mail")
        (self.folder / "exim.conf").write_text(CONFIG.format(folder=self.folder, port=self._inner))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Checking:
        self._names.up()
        conf = self.folder / "exim.conf"
        command = f"mount --bind {self.folder}/resolv.conf /etc/resolv.conf && exec {self._exim.program} -C {conf} -bdf"
        with (self.folder / "out").open("wb") as out:
            self._process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", command], env=self._exim.environment, stdout=out, stderr=out
            )
        from tests.peers.test_hops import greets

        try:
            wait_for(lambda: greets(self.port), 30, "Exim")
        except AssertionError:
            print((self.folder / "out").read_text(), self.log(), file=sys.stderr)
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
        self._names.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*log")))

    def saw(self, count: int = 1) -> list[str]:
        """What it noted on each message taken, oldest first."""
        spool = self.folder / "spool" / "input"
        deadline = time.monotonic() + 40
        while True:
            heads = (
                sorted(spool.glob("*-H"), key=lambda path: path.stat().st_mtime_ns) if spool.is_dir() else []
            )
            if len(heads) >= count:
                break
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        texts = [path.read_text(errors="replace") for path in heads]
        return [text.partition("X-Exim-Saw: ")[2].partition("\n")[0] for text in texts]

    def bodies(self) -> list[str]:
        return [path.read_text(errors="replace") for path in (self.folder / "spool" / "input").glob("*-[HD]")]
