"""What the tests of the milter door share, whichever mail server asks: Debian's Postfix, a filterd with that door, one message.

Postfix runs from a folder of its own, on loopback, and hands what it accepts to a next hop of ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import smtplib
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from filterd.demo.lab import Arrival, NextHop, free_ports
from tests.e2e.server import DOMAIN, Server, wait_for

SBIN = "/usr/sbin:/usr/local/sbin:/usr/bin"
POSTFIX = shutil.which("postfix", path=SBIN)
AS_ROOT = os.geteuid() == 0
needs_postfix = pytest.mark.skipif(
    POSTFIX is None or not AS_ROOT,
    reason="not root: Postfix becomes other users"
    if POSTFIX
    else "Postfix is not installed (Debian: postfix)",
)
MAIL = (
    b"From: Shop <billing@shop.example>\r\nTo: ann@home.example\r\nSubject: Your order\r\n"
    b"Message-ID: <%d@shop.example>\r\nDate: Mon, 23 Nov 2026 08:00:00 +0000\r\n\r\nThank you.\r\n"
)


def greets(port: int) -> bool:
    """Does an SMTP server say 220 there?"""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as sock:
        return sock.recv(100).startswith(b"220")
    return False


def arrived(hop: NextHop, text: bytes) -> Arrival:
    """The message at the next hop that has this in it."""

    def found() -> list[Arrival]:
        return [one for one in list(hop.arrivals) if text in one.data]

    wait_for(found, 60, f"{text!r} at the next hop")
    return found()[0]


@contextmanager
def milter_door(unix: bool, extra: str, zone: str, domain: str = "") -> Iterator[tuple[Server, str]]:
    """A filterd with that door, and where it is: a port, or the path of a socket that every user may open."""
    with tempfile.TemporaryDirectory(prefix="filterd-milter-") as name:
        folder = Path(name)
        doors = ("smtp",) if unix else ("smtp", "milter")
        server = Server(people=("ann",), doors=doors, extra=extra, domain=domain, zone=zone)
        if unix:
            text = server.config.read_text()
            server.config.write_text(
                text.replace("[listen]\n", f'[listen]\nmilter = ["unix:{folder}/socket"]\n')
            )
        with server:
            if unix:
                folder.chmod(0o755)
                (folder / "socket").chmod(0o666)
            yield server, str(folder / "socket") if unix else str(server.ports["milter"])


def ten_in_one_session(port: int, hop: NextHop) -> None:
    """Some begun anew by RSET; each arrives."""
    with smtplib.SMTP("127.0.0.1", port, "localhost", timeout=60) as smtp:
        smtp.ehlo("x.example")
        for number in range(10):
            smtp.mail("a@shop.example")
            if number % 3 == 0:
                smtp.rset()
                smtp.mail("a@shop.example")
            smtp.rcpt(f"ann@{DOMAIN}")
            assert smtp.data(MAIL % (100 + number))[0] == 250
    for number in range(10):
        arrived(hop, b"<%d@shop" % (100 + number))


def rewritten_and_back(send: Callable[[bytes, tuple[str, ...], str], int], hop: NextHop) -> None:
    """``milter.srs``: the sender of what goes on to others only; a bounce to it finds its way. ``send``: the reply's code."""
    shop = "billing@shop.example"
    assert send(MAIL % 61, ("x@far.example", "y@farther.example"), shop) == 250
    sender = arrived(hop, b"<61@shop").reverse_path
    assert sender.startswith("SRS0=") and sender.endswith(f"=shop.example=billing@{DOMAIN}")
    assert send(MAIL % 62, ("x@far.example", f"ann@{DOMAIN}"), shop) == 250
    assert arrived(hop, b"<62@shop").reverse_path == shop
    assert send(MAIL % 63, (sender,), "") == 250
    back = arrived(hop, b"<63@shop")
    assert back.recipients == (shop,) and back.reverse_path == ""


