"""The SMTP envelope and what we know about the client that handed it over.

Specification: RFC 5321 (paths, parameters), RFC 3461 (DSN parameters), RFC 6531 (SMTPUTF8).
Invariant: frozen once DATA begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Profile(Enum):
    """What kind of door a message came in by (HOUSE item 6)."""

    MX = "mx"
    SUBMISSION = "submission"
    LMTP = "lmtp"
    DELIVER = "deliver"
    MILTER = "milter"


@dataclass(frozen=True, slots=True)
class Client:
    """Facts about the SMTP client.

    ``ip`` is None when unknown (a command, or LMTP from a hop that told nothing). ``facts_trusted`` is False when
    ip/helo belong to a hop of ours and not to the outside sender: SPF, DMARC and DNSBL then do not run. ``told`` says who
    told the facts when we do not see them ourselves: "XFORWARD by 192.0.2.1".
    """

    ip: str | None = None
    port: int = 0
    helo: str = ""
    name: str = ""  # verified reverse name, "" when none
    tls: str = ""  # "TLSv1.3 TLS_AES_256_GCM_SHA384", "" in clear
    auth: str = ""  # login name of an authenticated client
    esmtp: bool = True
    facts_trusted: bool = True
    told: str = ""


@dataclass(frozen=True, slots=True)
class Recipient:
    """One RCPT: ``address`` as asked for (UTF-8, no brackets), ESMTP ``params`` by upper-case name,
    ``account`` the resolved account id ("" when it leaves), ``detail`` the subaddress, ``via`` the alias path."""

    address: str
    params: Mapping[str, str] = field(default_factory=dict)
    account: str = ""
    detail: str = ""
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Envelope:
    """``reverse_path`` without brackets, ``""`` = null. ``mail_params`` by upper-case name (SIZE, BODY, RET, ENVID,
    SMTPUTF8 = "")."""

    reverse_path: str
    recipients: tuple[Recipient, ...]
    client: Client
    profile: Profile
    mail_params: Mapping[str, str] = field(default_factory=dict)
