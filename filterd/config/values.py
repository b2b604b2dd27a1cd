"""How people write values: sizes ("50 MiB"), durations ("25s"), addresses ("[::]:25", "unix:/run/x"), choices.

Each ``Kind`` has one reader that turns what TOML (or an environment variable) holds into the value the program uses,
or raises ``BadValue`` with words for the operator. Durations become seconds (float), sizes octets (int).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from itertools import chain
from typing import TypeVar
from urllib.parse import unquote

T = TypeVar("T")


class Kind(Enum):
    """What a key holds; the value is its description for people."""

    TEXT = "text"
    FLAG = "true or false"
    COUNT = "a whole number"
    NUMBER = "a number"
    SIZE = 'a size such as "50 MiB" (B, KiB, MiB, GiB, TiB; kB, MB, GB count by thousands)'
    DURATION = 'a duration such as "25s" (ms, s, m or min, h, d, w)'
    DURATIONS = 'a list of durations such as ["5m", "1h"]'
    CHOICE = "one of the choices"
    CHOICES = "a list of the choices"
    SWITCH = '"auto", true or false'
    TEXTS = "a list of texts"
    LISTEN = 'a list of "HOST:PORT", "unix:PATH" or "fd:NAME"'
    SERVERS = 'a list of "HOST:PORT"'
    SOCKET = '"unix:PATH" or "HOST:PORT"'
    NETWORKS = "a list of addresses or networks such as 127.0.0.1 or 10.0.0.0/8"
    WORKERS = '"auto" or a whole number'
    RELAY = (
        '"smtp://HOST:PORT", "smtp://USER:PASSWORD@HOST:PORT" (the password may be file:PATH or env:NAME), "smtps://" (TLS at '
        'once), "lmtp://HOST:PORT", "lmtp:unix:PATH" or ""'
    )
    SECRETS = 'a list of secrets: "file:PATH", "env:NAME" or the text itself'
    HOSTNAME = "a host name such as mail.example.org"
    ADDRESS = 'an address such as ann@example.org, or ""'
    RECIPIENTS = 'a list of names, addresses or "file:PATH", or "any"'
    ALIASES = "a table: name = address, or name = [addresses]"
    ROUTED = 'a list of addresses, domains or ".domain" (all below it); of senders also "<>"'
    SOURCES = "a list of IP addresses of this machine, at most one of IPv4 and one of IPv6"
    ALIAS_FILES = 'a list of "KIND:PATH" with aliases, hash, texthash, btree, lmdb, cdb, dbm, regexp or pcre'
    PATH = "a path; a relative one starts at the folder of the configuration file"
    PATHS = "a list of paths or patterns; relative ones start at the folder of the configuration file"
    TABLE = "a table"
    TABLES = "tables"


class BadValue(ValueError):
    """``kind`` is "wrong type" or "bad value"; the text says what would be right."""

    def __init__(self, text: str, kind: str = "bad value") -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where to listen or to connect. ``host`` "" = every address of this machine; ``port`` 0 = the kernel chooses.

    Exactly one of the three forms: host and port, ``path`` of a unix socket, ``name`` of an inherited descriptor.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        if self.name:
            return f"fd:{self.name}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Relay:
    """A next hop of our choice. ``user`` "" = no login; ``path`` of a unix socket instead of host and port."""

    host: str
    port: int
    user: str = ""
    password: str = ""
    lmtp: bool = False
    path: str = ""
    smtps: bool = False

    def __str__(self) -> str:
        """As it is written, without the password."""
        scheme = "lmtp" if self.lmtp else "smtps" if self.smtps else "smtp"
        if self.path:
            return f"{scheme}:unix:{self.path}"
        user = f"{self.user}:(secret)@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{user}{host}:{self.port}"


_SIZES = {
    "": 1, "b": 1,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_SECONDS = {
    "ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0,
}  # fmt: skip
_NUMBER_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
ALIAS_KINDS = ("aliases", "hash", "texthash", "btree", "lmdb", "cdb", "dbm", "regexp", "pcre")
LOOPBACK = ["127.0.0.0/8", "::1/128"]
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def nearest(word: str, known: Sequence[str]) -> str:
    """``did you mean "x"?`` or an empty text."""
    lowered = {name.lower(): name for name in known}
    longer = [name for name in lowered if len(word) >= 3 and name.startswith(word.lower())]
    if longer:
        return f'did you mean "{lowered[longer[0]]}"?'
    close = get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return f'did you mean "{lowered[close[0]]}"?' if close else ""


def size(text: str) -> int:
    """Octets. Raises BadValue."""
    match = _NUMBER_UNIT.fullmatch(text)
    factor = _SIZES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise BadValue(f"write {Kind.SIZE.value}")
    return int(float(match[1]) * factor)


def duration(text: str) -> float:
    """Seconds; several parts add up ("1h 30m"). Raises BadValue."""
    total, position = 0.0, 0
    while position < len(text) or position == 0:
        match = _NUMBER_UNIT.match(text, position)
        factor = _SECONDS.get(match[2].lower()) if match else None
        if match is None or factor is None or match.end() == position:
            raise BadValue(f"write {Kind.DURATION.value}; a number alone has no unit")
        total += float(match[1]) * factor
        position = match.end()
    return total


def show_duration(seconds: float) -> str:
    """The shortest exact writing: 90.0 -> "90s", 3600.0 -> "1h", 0.2 -> "200ms"."""
    if seconds and seconds != int(seconds):
        return f"{round(seconds * 1000)}ms"
    for unit, length in (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{int(seconds) // length}{unit}"
    return f"{int(seconds)}s"


def show_size(octets: int) -> str:
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if octets and octets % factor == 0:
            return f"{octets // factor} {unit}"
    return f"{octets} B"


def host_name(text: str) -> str:
    """Lower case, without a final dot; IDNA labels are accepted in their A-label form. Raises BadValue."""
    name = text.rstrip(".")
    try:
        ascii_name = (
            name.encode("ascii").decode("ascii") if name.isascii() else name.encode("idna").decode("ascii")
        )
    except UnicodeError:
        raise BadValue(f'"{text}" is not a host name') from None
    labels = ascii_name.split(".")
    if not ascii_name or len(ascii_name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadValue(f'"{text}" is not a host name such as mail.example.org')
    return ascii_name.lower()


def mail_address(text: str) -> str:
    """``local@domain``, the domain in lower case; a rough check, quoting is the mail parser's. Raises BadValue."""
    local, at, domain = text.rpartition("@")
    if not at or not local or any(ch.isspace() or ord(ch) < 33 for ch in text) or "<" in text:
        raise BadValue(f'"{text}" is not an address such as ann@example.org')
    return f"{local}@{host_name(domain)}"


