"""Doors for the dialog scripts: each protocol's shell before a small made-up application that keeps a log.

The application of the SMTP doors: ann, bob and carl at example.org live here; full@ is over quota, later@ cannot be looked
up now, crash@ raises; other people of example.org are unknown, other domains are relayed for logged-in clients only. A
text with REJECT or DEFER in it is refused so, one with CRASH raises. With PRDR bob refuses each text and carl is full, unless
WHOLE is in it. Log in with ann@example.org / secret.

POP3: ann has three small messages (``MAILDROP``), bob an empty maildrop, carl's is in use, dora's store fails. After each job
that changed something the log gets the messages that are there, with S for seen: ``1S 3``. ManageSieve: a script with ERROR
in it does not compile, one with WARN has a warning, one with CRASH raises; at most 3 scripts of 200 octets.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from filterd.accounts.directory import Account
from filterd.accounts.scripts_base import ScriptInfo, ScriptStoreError
from filterd.proto.managesieve import SieveConfig
from filterd.proto.pop3 import Pop3Config
from filterd.proto.sasl import Evidence
from filterd.proto.smtp_limits import SmtpConfig, SmtpLimits
from filterd.servers.maildrop import MemoryLocks
from filterd.servers.managesieve import SieveConnection, SieveDoor
from filterd.servers.pop3 import Pop3Connection, Pop3Door
from filterd.servers.ports import SmtpSession, SmtpTransaction
from filterd.servers.smtp import SmtpConnection, SmtpDoor
from filterd.store.base import SEEN, AccountStore, NewMessage, StoreUnavailable
from filterd.store.memory import MemoryStore
from pipeline.envelope import Client, Profile
from pipeline.reply import Reply
from tests import saslclient
from tests.dialog import Door

PEOPLE = (
    "ann@example.org",
    "bob@example.org",
    "carl@example.org",
    "postmaster",
    "jöe@example.org",
    '"a b"@example.org',
)


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
        if transaction.client is not None:
            told = transaction.client
            trust = "" if told.facts_trusted else " untrusted"
            self.log.append(f"for {told.ip} {told.port} {told.name} {told.helo} {told.told}{trust}")
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
        if name.startswith("over@"):
            return Reply(421, "4.3.2", "Gänzlich überlastet")
        if name.startswith("crash@"):
            raise RuntimeError("asked for")
        if name.endswith("@example.org"):
            return Reply(550, "5.1.1", "No such user here")
        if session.account is not None or session.client.auth:
            return Reply(250, "2.1.5", "Ok")
        return Reply(550, "5.7.1", "Relaying denied")

    async def message(
        self, session: SmtpSession, transaction: SmtpTransaction, data: bytes
    ) -> Sequence[Reply]:
        text = repr(data)[2:-1] if len(data) < 500 else f"{len(data)} octets"
        self.log.append(f"message <{transaction.reverse_path}> {','.join(transaction.recipients)} {text}")
        if b"CRASH" in data:
            raise RuntimeError("asked for")
        answer = Reply(250, "2.0.0", "Stored")
        if b"REJECT" in data:
            answer = Reply(550, "5.7.1", "Refused")
        elif b"DEFER" in data:
            answer = Reply(451, "4.7.1", "Later")
        if session.profile is not Profile.LMTP and (
            "PRDR" not in transaction.mail_params or b"WHOLE" in data
        ):
            return [answer]
        own = {"carl@": Reply(452, "4.2.2", "Mailbox full"), "bob@": Reply(550, "5.7.1", "Not from you")}
        if session.profile is Profile.LMTP:
            del own["bob@"]
        return [own.get(name.partition("@")[0] + "@", answer) for name in transaction.recipients]

    def acknowledged(self, session: SmtpSession) -> None:
        self.log.append("acknowledged")

    def abort(self, session: SmtpSession, transaction: SmtpTransaction) -> None:
        self.log.append("abort")

    def ended(self, session: SmtpSession) -> None: ...

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
    """Options: profile, tls (implicit), starttls off, plain (AUTH in clear), trusted (XCLIENT), forwarders (XFORWARD), hold
    (FUTURERELEASE), size, recipients, errors, peer."""
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
        prdr=profile is not Profile.LMTP,
        requiretls=profile is not Profile.LMTP,
        hold_limit=int(options.get("hold", "0")),
        limits=limits,
        mechanisms=saslclient.offer(options),
    )
    peer = options.get("peer", "192.0.2.7")
    door = SmtpDoor(
        config,
        SmtpApplication(log),
        listener=profile.value,
        context=_context,
        xclient_trusted=[ipaddress.ip_network(options["trusted"])] if "trusted" in options else (),
        xforward_trusted=[ipaddress.ip_network(options["forwarders"])] if "forwarders" in options else (),
        now=lambda: 1_800_000_000.0,
        logins=Logins(log) if "scram" in options else None,
    )
    return Door(lambda: SmtpConnection(door), log, tls="tls" in options, peer=(peer, 40000))


T = TypeVar("T")

MAILDROP = (
    b"Subject: one\r\n\r\nbody one\r\n",
    b"Subject: two\r\n\r\n.dot\r\n..dots\r\n\r\nend\r\n",
    b"Subject: three\r\n\r\nl1\r\nl2\r\nl3\r\n",
)


class FixedClock:
    def time(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return 1000.0


class CountingIds:
    def __init__(self) -> None:
        self.last = 0

    def token(self, octets: int) -> str:
        self.last += 1
        return f"{self.last:0{2 * octets}x}"


class Logins:
    """ann, bob, carl and dora with the password secret."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def authenticate(self, login: str, password: str, client: Client, service: str) -> Account | None:
        self.log.append(f"login {login}")
        if login == "crash":
            raise RuntimeError("asked for")
        names = ("ann", "bob", "carl", "dora", "jöe")
        known = login.removesuffix("@example.org") in names and login.endswith("@example.org")
        return Account(login) if known and password == "secret" else None

    async def judge(self, evidence: Evidence, client: Client, service: str) -> Account | None:
        self.log.append(f"judge {evidence}")
        return saslclient.judged(evidence)


