"""Limits and settings of the SMTP core, each with the section it answers to. Values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field

from filterd.proto import sasl
from pipeline.envelope import Profile


@dataclass(frozen=True, slots=True)
class SmtpLimits:
    """Octets and counts. Everything a client can make grow is here."""

    # RFC 5321 4.5.3.1.4: 512 octets; MAIL grows by SIZE 26 (RFC 1870), BODY 17 (RFC 6152), SMTPUTF8 10 (RFC 6531),
    # AUTH 500 (RFC 4954), RET 9 and ENVID 107 (RFC 3461); RCPT by NOTIFY 29 and ORCPT 501. UTF-8 needs more.
    command_line: int = 2048
    # RFC 4954 4: AUTH and its answers.
    auth_line: int = 12_288
    # Of a line that is too long no octet is kept; a client that still sends no end is cut off here.
    line_swallow: int = 1_048_576
    # RFC 5321 4.5.3.1.1 to .3 ask for at least 64, 255 and 256; VERP and SRS need longer local parts.
    local_part: int = 256
    domain: int = 255
    path: int = 514
    # RFC 5321 4.5.3.1.8: at least 100.
    recipients: int = 1000
    # RFC 5321 4.3.2: a client that errs this often is not sending mail.
    errors: int = 20
    # Refused RCPTs of a connection: a mailing list's old addresses, but no dictionary.
    refused_recipients: int = 100
    # NOOP, RSET, VRFY, HELP, HELO without a message between them.
    idle_commands: int = 100
    # Failed AUTH commands (RFC 4954 4: limit them, then 421).
    auth_failures: int = 4
    transactions: int = 10_000
    # A text above SIZE is read to its end so that the client hears 552, but not without end.
    swallow_factor: int = 4
    swallow_floor: int = 16_777_216


@dataclass(frozen=True, slots=True)
class SmtpPatience:
    """Seconds. RFC 5321 4.5.3.2.7: a server waits at least five minutes for a command; the text has three a block."""

    command: float = 300.0
    block: float = 180.0
    # From accept to the first MAIL (or login, where one is required), in all: RELIABILITY 7.
    prelude: float = 120.0
    # A whole text, however often a block trickles in.
    text: float = 3600.0
    handshake: float = 30.0


@dataclass(frozen=True, slots=True)
class SmtpConfig:
    """What the core must know about its listener.

    ``hostname`` greets. ``starttls``: a TLS context stands ready. ``auth`` offers AUTH; ``auth_required`` refuses MAIL
    before it; ``allow_plain_auth`` offers it without TLS; ``mechanisms`` are what it offers.
    ``prdr`` offers PRDR: the application answers for each recipient.
    ``requiretls`` offers REQUIRETLS in TLS sessions.
    ``mailbox`` offers XMAILBOX, a word of ours between our own commands and the server: where a recipient's keep stores.
    ``hold_limit`` offers FUTURERELEASE up to so many seconds. XCLIENT and XFORWARD for a trusted client: the shell decides.
    """

    hostname: str
    profile: Profile
    size_limit: int = 52_428_800
    starttls: bool = False
    auth: bool = False
    auth_required: bool = False
    allow_plain_auth: bool = False
    prdr: bool = False
    requiretls: bool = False
    mailbox: bool = False
    hold_limit: int = 0
    banner: str = "ESMTP"
    mechanisms: sasl.Offer = sasl.ONLY_PASSWORDS
    limits: SmtpLimits = field(default_factory=SmtpLimits)
    patience: SmtpPatience = field(default_factory=SmtpPatience)

    @property
    def swallow(self) -> int:
        """Octets of one text that are read, kept or not."""
        return max(self.size_limit * self.limits.swallow_factor, self.limits.swallow_floor)