class Postfix:
    """Debian's Postfix with ``smtpd_milters`` = ours. XCLIENT tells it who the client is."""

    def __init__(self, milter: str, more: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-postfix-"))
        self.folder.chmod(0o755)
        self.hop = NextHop()
        self.hop.start()
        (self.port,) = free_ports(1)
        queue, data = self.folder / "spool", self.folder / "data"
        for folder in (queue, data):
            folder.mkdir()
        shutil.chown(data, "postfix")
        (self.folder / "main.cf").write_text(f"""compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
mail_owner = postfix
setgid_group = postdrop
maillog_file = {self.folder}/log
maillog_file_prefixes = {self.folder}
myhostname = mta.home.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = check_client_access static:OK, reject
smtpd_authorized_xclient_hosts = 127.0.0.1
smtpd_recipient_restrictions =
default_transport = smtp:[127.0.0.1]:{self.hop.port}
relayhost = [127.0.0.1]:{self.hop.port}
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_peername_lookup = no
smtpd_milters = {milter}
milter_default_action = tempfail
milter_protocol = 6
enable_long_queue_ids = yes
alias_maps =
alias_database =
local_recipient_maps =
{more}
""")
        services = [
            "pickup",
            "cleanup",
            "qmgr",
            "tlsmgr",
            "trivial-rewrite",
            "bounce",
            "proxymap",
            "smtp",
            "error",
            "anvil",
            "scache",
            "postlogd",
            "showq",
        ]
        names = {"trivial-rewrite": "rewrite", "postlogd": "postlog"}
        kinds = {
            "pickup": ("unix", "n", "60", "1"),
            "qmgr": ("unix", "n", "300", "1"),
            "cleanup": ("unix", "n", "-", "0"),
            "anvil": ("unix", "-", "-", "1"),
            "scache": ("unix", "-", "-", "1"),
            "bounce": ("unix", "-", "-", "0"),
        }
        lines = [f"127.0.0.1:{self.port} inet n - n - - smtpd"]
        for service in services:
            kind, private, wake, most = kinds.get(service, ("unix", "-", "-", "-"))
            if service == "postlogd":
                kind, private, most = "unix-dgram", "n", "1"
            lines.append(f"{names.get(service, service)} {kind} {private} - n {wake} {most} {service}")
        lines += ["defer unix - - n - 0 bounce", "trace unix - - n - 0 bounce", "retry unix - - n - - error"]
        (self.folder / "master.cf").write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Postfix:
        try:
            self._command("start")
            wait_for(lambda: greets(self.port), 20, "Postfix")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            self._command("stop")
        self.hop.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, word: str) -> None:
        done = subprocess.run(
            [str(POSTFIX), "-c", str(self.folder), word], capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            raise AssertionError(done.stderr.decode("utf-8", "replace"))

    def send(
        self,
        data: bytes,
        to: tuple[str, ...] = (f"ann@{DOMAIN}",),
        sender: str = "billing@shop.example",
        client: str = "198.51.100.7",
        login: str = "",
    ) -> tuple[int, bytes]:
        """The final reply. ``client`` is told by XCLIENT."""
        with smtplib.SMTP("127.0.0.1", self.port, "localhost", timeout=30) as smtp:
            smtp.ehlo("test.example")
            facts = f"XCLIENT ADDR={client} NAME=[UNAVAILABLE] HELO=mx.shop.example"
            code, text = smtp.docmd(facts + (f" LOGIN={login}" if login else ""))
            assert code == 220, text
            smtp.ehlo("mx.shop.example")
            code, text = smtp.mail(sender)
            if code != 250:
                return code, text
            for recipient in to:
                code, text = smtp.rcpt(recipient)
                if code != 250:
                    return code, text
            return smtp.data(data)

    def arrived(self, count: int) -> bytes:
        """The text of the last of ``count`` messages at the next hop."""
        wait_for(lambda: len(self.hop.arrivals) >= count, 20, "the next hop to get it")
        return self.hop.arrivals[count - 1].data
