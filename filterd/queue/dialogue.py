"""Our side of an SMTP or LMTP conversation with another server: sans-IO, a generator of what to send.

The shell (``outbound.py``) sends what ``step`` yields and gives back the replies. Specification: RFC 5321, RFC 2920 (PIPELINING),
RFC 1870 (SIZE), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), RFC 3461 (DSN), RFC 3207 (STARTTLS), RFC 2033 (LMTP). Complete: yes,
except CHUNKING (DATA carries everything we send: there is never BINARYMIME).

Invariants: nothing is sent with a bare CR or LF (the text is normalised while dot-stuffing); a reply is at most REPLY_OCTETS long;
after an odd reply the connection is not used again.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

REPLY_OCTETS = 65_536
REPLY_LINES = 256
LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.S)
BARE = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class RemoteReply:
    """One reply of the other side; ``lines`` are its texts without the codes."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.code} " + " ".join(self.lines)

    @property
    def good(self) -> bool:
        return 200 <= self.code < 400

    @property
    def permanent(self) -> bool:
        return self.code >= 500


class ReplyReader:
    """Splits what the other side sends into replies. Raises ValueError for what is no reply."""

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[str] = []
        self._code = 0
        self._octets = 0

    def feed(self, data: bytes) -> list[RemoteReply]:
        self._buffer += data
        out: list[RemoteReply] = []
        while (at := self._buffer.find(b"\n")) >= 0:
            line, self._buffer = self._buffer[:at].rstrip(b"\r"), self._buffer[at + 1 :]
            found = LINE.match(line)
            if found is None or (self._code and int(found[1]) != self._code):
                raise ValueError(f"not a reply: {line[:80]!r}")
            self._code = int(found[1])
            self._octets += len(line)
            self._lines.append((found[3] or b"").decode("utf-8", "replace"))
            if len(self._lines) > REPLY_LINES or self._octets > REPLY_OCTETS:
                raise ValueError("an endless reply")
            if found[2] != b"-":
                out.append(RemoteReply(self._code, tuple(self._lines)))
                self._lines, self._code, self._octets = [], 0, 0
        if len(self._buffer) > REPLY_OCTETS:
            raise ValueError("an endless reply line")
        return out


