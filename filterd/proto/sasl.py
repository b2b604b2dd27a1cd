"""Server side of SASL as exchanges of octets; the protocols wrap them in their own base64 lines.

Specification: RFC 4422 (framework), RFC 4616 (PLAIN), draft-murchison-sasl-login (LOGIN, obsolete and still spoken by
mail programs). Complete: PLAIN, LOGIN here; ``sasl_scram`` and the others are put together in ``sasl_offer``.

Use: ``exchange = offer.begin(name, channel, safe)``; ``exchange.start(initial)`` with the decoded initial response or
None, then ``exchange.respond(octets)`` for each client message. Each returns ``Challenge(octets)``, some ``Evidence`` (to
be judged by the caller: ``filterd.net.login``) or ``Failed``. ``exchange.judged(account)`` then gives what the client
must still hear; when it gives octets, the client's next message ends the exchange with ``Granted`` or ``Failed``.
Cancelling and base64 belong to the wire: ``decode_line``. ``Dialog`` does all of it for protocols with base64 lines.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Protocol

from filterd.accounts.directory import Account

# RFC 4954 4: 12,288 octets a line are enough for every mechanism in use.
LINE_MAX = 12_288
# RFC 4616 2: authzid, authcid and passwd of up to 255 characters each; longer pass phrases exist.
LOGIN_MAX = 512
PASSWORD_MAX = 1024

MECHANISMS: tuple[str, ...] = ("PLAIN", "LOGIN")
NO_BINDINGS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Channel:
    """What TLS says about the connection. ``bindings``: channel binding data by type (RFC 5929, RFC 9266), the default one
    first; ``names``: addresses in the client's verified certificate, empty without one."""

    bindings: Mapping[str, bytes] = field(default_factory=lambda: NO_BINDINGS)
    names: tuple[str, ...] = ()


NO_CHANNEL = Channel()


@dataclass(frozen=True, slots=True)
class Challenge:
    """Octets to send (not yet base64)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """Login name and password to be checked."""

    login: str
    password: str


@dataclass(frozen=True, slots=True)
class Proof:
    """The client has shown who it is by something that was checked already, or failed to (not ``good``)."""

    login: str
    good: bool


@dataclass(frozen=True, slots=True)
class Token:
    """An OAuth access token to be validated; ``login`` is whom the client says it is for, "" when it does not say."""

    login: str
    token: str


@dataclass(frozen=True, slots=True)
class Granted:
    """Judged before, and now the client has heard all that it must."""

    account: Account


@dataclass(frozen=True, slots=True)
class Failed:
    """The client's message makes no sense for this mechanism; ``reason`` may be shown to it."""

    reason: str


Evidence = Credentials | Proof | Token | Granted
Step = Challenge | Evidence | Failed


class WireFault(Enum):
    """What may be wrong with a client's SASL line."""

    CANCELLED = "authentication cancelled"
    BAD_BASE64 = "invalid base64"
    UNKNOWN_MECHANISM = "unknown mechanism"
    NEEDS_TLS = "this mechanism needs TLS"


class Exchange(Protocol):
    """One authentication under way."""

    def start(self, initial: bytes | None) -> Step:
        """``initial``: the decoded initial response, None when the client sent none."""
        ...

    def respond(self, data: bytes) -> Step: ...

    def judged(self, account: Account | None) -> bytes | None:
        """The evidence was judged (None: refused). Octets that the client must still hear, None when there are none."""
        ...


class Offer(Protocol):
    """Which mechanisms there are. ``safe``: passwords in clear may pass (TLS, or the operator allows it)."""

    def names(self, channel: Channel, safe: bool) -> tuple[str, ...]:
        """What can be used on this connection now, as it is announced."""
        ...

    def begin(self, mechanism: str, channel: Channel, safe: bool) -> Exchange | WireFault:
        """A new exchange, in any case of the name; UNKNOWN_MECHANISM or NEEDS_TLS."""
        ...


def decode_line(line: bytes) -> bytes | WireFault:
    """A client's response line (without CR LF): ``*`` cancels (RFC 4954 4, RFC 5034 4)."""
    if line == b"*":
        return WireFault.CANCELLED
    return decode_base64(line)


def decode_initial(argument: bytes) -> bytes | WireFault:
    """An initial response as a command's argument: ``=`` is a response of no octets (RFC 4954 4)."""
    return b"" if argument == b"=" else decode_base64(argument)


