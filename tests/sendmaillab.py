"""Three sendmail commands side by side: ours, Postfix's and Exim's, each with a next hop that writes down what it is told.

Postfix and Exim run from folders of their own, on loopback, without DNS; Postfix's helpers are copies without the set-gid bit,
which lets root name a configuration. ``close`` ends only what was begun here.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filterd.queue.journal import Journal
from rules.mail.header import scan
from tests import eximlab
from tests.e2e.server import DOMAIN, ENVIRONMENT, Server
from tests.perf.authchain import SERVICES, program

SECONDS = 120
HELPERS = ("postdrop", "postqueue", "postalias", "postlog", "postconf", "postsuper")
ANY_VALUE = frozenset({b"date", b"message-id", b"resent-date", b"resent-message-id"})
EHLO = b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE\r\n250 DSN\r\n"


@dataclass(frozen=True)
class Told:
    """A message as the next hop was told it, without what is by chance: ``header`` sorted, "*" for dates and ids."""

    sender: str
    recipients: tuple[str, ...]
    header: tuple[str, ...]
    body: str


class Sink(threading.Thread):
    """Takes everything; offers DSN."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="sink")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.told: list[Told] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(SECONDS)
            file = connection.makefile("rb")
            connection.sendall(b"220 sink.example ESMTP\r\n")
            sender, recipients = b"", list[bytes]()
            while line := file.readline(8192):
                verb, answer = line[:4].upper(), b"250 2.0.0 ok\r\n"
                if verb == b"EHLO":
                    answer = EHLO
                elif verb == b"MAIL":
                    sender, recipients = line, []
                elif verb == b"RCPT":
                    recipients.append(line)
                elif verb == b"DATA":
                    connection.sendall(b"354 go on\r\n")
                    text = b""
                    while (row := file.readline()) != b".\r\n":
                        if not row:
                            return
                        text += row[1:] if row.startswith(b".") else row
                    self.told.append(told(sender, recipients, text))
                elif verb == b"QUIT":
                    connection.sendall(b"221 2.0.0 bye\r\n")
                    return
                connection.sendall(answer)


def told(sender: bytes, recipients: Sequence[bytes], text: bytes) -> Told:
    block = scan(text)
    fields = [
        f"{one.lname.decode()}: "
        + ("*" if one.lname in ANY_VALUE else " ".join(block.value(one).decode("utf-8", "replace").split()))
        for one in block.fields
        if one.lname != b"received"
    ]
    return Told(
        _command(sender, "SIZE", "BODY", "SMTPUTF8"),
        tuple(sorted(_command(one, "ORCPT") for one in recipients)),
        tuple(sorted(fields)),
        text[block.body_start :].decode("utf-8", "replace"),
    )


def _command(line: bytes, *without: str) -> str:
    """The path and the parameters, those of NOTIFY in order."""
    path, _, rest = line.decode("utf-8", "replace").partition(":")[2].partition(">")
    words = [word for word in rest.split() if word.partition("=")[0].upper() not in without]
    return " ".join([f"{path.strip()}>", *(",".join(sorted(re.split("[=,]", word))) for word in words)])


@dataclass(frozen=True)
class Ended:
    code: int
    said: str


