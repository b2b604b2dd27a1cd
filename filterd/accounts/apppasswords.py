"""App passwords: further passwords of an account, one for each program or device, made by us and revoked one by one.

They are random (about 99 bits), so a salted SHA-256 keeps them as safely as argon2id keeps what people choose, and to look
whether one fits costs nothing. Case, blanks and hyphens do not count: people type them from a screen. Used with PLAIN, LOGIN and
their likes; SCRAM knows only the account's own password.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from filterd.accounts.errors import BadAccount
from filterd.accounts.password import generate

MOST = 50  # of one account
NAME_MAX = 64  # characters
SALT_OCTETS = 16


@dataclass(frozen=True, slots=True)
class AppPassword:
    """``digest``: salt and SHA-256 in hex with a colon between them. ``created``: seconds since the epoch."""

    name: str
    digest: str
    created: float = 0.0


def make(name: str, now: float) -> tuple[AppPassword, str]:
    """(what is kept, the password to print once). Raises BadAccount for a name that cannot be."""
    name = unicodedata.normalize("NFC", name.strip())
    if not name or len(name) > NAME_MAX or not name.isprintable():
        raise BadAccount(f"the name of an app password has 1 to {NAME_MAX} printable characters")
    password, salt = generate(), secrets.token_bytes(SALT_OCTETS)
    return AppPassword(name, f"{salt.hex()}:{_hashed(salt, password)}", now), password


def fits(passwords: Sequence[AppPassword], given: str) -> bool:
    """Is ``given`` one of these?"""
    found = False
    for one in passwords:
        salt, _, digest = one.digest.partition(":")
        try:
            octets = bytes.fromhex(salt)
        except ValueError:
            continue
        found |= hmac.compare_digest(digest.encode(), _hashed(octets, given).encode())
    return found


def _hashed(salt: bytes, password: str) -> str:
    plain = password.replace("-", "").replace(" ", "").lower()
    return hashlib.sha256(salt + plain.encode("utf-8", "surrogatepass")).hexdigest()