def socket_address(text: str, *, unix: bool = True, descriptor: bool = True) -> SocketAddress:
    """``HOST:PORT``, ``[V6]:PORT``, ``:PORT``, ``*:PORT``, ``unix:PATH``, ``/path``, ``inet:PORT@HOST``, ``fd:X``."""
    if unix and (text.startswith(("unix:", "local:", "/"))):
        path = text if text.startswith("/") else text.partition(":")[2]
        if not path or "\0" in path:
            raise BadValue("unix: needs a path")
        return SocketAddress(path=path)
    if descriptor and text.startswith("fd:") and len(text) > 3:
        return SocketAddress(name=text[3:])
    if text.startswith(("inet:", "inet6:")):  # the milter spelling, and Postfix's inet:host:port
        rest = text.partition(":")[2]
        port_text, at, host = rest.partition("@")
        if not at:
            host, _, port_text = rest.rpartition(":")
    else:
        host, _, port_text = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if text.isdecimal() or not port_text.isdecimal() or int(port_text) > 65535:
        hint = f'"[::]:{text}"' if text.isdecimal() else '"127.0.0.1:2525" or "[::1]:2525"'
        raise BadValue(f"write {hint}")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            bare = host.strip("[]")
            raise BadValue(f'an IPv6 address stands in brackets: "[{bare}]:{port_text}"') from None
    elif host not in ("", "*"):
        host_name(host)
    return SocketAddress(host="" if host == "*" else host, port=int(port_text))


def network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise BadValue(f'"{text}" is not an address or network such as 127.0.0.1 or 10.0.0.0/8') from None


