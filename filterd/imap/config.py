"""What an IMAP door is told, and the one table of its limits (RELIABILITY 3.6).

Invariant: every buffer, count and depth of the IMAP core is bounded by a field of ``ImapLimits``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filterd.imap.lines import Lines
from filterd.proto import sasl

if TYPE_CHECKING:
    from filterd.imap.events import MailboxEvents
    from filterd.imap.filtering import FilterService
    from filterd.imap.sharing import Sharing


@dataclass(frozen=True, slots=True)
class ImapLimits:
    """Octets, counts and seconds. The smaller figures hold until somebody has logged in."""

    line_before_login: int = 13_000  # text of one command without literals; SASL lines (RFC 4954 4) must fit
    line: int = 65_536  # RFC 7162 section 4 asks for 8,192 at least; UID sets of real clients are longer
    literal_before_login: int = 1_024
    literal: int = 65_536  # of commands other than APPEND, all literals of one command together
    nesting: int = 32  # parentheses inside one command
    set_parts: int = 16_384  # comma-separated parts of a sequence set
    fetch_items: int = 128
    header_fields: int = 256  # names in one BODY[HEADER.FIELDS (...)]
    text_times: int = 4  # of a message's size, told of it in one answer: pieces may overlap
    search_keys: int = 1_024
    search_text: int = 4_096  # one string to look for
    flags: int = 128  # in one STORE or APPEND
    mailbox_octets: int = 1_024  # a name on the wire
    append_messages: int = 200  # RFC 3502
    bad_before_login: int = 10  # commands answered BAD, or failed logins, before BYE
    bad: int = 100  # in a row
    step: int = 262_144  # octets of answer produced before the account is let go
    rows: int = 500  # index rows asked for at once
    login_deadline: float = 60.0  # seconds, in all
    autologout: float = 1_860.0  # RFC 9051 5.4: at least 30 minutes
    upload: float = 3_600.0  # one literal, however slowly it comes
    progress: float = 10.0  # between two reports about a command that takes long (RFC 9585)
    notify_mailboxes: int = 1_000  # whose messages one NOTIFY follows
    idle_refresh: float = 120.0  # "still here" and a look at the store while idling


@dataclass(frozen=True, slots=True)
class ImapServerConfig:
    """Everything an IMAP listener needs to know.

    ``tls``: a TLS context exists, so STARTTLS is offered on clear connections. ``allow_plaintext``: LOGIN and
    AUTHENTICATE are taken without TLS. ``message_size``: octets, for APPEND (APPENDLIMIT). ``name``/``version`` are what
    ID tells ("" = nothing). ``events``: who is told of changed mailboxes; ``sieve``: the ManageSieve server's URL when
    scripts run on them (RFC 6785 2.2). ``filters``: who runs scripts for FILTER=SIEVE. ``message_limit`` and
    ``save_limit``: messages one command handles or saves (RFC 9738; 0 = any number). ``sharing``: the way into other
    people's mailboxes (ACL); None: there is none. ``lines``: what the process's doors keep ready of answers.
    """

    message_size: int = 52_428_800
    message_limit: int = 0
    save_limit: int = 0
    tls: bool = False
    allow_plaintext: bool = False
    compress: bool = True
    name: str = "filterd"
    version: str = ""
    greeting: str = "ready"
    limits: ImapLimits = field(default_factory=ImapLimits)
    events: MailboxEvents | None = None
    sieve: str = ""
    filters: FilterService | None = None
    mechanisms: sasl.Offer = sasl.ONLY_PASSWORDS
    sharing: Sharing | None = None
    lines: Lines = field(default_factory=Lines)
