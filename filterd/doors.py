"""Every listener of one worker, opened on inherited sockets: which core, which service, which limits."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filterd import __version__
from filterd.accounts.directory import Account
from filterd.accounts.names import fold
from filterd.accounts.tokens import Judge, judge_of
from filterd.assembly import links_of
from filterd.config.schema import Config
from filterd.imap.config import ImapServerConfig
from filterd.imap.lines import Lines
from filterd.net.limits import Admission, AdmissionLimits, Ticket
from filterd.net.listen import Factory, Server
from filterd.net.login import LoginGuard
from filterd.net.proxy import Proxies
from filterd.net.share import ShareTable
from filterd.net.tls import TlsFiles, ensure_self_signed
from filterd.ports import SystemClock
from filterd.proto import sasl
from filterd.proto.managesieve import SieveConfig
from filterd.proto.milter import MilterLimits
from filterd.proto.pop3 import Pop3Config
from filterd.proto.sasl_offer import Mechanisms
from filterd.proto.smtp_limits import SmtpConfig, SmtpLimits
from filterd.servers.imap import ImapDoor
from filterd.servers.maildrop import FileLocks
from filterd.servers.managesieve import SieveDoor
from filterd.servers.milter import MilterDoor
from filterd.servers.pop3 import Pop3Door
from filterd.servers.smtp import SmtpDoor
from filterd.servers.web import WebDoor
from filterd.store.durable import RealDisk
from filterd.web.health import HealthPages
from filterd.web.held import HeldPages
from pipeline.envelope import Profile

if TYPE_CHECKING:
    from filterd.app import Parts

Context = Callable[[], ssl.SSLContext]
SIEVE_PORT = 4190  # RFC 5804 3
REQUIRABLE = ("dane", "secure")  # words of queue.tls with which a next hop can prove who it is
COMMANDS = "commands"  # LMTP for the commands of this machine
SMTP = ("smtp", "submission", "submissions", "lmtp", COMMANDS)
PROXIED = "+proxy"  # behind a listener's name: each connection begins with a PROXY header
TOKENS_AT_ONCE = 8  # that are asked about
IMPLICIT = frozenset({"submissions", "imaps", "pop3s"})


def certificate(config: Config) -> TlsFiles | None:
    """The server's certificate: the configured files, one of our own making, or none. Raises OSError, ssl.SSLError."""
    if config.tls.mode == "off":
        return None
    if config.tls.mode == "files":
        return TlsFiles(config.tls.cert, config.tls.key, config.tls.min_version, config.tls.client_ca)
    folder = Path(config.server.data_dir) / "tls"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    cert, key = str(folder / "self-signed.crt"), str(folder / "self-signed.key")
    ensure_self_signed(cert, key, [config.server.hostname, "localhost", "127.0.0.1"], time.time())
    return TlsFiles(cert, key, config.tls.min_version, config.tls.client_ca)


class Neighbours(Admission):
    """Places for servers of ours: counted in the total, not by address. Postfix opens a milter connection for each of its
    SMTP sessions, all from one address."""

    def __init__(self, places: Admission) -> None:
        super().__init__(places.limits)
        self._places = places

    def admit(self, ip: str | None) -> Ticket | None:
        return self._places.admit(None)

    def readmit(self, ticket: Ticket, ip: str) -> bool:
        return True