def relay(text: str) -> Relay | None:
    if not text:
        return None
    scheme, colon, rest = text.partition(":")
    if scheme not in ("smtp", "smtps", "lmtp") or not colon:
        raise BadValue(f"write {Kind.RELAY.value}")
    lmtp = scheme == "lmtp"
    if rest.startswith("unix:") and scheme != "smtps":
        path = socket_address(rest).path
        return Relay("localhost", 0, lmtp=lmtp, path=path)
    if not rest.startswith("//"):
        raise BadValue(f"write {Kind.RELAY.value}")
    login, _, place = rest[2:].rstrip("/").rpartition("@")
    user, colon, password = login.partition(":")
    if login and not (user and colon and password):
        raise BadValue(f"a log-in needs a name and a password: {Kind.RELAY.value}")
    if login and lmtp:
        raise BadValue("LMTP knows no log-in here")
    if re.search(r":\d+$", place) is None:
        place += {"lmtp": ":24", "smtps": ":465"}.get(scheme, ":25")
    address = socket_address(place, unix=False, descriptor=False)
    if not address.host:
        raise BadValue("the relay needs a host name")
    return Relay(address.host, address.port, unquote(user), unquote(password), lmtp, smtps=scheme == "smtps")


# -- one reader a kind -----------------------------------------------------------------------------------------------


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise BadValue(f"expected {Kind.TEXT.value} in quotes, not {_name(raw)}", "wrong type")
    if "\0" in raw:
        raise BadValue("a NUL character")
    return raw


def _flag(raw: object) -> bool:
    if not isinstance(raw, bool):
        hint = " (without quotes)" if isinstance(raw, str) else ""
        raise BadValue(f"expected true or false{hint}, not {_name(raw)}", "wrong type")
    return raw


