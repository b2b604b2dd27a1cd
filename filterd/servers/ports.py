"""What the thin shells ask of the application, as Protocols (``filterd.app`` supplies the real ones)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from filterd.accounts.directory import Account
from filterd.accounts.scripts_base import ScriptStore
from filterd.proto.sasl import Evidence
from filterd.store.base import AccountStore
from pipeline.envelope import Client, Profile
from pipeline.reply import Reply

T = TypeVar("T")


@dataclass(slots=True)
class SmtpSession:
    """What one SMTP/LMTP connection is; the shell keeps ``client`` current (HELO, STARTTLS, AUTH, XCLIENT)."""

    profile: Profile
    listener: str  # "smtp", "submission", "submissions", "lmtp"
    client: Client
    account: Account | None = None
    state: object | None = None  # the service's own, per connection


@dataclass(slots=True)
class SmtpTransaction:
    """One MAIL..end of data. The service owns ``state``; recipients it accepted are in ``recipients``, in order. ``client``:
    who sent it first, as XFORWARD tells; None: the session's client."""

    reverse_path: str
    mail_params: Mapping[str, str]
    recipients: list[str] = field(default_factory=list)
    rcpt_params: list[Mapping[str, str]] = field(default_factory=list)
    state: object | None = None
    client: Client | None = None

    def client_of(self, session: SmtpSession) -> Client:
        """Whom the checks of the client are about."""
        return self.client or session.client


class SmtpService(Protocol):
    """The application behind every SMTP-like door. A reply with code < 400 means go on.

    Any exception is a bug: the shell logs it and answers 451 4.3.0.
    """

    async def connect(self, session: SmtpSession) -> Reply | None:
        """None: greet. A Reply (421, 554): send it and close."""
        ...

    async def helo(self, session: SmtpSession) -> Reply | None: ...

    async def mail(self, session: SmtpSession, transaction: SmtpTransaction) -> Reply: ...

    async def rcpt(
        self, session: SmtpSession, transaction: SmtpTransaction, address: str, params: Mapping[str, str]
    ) -> Reply:
        """On a 2xx the shell has the address appended to ``transaction.recipients``."""
        ...

    async def message(
        self, session: SmtpSession, transaction: SmtpTransaction, data: bytes
    ) -> Sequence[Reply]:
        """``data``: the text with CRLF line ends, dots unstuffed. Returned replies: LMTP one a recipient in order; with PRDR
        among the parameters of MAIL the same, or one for all; else one.
        When this returns a positive reply the message is on disk."""
        ...

    def acknowledged(self, session: SmtpSession) -> None:
        """The client sent its next command (or QUIT) after a final reply: HOUSE item 11."""
        ...

    def abort(self, session: SmtpSession, transaction: SmtpTransaction) -> None:
        """RSET, a cut connection, or an error after MAIL: nothing will come of this transaction."""
        ...

    def ended(self, session: SmtpSession) -> None:
        """The connection is gone; a reply that was not acknowledged may never have been read."""
        ...

    async def authenticate(self, session: SmtpSession, login: str, password: str) -> Account | None: ...


class LoginService(Protocol):
    """Logins of IMAP, POP3 and ManageSieve. Failed ones take their time (delay by address) inside."""

    async def authenticate(
        self, login: str, password: str, client: Client, service: str
    ) -> Account | None: ...

    async def judge(self, evidence: Evidence, client: Client, service: str) -> Account | None:
        """The same for what the client has shown by another mechanism than a password."""
        ...


class Jobs(Protocol):
    """Runs blocking store work in the pool, one job per account at a time (HOUSE item 17)."""

    async def run(self, account: str, work: Callable[[AccountStore], T]) -> T: ...

    def ready(self, account: str, work: Callable[[AccountStore], T]) -> T | None:
        """``work`` done at once with what is in memory; None when it must be ``run``."""
        ...


class Notices(Protocol):
    """Change notices between the workers and from foreign programs."""

    def watch(self, account: str, mailbox: str, wake: Callable[[], None]) -> Callable[[], None]:
        """``wake`` is called on the loop when the mailbox may have changed; the returned function ends the watch."""
        ...


class Scripts(Protocol):
    def of(self, account: str) -> ScriptStore: ...

    def check(self, account: str, text: str) -> tuple[list[str], list[str]]:
        """(errors, warnings) as lines for people; both empty when fine."""
        ...

    def capabilities(self) -> tuple[str, ...]:
        """What SIEVE announces, in order."""
        ...
