"""Postfix with OpenDKIM (milter) and policyd-spf (policy service), on loopback, for tests/perf/test_auth_chain.py.

Everything lives in one folder; Postfix's virtual(8) delivers into Maildirs, or an LMTP server that is named. OpenDKIM and
policyd-spf know no port for their DNS: unbound answers for the test's names on port 53 of a loopback address, and both see a
resolv.conf of their own (mount namespace). Needs root. ``stop`` ends only what was begun here, by process id.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

DNS = "127.0.0.154"
PROGRAMS = ("postfix", "opendkim", "policyd-spf", "unbound", "unshare")
SERVICES = (
    "cleanup unix n - n - 0 cleanup", "qmgr unix n - n 300 1 qmgr", "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce", "defer unix - - n - 0 bounce", "trace unix - - n - 0 bounce",
    "verify unix - - n - 1 verify", "proxymap unix - - n - - proxymap", "proxywrite unix - - n - 1 proxymap",
    "showq unix n - n - - showq", "error unix - - n - - error", "retry unix - - n - - error",
    "virtual unix - n n - - virtual", "lmtp unix - - n - - lmtp", "anvil unix - - n - 1 anvil", "flush unix n - n 1000? 0 flush",
    "postlog unix-dgram n - n - 1 postlogd",
)  # fmt: skip


def program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin")


def missing() -> list[str]:
    """What is needed and not here."""
    gone = [name for name in PROGRAMS if program(name) is None]
    return gone + ([] if os.geteuid() == 0 else ["root"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Chain:
    """``records``: (name, type, value) that the DNS knows; ``domain``: whose mail Postfix takes, for ``people`` (addresses).
    ``lmtp``: the port of who stores it, as one folder ``mail`` beside (0: Postfix itself); its process is added to ``pids``."""

    def __init__(
        self,
        folder: Path,
        domain: str,
        people: Iterable[str],
        records: Iterable[tuple[str, str, str]],
        lmtp: int = 0,
    ) -> None:
        self.folder = folder
        self._lmtp = lmtp
        self._people = list(people)
        self.port = free_port()
        self._domain = domain
        self._records = list(records)
        self._children: list[subprocess.Popen[bytes]] = []
        self._etc = folder / "postfix"

    def start(self) -> None:
        self.folder.chmod(0o755)
        (self.folder / "resolv.conf").write_text(f"nameserver {DNS}\n")
        self._unbound()
        self._opendkim()
        self._postfix()

    def stop(self) -> None:
        if (self.folder / "queue/pid/master.pid").exists():
            subprocess.run(
                [str(program("postfix")), "-c", str(self._etc), "stop"], capture_output=True, timeout=30
            )
        for child in self._children:
            child.send_signal(signal.SIGTERM)
        for child in self._children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(5)

    def stored(self) -> int:
        return stored(self.folder / "mail")

    def pids(self) -> list[int]:
        """The roots of the chain: Postfix's master, OpenDKIM, Dovecot (the name server is left out)."""
        roots = [child.pid for child in self._children[1:]]
        for place in ("queue/pid/master.pid", "run/master.pid"):
            if (self.folder / place).exists():
                roots.append(int((self.folder / place).read_text()))
        return roots

    def _child(self, command: list[str], name: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._children.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _with_dns(self, command: list[str]) -> list[str]:
        """The command with a resolv.conf of its own."""
        script = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        return [str(program("unshare")), "-m", "sh", "-c", script, str(self.folder / "resolv.conf"), *command]

    def _unbound(self) -> None:
        lines = [
            "server:", f"  interface: {DNS}", "  port: 53", f'  directory: "{self.folder}"',
            '  do-daemonize: no\n  use-syslog: no\n  username: ""\n  chroot: ""\n  pidfile: ""',
            "  access-control: 127.0.0.0/8 allow", '  local-zone: "." static',
        ]  # fmt: skip
        for name, rdtype, value in self._records:
            text = value
            if rdtype == "TXT":
                text = " ".join(f'"{value[at : at + 250]}"' for at in range(0, len(value), 250))
            lines.append(f"  local-data: '{name}. 3600 IN {rdtype} {text}'")
        lines.append("remote-control:\n  control-enable: no")
        (self.folder / "unbound.conf").write_text("\n".join(lines) + "\n")
        self._child([str(program("unbound")), "-c", str(self.folder / "unbound.conf")], "unbound")
        wait_for_port(DNS, 53)

    def _opendkim(self) -> None:
        sockets = self.folder / "filters"
        sockets.mkdir()
        sockets.chmod(0o1777)
        (sockets / "internal").write_text("203.0.113.250\n")
        (self.folder / "opendkim.conf").write_text(
            f"Mode v\nSocket local:{sockets}/opendkim.sock\nUMask 0000\nUserID nobody\nNameservers {DNS}\n"
            f"AlwaysAddARHeader yes\nInternalHosts {sockets}/internal\nAuthservID mx.{self._domain}\n"
            "Syslog no\nOn-Default accept\n"
        )
        command = [str(program("opendkim")), "-f", "-x", str(self.folder / "opendkim.conf")]
        self._child(self._with_dns(command), "opendkim")
        deadline = time.monotonic() + 15
        while not (sockets / "opendkim.sock").exists():
            assert time.monotonic() < deadline, (self.folder / "opendkim.log").read_text()
            time.sleep(0.05)

    def _postfix(self) -> None:
        owner = pwd.getpwnam("nobody")
        for name in ("queue", "data", "postfix"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "data", "postfix")
        if not self._lmtp:
            (self.folder / "mail").mkdir()
            shutil.chown(self.folder / "mail", owner.pw_uid, owner.pw_gid)
        transport = f"lmtp:inet:127.0.0.1:{self._lmtp}" if self._lmtp else "virtual"
        (self._etc / "policyd-spf.conf").write_text(
            "debugLevel = 0\nTestOnly = 1\nHELO_reject = False\nMail_From_reject = Fail\nPermError_reject = False\n"
            "TempError_Defer = False\nskip_addresses = 127.0.0.99/32\nHeader_Type = SPF\n"
        )
        (self._etc / "boxes").write_text("".join(f"{one} {one.partition('@')[0]}/\n" for one in self._people))
        (self._etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {self.folder}/queue
data_directory = {self.folder}/data
maillog_file = {self.folder}/postfix.log
maillog_file_prefixes = {self.folder}
myhostname = mx.{self._domain}
mydestination =
mynetworks = 127.0.0.98/32
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = {self._domain}
virtual_mailbox_base = {self.folder}/mail
virtual_mailbox_maps = texthash:{self._etc}/boxes
virtual_uid_maps = static:{owner.pw_uid}
virtual_gid_maps = static:{owner.pw_gid}
virtual_mailbox_limit = 0
virtual_minimum_uid = 1
virtual_transport = {transport}
lmtp_destination_recipient_limit = 1
default_process_limit = 100
smtpd_client_connection_count_limit = 0
smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service unix:private/policyd-spf
smtpd_relay_restrictions = reject_unauth_destination
smtpd_milters = unix:{self.folder}/filters/opendkim.sock
milter_default_action = tempfail
policyd-spf_time_limit = 3600
smtpd_tls_security_level = none
biff = no
"""
        )
        policy = f"policyd-spf unix - n n - 0 spawn user=nobody argv={program('policyd-spf')} {self._etc}/policyd-spf.conf"
        smtpd = f"127.0.0.1:{self.port} inet n - n - - smtpd"
        (self._etc / "master.cf").write_text("\n".join([smtpd, *SERVICES, policy]) + "\n")
        command = self._with_dns([str(program("postfix")), "-c", str(self._etc), "start"])
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        wait_for_port("127.0.0.1", self.port)


def wait_for_port(host: str, port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"no answer on {host}:{port}"
            time.sleep(0.05)


def stored(folder: Path) -> int:
    """Messages in all Maildirs below."""
    return sum(1 for place in ("new", "cur") for _ in folder.rglob(f"{place}/*"))


def cpu(roots: Iterable[int]) -> float:
    """CPU seconds that these processes and all below them have used, children that ended included."""
    used: dict[int, tuple[int, int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            used[int(folder.name)] = (int(words[1]), sum(map(int, words[11:15])))
    wanted = set(roots)
    while more := {pid for pid, (parent, _) in used.items() if parent in wanted and pid not in wanted}:
        wanted |= more
    return sum(used[pid][1] for pid in wanted if pid in used) / os.sysconf("SC_CLK_TCK")


def busy() -> float:
    """CPU seconds that all processes of the machine together have used since it started."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _waiting, irq, softirq, _steal = map(int, words)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


async def _talk(port: int, recipients: list[str], sender: str, messages: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def reply() -> bytes:
        while True:
            line = await reader.readline()
            if line[3:4] != b"-":
                return line

    await reply()
    writer.write(b"EHLO mx.shop.example\r\n")
    await reply()
    for at, data in enumerate(messages):
        recipient = recipients[at % len(recipients)]
        writer.write(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
        answers = [await reply(), await reply(), await reply()]
        assert answers[2][:3] == b"354", answers
        writer.write(data + b".\r\n")
        answer = await reply()
        assert answer[:3] == b"250", answer
    writer.write(b"QUIT\r\n")
    await reply()
    writer.close()


def load(port: int, recipients: list[str], sender: str, messages: list[bytes], connections: int) -> float:
    """Hand all messages over on so many connections; messages a second until the last is accepted."""

    async def go() -> None:
        parts = [messages[at::connections] for at in range(connections)]
        await asyncio.gather(
            *(_talk(port, recipients[at:] + recipients[:at], sender, part) for at, part in enumerate(parts))
        )

    started = time.perf_counter()
    asyncio.run(go())
    return len(messages) / (time.perf_counter() - started)
