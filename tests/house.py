"""A whole reception without sockets, disks or daemons: for tests of what happens between RCPT and the reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from filterd.accounts.directory import (
    Account,
    Foreign,
    Forward,
    Local,
    Resolution,
    SrsReturn,
    Targets,
    ToOutlet,
    TryLater,
    Unknown,
)
from filterd.accounts.outlets import Outlet
from filterd.accounts.scripts_base import ScriptInfo
from filterd.delivery import Delivery, DeliverySettings
from filterd.outgoing import Departure
from filterd.queue.base import Outgoing, PendingChange, PendingStore, Spool, nothing
from filterd.reception import Reception, ReceptionSettings
from filterd.scripts import ScriptService
from filterd.servers.ports import SmtpSession, SmtpTransaction
from filterd.store.base import AccountStore, NewMessage, SieveState, Stored, StoreUnavailable
from filterd.store.jobs import AccountJobs
from filterd.store.memory import MemoryStore
from pipeline.envelope import Client, Profile
from pipeline.ports import Clock, Ids
from pipeline.reply import Reply
from pipeline.runner import Runner
from pipeline.srs import Srs
from pipeline.stage import OnError, Phase
from pipeline.stages.privacy import PrivacySettings
from pipeline.trace import MessageTrace, Span
from pipeline.transaction import Transaction
from pipeline.verdict import Verdict

T = TypeVar("T")
DOMAIN = "here.example"
BEHIND = "behind.example"  # its store is behind us
MAIL = b"From: Far <far@away.example>\r\nTo: ann@here.example\r\nSubject: Hi\r\nMessage-ID: <1@away.example>\r\n\r\nHello\r\n"


class TestClock(Clock):
    __test__ = False

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class TestIds(Ids):
    __test__ = False

    def __init__(self) -> None:
        self.count = 0

    def token(self, octets: int) -> str:
        self.count += 1
        return f"{self.count:0{octets * 2}x}"


class People:
    """ann and bob live here, team is both, bob is the postmaster, away leads elsewhere, robot to a program, archive to a file,
    srs is a rewritten address, later cannot be looked up."""

    waits = False

    def lookup(self, address: str) -> Resolution:
        local, _, domain = address.lower().partition("@")
        if domain == BEHIND:
            return Forward(address, relayed=True)
        if domain != DOMAIN:
            return Foreign(address)
        name, _, detail = local.partition("+")
        match name:
            case "ann" | "bob":
                return Local(Account(f"{name}@{DOMAIN}"), detail)
            case "team":
                return Targets(
                    (
                        Local(Account(f"ann@{DOMAIN}"), via=(address,)),
                        Local(Account(f"bob@{DOMAIN}"), via=(address,)),
                    )
                )
            case "away":
                return Forward("ann@elsewhere.example", via=(address,))
            case "postmaster":
                return Local(Account(f"bob@{DOMAIN}"), via=(address,))
            case "robot":
                return ToOutlet(Outlet("take", ("-x",)), via=(address,))
            case "archive":
                return ToOutlet(Outlet(path="/srv/archive"), via=(address,))
            case "srs":
                return SrsReturn("far@away.example")
            case "later":
                return TryLater("the disk sleeps")
        return Unknown()

    def account(self, account_id: str) -> Account | None:
        return Account(account_id)

    def accounts(self) -> Sequence[Account]:
        return [Account(f"ann@{DOMAIN}"), Account(f"bob@{DOMAIN}")]

    def authenticate(self, login: str, password: str) -> Account | None:
        return Account(login) if password == "secret" else None

    def may_send_as(self, account: Account, address: str) -> bool:
        return address == account.id

    def sendable_addresses(self, account: Account) -> Sequence[str]:
        return [account.id]

    def own_addresses(self, account: Account) -> Sequence[str]:
        return [account.id]


class OneScript:
    """A script storage that holds at most one script."""

    def __init__(self) -> None:
        self.text = ""

    def list(self) -> tuple[ScriptInfo, ...]:
        return (ScriptInfo("main", True),) if self.text else ()

    def get(self, name: str) -> str:
        return self.text

    def active(self) -> tuple[str, str] | None:
        return ("main", self.text) if self.text else None

    def put(self, name: str, text: str) -> None:
        self.text = text

    def have_space(self, name: str, size: int) -> None: ...

    def delete(self, name: str) -> None: ...

    def rename(self, old: str, new: str) -> None: ...

    def activate(self, name: str) -> None: ...


class DirectJobs:
    """Store work done at once. ``broken`` accounts fail like a full disk."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.broken: set[str] = set()
        self.acknowledged: list[tuple[str, bytes]] = []

    def _open(self, account: str) -> AccountStore:
        if account in self.broken:
            raise StoreUnavailable("no space left on device")
        return self.store.account(account)

    async def run(self, account: str, work: Callable[[AccountStore], T]) -> T:
        return work(self._open(account))

    def ready(self, account: str, work: Callable[[AccountStore], T]) -> T | None:
        return None

    async def deliver(
        self, account: str, mailbox: str, message: NewMessage, state: SieveState | None = None
    ) -> Stored:
        return self._open(account).deliver(mailbox, message, state)

    def acknowledge(self, account: str, key: bytes) -> None:
        self.acknowledged.append((account, key))
        self.store.account(account).acknowledge([key])


