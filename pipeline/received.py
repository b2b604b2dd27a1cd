"""Our own Received line: where the message came from, or on purpose not.

Specification: RFC 5321 4.4 (trace information), RFC 3848 and RFC 6531 4.3 (the words after ``with``), RFC 5321 7.6
(``for`` only when there is one recipient: the others' addresses are nobody's business; in ASCII or not at all).
Invariant: what the client said (HELO) stands in the line only when it is a domain or an address literal, or reduced to
harmless characters inside a comment; nothing of it can end the field or a comment. With ``hide_client`` the line holds
nothing of the client: no address, no name, no HELO (HOUSE item 8).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from pipeline.dns_name import to_ascii
from pipeline.envelope import Client, Profile
from rules.mail import date

SUBMITTED = "from localhost (client address withheld)"  # RFC 5321 4.4 wants a From-domain in any case
_DOMAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?\.?")
_HARMLESS = re.compile(r"[^A-Za-z0-9._:+/@ -]")
_ADDRESS = re.compile(r"[^\x00-\x20<>()\"\\;,\x7f]{1,254}")


def line(
    client: Client,
    profile: Profile,
    hostname: str,
    message_id: str,
    when: datetime,
    recipients: Sequence[str] = (),
    smtputf8: bool = False,
    hide_client: bool = False,
) -> bytes:
    """The whole field, folded, with CRLF. ``message_id`` is our queue or trace id; ``when`` is aware."""
    parts = []
    if hide_client:
        parts.append(SUBMITTED)
    elif profile is not Profile.DELIVER:
        parts.append(_from(client))
    with_words = (
        "" if profile is Profile.DELIVER else f" with {protocol(client, profile, smtputf8)}{_tls(client)}"
    )
    parts.append(f"by {hostname}{with_words} id {_HARMLESS.sub('', message_id) or 'none'}")
    address = _in_ascii(recipients[0]) if len(recipients) == 1 else ""
    if _ADDRESS.fullmatch(address):
        parts.append(f"for <{address}>")
    text = "Received: " + "\r\n\t".join(parts) + f";\r\n\t{date.render(when)}\r\n"
    return text.encode("utf-8", "replace")


def _in_ascii(address: str) -> str:
    """Our line is never what makes a header international: hosts without SMTPUTF8 could not be given the message any more."""
    local, _, domain = address.rpartition("@")
    labels = domain if domain.isascii() else to_ascii(domain)
    return f"{local}@{labels}" if labels and local and local.isascii() else ""


def protocol(client: Client, profile: Profile, smtputf8: bool = False) -> str:
    """The word after ``with``: SMTP, ESMTPSA, LMTPS, UTF8SMTPSA, ..."""
    tls, auth = "S" if client.tls else "", "A" if client.auth else ""
    if profile is Profile.LMTP:
        return f"{'UTF8' if smtputf8 else ''}LMTP{tls}{auth}"
    if smtputf8:
        return f"UTF8SMTP{tls}{auth}"
    if not client.esmtp and not tls and not auth:
        return "SMTP"
    return f"ESMTP{tls}{auth}"


def _from(client: Client) -> str:
    literal = _literal(client.ip)
    info = " ".join(word for word in (_name(client.name), literal) if word)
    if _DOMAIN.fullmatch(client.helo) or _is_literal(client.helo):
        return f"from {client.helo} ({info})" if info else f"from {client.helo}"
    said = f"HELO {_HARMLESS.sub('?', client.helo)[:100]}" if client.helo else "no HELO"
    return f"from {literal or 'unknown'} ({' '.join(word for word in (_name(client.name), said) if word)})"


def _name(name: str) -> str:
    return name if _DOMAIN.fullmatch(name) else ""


@lru_cache(maxsize=1024)
def _literal(ip: str | None) -> str:
    """RFC 5321 4.1.3."""
    if not ip:
        return ""
    try:
        address = ipaddress.ip_address(ip.split("%")[0])
    except ValueError:
        return ""
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def _is_literal(text: str) -> bool:
    if not (text.startswith("[") and text.endswith("]")):
        return False
    inner = text[1:-1]
    return bool(_literal(inner[5:] if inner[:5].lower() == "ipv6:" else inner)) and "%" not in inner


def _tls(client: Client) -> str:
    return f" ({_HARMLESS.sub('', client.tls)[:80]})" if client.tls else ""