@dataclass(slots=True)
class Doors:
    """``sockets`` by listener name. ``open`` and ``close`` are called on the loop."""

    parts: Parts
    sockets: list[tuple[str, socket.socket]]
    table: ShareTable | None = None
    index: int = 0  # which worker of the table we are
    _servers: list[Server] = field(default_factory=list)
    _admission: Admission | None = None
    _tokens: Judge | None = None
    _cert: str = ""  # the file
    _lines: Lines = field(default_factory=Lines)
    # A server of tokens that does not answer keeps no thread from the passwords, the queue and the scripts.
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(TOKENS_AT_ONCE, thread_name_prefix="tokens")
    )

    def open(self) -> None:
        config = self.parts.config
        tls = certificate(config)
        self._cert = tls.cert if tls is not None else ""
        context = self._context(tls)
        limits = config.limits.connections
        self._admission = Admission(AdmissionLimits(limits.total, limits.per_ip), self.parts.desk)
        clock = SystemClock()
        self._tokens = judge_of(config.auth.oauth, clock)
        logins = LoginGuard(self._check, clock, desk=self.parts.desk, judge=self._judge, failed=self._failed)
        proxies = Proxies([ipaddress.ip_network(network) for network in config.server.proxy_trusted])
        for at, (full_name, sock) in enumerate(self.sockets):
            name = full_name.removesuffix(PROXIED)
            factory, refusal = self._door(name, context, logins)
            implicit = name in IMPLICIT or (name == "web" and config.quarantine.https)
            if implicit and context is None:
                continue  # config check refuses this; nobody may log in without TLS by a door that promises it
            server = Server(
                sock,
                factory,
                Neighbours(self._admission) if name == "milter" else self._admission,
                context=context if implicit else None,
                refusal=b"" if implicit else refusal,
                share=self.table.share(at, self.index) if self.table is not None else None,
                proxies=proxies if full_name != name else None,
                counted=partial(self._counted, name),
            )
            server.start()
            self._servers.append(server)

    def _counted(self, name: str, taken: bool) -> None:
        if self.parts.desk is not None:
            result = "accepted" if taken else "refused"
            self.parts.desk.meter.add("filterd_sessions", (name, result))
            if name in SMTP:
                self.parts.desk.meter.add("filterd_smtp_sessions", (result,))

    def _failed(self, service: str) -> None:
        if self.parts.desk is not None:
            self.parts.desk.meter.add("filterd_auth_failures", (service,))

    async def retire(self, seconds: float, stop: asyncio.Event) -> None:
        """Accept no more; serve the clients that are here until they go, for ``seconds`` or until ``stop``."""
        for server in self._servers:
            server.stop()
        deadline = time.monotonic() + seconds
        while self._admission and self._admission.total and time.monotonic() < deadline and not stop.is_set():
            await asyncio.sleep(0.05)

    async def close(self, seconds: float) -> None:
        """Accept no more; say good-bye to idle sessions; let busy ones end for ``seconds``."""
        for server in self._servers:
            server.stop()
            server.cut_handshakes()
        admission = self._admission
        if admission is None:
            return
        deadline = time.monotonic() + seconds
        while admission.total and time.monotonic() < deadline:
            admission.shut_down()  # again and again: some were accepted and have no protocol yet
            await asyncio.sleep(0.02)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _check(self, login: str, password: str) -> Account | None:
        return await asyncio.to_thread(self.parts.directory.authenticate, login, password)

    async def _judge(self, evidence: sasl.Evidence) -> Account | None:
        """What was shown by another mechanism than a password."""
        name: str | None = None
        if isinstance(evidence, sasl.Proof) and evidence.good:
            name = evidence.login
        elif isinstance(evidence, sasl.Token) and self._tokens is not None:
            loop = asyncio.get_running_loop()
            name = await loop.run_in_executor(self._pool, self._tokens.whose, evidence.token)
            if name is not None and evidence.login and fold(evidence.login) != fold(name):
                return None  # somebody else's token
        if name is None:
            return None
        found = await asyncio.to_thread(self.parts.directory.account, name)
        return found if found is not None and found.enabled else None

    @staticmethod
    def _context(tls: TlsFiles | None) -> Context | None:
        return tls.current if tls is not None else None

    def _door(self, name: str, context: Context | None, logins: LoginGuard) -> tuple[Factory, bytes]:
        config = self.parts.config
        plain = config.tls.allow_plaintext_login
        if name in SMTP:
            smtp = self._smtp(name, context, plain, logins)
            return smtp.connection, smtp.REFUSAL
        if name in ("imap", "imaps"):
            imap = ImapDoor(
                ImapServerConfig(
                    message_size=config.limits.message_size,
                    message_limit=config.limits.imap_messages,
                    save_limit=config.limits.imap_saved,
                    tls=context is not None,
                    allow_plaintext=plain,
                    version=__version__,
                    events=self.parts.events,
                    sieve=self._sieve_url(),
                    filters=self.parts.filters,
                    sharing=self.parts.sharing,
                    mechanisms=self._mechanisms(),
                    lines=self._lines,
                ),
                logins,
                self.parts.jobs,
                self.parts.notices,
                SystemClock(),
                context,
            )
            return imap.connection, imap.REFUSAL
        if name in ("pop3", "pop3s"):
            delay = math.ceil(config.limits.pop3_delay)
            locks = FileLocks(RealDisk(), str(Path(config.server.data_dir) / "run"), SystemClock(), delay)
            pop3 = Pop3Door(
                Pop3Config(
                    config.server.hostname,
                    starttls=context is not None,
                    allow_plain_auth=plain,
                    login_delay=delay,
                    mechanisms=self._mechanisms(),
                ),
                logins,
                self.parts.jobs,
                locks,
                context,
            )
            return pop3.connection, pop3.REFUSAL
        if name == "web":
            web = WebDoor(self._pages(), SystemClock())
            return web.connection, web.REFUSAL
        if name == "metrics":
            assert self.parts.desk is not None
            health = WebDoor(HealthPages(config, self.parts.desk, self._cert), SystemClock())
            return health.connection, health.REFUSAL
        if name == "milter":
            limits = MilterLimits(message=config.limits.message_size)
            screening = MilterDoor(self.parts.milter, limits)
            return screening.connection, screening.REFUSAL
        sieve = SieveDoor(
            SieveConfig(
                self.parts.scripts.capabilities(),
                starttls=context is not None,
                allow_plain_auth=plain,
                max_redirects=config.stage.sieve.limits.redirects,
                notify=("mailto",) if "enotify" in self.parts.scripts.capabilities() else (),
                extlists=("urn", "tag") if "extlists" in self.parts.scripts.capabilities() else (),
                script_size=config.stage.sieve.limits.script,
                mechanisms=self._mechanisms(),
            ),
            logins,
            self.parts.scripts,
            context,
        )
        return sieve.connection, sieve.REFUSAL

    def _pages(self) -> HeldPages:
        assert self.parts.quarantine is not None
        return HeldPages(self.parts.quarantine, links_of(self.parts.config), SystemClock())

    def _mechanisms(self) -> Mechanisms:
        chosen = self.parts.config.auth
        return Mechanisms(
            self.parts.directory if chosen.scram != "off" else None,
            scram_always=chosen.scram == "on",
            scram_in_clear=chosen.scram_without_tls,
            announce_plus=chosen.channel_binding,
            oauth=chosen.oauth.issuer if self._tokens is not None else None,
        )

    def _sieve_url(self) -> str:
        """RFC 5804 3: where the scripts of mailboxes are kept; "" without a ManageSieve door."""
        config = self.parts.config
        if self.parts.events is None or not config.listen.sieve:
            return ""
        port = config.listen.sieve[0].port
        return f"sieve://{config.server.hostname}" + (f":{port}" if port and port != SIEVE_PORT else "")

    def _smtp(self, name: str, context: Context | None, plain: bool, logins: LoginGuard) -> SmtpDoor:
        config = self.parts.config
        own, name = name == COMMANDS, "lmtp" if name == COMMANDS else name
        profile = {"smtp": Profile.MX, "lmtp": Profile.LMTP}.get(name, Profile.SUBMISSION)
        submission = profile is Profile.SUBMISSION
        return SmtpDoor(
            SmtpConfig(
                config.server.hostname,
                profile,
                size_limit=config.limits.message_size,
                starttls=context is not None and profile is not Profile.LMTP,
                auth=submission,
                auth_required=submission,
                allow_plain_auth=plain,
                prdr=profile is not Profile.LMTP,
                requiretls=profile is not Profile.LMTP and config.queue.tls in REQUIRABLE,
                mailbox=own,
                hold_limit=int(config.queue.future_release) if submission else 0,
                limits=SmtpLimits(recipients=config.limits.recipients),
                mechanisms=self._mechanisms(),
            ),
            self.parts.reception,
            listener=name,
            context=context,
            xclient_trusted=[ipaddress.ip_network(network) for network in config.server.xclient_trusted],
            xforward_trusted=[ipaddress.ip_network(network) for network in config.server.xforward_trusted],
            relay_trusted=[ipaddress.ip_network(network) for network in config.server.relay_trusted],
            xclient_unix=True,
            logins=logins,
        )