@dataclass(frozen=True, slots=True)
class Say:
    """Send ``data`` and hand back ``replies`` replies."""

    data: bytes
    replies: int = 1
    show: str = ""  # for the transcript, instead of the text itself


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Start TLS now; hand back an empty list."""


Step = Say | Upgrade
Talk = Generator[Step, list[RemoteReply], None]


@dataclass(slots=True)
class Mail:
    """One transaction. ``results`` gets the deciding reply of every recipient; "" texts never."""

    reverse_path: str
    recipients: Sequence[str]
    data: bytes
    params: Sequence[Mapping[str, str]]
    results: dict[str, RemoteReply] = field(default_factory=dict)


@dataclass(slots=True)
class Conversation:
    """State of one connection. ``secure`` after TLS; ``features`` from the last EHLO, upper-case name -> argument."""

    helo: str
    lmtp: bool = False
    want_tls: bool = True
    secure: bool = False
    features: dict[str, str] = field(default_factory=dict)
    login: tuple[str, str] | None = None

    def open(self) -> Talk:
        """Greeting to ready. Raises Refused."""
        greeting = (yield Say(b"", 1))[0]
        if greeting.code != 220:
            raise Refused(greeting)
        yield from self._hello()
        if self.want_tls and not self.secure and "STARTTLS" in self.features:
            answer = (yield Say(b"STARTTLS\r\n"))[0]
            if answer.code == 220:
                yield Upgrade()
                self.secure = True
                self.features = {}
                yield from self._hello()
        if self.login is not None:
            yield from self._authenticate(*self.login)

    def _hello(self) -> Talk:
        name = self.helo.encode()
        reply = (yield Say((b"LHLO " if self.lmtp else b"EHLO ") + name + b"\r\n"))[0]
        if not reply.good and not self.lmtp and reply.permanent:
            reply = (yield Say(b"HELO " + name + b"\r\n"))[0]
            self.features = {}
        elif reply.good:
            words = [line.split(" ", 1) for line in reply.lines[1:] if line]
            self.features = {word[0].upper(): (word[1] if len(word) > 1 else "") for word in words}
        if not reply.good:
            raise Refused(reply)

    def _authenticate(self, user: str, password: str) -> Talk:
        import base64

        if not self.secure:
            raise Refused(RemoteReply(454, ("we do not give a password to a relay without TLS",)))
        token = base64.b64encode(f"\0{user}\0{password}".encode())
        reply = (yield Say(b"AUTH PLAIN " + token + b"\r\n", show="AUTH PLAIN ***"))[0]
        if not reply.good:
            raise Refused(reply)

    def send(self, mail: Mail) -> Talk:
        """One transaction; fills ``mail.results`` for every recipient. Raises nothing for refusals."""
        problem = self._impossible(mail)
        if problem is not None:
            mail.results = {address: problem for address in mail.recipients}
            return
        commands = [self._mail_command(mail)] + [
            self._rcpt_command(address, params)
            for address, params in zip(mail.recipients, mail.params, strict=True)
        ]
        if "PIPELINING" in self.features:
            replies = yield Say(b"".join(commands), len(commands))
        else:
            replies = yield from self._one_by_one(commands)
        sender, answers = replies[0], replies[1:]
        if not sender.good:
            mail.results = {address: sender for address in mail.recipients}
            yield Say(b"RSET\r\n")
            return
        accepted = []
        for address, reply in zip(mail.recipients, answers, strict=True):
            mail.results[address] = reply
            if reply.good:
                accepted.append(address)
        if not accepted:
            yield Say(b"RSET\r\n")
            return
        go = (yield Say(b"DATA\r\n"))[0]
        if go.code != 354:
            refused = go if not go.good else RemoteReply(451, (f"an odd answer to DATA: {go.text}",))
            mail.results.update({address: refused for address in accepted})
            return
        size = len(mail.data)
        finals = yield Say(
            stuffed(mail.data), len(accepted) if self.lmtp else 1, show=f"({size} octets of mail)"
        )
        for at, address in enumerate(accepted):
            mail.results[address] = finals[at if self.lmtp else 0]

    def _one_by_one(self, commands: Sequence[bytes]) -> Generator[Step, list[RemoteReply], list[RemoteReply]]:
        replies: list[RemoteReply] = []
        for command in commands:
            if replies and not replies[0].good:
                replies.append(replies[0])
            else:
                replies.append((yield Say(command))[0])
        return replies

    def _impossible(self, mail: Mail) -> RemoteReply | None:
        """What the other side cannot take: never re-encoded, so it goes back (RFC 6531 3.2, RFC 1870 6.1)."""
        utf8 = not all(address.isascii() for address in (mail.reverse_path, *mail.recipients))
        if utf8 and "SMTPUTF8" not in self.features:
            return RemoteReply(550, ("5.6.7 the next host does not take internationalised addresses",))
        limit = self.features.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < len(mail.data):
            return RemoteReply(552, (f"5.3.4 the next host takes at most {limit} octets",))
        return None

    def _mail_command(self, mail: Mail) -> bytes:
        text = f"MAIL FROM:<{mail.reverse_path}>"
        first = mail.params[0] if mail.params else {}
        if "SIZE" in self.features:
            text += f" SIZE={len(mail.data)}"
        if "8BITMIME" in self.features and (first.get("BODY") == "8BITMIME" or not mail.data.isascii()):
            text += " BODY=8BITMIME"
        needs_utf8 = (
            "SMTPUTF8" in first or not text.isascii() or not all(a.isascii() for a in mail.recipients)
        )
        if needs_utf8 and "SMTPUTF8" in self.features:
            text += " SMTPUTF8"
        if "DSN" in self.features:
            text += "".join(f" {name}={first[name]}" for name in ("RET", "ENVID") if first.get(name))
        return text.encode() + b"\r\n"

    def _rcpt_command(self, address: str, params: Mapping[str, str]) -> bytes:
        text = f"RCPT TO:<{address}>"
        if "DSN" in self.features:
            text += "".join(f" {name}={params[name]}" for name in ("NOTIFY", "ORCPT") if params.get(name))
        return text.encode() + b"\r\n"

    def quit(self) -> Talk:
        yield Say(b"QUIT\r\n")


class Refused(Exception):
    """The other side does not want to talk; ``reply`` says why."""

    def __init__(self, reply: RemoteReply) -> None:
        super().__init__(reply.text)
        self.reply = reply


def stuffed(data: bytes) -> bytes:
    """``data`` with CRLF line ends only, dots doubled, final dot line (RFC 5321 4.5.2)."""
    if data.count(b"\n") != data.count(b"\r\n") or data.count(b"\r") != data.count(b"\r\n"):
        data = BARE.sub(b"\r\n", data)
    if not data.endswith(b"\r\n"):
        data += b"\r\n"
    out = data.replace(b"\r\n.", b"\r\n..")
    return (b"." + out if out.startswith(b".") else out) + b".\r\n"
