"""The SMTP core's states, its table of commands and its fixed replies: data only.

In any other state than those of its row a command is answered 503; at any other door, as if it did not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from filterd.proto import sasl
from filterd.proto.lines import LineFault
from filterd.proto.smtp_limits import SmtpConfig
from filterd.proto.smtp_xclient import XCLIENT_NAMES, XFORWARD_NAMES
from pipeline.envelope import Profile
from pipeline.reply import Reply


class State(Enum):
    """Where a connection stands."""

    GREETING = "connected, not greeted"
    START = "greeted, no HELO yet"
    READY = "HELO done, no transaction"
    MAIL = "reverse-path given"
    RCPT = "one recipient or more"
    CHUNKS = "BDAT begun"
    TEXT = "reading the text of DATA"
    BLOB = "reading the octets of one BDAT"
    SASL = "in an AUTH exchange"
    TLS = "handshake under way"
    CLOSED = "over"


_ALL = frozenset((State.START, State.READY, State.MAIL, State.RCPT, State.CHUNKS))
_IDLE = frozenset((State.START, State.READY))
_READY = frozenset((State.READY,))
_SMTP = frozenset((Profile.MX, Profile.SUBMISSION))
_LMTP = frozenset((Profile.LMTP,))
_EVERY = _SMTP | _LMTP


@dataclass(frozen=True, slots=True)
class Command:
    """``method`` does it in ``states`` at ``doors``; ``bare`` takes no argument; ``idle`` commands are counted."""

    method: str
    states: frozenset[State]
    doors: frozenset[Profile] = _EVERY
    bare: bool = False
    idle: bool = False


COMMANDS: dict[bytes, Command] = {
    b"HELO": Command("_helo", _ALL, _SMTP, idle=True),
    b"EHLO": Command("_ehlo", _ALL, _SMTP, idle=True),
    b"LHLO": Command("_ehlo", _ALL, _LMTP, idle=True),
    b"MAIL": Command("_mail", _READY),
    b"RCPT": Command("_rcpt", frozenset((State.MAIL, State.RCPT))),
    b"DATA": Command("_data", frozenset((State.MAIL, State.RCPT)), bare=True),
    b"BDAT": Command("_bdat", _ALL),
    b"RSET": Command("_rset", _ALL, bare=True, idle=True),
    b"NOOP": Command("_noop", _ALL, idle=True),
    b"HELP": Command("_help", _ALL, idle=True),
    b"VRFY": Command("_vrfy", _ALL, idle=True),
    b"EXPN": Command("_expn", _ALL, idle=True),
    b"QUIT": Command("_quit", _ALL, bare=True),
    b"STARTTLS": Command("_starttls", _IDLE, bare=True),
    b"AUTH": Command("_auth", _READY, frozenset((Profile.SUBMISSION,))),
    b"XCLIENT": Command("_xclient", _IDLE),
    b"XFORWARD": Command("_xforward", _IDLE, frozenset((Profile.MX, Profile.LMTP))),
}

OK = Reply(250, "2.0.0", "Ok").render()
EACH = b"353 2.0.0 A reply for each recipient follows, then one for the message\r\n"
GO_ON = b"354 End data with <CR><LF>.<CR><LF>\r\n"
NEED_HELO = Reply(503, "5.5.1", "Send EHLO first")
NEED_LHLO = Reply(503, "5.5.1", "Send LHLO first")
BAD_SEQUENCE = Reply(503, "5.5.1", "Bad sequence of commands")
FAR_TOO_LONG = Reply(421, "4.5.2", "Line far too long; closing")
UNKNOWN = Reply(500, "5.5.1", "Command not recognized")
# A browser that was led here speaks HTTP, and the body of its request is SMTP that somebody else wrote: an open relay wherever
# the browser's host may send. Nothing behind such a line is read.
WEB = frozenset((b"GET", b"POST", b"PUT", b"HEAD", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE"))
NO_WEB = Reply(521, "5.5.1", "This is no web server; closing")
BUG = Reply(451, "4.3.0", "Internal error; try again later")
BUG_CLOSING = Reply(421, "4.3.0", "Internal error; try again later")
TOO_BIG = Reply(552, "5.3.4", "Message size exceeds the limit")
BARE = Reply(550, "5.6.11", "Message refused: it contains a CR or LF that is not part of CR LF")
LINE_FAULTS = {
    LineFault.TOO_LONG: Reply(500, "5.5.2", "Line too long"),
    LineFault.BARE_CR: Reply(500, "5.5.2", "Bare CR in a command"),
    LineFault.NUL: Reply(500, "5.5.2", "NUL in a command"),
    LineFault.BARE_LF: Reply(521, "5.5.2", "Bare LF: lines end with CR LF"),
}


def overall(answers: Sequence[Reply]) -> Reply:
    """The last reply of a PRDR block. Clients that see a refusal here take it for all: only when nobody has the message."""
    taken = sum(reply.positive for reply in answers)
    if taken:
        return Reply(250, "2.0.0", f"Ok for {taken} of {len(answers)} recipients")
    for reply in answers:
        if reply.temporary:
            return Reply(450, reply.enhanced_code or "4.0.0", "Taken for no recipient; try again later")
    return Reply(550, answers[0].enhanced_code or "5.0.0", "Refused for all recipients")


def auth_offered(config: SmtpConfig, tls: bool, channel: sasl.Channel) -> tuple[str, ...]:
    """Mechanisms. Never on port 25, passwords never in clear unless the operator asked for it."""
    if not config.auth or config.profile is not Profile.SUBMISSION:
        return ()
    return config.mechanisms.names(channel, tls or config.allow_plain_auth)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a connection has reached, and what its peer is trusted with."""

    tls: bool
    authenticated: bool
    xclient: bool
    xforward: bool
    now: float = 0.0
    channel: sasl.Channel = sasl.NO_CHANNEL


def capabilities(config: SmtpConfig, standing: Standing) -> list[str]:
    """What EHLO announces now, in order."""
    limits = config.limits
    lines = ["PIPELINING", f"SIZE {config.size_limit}"]
    if config.starttls and not standing.tls:
        lines.append("STARTTLS")
    offered = auth_offered(config, standing.tls, standing.channel)
    if offered and not standing.authenticated:
        lines.append("AUTH " + " ".join(offered))
    lines += ["8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "CHUNKING"]
    if config.prdr:
        lines.append("PRDR")
    if config.requiretls and standing.tls:  # RFC 8689 2
        lines.append("REQUIRETLS")
    if config.mailbox:
        lines.append("XMAILBOX")
    if config.hold_limit:
        last = datetime.fromtimestamp(standing.now + config.hold_limit, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines.append(f"FUTURERELEASE {config.hold_limit} {last}")
    lines.append(f"LIMITS MAILMAX={limits.transactions} RCPTMAX={limits.recipients}")
    if standing.xforward and config.profile is not Profile.SUBMISSION:
        lines.append("XFORWARD " + " ".join(XFORWARD_NAMES))
    if standing.xclient:
        lines.append("XCLIENT " + " ".join(XCLIENT_NAMES))
    return lines