def _count(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise BadValue(f"expected a whole number, not {_name(raw)}", "wrong type")
    if raw < 0:
        raise BadValue("must not be negative")
    return raw


def _number(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        raise BadValue(f"expected a number, not {_name(raw)}", "wrong type")
    return float(raw)


def _size(raw: object) -> int:
    return (
        _count(raw) if isinstance(raw, int) and not isinstance(raw, bool) else size(_quoted(raw, Kind.SIZE))
    )


def _duration(raw: object) -> float:
    return duration(_quoted(raw, Kind.DURATION))


def _workers(raw: object) -> int:
    """0 = as many as there are cores."""
    if raw == "auto":
        return 0
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise BadValue(f"expected {Kind.WORKERS.value}, not {_name(raw)}", "wrong type")
    if not 1 <= raw <= 256:
        raise BadValue('from 1 to 256, or "auto"')
    return raw


def _switch(raw: object) -> str:
    """ "auto", "on" or "off"."""
    if isinstance(raw, bool):
        return "on" if raw else "off"
    text = _quoted(raw, Kind.SWITCH).lower()
    if text not in ("auto", "on", "off"):
        raise BadValue(f"one of: auto, true, false   {nearest(text, ('auto', 'on', 'off'))}".rstrip())
    return text


def _list(raw: object, kind: Kind) -> list[object]:
    if isinstance(raw, str):  # one entry needs no brackets
        return [raw] if raw else []
    if not isinstance(raw, list):
        raise BadValue(f"expected {kind.value}, not {_name(raw)}", "wrong type")
    return list(raw)


def _each(kind: Kind, read: Callable[[str], object]) -> Callable[[object], object]:
    def reader(raw: object) -> object:
        return _all(_list(raw, kind), lambda item: read(_quoted(item, kind)))

    return reader


def _all(items: Sequence[object], read: Callable[[object], T]) -> tuple[T, ...]:
    """Each entry read. What is wrong with any of them is told in one BadValue."""
    out: list[T] = []
    wrong: list[BadValue] = []
    for item in items:
        try:
            out.append(read(item))
        except BadValue as error:
            wrong.append(error)
    if wrong:
        raise BadValue("; ".join(dict.fromkeys(map(str, wrong))), wrong[0].kind)
    return tuple(out)


def _one(kind: Kind, read: Callable[[str], object]) -> Callable[[object], object]:
    def reader(raw: object) -> object:
        return read(_quoted(raw, kind))

    return reader


def _networks(raw: object) -> tuple[str, ...]:
    """ "localhost" stands for both loopback networks."""

    def one(item: object) -> list[str]:
        text = _quoted(item, Kind.NETWORKS)
        return LOOPBACK if text.lower() == "localhost" else [network(text)]

    return tuple(chain.from_iterable(_all(_list(raw, Kind.NETWORKS), one)))


def _aliases(raw: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(raw, dict):
        raise BadValue(f"expected {Kind.ALIASES.value}, not {_name(raw)}", "wrong type")

    def one(name: object) -> tuple[str, tuple[str, ...]]:
        alias = str(name)
        if not alias or "@" in alias or any(ch.isspace() for ch in alias):
            raise BadValue(f'alias "{alias}": give the part before the @ only')
        found = _all(_list(raw[name], Kind.ALIASES), lambda item: mail_address(_quoted(item, Kind.ADDRESS)))
        if not found:
            raise BadValue(f'alias "{alias}" leads nowhere')
        return alias if alias[0] == alias[-1] == "/" else alias.lower(), found

    return dict(_all(list(raw), one))


def _routed(text: str) -> str:
    if text == "<>":
        return text
    if "@" in text:
        return mail_address(text)
    return "." + host_name(text[1:]) if text.startswith(".") else host_name(text)


def _sources(raw: object) -> tuple[str, ...]:
    def one(item: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        text = _quoted(item, Kind.SOURCES)
        try:
            return ipaddress.ip_address(text)
        except ValueError:
            raise BadValue(f'"{text}" is no IP address') from None

    found = _all(_list(raw, Kind.SOURCES), one)
    if len({address.version for address in found}) < len(found):
        raise BadValue(f"expected {Kind.SOURCES.value}")
    return tuple(str(address) for address in found)


def _alias_file(text: str) -> str:
    kind, colon, path = text.partition(":")
    if not colon or not path or kind not in ALIAS_KINDS:
        raise BadValue(f"write {Kind.ALIAS_FILES.value}")
    return text


def _quoted(raw: object, kind: Kind) -> str:
    if not isinstance(raw, str):
        raise BadValue(f"expected {kind.value}, not {_name(raw)}", "wrong type")
    return _text(raw)


def _name(raw: object) -> str:
    for python, name in ((bool, "true/false"), (int, "a number"), (float, "a number"), (str, "a text")):
        if isinstance(raw, python):
            return name
    return "a list" if isinstance(raw, list) else "a table" if isinstance(raw, dict) else "a date"


def _address_or_none(text: str) -> str:
    return mail_address(text) if text else ""


_READERS: dict[Kind, Callable[[object], object]] = {
    Kind.TEXT: _text,
    Kind.FLAG: _flag,
    Kind.COUNT: _count,
    Kind.NUMBER: _number,
    Kind.SIZE: _size,
    Kind.DURATION: _duration,
    Kind.DURATIONS: _each(Kind.DURATIONS, duration),
    Kind.SWITCH: _switch,
    Kind.TEXTS: _each(Kind.TEXTS, str),
    Kind.LISTEN: _each(Kind.LISTEN, socket_address),
    Kind.SERVERS: _each(Kind.SERVERS, lambda text: socket_address(text, unix=False, descriptor=False)),
    Kind.SOCKET: _one(Kind.SOCKET, lambda text: socket_address(text, descriptor=False)),
    Kind.NETWORKS: _networks,
    Kind.WORKERS: _workers,
    Kind.RELAY: _one(Kind.RELAY, relay),
    Kind.SECRETS: _each(Kind.SECRETS, str),
    Kind.HOSTNAME: _one(Kind.HOSTNAME, host_name),
    Kind.ADDRESS: _one(Kind.ADDRESS, _address_or_none),
    Kind.RECIPIENTS: _each(Kind.RECIPIENTS, str),
    Kind.ALIASES: _aliases,
    Kind.ROUTED: _each(Kind.ROUTED, _routed),
    Kind.SOURCES: _sources,
    Kind.ALIAS_FILES: _each(Kind.ALIAS_FILES, _alias_file),
    Kind.PATH: _text,
    Kind.PATHS: _each(Kind.PATHS, str),
}


def read(kind: Kind, raw: object, choices: Sequence[str] = ()) -> object:
    """The value of ``raw`` for a key of this kind. Raises BadValue."""
    if kind is Kind.CHOICE:
        return _choice(_quoted(raw, Kind.CHOICE), choices)
    if kind is Kind.CHOICES:
        return _all(_list(raw, kind), lambda item: _choice(_quoted(item, kind), choices))
    return _READERS[kind](raw)


def _choice(text: str, choices: Sequence[str]) -> str:
    if text in choices:
        return text
    hint = nearest(text, choices)
    raise BadValue(f"one of: {', '.join(choices)}" + (f"   {hint}" if hint else ""))
