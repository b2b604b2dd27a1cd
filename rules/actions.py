"""What a script decided, as values.

Purpose: the closed union ``Action`` is the only thing a Sieve run leaves behind (with its trace). Nobody
performs an action inside the interpreter: the host plans them, checks them all and then does them.
Specification: RFC 5228 section 4 (keep, fileinto, redirect, discard), RFC 5429 (reject, ereject),
RFC 5230 (vacation), RFC 5435 (notify), RFC 5232 (flags), RFC 5490 (:create), RFC 8580 (:fcc).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which script an action or test stands; line and column are 1-based."""

    script: str
    line: int
    column: int = 1


@dataclass(frozen=True, slots=True)
class Fcc:
    """RFC 8580: file a copy of a generated message."""

    mailbox: str
    flags: tuple[str, ...] = ()
    create: bool = False
    special_use: str | None = None
    mailbox_id: str | None = None  # RFC 9042 5


@dataclass(frozen=True, slots=True)
class Keep:
    """keep, implicit or explicit: store into the default mailbox. ``flags`` as IMAP names (``\\Seen``)."""

    flags: tuple[str, ...] = ()
    implicit: bool = False
    place: Place | None = None
    message: bytes | None = None  # final text when the script edited it (editheader, replace, enclose), CRLF


@dataclass(frozen=True, slots=True)
class FileInto:
    """fileinto: store into ``mailbox`` (Unicode, hierarchy separator ``/``)."""

    mailbox: str
    flags: tuple[str, ...] = ()
    create: bool = False
    copy: bool = False
    special_use: str | None = None
    mailbox_id: str | None = None
    place: Place | None = None
    message: bytes | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """redirect to one address; ``notify``/``ret``/``by_*`` are the DSN parameters of RFC 6009."""

    address: str
    copy: bool = False
    notify: str | None = None
    ret: str | None = None
    by_time: int | None = None
    by_mode: str | None = None
    by_trace: bool = False
    list_name: str | None = None
    place: Place | None = None
    message: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """reject (``ereject`` False) or ereject: refuse with ``reason`` (RFC 5429)."""

    reason: str
    ereject: bool = False
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    """discard: cancels the implicit keep, stores nothing."""

    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Vacation:
    """An answer that passed every condition of RFC 5230 that the interpreter and its host can judge.

    ``message`` is the complete reply (CRLF, with Date and Message-ID); it is sent with the null reverse-path.
    ``memory_key``/``memory_seconds`` must be remembered together with the delivery.
    """

    to: str
    sender: str
    subject: str
    body: str
    message: bytes
    memory_key: bytes
    memory_seconds: int
    fcc: Fcc | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Notify:
    """RFC 5435 notification; for mailto (RFC 5436) ``message`` is the complete mail."""

    method: str
    recipients: tuple[str, ...] = ()
    sender: str = ""
    subject: str = ""
    body: str = ""
    importance: int = 2
    message: bytes | None = None
    fcc: Fcc | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Remember:
    """RFC 7352 ``duplicate``: an id to be remembered when, and only when, the delivery commits."""

    key: bytes
    seconds: int


@dataclass(frozen=True, slots=True)
class Pipe:
    """vnd.dovecot.pipe: hand the message to a program of the administrator's allow-list."""

    program: str
    arguments: tuple[str, ...] = ()
    attempt: bool = False  # :try
    copy: bool = False
    place: Place | None = None
    message: bytes | None = None  # as in Keep


@dataclass(frozen=True, slots=True)
class Report:
    """vnd.dovecot.report: an abuse report (RFC 5965) to ``to``."""

    feedback_type: str
    message_text: str
    to: str
    headers_only: bool = False
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class SetScore:
    """vnd.filterd.score: the total a script arrived at (evidence only)."""

    value: int
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class ListStore:
    """vnd.filterd.list: add (or remove) ``value`` to the account's list ``name``."""

    name: str
    value: str
    remove: bool = False
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """vnd.filterd.quarantine: hold the message, one line says why. ``message``: as the run left it, when it was edited."""

    reason: str
    place: Place | None = None
    message: bytes | None = None


Action = (
    Keep
    | FileInto
    | Redirect
    | Reject
    | Discard
    | Vacation
    | Notify
    | Remember
    | Pipe
    | Report
    | SetScore
    | ListStore
    | Quarantine
)


@dataclass(slots=True)
class TraceStep:
    """One evaluated test or taken action. ``value`` is cut at 200 bytes by whoever stores it."""

    script: str
    line: int
    what: str  # "header", "address", "fileinto", ...
    value: str = ""
    key: str = ""
    result: bool | None = None  # None for actions


@dataclass(slots=True)
class RunResult:
    """What one run of one script, or of a chain of scripts, decided.

    ``actions`` always holds the implicit keep when it applies. ``error`` is the text for the script's owner
    when the run failed: then ``actions`` is a Keep of the original message (implicit keep, RFC 5228 2.10.6).
    ``error_place`` is None when no place is to blame: a budget of the whole run was spent.
    """

    actions: list[Action] = field(default_factory=list)
    trace: list[TraceStep] = field(default_factory=list)
    error: str | None = None
    error_place: Place | None = None
    debug: list[str] = field(default_factory=list)
    stopped: bool = False

    @property
    def keeps(self) -> bool:
        """True when the message is kept in the default mailbox."""
        return any(isinstance(action, Keep) for action in self.actions)
