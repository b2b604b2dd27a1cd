"""Debian's Cyrus as the store behind us, by LMTP over TCP and a unix socket: who is there, who is not, who has no room left.

It runs unpacked (tests/unpacked.py) from a folder of its own, as the user nobody, on loopback; mailboxes of two people are made at
their first mail, with a quota.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from filterd.demo.lab import free_ports
from tests import unpacked
from tests.e2e.server import Server, mail, wait_for
from tests.milterlab import greets

pytestmark = [pytest.mark.peer, pytest.mark.slow]

PACKAGE, LIBRARIES = "cyrus-common", ("cyrus-common", "libical3", "libpcre3")
BEHIND = "behind.example"
PROGRAMS = ("master", "lmtpd", "ctl_cyrusdb")
QUOTA = 300  # KiB a person


class Cyrus:
    """``close`` ends only what was begun here."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-cyrus-"))
        self.folder.chmod(0o755)
        (self.port,) = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None
        bin_, libraries = self.folder / "bin", self.folder / "lib"
        for made in (bin_, libraries):
            made.mkdir()
        for name in PROGRAMS:
            shutil.copy(unpacked.folder(PACKAGE) / "usr/lib/cyrus/bin" / name, bin_)
        for package in LIBRARIES:
            for library in unpacked.folder(package).rglob("*.so.*"):
                shutil.copy(library, libraries)
        for name in ("conf", "spool", "run"):
            (self.folder / name).mkdir()
            shutil.chown(self.folder / name, "nobody", "nogroup")
        self.environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        (self.folder / "imapd.conf").write_text(f"""configdirectory: {self.folder}/conf
partition-default: {self.folder}/spool
defaultpartition: default
cyrus_user: nobody
cyrus_group: nogroup
virtdomains: userid
defaultdomain: {BEHIND}
servername: store.{BEHIND}
autocreate_post: yes
autocreate_users: ann bob
autocreate_quota: {QUOTA}
lmtp_strict_quota: yes
duplicatesuppression: no
sasl_pwcheck_method: saslauthd
lmtpsocket: {self.folder}/run/lmtp
proc_path: {self.folder}/run/proc
mboxname_lockpath: {self.folder}/run/lock
""")
        lmtpd = f"{bin_}/lmtpd -C {self.folder}/imapd.conf"
        (self.folder / "cyrus.conf").write_text(f"""START {{
  recover cmd="{bin_}/ctl_cyrusdb -C {self.folder}/imapd.conf -r"
}}
SERVICES {{
  lmtpunix cmd="{lmtpd}" listen="{self.folder}/run/lmtp" prefork=0
  lmtp cmd="{lmtpd} -a" listen="127.0.0.1:{self.port}" prefork=0
}}
EVENTS {{
}}
""")

    def lacking(self) -> str:
        return unpacked.lacking(str(self.folder / "bin/lmtpd"), self.environment)

    def __enter__(self) -> Cyrus:
        command = [str(self.folder / "bin/master"), "-C", str(self.folder / "imapd.conf")]
        command += ["-M", str(self.folder / "cyrus.conf"), "-p", str(self.folder / "run/pid")]
        with (self.folder / "out").open("wb") as out:
            self.process = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)
        try:
            wait_for(self._serves, 30, "Cyrus")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "out").read_text()
        return greets(self.port)

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def texts(self, mark: bytes) -> list[bytes]:
        """The stored messages that have this in them."""
        every = [path.read_bytes() for path in (self.folder / "spool").rglob("[0-9]*.") if path.is_file()]
        return [text for text in every if mark in text]


@pytest.mark.skipif(
    os.geteuid() != 0 or not unpacked.program(PACKAGE, "usr/lib/cyrus/bin/lmtpd"),
    reason="not root: Cyrus becomes another user"
    if os.geteuid() != 0
    else "Cyrus is not here (Debian: cyrus-common, unpacked by `make test`)",
)
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_cyrus_is_the_store_behind_us(unix: bool) -> None:
    store = Cyrus()
    if libraries := store.lacking():
        store.__exit__()
        pytest.skip(f"libraries of Cyrus are not here: {libraries}")
    with store:
        where = f"lmtp:unix:{store.folder}/run/lmtp" if unix else f"lmtp://127.0.0.1:{store.port}"
        behind = f'[[domain]]\nname = "{BEHIND}"\nrelay = "{where}"\nrecipients = ["ann", "bob", "carl"]\n'
        with Server(extra=behind, people=(), doors=("smtp",)) as front:

            def send(subject: str, *names: str, body: str = "a\n.dot\n") -> None:
                with front.smtp() as client:
                    client.docmd("XCLIENT", "ADDR=198.51.100.7 NAME=mx.shop.example")
                    client.ehlo("mx.shop.example")
                    to = [f"{name}@{BEHIND}" for name in names]
                    assert not client.sendmail("orders@shop.example", to, mail(subject, body))

            send("first", "ann", "carl", "bob+x")
            wait_for(lambda: len(store.texts(b"Subject: first")) == 2, 60, "Cyrus's mailboxes")
            text = store.texts(b"Subject: first")[0]
            assert text.endswith(b"\r\n\r\na\r\n.dot\r\n\r\n") and b"spf=pass" in text

            def bounces() -> list[bytes]:
                return [one.data for one in front.hop.arrivals if b"carl@behind.example" in one.data]

            wait_for(bounces, 60, "the bounce for carl")
            (bounce,) = bounces()
            # Cyrus says 5.1.1 in the last line of its reply only; where its socket is concerns nobody else
            assert b"Status: 5.1.1\r\n" in bounce and str(store.folder).encode() not in bounce

            large = "x" * 70 + "\n"
            send("second", "bob", body=large * 3000)
            wait_for(lambda: store.texts(b"Subject: second"), 60, "bob's large message")
            send("third", "ann", "bob", body=large * 3000)
            wait_for(lambda: store.texts(b"Subject: third"), 60, "ann's copy")

            def waiting() -> str:
                return front.command("queue", "list").stdout.decode()

            wait_for(lambda: "4.2.2" in waiting(), 60, "what Cyrus said of bob's")
            assert f"bob@{BEHIND}" in waiting() and f"ann@{BEHIND}" not in waiting()
            assert len(store.texts(b"Subject: third")) == 1 and len(store.texts(b"Subject: first")) == 2