def decode_base64(data: bytes) -> bytes | WireFault:
    """Strict: canonical alphabet, padding where it belongs, nothing behind it."""
    try:
        decoded = binascii.a2b_base64(data, strict_mode=True) if data else b""
    except binascii.Error:
        return WireFault.BAD_BASE64
    # strict_mode lets surplus padding and stray last bits pass.
    return decoded if b64encode(decoded) == data else WireFault.BAD_BASE64


def encode(data: bytes) -> bytes:
    return b64encode(data)


@dataclass(frozen=True, slots=True)
class Passwords:
    """The offer of PLAIN and LOGIN alone."""

    def names(self, channel: Channel, safe: bool) -> tuple[str, ...]:
        return MECHANISMS if safe else ()

    def begin(self, mechanism: str, channel: Channel, safe: bool) -> Exchange | WireFault:
        name = mechanism.upper()
        if name not in MECHANISMS:
            return WireFault.UNKNOWN_MECHANISM
        if not safe:
            return WireFault.NEEDS_TLS
        return Plain() if name == "PLAIN" else Login()


ONLY_PASSWORDS = Passwords()


def credentials(login: bytes, password: bytes) -> Credentials | Failed:
    """Check what every mechanism with a password must check."""
    if not login or not password:
        return Failed("empty login name or password")
    if len(login) > LOGIN_MAX or len(password) > PASSWORD_MAX:
        return Failed("login name or password too long")
    if b"\0" in login or b"\0" in password:
        return Failed("NUL in login name or password")
    try:
        return Credentials(login.decode("utf-8"), password.decode("utf-8"))
    except UnicodeDecodeError:
        return Failed("login name and password must be UTF-8")


class Dialog:
    """One connection's exchange with base64 lines, for the protocols whose wire form that is."""

    __slots__ = ("_exchange", "_offer")

    def __init__(self, offer: Offer = ONLY_PASSWORDS) -> None:
        self._offer = offer
        self._exchange: Exchange | None = None

    def begin(
        self, mechanism: str, initial: bytes | None, channel: Channel = NO_CHANNEL, safe: bool = True
    ) -> Step | WireFault:
        """``initial``: the initial response as written, None when there is none."""
        exchange = self._offer.begin(mechanism, channel, safe)
        if isinstance(exchange, WireFault):
            return exchange
        response = None if initial is None else decode_initial(initial)
        if isinstance(response, WireFault):
            return response
        self._exchange = exchange
        return self._kept(exchange.start(response))

    def line(self, line: bytes) -> Step | WireFault:
        """The client's next line, without its CR LF."""
        exchange, self._exchange = self._exchange, None
        data = decode_line(line)
        if isinstance(data, WireFault) or exchange is None:
            return data if isinstance(data, WireFault) else WireFault.CANCELLED
        self._exchange = exchange
        return self._kept(exchange.respond(data))

    def judged(self, account: Account | None) -> Challenge | None:
        """What the client must still hear when its evidence was judged; its next line then ends the exchange."""
        exchange = self._exchange
        last = exchange.judged(account) if exchange is not None else None
        if last is None:
            self._exchange = None
            return None
        return Challenge(last)

    def forget(self) -> None:
        self._exchange = None

    def _kept(self, step: Step) -> Step:
        if not isinstance(step, Challenge | Proof | Token):
            self._exchange = None
        return step


class Plain:
    """RFC 4616: ``[authzid] NUL authcid NUL passwd`` in one message."""

    __slots__ = ()

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        parts = data.split(b"\0")
        if len(parts) != 3:
            return Failed("malformed PLAIN message")
        authzid, authcid, password = parts
        if authzid and authzid != authcid:
            # RFC 4616 2: acting for somebody else needs a right that nobody has here.
            return Failed("authorization identity must be the login name")
        return credentials(authcid, password)

    def judged(self, account: Account | None) -> bytes | None:
        return None


class Login:
    """Two prompts, two answers; an initial response is the login name."""

    __slots__ = ("_login",)

    def __init__(self) -> None:
        self._login: bytes | None = None

    def start(self, initial: bytes | None) -> Step:
        # The colons are part of what old Outlook looks for.
        return Challenge(b"Username:") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        if self._login is None:
            self._login = data
            return Challenge(b"Password:")
        return credentials(self._login, data)

    def judged(self, account: Account | None) -> bytes | None:
        return None
