"""What the SMTP core tells its shell. Those under "asks" wait for ``SmtpCore.reply``; the others are just told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from filterd.proto import sasl

NOTHING: Mapping[str, str] = MappingProxyType({})


# -- asks: the core reads no further before ``reply`` (or ``tls_started``) --------------------------
@dataclass(slots=True)
class Connected:
    """Greet? ``reply(None)`` greets; a Reply is sent and the connection closes. Comes again after XCLIENT."""


@dataclass(slots=True)
class Helo:
    """HELO, EHLO (``esmtp``) or LHLO. ``reply(None)`` accepts."""

    name: str
    esmtp: bool


@dataclass(slots=True)
class Auth:
    """Who the client says it is. First ``judged``, and when that says no, ``reply(None)`` refuses with the constant answer,
    a Reply below 400 accepts. ``evidence``: of mechanisms other than a password."""

    login: str
    password: str
    evidence: sasl.Evidence | None = None


@dataclass(slots=True)
class Mail:
    """``reverse_path`` without brackets, "" = null; ``params`` by upper-case name, checked, as written. ``forwarded``: what
    XFORWARD told for this transaction, keys NAME ADDR PORT PROTO HELO IDENT SOURCE, decoded, "" = unavailable."""

    reverse_path: str
    params: Mapping[str, str]
    forwarded: Mapping[str, str] = field(default_factory=lambda: NOTHING)


@dataclass(slots=True)
class Rcpt:
    """``forward_path`` without brackets and source route, UTF-8."""

    forward_path: str
    params: Mapping[str, str]


@dataclass(slots=True)
class Text:
    """End of data. ``data``: CRLF line ends, dots unstuffed. ``reply``: LMTP one Reply a recipient; with PRDR the same, or one
    for all; else one."""

    data: bytes
    recipients: int


@dataclass(slots=True)
class StartTls:
    """The 220 is in ``data_to_send``: write it, begin TLS, call ``tls_started``. The core forgot all it knew."""


# -- told: no reply ---------------------------------------------------------------------------------
@dataclass(slots=True)
class Abort:
    """The open transaction came to nothing."""


@dataclass(slots=True)
class Acknowledged:
    """The client spoke after our final positive reply: it has heard it (HOUSE item 11)."""


@dataclass(slots=True)
class Xclient:
    """A trusted client speaks for another one. Keys NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT; decoded; "" =
    unavailable. A ``Connected`` follows."""

    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Close:
    """Write what is left, then close."""


Event = Connected | Helo | Auth | Mail | Rcpt | Text | StartTls | Abort | Acknowledged | Xclient | Close
