"""Doors for the dialog scripts: each protocol's shell before a small made-up application that keeps a log.

The application of the SMTP doors: ann, bob and carl at example.org live here; full@ is over quota, later@ cannot be looked
up now, crash@ raises; other people of example.org are unknown, other domains are relayed for logged-in clients only. A
text with REJECT or DEFER in it is refused so, one with CRASH raises. Log in with ann@example.org / secret.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Mapping, Sequence

from filterd.accounts.directory import Account
from filterd.proto.smtp_limits import SmtpConfig, SmtpLimits
from filterd.servers.ports import SmtpSession, SmtpTransaction
from filterd.servers.smtp import SmtpConnection, SmtpDoor
from pipeline.envelope import Profile
from pipeline.reply import Reply
from tests.dialog import Door

PEOPLE = ("ann@example.org", "bob@example.org", "carl@example.org", "postmaster", "jöe@example.org", '"a b"@example.org')


class SmtpApplication:
    """A scripted SmtpService. Every call leaves a line in ``log``."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def connect(self, session: SmtpSession) -> Reply | None:
        client = session.client
        if client.ip == "192.0.2.66":
            return Reply(554, "5.7.1", "Go away")
        if client.name or client.auth or client.helo:
            self.log.append(f"connect {client.ip} {client.port} {client.name} {client.helo} {client.auth}")
        return None

    async def helo(self, session: SmtpSession) -> Reply | None:
        if session.client.helo == "bad.example":
            return Reply(550, "5.7.1", "Not from you")
        return None

    async def mail(self, session: SmtpSession, transaction: SmtpTransaction) -> Reply:
        self.log.append(_with(f"mail <{transaction.reverse_path}>", transaction.mail_params))
        if transaction.reverse_path == "spammer@example.net":
            return Reply(550, "5.7.1", "Sender refused")
        if transaction.reverse_path == "crash@example.net":
            raise RuntimeError("asked for")
        return Reply(250, "2.1.0", "Ok")

    async def rcpt(
        self, session: SmtpSession, transaction: SmtpTransaction, address: str, params: Mapping[str, str]
    ) -> Reply:
        self.log.append(_with(f"rcpt <{address}>", params))
        name = address.lower()
        if name in PEOPLE or name.startswith("list"):
            return Reply(250, "2.1.5", "Ok")
        if name.startswith("full@"):
            return Reply(452, "4.2.2", "Mailbox full")
        if name.startswith("later@"):
            return Reply(450, "4.3.0", "Try later")
        if name.startswith("crash@"):
            raise RuntimeError("asked for")
        if name.endswith("@example.org"):
            return Reply(550, "5.1.1", "No such user here")
        if session.account is not None or session.client.auth:
            return Reply(250, "2.1.5", "Ok")
        return Reply(550, "5.7.1", "Relaying denied")

    async def message(self, session: SmtpSession, transaction: SmtpTransaction, data: bytes) -> Sequence[Reply]:
        text = repr(data)[2:-1] if len(data) < 500 else f"{len(data)} octets"
        self.log.append(f"message <{transaction.reverse_path}> {','.join(transaction.recipients)} {text}")
        if b"CRASH" in data:
            raise RuntimeError("asked for")
        answer = Reply(250, "2.0.0", "Stored")
        if b"REJECT" in data:
            answer = Reply(550, "5.7.1", "Refused")
        elif b"DEFER" in data:
            answer = Reply(451, "4.7.1", "Later")
        if session.profile is not Profile.LMTP:
            return [answer]
        later = Reply(452, "4.2.2", "Mailbox full")
        return [later if name.startswith("carl@") else answer for name in transaction.recipients]

    def acknowledged(self, session: SmtpSession) -> None:
        self.log.append("acknowledged")

    def abort(self, session: SmtpSession, transaction: SmtpTransaction) -> None:
        self.log.append("abort")

    async def authenticate(self, session: SmtpSession, login: str, password: str) -> Account | None:
        self.log.append(f"login {login}")
        if login == "crash":
            raise RuntimeError("asked for")
        return Account(login) if (login, password) == ("ann@example.org", "secret") else None


def _with(text: str, params: Mapping[str, str]) -> str:
    return " ".join([text, *(f"{name}={value}" for name, value in params.items())])


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def smtp_door(options: Mapping[str, str]) -> Door:
    """Options: profile, tls (implicit), starttls off, plain (AUTH in clear), trusted, size, recipients, errors, peer."""
    log: list[str] = []
    profile = Profile(options.get("profile", "mx"))
    defaults = SmtpLimits()
    limits = SmtpLimits(
        recipients=int(options.get("recipients", defaults.recipients)),
        errors=int(options.get("errors", defaults.errors)),
        transactions=int(options.get("transactions", defaults.transactions)),
        idle_commands=int(options.get("idle", defaults.idle_commands)),
        refused_recipients=int(options.get("refused", defaults.refused_recipients)),
        swallow_floor=int(options.get("swallow", defaults.swallow_floor)),
    )
    config = SmtpConfig(
        "mx.example.org",
        profile,
        size_limit=int(options.get("size", "1000000")),
        starttls=options.get("starttls", "on") == "on",
        auth=profile is Profile.SUBMISSION,
        auth_required=profile is Profile.SUBMISSION,
        allow_plain_auth="plain" in options,
        limits=limits,
    )
    peer = options.get("peer", "192.0.2.7")
    door = SmtpDoor(
        config,
        SmtpApplication(log),
        listener=profile.value,
        context=_context,
        xclient_trusted=[ipaddress.ip_network(options["trusted"])] if "trusted" in options else (),
    )
    return Door(lambda: SmtpConnection(door), log, tls="tls" in options, peer=(peer, 40000))


DOORS: Mapping[str, Callable[[Mapping[str, str]], Door]] = {
    "smtp": smtp_door,
    "lmtp": lambda options: smtp_door({"profile": "lmtp", **options}),
    "submission": lambda options: smtp_door({"profile": "submission", **options}),
}
