"""The POP3 server core.

Specification: RFC 1939, 2449 (CAPA, RESP-CODES, PIPELINING), 2595 and 8314 (STLS), 3206 (AUTH-RESP-CODE), 5034 (AUTH
with initial response), 6856 (UTF8, LANG). Complete: yes, but for APOP (it needs stored passwords in clear). For a
client that did not say UTF8 the shell brings the surrogate of a message with UTF-8 in its header (``rules.mail.downgrade``) and its
size: refused (RFC 6856 4 allows that too) such a message would never be fetched by what most people use.

Theory of operation. As in ``filterd.proto.smtp``: octets go in, one event at a time comes out, events that *ask* hold
everything until they are answered. The core owns the maildrop's numbers: the shell opens it once (``opened``), brings
texts (``text``) and removes at the end (``Update``); STAT, LIST, UIDL, DELE and RSET are answered here.

States: AUTHORIZATION -> (login) -> TRANSACTION -> (QUIT) -> UPDATE -> CLOSED. Invariants: nothing is removed but by a QUIT
in TRANSACTION; message numbers never change while the maildrop is open; what came before TLS is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from filterd.accounts.directory import Account
from filterd.proto import pop3_lang, sasl
from filterd.proto.lines import ROW, LineFault, LineReader, Pause
from rules.mail.lineends import dots_doubled


class State(Enum):
    """RFC 1939 3, and the two exchanges in AUTHORIZATION."""

    AUTHORIZATION = "not logged in"
    SASL = "in an AUTH exchange"
    TLS = "handshake under way"
    TRANSACTION = "maildrop open"
    UPDATE = "removing"
    CLOSED = "over"


_AUTHORIZATION = frozenset((State.AUTHORIZATION,))
_TRANSACTION = frozenset((State.TRANSACTION,))
_BOTH = _AUTHORIZATION | _TRANSACTION


@dataclass(frozen=True, slots=True)
class Command:
    """``method`` does it in ``states``; it takes ``least`` to ``most`` arguments (-1: one, with its blanks)."""

    method: str
    states: frozenset[State]
    least: int = 0
    most: int = 0


COMMANDS: dict[bytes, Command] = {
    b"CAPA": Command("_capa", _BOTH),
    b"STLS": Command("_stls", _AUTHORIZATION),
    b"USER": Command("_user", _AUTHORIZATION, 1, -1),
    b"PASS": Command("_pass", _AUTHORIZATION, 1, -1),
    b"AUTH": Command("_auth", _AUTHORIZATION, 0, 2),
    b"UTF8": Command("_utf8", _AUTHORIZATION),
    b"LANG": Command("_lang", _BOTH, 0, 1),
    b"STAT": Command("_stat", _TRANSACTION),
    b"LIST": Command("_list", _TRANSACTION, 0, 1),
    b"UIDL": Command("_uidl", _TRANSACTION, 0, 1),
    b"RETR": Command("_retr", _TRANSACTION, 1, 1),
    b"TOP": Command("_top", _TRANSACTION, 2, 2),
    b"DELE": Command("_dele", _TRANSACTION, 1, 1),
    b"RSET": Command("_rset", _TRANSACTION),
    b"NOOP": Command("_noop", _TRANSACTION),
    b"QUIT": Command("_quit", _BOTH),
}


@dataclass(frozen=True, slots=True)
class Pop3Config:
    """Settings and limits. ``starttls``: a TLS context stands ready; ``allow_plain_auth``: log-ins in clear are allowed."""

    hostname: str = ""
    starttls: bool = False
    allow_plain_auth: bool = False
    # RFC 2449 4 asks for 255; pass phrases in UTF-8 and AUTH's initial response (RFC 5034 4) are longer.
    command_line: int = 2048
    line_swallow: int = 65_536
    errors: int = 20
    auth_failures: int = 3
    # RFC 1939 3: an autologout timer of at least ten minutes.
    idle: float = 660.0
    login_delay: int = 0  # seconds between two log-ins of an account (RFC 2449 6.5)
    prelude_seconds: float = 120.0
    handshake: float = 30.0
    mechanisms: sasl.Offer = sasl.ONLY_PASSWORDS


@dataclass(frozen=True, slots=True)
class Maildrop:
    """The open maildrop, frozen: ``sizes`` in octets and ``uids`` by message number - 1, and the UIDVALIDITY.

    ``adopted``: UID -> unique id, of messages that came with one from another server."""

    uidvalidity: int
    uids: Sequence[int]
    sizes: Sequence[int]
    adopted: Mapping[int, str] = field(default_factory=dict)

    def uidl(self, number: int) -> str:
        """The unique id of message ``number``: its own, else in Dovecot's default form (%08Xu%08Xv), so that a maildrop
        taken over with its UIDs is not fetched again by clients that leave mail on the server."""
        uid = self.uids[number - 1]
        return self.adopted.get(uid) or f"{uid:08x}{self.uidvalidity:08x}"


# -- events -----------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Login:
    """Asks: first ``judged``, and when that says no ``opened`` or ``refuse``. ``evidence``: of mechanisms other than a
    password."""

    login: str
    password: str
    evidence: sasl.Evidence | None = None


@dataclass(slots=True)
class Retrieve:
    """Asks: answer with ``text``. ``lines`` None: all of it (and it counts as seen), else the header and so many."""

    number: int
    lines: int | None


@dataclass(slots=True)
class Update:
    """Asks: remove these message numbers (ascending), mark ``seen`` as seen, then ``updated``."""

    deleted: list[int]
    seen: list[int]


@dataclass(slots=True)
class StartTls:
    """Write what is ready, begin TLS, call ``tls_started``."""


@dataclass(slots=True)
class Close:
    """Write what is left, then close; an open maildrop is let go."""


Event = Login | Retrieve | Update | StartTls | Close


class Refusal(Enum):
    """Why a log-in failed, with the response code (RFC 2449 8, RFC 3206)."""

    CREDENTIALS = b"[AUTH] Authentication failed"
    IN_USE = b"[IN-USE] The maildrop is in use by another session"
    TOO_SOON = b"[LOGIN-DELAY] The last log-in was a moment ago; wait before the next"
    TEMPORARY = b"[SYS/TEMP] Temporary failure; try again later"


_NUMBER_MAX = 10  # digits of a message number or line count


class Pop3Core:
    """One connection."""

    # fmt: off
    __slots__ = (
        "_asked", "_auth_failures", "_deleted", "_eof", "_errors", "_out", "_queue", "_reader", "_sasl", "_seen",
        "_user_name", "channel", "config", "drop", "state", "tls", "utf8",
    )
    # fmt: on

    def __init__(self, config: Pop3Config, *, tls: bool = False) -> None:
        self.config = config
        self.tls = tls
        self.state = State.AUTHORIZATION
        self.drop: Maildrop | None = None
        self.utf8 = False  # the client said so: messages go as they are
        self._reader = LineReader(config.command_line)
        self._reader.cap = max(config.command_line, sasl.LINE_MAX)
        self._out: list[bytes] = [b"+OK " + (f"{config.hostname} ready".strip()).encode() + b"\r\n"]
        self._queue: list[Event] = []
        self._asked = False
        self._sasl = sasl.Dialog(config.mechanisms)
        self.channel = sasl.NO_CHANNEL  # the shell keeps it current
        self._user_name: bytes | None = None
        self._deleted: set[int] = set()
        self._seen: set[int] = set()
        self._eof = False
        self._errors = self._auth_failures = 0

    # -- in and out ---------------------------------------------------------------------------------------------------
    def receive_data(self, data: bytes) -> None:
        if self.state is not State.TLS and self.state is not State.CLOSED:
            self._reader.feed(data)

    def receive_eof(self) -> None:
        self._eof = True

    def lost(self) -> None:
        """The connection is gone: nothing is removed (RFC 1939 6)."""
        self._asked = False
        self._queue.clear()
        self._end()

    def shut_down(self) -> None:
        if self.state is not State.CLOSED:
            self._err(b"[SYS/TEMP] Server shutting down")
            self._end()

    def timed_out(self) -> None:
        """RFC 1939 3: closed without removing anything."""
        if self.state is not State.CLOSED:
            self._err(b"Idle for too long")
            self._end()

    def internal_error(self) -> None:
        """What was asked failed by a fault of ours."""
        if self._asked:
            self._asked = False
            self._err(b"[SYS/TEMP] Internal error; try again later")
            if self.state is State.UPDATE:
                self._end()

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def patience(self) -> float:
        return self.config.idle

    @property
    def prelude(self) -> float:
        return self.config.prelude_seconds

    @property
    def settled(self) -> bool:
        return self.drop is not None

    @property
    def in_text(self) -> bool:
        return False

    @property
    def text_patience(self) -> float:
        return self.config.idle

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def next_event(self) -> Event | Pause | None:
        row = ROW
        while not self._queue:
            row -= 1
            if row < 0:
                return Pause()
            if self._asked or self.state is State.CLOSED or self.state is State.TLS:
                return None
            line = self._reader.next_line()
            if line is not None:
                self._line(line)
            elif self._reader.dropped > self.config.line_swallow:
                self._err(b"Line far too long")
                self._end()
            elif self._eof:
                self._end()
            else:
                return None
        return self._queue.pop(0)

    # -- answers of the shell -----------------------------------------------------------------------------------------
    def opened(self, drop: Maildrop) -> None:
        """The log-in was good and the maildrop is ours."""
        self._asked = False
        if self.state is State.CLOSED:
            return
        self.drop = drop
        self.state = State.TRANSACTION
        self._ok(f"Logged in, {len(drop.uids)} messages".encode())

    def judged(self, account: Account | None) -> bool:
        """The evidence of ``Login`` was judged. True: the client is told more first, and this question is answered."""
        last = self._sasl.judged(account)
        if last is None or self.state is State.CLOSED:
            return False
        self._asked = False
        self._sasl_step(last)
        return True

    def refuse(self, why: Refusal) -> None:
        self._asked = False
        if self.state is State.CLOSED:
            return
        self.state = State.AUTHORIZATION
        self._auth_failures += why is Refusal.CREDENTIALS
        if self._auth_failures >= self.config.auth_failures:
            self._err(why.value + b"; too many failures, closing")
            self._end()
        else:
            self._err(why.value)

    def text(self, data: bytes | None, event: Retrieve) -> None:
        """The whole message with CR LF line ends, None when it is gone; cut and dot-stuffed here."""
        self._asked = False
        if data is None:
            self._err(b"[SYS/TEMP] This message is gone")
            return
        if event.lines is None:
            self._seen.add(event.number)
        else:
            data = top(data, event.lines)
        self._ok(f"{len(data)} octets".encode())
        self._out.append(stuffed(data))

    def updated(self, done: bool) -> None:
        """RFC 1939 6: some could not be removed when not ``done``."""
        self._asked = False
        if done:
            self._ok(b"Bye")
        else:
            self._err(b"[SYS/TEMP] Some deleted messages were not removed")
        self._end()

    def tls_started(self) -> None:
        self.tls = True
        self._reader.clear()
        self.state = State.AUTHORIZATION

    # -- lines --------------------------------------------------------------------------------------------------------
    def _ok(self, text: bytes = b"") -> None:
        self._out.append(b"+OK " + text + b"\r\n" if text else b"+OK\r\n")

    def _err(self, text: bytes) -> None:
        self._out.append(b"-ERR " + text + b"\r\n")

    def _error(self, text: bytes) -> None:
        """An answer to what the client should not have sent."""
        self._errors += 1
        if self._errors >= self.config.errors:
            code = b"" if text.startswith(b"[") else b"[SYS/PERM] "
            self._err(code + text + b"; too many errors, closing")
            self._end()
        else:
            self._err(text)

    def _ask(self, event: Event) -> None:
        self._asked = True
        self._queue.append(event)

    def _end(self) -> None:
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._reader.clear()
            self._queue.append(Close())

    def _line(self, line: bytes | LineFault) -> None:
        if isinstance(line, LineFault):
            if self.state is State.SASL:
                self._sasl.forget()
                self.state = State.AUTHORIZATION
            self._error(b"Bad line: " + line.value.encode())
            if line is LineFault.BARE_LF:
                self._end()
        elif self.state is State.SASL:
            self.state = State.AUTHORIZATION
            self._sasl_step(self._sasl.line(line))
        else:
            self._command(line)

    def _command(self, line: bytes) -> None:
        verb, _, rest = line.partition(b" ")
        verb = verb.upper()
        command = COMMANDS.get(verb)
        if command is None:
            self._error(b"Unknown command")
        elif self.state not in command.states:
            self._error(b"Not now" if self.state is State.TRANSACTION else b"Log in first")
        elif len(line) + 2 > self.config.command_line and verb != b"AUTH":
            self._error(b"Bad line: " + LineFault.TOO_LONG.value.encode())
        else:
            # USER and PASS take the rest of the line as it is, blanks included (RFC 1939 7).
            words = ([rest] if rest else []) if command.most < 0 else rest.split()
            if not command.least <= len(words) <= abs(command.most):
                self._error(b"Wrong number of arguments")
            else:
                getattr(self, command.method)(words)

    # -- AUTHORIZATION ------------------------------------------------------------------------------------------------
    def _may_log_in(self) -> bool:
        return self.tls or self.config.allow_plain_auth

    def _offered(self) -> tuple[str, ...]:
        return self.config.mechanisms.names(self.channel, self._may_log_in())

    def _capa(self, words: list[bytes]) -> None:
        lines = [
            b"TOP",
            b"UIDL",
            b"RESP-CODES",
            b"AUTH-RESP-CODE",
            b"PIPELINING",
            b"UTF8 USER",
            b"LANG",
            b"EXPIRE NEVER",
            b"LOGIN-DELAY %d" % self.config.login_delay,
        ]
        # RFC 2449 5: also after log-in.
        if self.config.starttls and not self.tls:
            lines.append(b"STLS")
        if self._may_log_in():
            lines.append(b"USER")
        offered = self._offered()
        if offered:
            lines.append(b"SASL " + " ".join(offered).encode())
        self._ok(b"Capabilities")
        self._out.append(b"\r\n".join((*lines, b".", b"")))

    def _stls(self, words: list[bytes]) -> None:
        if self.tls or not self.config.starttls:
            self._error(b"TLS is already active" if self.tls else b"TLS is not available")
            return
        # RFC 2595 4: nothing said in clear is believed later; commands behind STLS are dropped unread.
        self._reader.clear()
        self._user_name = None
        self.utf8 = False
        self._ok(b"Begin TLS")
        self.state = State.TLS
        self._queue.append(StartTls())

    def _user(self, words: list[bytes]) -> None:
        if not self._may_log_in():
            self._error(b"[AUTH] Log-ins are only allowed under TLS")
            return
        self._user_name = words[0]
        self._ok()

    def _pass(self, words: list[bytes]) -> None:
        name, self._user_name = self._user_name, None
        if name is None:
            self._error(b"USER first")
            return
        self._sasl.forget()
        self._sasl_step(sasl.credentials(name, words[0]))

    def _auth(self, words: list[bytes]) -> None:
        if not words:
            # RFC 5034 6 leaves the bare AUTH to older clients that ask for a list.
            self._ok(b"Mechanisms")
            self._out.append("".join(f"{name}\r\n" for name in self._offered()).encode() + b".\r\n")
        else:
            name, initial = words[0].decode("latin-1"), words[1] if len(words) > 1 else None
            self._sasl_step(self._sasl.begin(name, initial, self.channel, self._may_log_in()))

    def _sasl_step(self, step: sasl.Step | sasl.WireFault) -> None:
        match step:
            case sasl.Challenge():
                self._out.append(b"+ " + sasl.encode(step.data) + b"\r\n")
                self.state = State.SASL
            case sasl.Credentials():
                self._ask(Login(step.login, step.password))
            case sasl.Proof() | sasl.Token() | sasl.Granted():
                self._ask(Login("", "", step))
            case sasl.Failed():
                self.refuse(Refusal.CREDENTIALS)
            case sasl.WireFault.NEEDS_TLS:
                self._error(b"[AUTH] Log-ins are only allowed under TLS")
            case sasl.WireFault():
                self._error(step.value.capitalize().encode())

    def _utf8(self, words: list[bytes]) -> None:
        self.utf8 = True
        self._ok(b"UTF8 enabled")

    def _lang(self, words: list[bytes]) -> None:
        done, text, lines = pop3_lang.answer(words[0] if words else None)
        (self._ok if done else self._error)(text)
        if done and not words:
            self._out.append(b"\r\n".join((*lines, b".", b"")))

    # -- TRANSACTION --------------------------------------------------------------------------------------------------
    def _alive(self, word: bytes) -> int | None:
        """The message number in ``word``, when there is such a message and it is not deleted; else the answer is given."""
        drop = self.drop
        number = int(word) if word.isdigit() and len(word) <= _NUMBER_MAX else 0
        if drop is None or not 1 <= number <= len(drop.uids):
            self._error(b"No such message")
        elif number in self._deleted:
            self._error(b"This message is deleted")
        else:
            return number
        return None

    def _numbers(self, drop: Maildrop) -> Sequence[int]:
        """Message numbers that are not deleted."""
        numbers = range(1, len(drop.uids) + 1)
        return [number for number in numbers if number not in self._deleted] if self._deleted else numbers

    def _stat(self, words: list[bytes]) -> None:
        drop = self.drop
        if drop is not None:
            numbers = self._numbers(drop)
            self._ok(f"{len(numbers)} {self._octets(drop)}".encode())

    def _octets(self, drop: Maildrop) -> int:
        return sum(drop.sizes) - sum(drop.sizes[number - 1] for number in self._deleted)

    def _list(self, words: list[bytes]) -> None:
        drop = self.drop
        if drop is None:
            return
        if words:
            number = self._alive(words[0])
            if number is not None:
                self._ok(f"{number} {drop.sizes[number - 1]}".encode())
            return
        numbers = self._numbers(drop)
        self._ok(f"{len(numbers)} messages ({self._octets(drop)} octets)".encode())
        sizes = drop.sizes
        self._out.append(
            "".join([f"{number} {sizes[number - 1]}\r\n" for number in numbers]).encode() + b".\r\n"
        )

    def _uidl(self, words: list[bytes]) -> None:
        drop = self.drop
        if drop is None:
            return
        if words:
            number = self._alive(words[0])
            if number is not None:
                self._ok(f"{number} {drop.uidl(number)}".encode())
            return
        self._ok()
        self._out.append(
            "".join([f"{n} {drop.uidl(n)}\r\n" for n in self._numbers(drop)]).encode() + b".\r\n"
        )

    def _retr(self, words: list[bytes]) -> None:
        number = self._alive(words[0])
        if number is not None:
            self._ask(Retrieve(number, None))

    def _top(self, words: list[bytes]) -> None:
        number = self._alive(words[0])
        if number is None:
            return
        if not words[1].isdigit() or len(words[1]) > _NUMBER_MAX:
            self._error(b"Bad number of lines")
            return
        self._ask(Retrieve(number, int(words[1])))

    def _dele(self, words: list[bytes]) -> None:
        number = self._alive(words[0])
        if number is not None:
            self._deleted.add(number)
            self._ok(b"Deleted at QUIT")

    def _rset(self, words: list[bytes]) -> None:
        self._deleted.clear()
        self._ok()

    def _noop(self, words: list[bytes]) -> None:
        self._ok()

    def _quit(self, words: list[bytes]) -> None:
        if self.state is State.AUTHORIZATION or not (self._deleted or self._seen):
            self._ok(b"Bye")
            self._end()
            return
        self.state = State.UPDATE
        self._ask(Update(sorted(self._deleted), sorted(self._seen)))


def top(data: bytes, lines: int) -> bytes:
    """The header, its blank line and the first ``lines`` lines of the body (RFC 1939 7, TOP)."""
    end = 0 if data.startswith(b"\r\n") else data.find(b"\r\n\r\n") + 2
    if end == 1:
        return data
    end += 2
    for _ in range(lines):
        found = data.find(b"\r\n", end)
        if found < 0:
            return data
        end = found + 2
    return data[:end]


def stuffed(data: bytes) -> bytes:
    """A multi-line answer: dots doubled, the end added (RFC 1939 3)."""
    return dots_doubled(data) + (b".\r\n" if not data or data.endswith(b"\r\n") else b"\r\n.\r\n")
