"""Debian's programs around us: Dovecot as the store behind us by LMTP, Postfix on both sides of us as its content filter, Exim as a
client that asks for PRDR.

Each runs from a folder of its own, on loopback.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.demo.lab import free_ports
from tests import eximlab
from tests.e2e.server import DOMAIN, Server, mail, wait_for
from tests.milterlab import Postfix, greets, needs_postfix

pytestmark = pytest.mark.peer

SBIN = "/usr/sbin:/usr/local/sbin:/usr/bin"
DOVECOT = shutil.which("dovecot", path=SBIN)
AS_ROOT = os.geteuid() == 0
BEHIND = "behind.example"


class Dovecot:
    """LMTP on a TCP port and a unix socket; people are the names in a file."""

    def __init__(self, *people: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-dovecot-"))
        self.folder.chmod(0o755)
        (self.port,) = free_ports(1)
        nobody = pwd.getpwnam("nobody")
        home = self.folder / "home"
        home.mkdir()
        shutil.chown(home, nobody.pw_uid, nobody.pw_gid)
        users = self.folder / "users"
        ids = f"{nobody.pw_uid}:{nobody.pw_gid}"
        users.write_text("".join(f"{one}@{BEHIND}:{{PLAIN}}x:{ids}::{home}/{one}\n" for one in people))
        (self.folder / "dovecot.conf").write_text(f"""
