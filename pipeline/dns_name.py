"""DNS names as the stages write them: text in, checked lower-case ASCII out, or None.

Specification: RFC 1035 2.3.4 (63 octets a label, 255 a name), RFC 3490 ToASCII for names with U-labels.
No master-file escapes: a backslash is an octet like any other (SPF macros can put one there).
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

LABEL_LIMIT = 63
NAME_LIMIT = 253  # visible form without the trailing dot = 255 octets on the wire
_KNOWN = 8192  # names whose form is remembered: a message asks for its few again and again


def normalise(name: str) -> str | None:
    """Lower-case, without the trailing dot, U-labels as A-labels; None when it cannot be a DNS name."""
    return _normalised(name) if len(name) <= NAME_LIMIT + 1 else None


@lru_cache(maxsize=_KNOWN)
def _normalised(name: str) -> str | None:
    if name.endswith("."):
        name = name[:-1]
    if not name or len(name) > NAME_LIMIT:
        return None
    if not name.isascii():
        ascii_form = to_ascii(name)
        if ascii_form is None or len(ascii_form) > NAME_LIMIT:
            return None
        name = ascii_form
    name = name.lower()
    for label in name.split("."):
        if not label or len(label) > LABEL_LIMIT:
            return None
    return name


def to_ascii(name: str) -> str | None:
    """A-label form of a name with U-labels; None when it has none."""
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return None


def reverse_name(ip: str) -> str:
    """``192.0.2.1`` -> ``1.2.0.192.in-addr.arpa``; IPv6 by nibbles (RFC 3596 2.5). ``ip`` must be an address."""
    return ipaddress.ip_address(ip).reverse_pointer
