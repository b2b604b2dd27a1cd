"""XCLIENT and XFORWARD: what a trusted hop of ours tells about the client that spoke to it.

Specification: Postfix's XCLIENT_README (the whole session counts as that client's) and XFORWARD_README (facts about the next
message only, which give no rights). Complete: yes; a client that is no host on the Internet is an unknown one, and so is a
name that is none (a proxy hands on whatever its client said).

Values are xtext; ``[UNAVAILABLE]`` and ``[TEMPUNAVAIL]`` become "". All functions raise ``SyntaxFault``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from filterd.proto.smtp_parse import HELO_NAME, XCHAR, SyntaxFault, printable, xtext

XCLIENT_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
XFORWARD_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
UNKNOWN = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
MAX_VALUE = 255  # characters of an XFORWARD attribute, and of a name told by XCLIENT, as Postfix has it


def _attributes(argument: bytes, command: str, names: Sequence[str]) -> dict[str, str]:
    """Attributes by upper-case name, decoded; "" when unavailable."""
    facts: dict[str, str] = {}
    for token in argument.split():
        raw_name, equals, raw_value = token.partition(b"=")
        name = raw_name.decode("latin-1").upper()
        if not equals or name not in names:
            raise SyntaxFault(501, "5.5.4", f"Bad {command} attribute")
        # Some clients write the hex of xtext in lower case: it is read in any case.
        value = xtext(XCHAR.sub(lambda found: found[0].upper(), raw_value).decode("latin-1"))
        if value is None or (not printable(value) and name != "LOGIN"):
            raise SyntaxFault(501, "5.5.4", f"Bad value of {name}")
        facts[name] = "" if value.upper() in UNKNOWN else value
    if not facts:
        raise SyntaxFault(501, "5.5.4", f"{command} needs attributes")
    return facts


def xclient(argument: bytes) -> dict[str, str]:
    """Attributes of XCLIENT, checked; addresses without "IPV6:"."""
    facts = _attributes(argument, "XCLIENT", XCLIENT_NAMES)
    return {name: _xclient_value(name, value) for name, value in facts.items()}


def xforward(argument: bytes) -> dict[str, str]:
    """Attributes of XFORWARD, checked; an ADDR that is no IP address and a HELO that is no host name are unknown ones."""
    facts = _attributes(argument, "XFORWARD", XFORWARD_NAMES)
    return {name: _xforward_value(name, value) for name, value in facts.items()}


def _xforward_value(name: str, value: str) -> str:
    bad = SyntaxFault(501, "5.5.4", f"Bad value of {name}")
    if len(value) > MAX_VALUE:
        raise bad
    match name:
        case "ADDR":
            return _address(value) or ""
        case "HELO" | "NAME":
            return value if HELO_NAME.fullmatch(value.encode()) else ""
        case "PORT" if value and not _port(value):
            raise bad
        case "SOURCE" if value.upper() not in ("", "LOCAL", "REMOTE"):
            raise bad
        case "SOURCE" | "PROTO":
            return value.upper()
    return value


def _xclient_value(name: str, value: str) -> str:
    bad = SyntaxFault(501, "5.5.4", f"Bad value of {name}")
    if name in ("ADDR", "DESTADDR") and value:
        address = _address(value)
        if address is None:
            raise bad
        return address
    if name in ("PORT", "DESTPORT") and value and not _port(value):
        raise bad
    if name == "PROTO":
        value = value.upper()
        if value not in ("", "SMTP", "ESMTP"):
            raise bad
    if name in ("HELO", "NAME"):
        if len(value) > MAX_VALUE:
            raise bad
        return value if HELO_NAME.fullmatch(value.encode("utf-8")) else ""
    return value


def _port(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 5 and int(value) < 65536


def _address(value: str) -> str | None:
    """An IP address in its usual form, IPv4 in IPv6 unwrapped; None when it is none."""
    if value[:5].upper() == "IPV6:":
        value = value[5:]
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address)


def written(facts: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Attributes as a client writes them, those of ``names`` that are there."""
    return [f"{name}={encoded(facts[name])}" for name in names if name in facts]


def encoded(value: str) -> str:
    """xtext of ``value`` in UTF-8 (RFC 3461 4); "[UNAVAILABLE]" for ""."""
    if not value:
        return UNKNOWN[0]
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}"
        for octet in value.encode("utf-8", "replace")
    )