class InlineJobs:
    """Runs jobs at once and logs what the INBOX became when it changed."""

    def __init__(self, store: MemoryStore, log: list[str]) -> None:
        self.store = store
        self.log = log
        self.last: dict[str, str] = {}

    async def run(self, account: str, work: Callable[[AccountStore], T]) -> T:
        if account == "dora@example.org":
            raise StoreUnavailable("the disk is gone")
        inbox = self.store.account(account)
        before = self._state(inbox)
        result = work(inbox)
        after = self._state(inbox)
        if after != before:
            self.log.append(after or "nothing left")
        return result

    def ready(self, account: str, work: Callable[[AccountStore], T]) -> T | None:
        return None

    def _state(self, inbox: AccountStore) -> str:
        view = inbox.snapshot("INBOX")
        return " ".join(f"{u}{'S' if f & SEEN else ''}" for u, f in zip(view.uids, view.flags, strict=True))


def pop3_door(options: Mapping[str, str]) -> Door:
    """Options: tls (implicit), starttls off, plain (log-ins in clear), errors, failures, messages (how many more)."""
    log: list[str] = []
    store = MemoryStore(FixedClock(), CountingIds())
    more = [b"Subject: more\r\n\r\n"] * int(options.get("messages", "0"))
    store.account("ann@example.org").append("INBOX", [NewMessage(data) for data in (*MAILDROP, *more)])
    locks = MemoryLocks()
    locks.take("carl@example.org")
    config = Pop3Config(
        "pop.example.org",
        starttls=options.get("starttls", "on") == "on",
        allow_plain_auth="plain" in options,
        errors=int(options.get("errors", "20")),
        auth_failures=int(options.get("failures", "3")),
        mechanisms=saslclient.offer(options),
    )
    door = Pop3Door(config, Logins(log), InlineJobs(store, log), locks, context=_context)
    return Door(lambda: Pop3Connection(door), log, tls="tls" in options)


class MemoryScripts:
    """Scripts, ScriptStore and the checker in one."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.texts: dict[str, str] = {}
        self.on = ""

    def of(self, account: str) -> MemoryScripts:
        return self

    def check(self, account: str, text: str) -> tuple[list[str], list[str]]:
        if "CRASH" in text:
            raise RuntimeError("asked for")
        errors = ["line 1: first error", "line 2: second error"] if "ERROR" in text else []
        return errors, ["line 3: careful"] if "WARN" in text else []

    def capabilities(self) -> tuple[str, ...]:
        return ("fileinto", "envelope")

    def list(self) -> tuple[ScriptInfo, ...]:
        return tuple(ScriptInfo(name, name == self.on) for name in sorted(self.texts))

    def get(self, name: str) -> str:
        self._there(name)
        return self.texts[name]

    def put(self, name: str, text: str) -> None:
        self.have_space(name, len(text.encode()))
        self.texts[name] = text
        self.log.append(f"put {name} {text!r}")

    def have_space(self, name: str, size: int) -> None:
        if size > 200:
            raise ScriptStoreError("QUOTA/MAXSIZE", "The script is too big")
        if name not in self.texts and len(self.texts) >= 3:
            raise ScriptStoreError("QUOTA/MAXSCRIPTS", "Too many scripts")

    def delete(self, name: str) -> None:
        self._there(name)
        if name == self.on:
            raise ScriptStoreError("ACTIVE", "The script is active")
        del self.texts[name]

    def rename(self, old: str, new: str) -> None:
        self._there(old)
        if new in self.texts:
            raise ScriptStoreError("ALREADYEXISTS", "There is such a script")
        self.texts[new] = self.texts.pop(old)
        self.on = new if self.on == old else self.on

    def activate(self, name: str) -> None:
        if name:
            self._there(name)
        self.on = name
        self.log.append(f"active {name}")

    def active(self) -> tuple[str, str] | None:
        return (self.on, self.texts[self.on]) if self.on else None

    def _there(self, name: str) -> None:
        if name not in self.texts:
            raise ScriptStoreError("NONEXISTENT", "There is no such script")


def inline(work: Callable[[], T], /) -> Awaitable[T]:
    async def run() -> T:
        return work()

    return run()


def sieve_door(options: Mapping[str, str]) -> Door:
    """Options: tls (implicit), starttls off, plain (log-ins in clear), errors, failures, notify, extlists."""
    log: list[str] = []
    scripts = MemoryScripts(log)
    config = SieveConfig(
        scripts.capabilities(),
        starttls=options.get("starttls", "on") == "on",
        allow_plain_auth="plain" in options,
        notify=("mailto",) if "notify" in options else (),
        extlists=tuple(options.get("extlists", "").split()),
        errors=int(options.get("errors", "20")),
        auth_failures=int(options.get("failures", "3")),
        script_size=1000,
        swallow=5000,
        mechanisms=saslclient.offer(options),
    )
    door = SieveDoor(config, Logins(log), scripts, context=_context, run=inline)
    return Door(lambda: SieveConnection(door), log, tls="tls" in options)


DOORS: Mapping[str, Callable[[Mapping[str, str]], Door]] = {
    "smtp": smtp_door,
    "lmtp": lambda options: smtp_door({"profile": "lmtp", **options}),
    "pop3": pop3_door,
    "managesieve": sieve_door,
    "submission": lambda options: smtp_door({"profile": "submission", **options}),
}
