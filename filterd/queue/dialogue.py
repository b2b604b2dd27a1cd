"""Our side of an SMTP or LMTP conversation with another server: sans-IO, generators of what to send.

The shell (``link.py``) sends what a generator yields and gives back the replies; each step says how long to wait for them.
Specification: RFC 5321, RFC 2920 (PIPELINING), RFC 1870 (SIZE), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), RFC 3461 (DSN),
RFC 3207 (STARTTLS), RFC 4954 (AUTH PLAIN and LOGIN), RFC 2033 (LMTP), RFC 2852 (DELIVERBY, relayed), RFC 8689 (REQUIRETLS),
Postfix's XFORWARD_README. Complete: yes, except CHUNKING (DATA carries everything we send: there is never BINARYMIME).

Theory of operation. ``open`` leads from the greeting to a session that takes mail. ``send`` is one transaction: with
PIPELINING MAIL, every RCPT and DATA go out in one write; ``Mail.results`` gets the *final* reply of each recipient as soon
as it is known, so when the connection breaks, a recipient that is not in it has no known end. A transaction that went wrong
leaves ``_stale`` set and the next one begins with RSET, which costs no round trip of its own.

Invariants: nothing is sent with a bare CR or LF (the text is normalised while dot-stuffing); an address or parameter that
could end a command early is refused here; no password without TLS; after an odd reply ``broken`` is set and the connection
is not used again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from filterd.proto.smtp_xclient import XFORWARD_NAMES, written
from filterd.queue import deliverby
from filterd.queue.replies import RemoteReply, features_of
from pipeline.dns_name import to_ascii
from rules.mail.lineends import dots_doubled, only_crlf

GREETING_SECONDS = 300.0  # RFC 5321 4.5.3.2.1
COMMAND_SECONDS = 300.0  # RFC 5321 4.5.3.2.2, .3
DATA_SECONDS = 120.0  # RFC 5321 4.5.3.2.4
FINAL_SECONDS = 600.0  # RFC 5321 4.5.3.2.6
RSET_SECONDS = 20.0
QUIT_SECONDS = 2.0
COMMAND_LINE = 512  # RFC 5321 4.5.3.1.4
FORWARD_WORD = 400
PATH_LIMIT = 512  # octets; RFC 5321 4.5.3.1.3 says 256, VERP and SRS need more
BARE = re.compile(rb"\r\n|\r|\n")
PATH = re.compile(r'(?:[^\x00-\x20\x7f<>"\\]|"(?:[^\x00-\x1f\x7f"\\]|\\[\x20-\x7e])*")+\Z')
VALUE = re.compile(r"[^\x00-\x20\x7f=]{1,600}\Z")


@dataclass(frozen=True, slots=True)
class Say:
    """Send ``data`` and hand back ``replies`` replies within ``seconds``."""

    data: bytes
    replies: int = 1
    show: str = ""  # for the transcript, instead of the text itself
    seconds: float = COMMAND_SECONDS


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Start TLS now; hand back an empty list."""


Step = Say | Upgrade
Talk = Generator[Step, list[RemoteReply], None]


class Refused(Exception):
    """The other side does not want to talk; ``reply`` says why."""

    def __init__(self, reply: RemoteReply) -> None:
        super().__init__(reply.text)
        self.reply = reply


@dataclass(slots=True)
class Mail:
    """One transaction. ``params`` beside ``recipients``, by upper-case name; those of MAIL are read from the first.

    ``forward``: what a next hop of ours may be told by XFORWARD, by attribute name; decoded, "" = unavailable.
    ``results``: the final reply of each recipient that has one. ``sent``: the text went out whole, so a recipient without a
    result may have the message or not.
    """

    reverse_path: str
    recipients: Sequence[str]
    data: bytes
    params: Sequence[Mapping[str, str]]
    forward: Mapping[str, str] = field(default_factory=dict)
    results: dict[str, RemoteReply] = field(default_factory=dict)
    sent: bool = False


