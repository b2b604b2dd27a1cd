"""The shell of SMTP, submission and LMTP: one ``SmtpConnection`` a client, driving ``filterd.proto.smtp``.

Wiring (``filterd.app``)::

    door = SmtpDoor(SmtpConfig(hostname, Profile.SUBMISSION, starttls=True, auth=True, auth_required=True), service,
                    listener="submission", context=tls.current, xclient_trusted=networks)
    server = Server(sock, door.connection, Admission(AdmissionLimits()), refusal=SmtpDoor.REFUSAL)      # filterd.net.listen
    server.start()

For implicit TLS also give ``Server(..., context=tls.current)``; ``SmtpConfig.starttls`` is then not offered by itself,
since the core sees that TLS is active. The shell keeps ``SmtpSession.client`` current and owns the ``SmtpTransaction``.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from filterd.accounts.directory import Account
from filterd.net.connection import Connection
from filterd.net.limits import Ticket
from filterd.proto.sasl import NO_CHANNEL, Proof
from filterd.proto.smtp import SmtpCore
from filterd.proto.smtp_events import (
    Abort,
    Acknowledged,
    Auth,
    Close,
    Connected,
    Helo,
    Mail,
    Rcpt,
    StartTls,
    Text,
    Xclient,
)
from filterd.proto.smtp_limits import SmtpConfig
from filterd.servers.ports import LoginService, SmtpService, SmtpSession, SmtpTransaction
from pipeline.envelope import Client, Profile
from pipeline.reply import Reply

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 1918, 4193 and 3927, 4291 2.5.3 and 2.5.6; not the ranges of documentation and tests
PRIVATE: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "::1",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)

log = logging.getLogger("filterd.smtp")

_LOGGED_IN = Reply(235, "2.7.0", "Authentication successful")
_LOGIN_UNAVAILABLE = Reply(454, "4.7.0", "Temporary authentication failure")
_FAULT = Reply(451, "4.3.0", "Internal error; try again later")


@dataclass(frozen=True, slots=True)
class SmtpDoor:
    """A listener's settings: what every connection by this door has in common.

    ``context`` gives the TLS context of STARTTLS. ``xclient_trusted``: networks whose clients may use XCLIENT, and
    ``xforward_trusted`` XFORWARD; ``xclient_unix``: those of a unix socket may use both. ``relay_trusted``: mail servers of
    ours. ``logins`` delays failed log-ins; without it the service is asked itself. ``now``: seconds since the epoch.
    """

    config: SmtpConfig
    service: SmtpService
    listener: str = "smtp"
    context: Callable[[], ssl.SSLContext] | None = None
    xclient_trusted: Sequence[Network] = ()
    xforward_trusted: Sequence[Network] = ()
    relay_trusted: Sequence[Network] = ()
    xclient_unix: bool = False
    logins: LoginService | None = None
    now: Callable[[], float] = time.time

    REFUSAL = b"421 4.7.0 Too many connections; try again later\r\n"

    def hop(self, ip: str) -> bool:
        """Is this a server of ours? A private address is, and who may speak for others or send through us."""
        return self.trusts(ip, (*PRIVATE, *self.xclient_trusted, *self.xforward_trusted, *self.relay_trusted))

    def connection(self, ticket: Ticket) -> SmtpConnection:
        """The factory for ``filterd.net.listen.Server``."""
        return SmtpConnection(self, ticket)

    def trusts(self, ip: str | None, networks: Sequence[Network]) -> bool:
        if ip is None:
            return self.xclient_unix
        address = ipaddress.ip_address(ip)
        return any(address in network for network in networks if network.version == address.version)


class SmtpConnection(Connection[SmtpCore]):
    """One client."""

    __slots__ = ("door", "session", "transaction")
    close_event = Close

    def __init__(self, door: SmtpDoor, ticket: Ticket | None = None) -> None:
        super().__init__(ticket)
        self.door = door
        self.transaction: SmtpTransaction | None = None

    def begin(self) -> SmtpCore:
        door = self.door
        tls = self.tls_name()
        told, named = "", True
        if self.ticket is not None:
            told, named = (
                self.ticket.told,
                not self.ticket.unknown,
            )  # who came by a proxy that cannot tell has no rights
        # By LMTP, by unix sockets and from our own mail servers mail comes from a hop of ours: what we see of it says nothing
        # about the sender. What a proxy tells does (HOUSE item 6), unless it tells of a hop of ours.
        outside = self.ip is not None and (
            door.config.profile is not Profile.LMTP or (bool(told) and not door.hop(self.ip))
        )
        if not told and door.config.profile is Profile.MX and self.ip is not None:
            outside = outside and not door.trusts(self.ip, door.relay_trusted)
        client = Client(ip=self.ip, port=self.port, tls=tls, facts_trusted=outside and named, told=told)
        self.session = SmtpSession(door.config.profile, door.listener, client)
        core = SmtpCore(
            door.config,
            tls=bool(tls),
            xclient=named and door.trusts(self.ip, door.xclient_trusted),
            xforward=named and door.trusts(self.ip, door.xforward_trusted),
            now=door.now,
        )
        core.channel = self.channel()
        return core

    def secured(self) -> None:
        self.core.channel = self.channel()

    async def perform(self, event: object) -> None:
        core, service, session = self.core, self.door.service, self.session
        match event:
            case Rcpt(address, params):
                transaction = self.transaction
                if transaction is None:
                    core.internal_error()
                    return
                reply = await service.rcpt(session, transaction, address, params)
                if reply.positive:
                    transaction.recipients.append(address)
                    transaction.rcpt_params.append(params)
                core.reply(reply)
            case Mail(reverse_path, params, forwarded):
                client = self._forwarded(forwarded) if forwarded else None
                self.transaction = SmtpTransaction(reverse_path, params, client=client)
                core.reply(await service.mail(session, self.transaction))
            case Text(data):
                await self._text(data)
            case Acknowledged():
                service.acknowledged(session)
            case Abort():
                transaction, self.transaction = self.transaction, None
                if transaction is not None:
                    service.abort(session, transaction)
            case Connected():
                core.reply(await service.connect(session))
            case Helo(name, esmtp):
                session.client = replace(session.client, helo=name, esmtp=esmtp)
                core.reply(await service.helo(session))
            case Auth():
                await self._authenticate(event)
            case StartTls():
                await self._start_tls()
            case Xclient(facts):
                await self._speak_for(facts)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if hasattr(self, "session"):
            self.door.service.ended(self.session)

    async def _text(self, data: bytes) -> None:
        transaction, self.transaction = self.transaction, None
        if transaction is None:
            self.core.internal_error()
            return
        self.flush()  # what was answered so far does not wait for the filters
        try:
            replies = await self.door.service.message(self.session, transaction, data)
        except Exception:
            log.exception("bug while a message was taken in")
            self.door.service.abort(self.session, transaction)
            self.core.internal_error()
            return
        self.core.reply(*replies)

    async def _authenticate(self, asked: Auth) -> None:
        try:
            account = await self._check(asked)
        except Exception:
            log.exception("bug while logging in")
            self.core.reply(_LOGIN_UNAVAILABLE)
            return
        if self.core.judged(account):
            return
        if account is None:
            self.core.reply(None)
            return
        self.session.account = account
        self.session.client = replace(self.session.client, auth=account.id)
        self.core.reply(_LOGGED_IN)

    async def _check(self, asked: Auth) -> Account | None:
        door, session, evidence = self.door, self.session, asked.evidence
        if door.logins is None:
            known = evidence is None
            return await door.service.authenticate(session, asked.login, asked.password) if known else None
        if evidence is not None:
            return await door.logins.judge(evidence, session.client, door.listener)
        return await door.logins.authenticate(asked.login, asked.password, session.client, door.listener)

    async def _start_tls(self) -> None:
        context = self.door.context
        if context is None or not await self.start_tls(context(), self.core.config.patience.handshake):
            self._cut()
            return
        # RFC 3207 4.2: what the client said before is forgotten; only the peer's address stays, and what XCLIENT told.
        client = replace(self.session.client, helo="", esmtp=True, tls=self.tls_name(), auth="")
        self.session.client = client
        self.session.account = None

    def _forwarded(self, facts: Mapping[str, str]) -> Client:
        """XFORWARD: the next message is another client's, who gets no rights by it (Postfix XFORWARD_README). What was not
        told is unknown: our own view is the hop's."""
        address = facts.get("ADDR", "")
        return Client(
            ip=address or None,
            port=int(facts.get("PORT") or 0),
            helo=facts.get("HELO", ""),
            name=facts.get("NAME", ""),
            tls=self.session.client.tls,
            auth=self.session.client.auth,
            esmtp=facts.get("PROTO", "ESMTP") != "SMTP",
            facts_trusted=bool(address) and facts.get("SOURCE") != "LOCAL",
            told=f"XFORWARD by {self.ip or 'a unix socket'}",
        )

    async def _speak_for(self, facts: Mapping[str, str]) -> None:
        """XCLIENT: the connection now counts as the named client's own (Postfix XCLIENT_README)."""
        told = f"XCLIENT by {self.ip or 'a unix socket'}"
        self.core.channel = NO_CHANNEL  # TLS and its certificate are the hop's, not the client's
        client = replace(self.session.client, facts_trusted=True, esmtp=True, told=told)
        if "ADDR" in facts:
            client = replace(client, ip=facts["ADDR"] or None, port=0, name="")
        if "PORT" in facts:
            client = replace(client, port=int(facts["PORT"] or 0))
        if "NAME" in facts:
            client = replace(client, name=facts["NAME"])
        if "HELO" in facts:
            client = replace(client, helo=facts["HELO"])
        if "PROTO" in facts:
            client = replace(client, esmtp=facts["PROTO"] != "SMTP")
        if "LOGIN" in facts:
            client = replace(client, auth=facts["LOGIN"])
        self.session.client = client
        self.session.account = None
        self.session.state = None
        if facts.get("LOGIN") and self.session.profile is Profile.SUBMISSION:
            await self._logged_in_there(facts["LOGIN"])

    async def _logged_in_there(self, login: str) -> None:
        """LOGIN of XCLIENT: a proxy of ours has checked the password; whose account it is, and whether it may log in, we know."""
        session, account = self.session, None
        if self.door.logins is not None:
            try:
                account = await self.door.logins.judge(Proof(login, True), session.client, self.door.listener)
            except Exception:
                log.exception("bug while taking over a log-in")
        session.account = account
        session.client = replace(session.client, auth=account.id if account is not None else "")
        self.core.authenticated = account is not None