protocols = lmtp
listen = 127.0.0.1
base_dir = {self.folder}/run
state_dir = {self.folder}/state
instance_name = {self.folder.name}
log_path = {self.folder}/log
ssl = no
first_valid_uid = 1
passdb {{
  driver = passwd-file
  args = {users}
}}
userdb {{
  driver = passwd-file
  args = {users}
}}
mail_location = maildir:~/Maildir
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {self.port}
  }}
  unix_listener {self.folder}/lmtp {{
    mode = 0600
  }}
}}
protocol lmtp {{
  postmaster_address = postmaster@{BEHIND}
  hostname = store.{BEHIND}
}}
""")

    def __enter__(self) -> Dovecot:
        subprocess.run([str(DOVECOT), "-c", str(self.folder / "dovecot.conf")], check=True, timeout=30)
        wait_for(lambda: greets(self.port), 20, "Dovecot")
        return self

    def __exit__(self, *_: object) -> None:
        pid = self.folder / "run" / "master.pid"
        if pid.exists():
            number = int(pid.read_text())
            os.kill(number, signal.SIGTERM)
            wait_for(lambda: not Path(f"/proc/{number}").exists(), 20, "Dovecot to end")
        shutil.rmtree(self.folder, ignore_errors=True)

    def box(self, name: str) -> list[bytes]:
        folder = self.folder / "home" / name / "Maildir" / "new"
        return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


@pytest.mark.skipif(
    DOVECOT is None or not AS_ROOT,
    reason="not root: Dovecot becomes other users"
    if DOVECOT
    else "Dovecot is not installed (Debian: dovecot-lmtpd)",
)
@pytest.mark.parametrize("unix", [False, True])
def test_dovecot_is_the_store_behind_us(unix: bool) -> None:
    with Dovecot("ann", "bob") as store:
        where = f"lmtp:unix:{store.folder}/lmtp" if unix else f"lmtp://127.0.0.1:{store.port}"
        behind = f'[[domain]]\nname = "{BEHIND}"\nrelay = "{where}"\nrecipients = ["ann", "bob", "carl"]\n'
        with Server(extra=behind, people=()) as front:
            with front.smtp() as client:
                client.docmd("XCLIENT", "ADDR=198.51.100.7 NAME=mx.shop.example")
                client.ehlo("mx.shop.example")
                to = [f"{name}@{BEHIND}" for name in ("ann", "carl", "bob+x")]
                assert not client.sendmail("orders@shop.example", to, mail("for Dovecot", "a\n.dot\n"))
                assert client.rcpt(f"stranger@{BEHIND}")[0] in (503, 550)
            wait_for(lambda: store.box("ann") and store.box("bob"), 30, "Dovecot's mailboxes")
            (text,) = store.box("ann")
            assert text.replace(b"\r\n", b"\n").endswith(b"\n\na\n.dot\n\n")
            assert b"spf=pass" in text and b"198.51.100.7" in text

            # Dovecot does not know carl: each recipient has an end of his own, the sender hears of this one
            def bounced() -> bool:
                return any(b"carl@behind.example" in one.data for one in front.hop.arrivals)

            wait_for(bounced, 30, "the bounce")
            assert len(store.box("ann")) == len(store.box("bob")) == 1


@pytest.fixture(scope="module")
def around() -> Iterator[tuple[Server, Postfix]]:
    """Postfix takes mail in, hands it to us (content_filter), and takes it back on another port."""
    (back,) = free_ports(1)
    trust = 'xforward_trusted = ["127.0.0.1"]\nrelay_trusted = ["127.0.0.1"]'
    behind = (
        f'[queue]\nrelay = "smtp://127.0.0.1:{back}"\n[[domain]]\nname = "{BEHIND}"\n'
        f'relay = "smtp://127.0.0.1:{back}"\nrecipients = "any"\n'
    )
    with Server(server=trust, extra=behind, people=()) as server:
        postfix = Postfix(
            "",
            f"content_filter = smtp:[127.0.0.1]:{server.ports['smtp']}\n"
            "smtp_send_xforward_command = yes\nlocal_header_rewrite_clients =\n"
            "smtpd_authorized_xforward_hosts = 127.0.0.1\nreceive_override_options = no_address_mappings",
        )
        with open(postfix.folder / "master.cf", "a") as file:
            file.write(f"127.0.0.1:{back} inet n - n - - smtpd -o content_filter= -o smtpd_milters=\n")
        with postfix:
            yield server, postfix


@needs_postfix
@pytest.mark.parametrize("to", [f"ann@{BEHIND}", "someone@elsewhere.example"])
def test_between_two_postfixes(around: tuple[Server, Postfix], to: str) -> None:
    _, postfix = around
    before = len(postfix.hop.arrivals)
    assert postfix.send(mail("filtered"), (to,))[0] == 250
    text = postfix.arrived(before + 1)
    assert postfix.hop.arrivals[before].recipients == (to,)
    # SPF is about the client that Postfix saw, not about Postfix; the reinjecting Postfix has heard of him too
    assert b"spf=pass" in text and b"[198.51.100.7]" in text
    log = postfix.folder / "log"
    wait_for(lambda: log.read_text().count("[198.51.100.7]") >= 2, 10, "the second Postfix's log")
    assert postfix.send(mail("forged"), (to,), client="203.0.113.66")[0] == 250
    wait_for(lambda: len(postfix.hop.arrivals) > before + 1, 30, "what becomes of it")
    assert b"spf=pass" not in postfix.hop.arrivals[before + 1].data


REJECT = 'require "reject"; if header :contains "subject" "no" { reject "not for me"; }'


def test_exim_asks_for_prdr() -> None:
    exim = eximlab.exim()
    if isinstance(exim, str):
        pytest.skip(exim)
    with Server(people=("ann", "bob"), scripts={"bob": REJECT}) as server:
        folder = Path(tempfile.mkdtemp(prefix="filterd-exim-"))
        folder.chmod(0o777)
        exim = exim.copied(folder)
        try:
            (folder / "exim.conf").write_text(f"""
exim_user = nobody
exim_group = nogroup
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
exim_path = {exim.program}
primary_hostname = exim.shop.example
never_users =
keep_environment = LD_LIBRARY_PATH
begin routers
all:
  driver = manualroute
  route_list = * 127.0.0.1::{server.ports["smtp"]}
  transport = out
  self = send
begin transports
out:
  driver = smtp
  allow_localhost
  hosts_try_prdr = *
  hosts_avoid_tls = *
""")
            done = subprocess.run(
                [exim.program, "-C", str(folder / "exim.conf"), "-odi", "-f", "orders@nospf.example"]
                + [f"ann@{DOMAIN}", f"bob@{DOMAIN}"],
                input=mail("no"),
                capture_output=True,
                env=exim.environment,
                timeout=60,
                check=False,
            )
            text = (folder / "mainlog").read_text() + done.stderr.decode()
            assert f"=> ann@{DOMAIN}" in text and "PRDR" in text, text
            assert f"** bob@{DOMAIN}" in text and "not for me" in text, text
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        wait_for(lambda: list((server.data / "mail").rglob("new/*")), 10, "ann's copy")
        assert len(list((server.data / "mail").rglob("new/*"))) == 1