def run(command: Sequence[str], data: bytes, environment: dict[str, str]) -> Ended:
    done = subprocess.run(command, input=data, capture_output=True, timeout=SECONDS, env=environment)
    return Ended(done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace"))


class Postfix:
    def __init__(self) -> None:
        self.sink = Sink()
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-postfix-"))
        self.folder.chmod(0o755)
        for name in ("queue", "data", "etc", "bin"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "data", pwd.getpwnam("postfix").pw_uid)
        for name in HELPERS:
            shutil.copyfile(str(program(name)), self.folder / "bin" / name)
            (self.folder / "bin" / name).chmod(0o755)
        self._etc = self.folder / "etc"
        (self._etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {self.folder}/queue
data_directory = {self.folder}/data
command_directory = {self.folder}/bin
maillog_file = {self.folder}/log
maillog_file_prefixes = {self.folder}
myhostname = mx.{DOMAIN}
myorigin = {DOMAIN}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
relayhost = [127.0.0.1]:{self.sink.port}
disable_dns_lookups = yes
biff = no
"""
        )
        services = ("smtp unix - - n - - smtp", "relay unix - - n - - smtp", "pickup unix n - n 60 1 pickup")
        (self._etc / "master.cf").write_text("\n".join([*services, *SERVICES]) + "\n")
        try:
            done = run([str(program("postfix")), "-c", str(self._etc), "start"], b"", dict(os.environ))
            assert done.code == 0, done.said
        except BaseException:
            self.close()
            raise

    def run(self, words: Sequence[str], data: bytes) -> Ended:
        sendmail = shutil.which("sendmail.postfix", path="/usr/sbin") or "/usr/sbin/sendmail"
        return run([sendmail, *words], data, {**os.environ, "MAIL_CONFIG": str(self._etc)})

    def waiting(self) -> int:
        """What has not come to its end."""
        places = ("maildrop", "incoming", "active", "deferred", "bounce", "defer")
        return sum(
            len(files) for place in places for _, _, files in os.walk(self.folder / "queue" / place)
        )  # fmt: skip

    def close(self) -> None:
        if (self.folder / "queue/pid/master.pid").exists():
            run([str(program("postfix")), "-c", str(self._etc), "stop"], b"", dict(os.environ))
        self.sink.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Exim:
    """Puts everything into its queue; ``waiting`` sends it. Run by root, so that it may name its configuration."""

    def __init__(self, found: eximlab.Exim) -> None:
        self.sink = Sink()
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-exim-"))
        self.folder.chmod(0o755)
        self._exim = found.copied(self.folder)
        (self.folder / "spool").mkdir()
        shutil.chown(self.folder / "spool", "mail", "mail")
        shutil.chown(self.folder, "mail", "mail")
        self._conf = self.folder / "exim.conf"
        self._conf.write_text(
            f"""exim_user = mail
exim_group = mail
exim_path = {self._exim.program}
spool_directory = {self.folder}/spool
log_file_path = {self.folder}/%slog
primary_hostname = mx.{DOMAIN}
qualify_domain = {DOMAIN}
never_users =
keep_environment = LD_LIBRARY_PATH
trusted_users = root
acl_not_smtp = accept
begin acl
accept:
  accept
begin routers
all:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = out
begin transports
out:
  driver = smtp
  port = {self.sink.port}
  allow_localhost
  hosts_try_dane =
  hosts_avoid_tls = *
"""
        )

    def run(self, words: Sequence[str], data: bytes) -> Ended:
        command = [self._exim.program, "-C", str(self._conf), "-odq", *words]
        return run(command, data, self._exim.environment)

    def waiting(self) -> int:
        program, conf, environment = self._exim.program, str(self._conf), self._exim.environment
        run([program, "-C", conf, "-qff"], b"", environment)
        return int(run([program, "-C", conf, "-bpc"], b"", environment).said or 0)

    def close(self) -> None:
        self.sink.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Ours:
    def __init__(self) -> None:
        self.sink = Sink()
        relay = f'[queue]\nrelay = "smtp://127.0.0.1:{self.sink.port}"\n'
        self.server = Server(people=("ann",), doors=("smtp",), server="workers = 1", extra=relay)
        try:
            self.server.start()
        except BaseException:
            self.close()
            raise

    def run(self, words: Sequence[str], data: bytes) -> Ended:
        command = [str(Path(sys.executable).parent / "filterd-sendmail"), *words]
        return run(command, data, {**ENVIRONMENT, "FILTERD_CONFIG": str(self.server.config)})

    def waiting(self) -> int:
        journal = Journal(self.server.data / "queue")
        try:
            return len(journal.items())
        finally:
            journal.close()

    def close(self) -> None:
        self.server.close()
        self.sink.close()
