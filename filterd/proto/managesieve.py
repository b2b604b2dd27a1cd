"""The ManageSieve server core.

Specification: RFC 5804. Complete: yes, except LANGUAGE (optional, not offered), referrals and SASL security layers.

Theory of operation. As in ``filterd.proto.smtp``: octets in, one event at a time out, events that *ask* hold everything
until they are answered. A command arrives as lines and literals into a ``Partial``; whole, it is checked against
``COMMANDS`` and either answered here or asked as ``Request``.

Invariants: a literal's octets are counted, never searched; above the limit they are read over and the command is refused;
when it is unclear where a literal ends the connection closes (BYE). Before the log-in only small literals are taken.
Capabilities are sent at the greeting, after STARTTLS and when asked for; after AUTHENTICATE only a mechanism with a
security layer would send them again (RFC 5804 2.1), and none is offered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from filterd.accounts.directory import Account
from filterd.proto import sasl
from filterd.proto.lines import ROW, LineFault, LineReader, Pause
from filterd.proto.managesieve_syntax import (
    BadSyntax,
    Partial,
    answer,
    literal,
    read_arguments,
    read_line,
    script_name,
    string,
)


class State(Enum):
    """RFC 5804 1.1 and 2."""

    NON_AUTHENTICATED = "not logged in"
    SASL = "in an AUTHENTICATE exchange"
    TLS = "handshake under way"
    AUTHENTICATED = "logged in"
    CLOSED = "over"


_NON = frozenset((State.NON_AUTHENTICATED,))
_AUTHENTICATED = frozenset((State.AUTHENTICATED,))
_BOTH = _NON | _AUTHENTICATED


@dataclass(frozen=True, slots=True)
class Command:
    """Done in ``states``; ``kinds`` of its arguments: n name, e name or empty, s script, i number, t text; ? optional."""

    states: frozenset[State]
    kinds: str = ""


COMMANDS: dict[str, Command] = {
    "AUTHENTICATE": Command(_NON, "tt?"),
    "STARTTLS": Command(_NON),
    "LOGOUT": Command(_BOTH),
    "CAPABILITY": Command(_BOTH),
    "NOOP": Command(_BOTH, "t?"),
    "UNAUTHENTICATE": Command(_AUTHENTICATED),
    "HAVESPACE": Command(_AUTHENTICATED, "ni"),
    "PUTSCRIPT": Command(_AUTHENTICATED, "ns"),
    "LISTSCRIPTS": Command(_AUTHENTICATED),
    "SETACTIVE": Command(_AUTHENTICATED, "e"),
    "GETSCRIPT": Command(_AUTHENTICATED, "n"),
    "DELETESCRIPT": Command(_AUTHENTICATED, "n"),
    "RENAMESCRIPT": Command(_AUTHENTICATED, "nn"),
    "CHECKSCRIPT": Command(_AUTHENTICATED, "s"),
}


@dataclass(frozen=True, slots=True)
class SieveConfig:
    """Settings and limits. ``extensions`` is what SIEVE announces; ``notify`` the methods NOTIFY does, ``extlists`` the URI
    schemes of lists (RFC 6134 2.9), when any."""

    extensions: tuple[str, ...]
    starttls: bool = False
    allow_plain_auth: bool = False
    max_redirects: int = 4
    notify: tuple[str, ...] = ()
    extlists: tuple[str, ...] = ()
    implementation: str = "filterd"
    script_size: int = 1_048_576
    line: int = 16_384
    # Before the log-in nothing needs a larger literal than a SASL response.
    literal_before_login: int = 8192
    # Read over after a literal that is too long, so that its sender hears NO.
    swallow: int = 16_777_216
    line_swallow: int = 65_536
    errors: int = 20
    auth_failures: int = 3
    # RFC 5804 1.7: at least 30 minutes.
    idle: float = 1860.0
    block: float = 300.0
    prelude_seconds: float = 120.0
    handshake: float = 30.0
    mechanisms: sasl.Offer = sasl.ONLY_PASSWORDS


# -- events -----------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Login:
    """Asks: first ``judged``, and when that says no ``logged_in`` or ``refused``. ``evidence``: of mechanisms other than a
    password."""

    login: str
    password: str
    evidence: sasl.Evidence | None = None


@dataclass(slots=True)
class Request:
    """Asks: a command on the scripts, ``names`` decoded and checked, ``script`` decoded; answer with ``respond``."""

    verb: str
    names: list[str] = field(default_factory=list)
    script: str = ""
    size: int = 0


@dataclass(slots=True)
class LoggedOut:
    """Told: UNAUTHENTICATE."""


@dataclass(slots=True)
class StartTls:
    """Write what is ready, begin TLS, call ``tls_started``."""


@dataclass(slots=True)
class Close:
    """Write what is left, then close."""


Event = Login | Request | LoggedOut | StartTls | Close


class SieveCore:
    """One connection."""

    # fmt: off
    __slots__ = (
        "_asked", "_auth_failures", "_buffer", "_eof", "_errors", "_last", "_out", "_partial", "_queue", "_reader",
        "_sasl", "_settled", "_too_long", "channel", "config", "owner", "state", "tls",
    )
    # fmt: on

    def __init__(
        self, config: SieveConfig, *, tls: bool = False, channel: sasl.Channel = sasl.NO_CHANNEL
    ) -> None:
        self.config = config
        self.tls = tls
        self.owner = ""
        self.state = State.NON_AUTHENTICATED
        self._reader = LineReader(config.line)
        self._out: list[bytes] = []
        self._queue: list[Event] = []
        self._asked = False
        self._sasl = sasl.Dialog(config.mechanisms)
        self._last = b""  # of the mechanism's, to go with OK
        self.channel = channel  # the shell keeps it current
        self._partial = Partial()
        self._buffer: list[bytes] = []  # of the literal under way
        self._too_long = False
        self._eof = False
        self._settled = False
        self._errors = self._auth_failures = 0
        self._capabilities("ManageSieve ready")

    # -- in and out ---------------------------------------------------------------------------------------------------
    def receive_data(self, data: bytes) -> None:
        if self.state is not State.TLS and self.state is not State.CLOSED:
            self._reader.feed(data)

    def receive_eof(self) -> None:
        self._eof = True

    def lost(self) -> None:
        self._asked = False
        self._queue.clear()
        self._end()

    def shut_down(self) -> None:
        self._bye("Server shutting down", "TRYLATER")

    def timed_out(self) -> None:
        self._bye("Idle for too long")

    def internal_error(self) -> None:
        if self._asked:
            self._asked = False
            self._put("NO", "Internal error; try again later", "TRYLATER")

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def patience(self) -> float:
        return self.config.block if self.in_text else self.config.idle

    @property
    def prelude(self) -> float:
        return self.config.prelude_seconds

    @property
    def settled(self) -> bool:
        return self._settled

    @property
    def in_text(self) -> bool:
        return self._partial.literal is not None

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
            if not (self._read_literal() if self.in_text else self._read_line()):
                if not self._eof:
                    return None
                self._end()
        return self._queue.pop(0)

    # -- answers of the shell -----------------------------------------------------------------------------------------
    def logged_in(self, owner: str) -> None:
        self._asked = False
        if self.state is not State.CLOSED:
            self.owner = owner
            self._settled = True
            self.state = State.AUTHENTICATED
            # RFC 5804 1.3: what the mechanism has to say with success stands in the response code SASL.
            last, self._last = self._last, b""
            self._put(
                "OK", "Logged in", f"SASL {string(sasl.encode(last).decode()).decode()}" if last else ""
            )

    def judged(self, account: Account | None) -> bool:
        """The evidence of ``Login`` was judged. True: the client is told more first, and this question is answered."""
        last = self._sasl.judged(account)
        if last is None or self.state is State.CLOSED:
            return False
        if account is not None:
            self._sasl.forget()
            self._last = last.data
            return False
        self._asked = False
        self._step(last)
        return True

    def refused(self) -> None:
        """Wrong, unknown and disabled alike."""
        self._asked = False
        if self.state is State.CLOSED:
            return
        self._put("NO", "Authentication failed")
        self._auth_failures += 1
        if self._auth_failures >= self.config.auth_failures:
            self._bye("Too many failed log-ins")

    def respond(self, status: str, text: str = "", code: str = "") -> None:
        """Answer a Request: "OK" or "NO"."""
        self._asked = False
        self._put(status, text, code)

    def listing(self, scripts: list[tuple[str, bool]]) -> None:
        """Answer LISTSCRIPTS: names, and whether it is the active one."""
        self._asked = False
        for name, active in scripts:
            self._out.append(string(name) + (b" ACTIVE\r\n" if active else b"\r\n"))
        self._put("OK")

    def script(self, text: str) -> None:
        """Answer GETSCRIPT."""
        self._asked = False
        self._out.append(literal(text.encode("utf-8", "replace")) + b"\r\n")
        self._put("OK")

    def tls_started(self) -> None:
        """RFC 5804 2.2: the capabilities are sent again at once."""
        self.tls = True
        self._reader.clear()
        self.state = State.NON_AUTHENTICATED
        self._capabilities("TLS negotiation successful")

    # -- bookkeeping --------------------------------------------------------------------------------------------------
    def _put(self, status: str, text: str = "", code: str = "") -> None:
        if self.state is not State.CLOSED:
            self._out.append(answer(status, text, code))

    def _bye(self, text: str, code: str = "") -> None:
        self._put("BYE", text, code)
        self._end()

    def _end(self) -> None:
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._reader.clear()
            self._queue.append(Close())

    def _error(self, text: str, code: str = "") -> None:
        """An answer to what the client should not have sent."""
        self._errors += 1
        if self._errors >= self.config.errors:
            self._bye("Too many errors")
        else:
            self._put("NO", text, code)

    def _ask(self, event: Event) -> None:
        self._asked = True
        self._queue.append(event)

    def _may_log_in(self) -> bool:
        return self.tls or self.config.allow_plain_auth

    def _offered(self) -> list[str]:
        """LOGIN is taken from who asks for it, and not announced: no client of this protocol needs it."""
        names = self.config.mechanisms.names(self.channel, self._may_log_in())
        return [name for name in names if name != "LOGIN"]

    def _capabilities(self, text: str) -> None:
        config = self.config
        pairs = [
            ("IMPLEMENTATION", config.implementation),
            ("SASL", "" if self.owner else " ".join(self._offered())),
            ("SIEVE", " ".join(config.extensions)),
        ]
        if config.notify:
            pairs.append(("NOTIFY", " ".join(config.notify)))
        if config.extlists:
            pairs.append(("EXTLISTS", " ".join(config.extlists)))
        pairs += [("MAXREDIRECTS", str(config.max_redirects)), ("VERSION", "1.0")]
        if self.owner:
            pairs.append(("OWNER", self.owner))
        lines = [string(name) + b" " + string(value) for name, value in pairs]
        lines.append(b'"UNAUTHENTICATE"')
        if config.starttls and not self.tls:
            lines.append(b'"STARTTLS"')
        self._out.append(b"\r\n".join((*lines, b"")))
        self._put("OK", text)

    # -- reading ------------------------------------------------------------------------------------------------------
    def _read_line(self) -> bool:
        line = self._reader.next_line()
        if line is None:
            if self._reader.dropped > self.config.line_swallow:
                self._bye("Line far too long")
                return True
            return False
        partial = self._partial
        try:
            if isinstance(line, LineFault):
                raise BadSyntax(f"Bad line: {line.value}", lost=line is not LineFault.NUL)
            if self.state is State.SASL and not partial.arguments:
                # The answer to a challenge is a bare string (RFC 5804 2.1).
                whole = read_arguments(partial, b" " + line)
            elif partial.arguments or self.state is State.SASL:
                whole = read_arguments(partial, line)
            else:
                whole = read_line(partial, line)
        except BadSyntax as fault:
            self._give_up(fault)
            return True
        if partial.literal is not None:
            limit = self.config.script_size if self.owner else self.config.literal_before_login
            self._too_long = partial.literal > limit
            if partial.literal > max(limit, self.config.swallow if self.owner else 0):
                self._bye("Literal far too long")
        elif whole:
            self._whole()
        return True

    def _give_up(self, fault: BadSyntax) -> None:
        self._partial = Partial()
        self._too_long = False
        if self.state is State.SASL:
            self.state = State.NON_AUTHENTICATED
            self._sasl.forget()
        if fault.lost:
            self._bye(fault.text)
        else:
            self._error(fault.text)

    def _read_literal(self) -> bool:
        partial = self._partial
        left = partial.literal or 0
        piece = self._reader.take(left)
        if not self._too_long:
            self._buffer.append(piece)
        left -= len(piece)
        partial.literal = left
        if left:
            return False
        partial.literal = None
        partial.arguments.append(b"".join(self._buffer))
        self._buffer.clear()
        return True

    def _whole(self) -> None:
        partial, self._partial = self._partial, Partial()
        too_long, self._too_long = self._too_long, False
        if self.state is State.SASL:
            self._response(partial)
            return
        command = COMMANDS.get(partial.verb)
        if command is None:
            self._error("Unknown command")
        elif self.state not in command.states:
            self._error("Not now" if self.owner else "Authenticate first")
        elif too_long:
            self._put("NO", "The script is too big", "QUOTA/MAXSIZE")
        else:
            try:
                request = _request(partial, command.kinds)
            except BadSyntax as fault:
                self._error(fault.text)
                return
            self._do(request, partial)

    # -- commands -----------------------------------------------------------------------------------------------------
    def _do(self, request: Request, partial: Partial) -> None:
        match request.verb:
            case "CAPABILITY":
                self._capabilities("Capability completed")
            case "NOOP":
                tag = partial.arguments[0] if partial.arguments else b""
                text = tag.decode("utf-8", "replace") if isinstance(tag, bytes) else ""
                self._put("OK", "Done", f"TAG {string(text).decode()}" if partial.arguments else "")
            case "LOGOUT":
                self._put("OK", "Bye")
                self._end()
            case "STARTTLS":
                self._starttls()
            case "AUTHENTICATE":
                self._authenticate(partial.arguments)
            case "UNAUTHENTICATE":
                self.owner = ""
                self.state = State.NON_AUTHENTICATED
                self._put("OK", "Logged out")
                self._queue.append(LoggedOut())
            case _:
                self._ask(request)

    def _starttls(self) -> None:
        if self.tls or not self.config.starttls:
            self._error("TLS is already active" if self.tls else "TLS is not available")
            return
        self._reader.clear()  # RFC 5804 2.2: what came in clear behind the command is not read
        self._put("OK", "Begin TLS negotiation")
        self.state = State.TLS
        self._queue.append(StartTls())

    def _authenticate(self, arguments: list[bytes | int]) -> None:
        mechanism = arguments[0]
        name = mechanism.decode("latin-1") if isinstance(mechanism, bytes) else ""
        given = arguments[1] if len(arguments) > 1 else None
        initial = given if isinstance(given, bytes) else None
        self._step(self._sasl.begin(name, initial, self.channel, self._may_log_in()))

    def _response(self, partial: Partial) -> None:
        self.state = State.NON_AUTHENTICATED
        value = partial.arguments[0] if len(partial.arguments) == 1 else 0
        self._step(self._sasl.line(value if isinstance(value, bytes) else b"no base64!"))

    def _step(self, step: sasl.Step | sasl.WireFault) -> None:
        match step:
            case sasl.Challenge():
                self._out.append(string(sasl.encode(step.data).decode()) + b"\r\n")
                self.state = State.SASL
            case sasl.Credentials():
                self._ask(Login(step.login, step.password))
            case sasl.Proof() | sasl.Token() | sasl.Granted():
                self._ask(Login("", "", step))
            case sasl.Failed():
                self.refused()
            case sasl.WireFault.NEEDS_TLS:
                self._error("Log-ins are only allowed under TLS", "ENCRYPT-NEEDED")
            case sasl.WireFault():
                self._error(step.value.capitalize())


def _request(partial: Partial, kinds: str) -> Request:
    """Check the arguments against ``kinds``. Raises BadSyntax."""
    arguments = partial.arguments
    wanted = kinds.replace("?", "")
    least = len(wanted) - kinds.count("?")
    if not least <= len(arguments) <= len(wanted):
        raise BadSyntax("Wrong number of arguments")
    request = Request(partial.verb)
    for kind, value in zip(wanted, arguments, strict=False):
        if kind == "i":
            if not isinstance(value, int):
                raise BadSyntax("A number is expected")
            request.size = value
        elif isinstance(value, int):
            raise BadSyntax("A string is expected")
        elif kind in "ne":
            request.names.append(script_name(value, empty=kind == "e"))
        elif kind == "s":
            request.script = _script(value)
    return request


def _script(value: bytes) -> str:
    if b"\0" in value:
        raise BadSyntax("The script has NUL in it")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadSyntax("The script is not UTF-8") from None