@dataclass
class ListSpool:
    """The queue as a list; ``broken`` makes it fail."""

    outgoing: list[Outgoing] = field(default_factory=list)
    stores: list[PendingStore] = field(default_factory=list)
    changes: list[PendingChange] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    broken: bool = False

    async def enqueue(
        self,
        outgoing: Sequence[Outgoing],
        stores: Sequence[PendingStore] = (),
        changes: Sequence[PendingChange] = (),
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self.broken:
            raise StoreUnavailable("queue: disk full")
        self.outgoing.extend(outgoing)
        self.stores.extend(stores)
        self.changes.extend(changes)
        pending = [f"S{at}" for at in range(len(stores))] + [f"T{at}" for at in range(len(changes))]
        return tuple(f"Q{at}" for at in range(len(outgoing))), tuple(pending)

    def performed(self, ids: Sequence[str], then: Callable[[], None] = nothing) -> None:
        self.done.extend(ids)
        then()

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        self.keys.extend(keys)


class ListTraces:
    def __init__(self) -> None:
        self.all: list[MessageTrace] = []

    def put(self, trace: MessageTrace) -> None:
        self.all.append(trace)

    def event(self, trace_id: str, span: Span) -> None: ...


class FixedStage:
    """A stage with one answer."""

    phases = frozenset({Phase.EOM})
    after: tuple[str, ...] = ()
    on_error = OnError.DEFER
    timeout = 5.0

    def __init__(self, verdict: Verdict) -> None:
        self.name = verdict.stage
        self._verdict = verdict

    async def check(self, transaction: Transaction) -> Verdict:
        return self._verdict

    def abort(self, transaction: Transaction) -> None: ...


class House:
    """The reception with everything it needs, and short ways to use it."""

    def __init__(
        self,
        *verdicts: Verdict,
        srs: bool = True,
        clock: Clock | None = None,
        jobs: AccountJobs | None = None,
        spool: Spool | None = None,
    ) -> None:
        """``jobs`` and ``spool``: real ones, for tests of what a crash leaves."""
        self.clock, ids = TestClock(), TestIds()
        self.store = MemoryStore(self.clock, ids)
        self.jobs = DirectJobs(self.store)
        self.spool = ListSpool()
        self.traces = ListTraces()
        self.scripts: dict[str, OneScript] = {}
        service = ScriptService(lambda account: self.scripts.setdefault(account, OneScript()))
        rewriting = Srs(DOMAIN, [b"a secret of the tests"], self.clock, own_domains=[DOMAIN]) if srs else None
        departure = Departure(
            Runner([], self.clock),
            PrivacySettings(),
            rewriting,
            frozenset({DOMAIN}),
            lambda message, domain: b"",
            lambda message, sender, account, reply: b"Subject: bounce\r\n\r\n" + reply.text.encode(),
        )
        delivery = Delivery(
            DeliverySettings(f"mx.{DOMAIN}"),
            People(),
            jobs or self.jobs,  # type: ignore[arg-type]  # the same methods
            service,
            spool or self.spool,
            departure,
            clock or self.clock,
        )
        self.delivery = delivery
        self.reception = Reception(
            ReceptionSettings(f"mx.{DOMAIN}", f"mx.{DOMAIN}", frozenset({f"mx.{DOMAIN}"})),
            People(),
            Runner([FixedStage(verdict) for verdict in verdicts], self.clock),
            departure,
            delivery,
            self.traces,  # type: ignore[arg-type]
            self.clock,
            ids,
            b"another secret of the tests",
        )

    def script(self, person: str, text: str) -> None:
        self.scripts.setdefault(f"{person}@{DOMAIN}", OneScript()).text = text

    async def session(self, profile: Profile = Profile.MX, login: str = "") -> SmtpSession:
        account = Account(login) if login else None
        session = SmtpSession(
            profile, profile.value, Client("192.0.2.1", 25, "away.example", auth=login), account
        )
        await self.reception.connect(session)
        return session

    async def send(
        self,
        *recipients: str,
        sender: str = "far@away.example",
        data: bytes = MAIL,
        session: SmtpSession | None = None,
        profile: Profile = Profile.MX,
        login: str = "",
        params: Mapping[str, str] | None = None,
    ) -> list[Reply]:
        """The replies to each RCPT that was refused, then those to the text."""
        own = session is None
        session = session or await self.session(profile, login)
        transaction = SmtpTransaction(sender, params or {})
        first = await self.reception.mail(session, transaction)
        if not first.positive:
            return [first]
        refused = []
        for address in recipients:
            reply = await self.reception.rcpt(session, transaction, address, {})
            if reply.positive:
                transaction.recipients.append(address)
                transaction.rcpt_params.append({})
            else:
                refused.append(reply)
        if not transaction.recipients:
            if own:
                self.reception.ended(session)
            return refused
        replies = [*refused, *await self.reception.message(session, transaction, data)]
        if own:  # the connection is cut before the client shows that it has read the reply
            self.reception.ended(session)
        return replies

    def box(self, person: str, mailbox: str = "INBOX") -> list[bytes]:
        """All messages of a mailbox."""
        store = self.store.account(f"{person}@{DOMAIN}")
        out = [store.read(mailbox, uid) for uid in store.snapshot(mailbox).uids]
        return [data for data in out if data is not None]