@dataclass(slots=True)
class Conversation:
    """State of one connection. ``secure`` after TLS; ``features`` from the last EHLO, upper-case name -> argument."""

    helo: str
    lmtp: bool = False
    want_tls: bool = True
    secure: bool = False
    features: dict[str, str] = field(default_factory=dict)
    login: tuple[str, str] | None = None
    broken: bool = False
    tls_begun: bool = False
    proven: bool = False  # TLS, and we know for sure who is there
    _stale: bool = False

    # -- to ready ---------------------------------------------------------------------------
    def open(self) -> Talk:
        """Greeting to ready. Raises Refused."""
        greeting = (yield Say(b"", seconds=GREETING_SECONDS))[0]
        if greeting.code != 220:
            raise Refused(greeting)
        yield from self._hello()
        if self.want_tls and not self.secure and "STARTTLS" in self.features:
            answer = (yield Say(b"STARTTLS\r\n"))[0]
            if answer.code == 220:
                self.tls_begun = True
                yield Upgrade()
                self.secure = True
                self.features = {}  # RFC 3207 4.2: nothing learned in clear is believed
                yield from self._hello()
        if self.login is not None:
            yield from self._authenticate(*self.login)

    def _hello(self) -> Talk:
        name = self.helo.encode()
        reply = (yield Say((b"LHLO " if self.lmtp else b"EHLO ") + name + b"\r\n"))[0]
        if reply.code == 250:
            self.features = features_of(reply)
            return
        if reply.permanent and not self.lmtp:  # RFC 5321 4.1.4: an old server knows HELO
            self.features = {}
            reply = (yield Say(b"HELO " + name + b"\r\n"))[0]
        if reply.code != 250:
            raise Refused(reply)

    def _authenticate(self, user: str, password: str) -> Talk:
        if not self.secure:
            raise Refused(RemoteReply(454, ("4.7.0 we give no password to a relay without TLS",)))
        offered = self.features.get("AUTH", "").upper().split()
        if "PLAIN" in offered or "LOGIN" not in offered:
            token = base64.b64encode(f"\0{user}\0{password}".encode())
            reply = (yield Say(b"AUTH PLAIN " + token + b"\r\n", show="AUTH PLAIN ***"))[0]
        else:
            reply = (yield Say(b"AUTH LOGIN\r\n"))[0]
            for secret in (user, password):
                if reply.code != 334:
                    raise Refused(reply)
                reply = (yield Say(base64.b64encode(secret.encode()) + b"\r\n", show="***"))[0]
        if reply.code != 235:
            raise Refused(reply)

    # -- one message ---------------------------------------------------------------------------
    def send(self, mail: Mail) -> Talk:
        """One transaction; fills ``mail.results``. Raises nothing for refusals."""
        paths = self._paths(mail)
        if not paths:
            return
        commands = [self._mail_command(mail, paths)]
        addresses = [address for address in mail.recipients if address in paths]
        params = dict(zip(mail.recipients, mail.params, strict=True))
        commands += [self._rcpt_command(paths[address], params[address]) for address in addresses]
        go: RemoteReply | None = None
        first = [b"RSET\r\n"] if self._stale else []
        first += self._forward_commands(mail.forward)
        if "PIPELINING" in self.features:
            wire = b"".join((*first, *commands, b"DATA\r\n"))
            replies = yield Say(wire, len(first) + len(commands) + 1)
            *replies, go = replies[len(first) :]
        else:
            for command in first:  # whatever the answer: a refused XFORWARD is no reason to keep the mail
                yield Say(command, seconds=RSET_SECONDS)
            replies = yield from self._one_by_one(commands)
        self._stale = True
        accepted = self._judge(mail, addresses, replies)
        if not accepted:
            if go is not None and go.code == 354:
                yield from self._nothing()
            return
        if go is None:
            go = (yield Say(b"DATA\r\n", seconds=DATA_SECONDS))[0]
        if go.code != 354:
            self.broken = go.code < 400  # a 250 here: we no longer agree where we are
            refused = RemoteReply(451, (f"4.5.0 an odd answer to DATA: {go.text}",)) if self.broken else go
            mail.results.update({address: refused for address in accepted})
            return
        mail.sent = True
        show = f"({len(mail.data)} octets of mail)"
        finals = yield Say(stuffed(mail.data), len(accepted) if self.lmtp else 1, show, FINAL_SECONDS)
        for at, address in enumerate(accepted):
            reply = finals[at if self.lmtp else 0]
            if 300 <= reply.code < 400:
                self.broken = True
                reply = RemoteReply(451, (f"4.5.0 an odd answer to the text: {reply.text}",))
            mail.results[address] = reply
        self._stale = False

    def _one_by_one(self, commands: Sequence[bytes]) -> Generator[Step, list[RemoteReply], list[RemoteReply]]:
        replies: list[RemoteReply] = []
        for command in commands:
            if replies and (not replies[0].good or replies[-1].code == 421):
                replies.append(replies[0] if not replies[0].good else replies[-1])
            else:
                replies.append((yield Say(command))[0])
        return replies

    def _judge(self, mail: Mail, addresses: Sequence[str], replies: Sequence[RemoteReply]) -> list[str]:
        """The recipients that were taken; the others have their result."""
        sender, answers = replies[0], replies[1:]
        if not sender.good:
            mail.results.update({address: sender for address in addresses})
            return []
        accepted = []
        for address, reply in zip(addresses, answers, strict=True):
            if 200 <= reply.code < 300:
                accepted.append(address)
            else:
                mail.results[address] = reply
        return accepted

    def _nothing(self) -> Talk:
        """RFC 2920 3.1: a server may answer a pipelined DATA with 354 though no recipient was taken."""
        self.broken = self.lmtp  # no recipient, no reply: nothing tells when it is over
        yield Say(b".\r\n", 0 if self.lmtp else 1, "(no recipient was taken: an empty text)", FINAL_SECONDS)

    # -- what may be said ---------------------------------------------------------------------------
    def _paths(self, mail: Mail) -> dict[str, str]:
        """The recipients that can be asked for, as they are written on the wire; the others get their result here."""
        problem = self._impossible(mail)
        paths: dict[str, str] = {}
        for address in mail.recipients:
            path = self._path(address)
            if problem is not None:
                mail.results[address] = problem
            elif isinstance(path, RemoteReply):
                mail.results[address] = path
            else:
                paths[address] = path
        return paths

    def _path(self, address: str) -> str | RemoteReply:
        """RFC 6531 3.2: a host without SMTPUTF8 may still be asked when the domain alone is international."""
        if not address.isascii() and "SMTPUTF8" not in self.features:
            local, _, domain = address.rpartition("@")
            ascii_domain = to_ascii(domain)
            if not local.isascii() or ascii_domain is None:
                return RemoteReply(550, ("5.6.7 the next host does not take internationalised addresses",))
            address = f"{local}@{ascii_domain}"
        if PATH.match(address) is None or len(address.encode("utf-8", "replace")) > PATH_LIMIT:
            return RemoteReply(550, ("5.1.3 the address cannot be written in SMTP",))
        return address

    def _impossible(self, mail: Mail) -> RemoteReply | None:
        """What the other side cannot take: never re-encoded, so it goes back (RFC 6531 3.2, RFC 1870 6.1)."""
        if mail.reverse_path:
            path = self._path(mail.reverse_path)
            if isinstance(path, RemoteReply):
                return path
        first = mail.params[0] if mail.params else {}
        if "SMTPUTF8" in first and "SMTPUTF8" not in self.features and not header_of(mail.data).isascii():
            return RemoteReply(550, ("5.6.9 the next host does not take international header fields",))
        # RFC 8689 5: a notification goes all the same
        if "REQUIRETLS" in first and mail.reverse_path and not self.lmtp:
            if not self.proven:
                return RemoteReply(550, ("5.7.30 REQUIRETLS: nothing proves who the next host is",))
            if "REQUIRETLS" not in self.features:
                return RemoteReply(550, ("5.7.30 REQUIRETLS: the next host does not know it",))
        least = deliverby.least(self.features.get("DELIVERBY", ""))
        if (late := deliverby.refusal(first, self.lmtp or "DELIVERBY" in self.features, least)) is not None:
            return late
        limit = self.features.get("SIZE", "")
        if limit.isascii() and limit.isdigit() and 0 < int(limit[:20]) < len(mail.data):
            return RemoteReply(552, (f"5.3.4 the next host takes at most {limit} octets",))
        return None

    def _forward_commands(self, facts: Mapping[str, str]) -> list[bytes]:
        """XFORWARD with what the next hop wants to know, in lines of at most 512 octets (Postfix XFORWARD_README)."""
        wanted = self.features.get("XFORWARD", "").upper().split() if facts else []
        lines: list[bytes] = []
        line = b""
        for word in written(facts, [name for name in XFORWARD_NAMES if name in wanted]):
            octets = b" " + word.encode()
            if len(octets) > FORWARD_WORD:
                continue
            if line and len(line) + len(octets) > COMMAND_LINE - 2:
                lines.append(line + b"\r\n")
                line = b""
            line = (line or b"XFORWARD") + octets
        return [*lines, line + b"\r\n"] if line else lines

    def _mail_command(self, mail: Mail, paths: Mapping[str, str]) -> bytes:
        sender = self._path(mail.reverse_path) if mail.reverse_path else ""
        text = f"MAIL FROM:<{sender if isinstance(sender, str) else ''}>"
        first = mail.params[0] if mail.params else {}
        if "SIZE" in self.features:
            text += f" SIZE={len(mail.data)}"
        # A host without 8BITMIME gets the octets all the same: converting would break signatures, and such hosts pass them on.
        if "8BITMIME" in self.features and (first.get("BODY") == "8BITMIME" or not mail.data.isascii()):
            text += " BODY=8BITMIME"
        international = (
            "SMTPUTF8" in first or not text.isascii() or not all(p.isascii() for p in paths.values())
        )
        if international and "SMTPUTF8" in self.features:
            text += " SMTPUTF8"
        if "DSN" in self.features:
            text += self._parameters(first, ("RET", "ENVID"))
        if "REQUIRETLS" in first and "REQUIRETLS" in self.features and self.secure:
            text += " REQUIRETLS"
        if "DELIVERBY" in self.features:
            text += "".join(f" BY={value}" for value in (first.get("BY", ""),) if VALUE.match(value))
        return text.encode() + b"\r\n"

    def _rcpt_command(self, path: str, params: Mapping[str, str]) -> bytes:
        text = f"RCPT TO:<{path}>"
        if "DSN" in self.features:
            text += self._parameters(params, ("NOTIFY", "ORCPT"))
        return text.encode() + b"\r\n"

    def _parameters(self, params: Mapping[str, str], names: Sequence[str]) -> str:
        """Those of ``names`` that may be written; UTF-8 in ORCPT only to a host with SMTPUTF8 (RFC 6533 3)."""
        values = [(name, params.get(name, "")) for name in names]
        return "".join(
            f" {name}={value}"
            for name, value in values
            if VALUE.match(value) and (value.isascii() or "SMTPUTF8" in self.features)
        )

    def quit(self) -> Talk:
        yield Say(b"QUIT\r\n", seconds=QUIT_SECONDS)


def header_of(data: bytes) -> bytes:
    """The header with its last line end, whatever follows."""
    end = data.find(b"\r\n\r\n")
    return data if end < 0 else data[: end + 2]


def stuffed(data: bytes) -> bytes:
    """``data`` with CRLF line ends only, dots doubled, final dot line (RFC 5321 4.5.2)."""
    if not only_crlf(data):
        data = BARE.sub(b"\r\n", data)
    if not data.endswith(b"\r\n") and data:
        data += b"\r\n"
    return dots_doubled(data) + b".\r\n"
