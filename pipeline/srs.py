"""The Sender Rewriting Scheme: our own reverse-path on what we forward, and the way back for its bounces.

Formats (those of Mail::SRS "guarded", libsrs2 and PostSRSd, checked against them in tests/peers/test_srs.py):
``SRS0=HHHH=TT=host=local`` and, for an address that is SRS already, ``SRS1=HHHH=host==rest``; the first separator may be
``=``, ``+`` or ``-``. ``TT`` is the day modulo 1024 in base32; ``HHHH`` the beginning of the base64 HMAC-SHA1, over the
lower-case text of the parts behind it, without separators.

Invariants: the first secret signs, all verify, compared in constant time and (an MTA on the way may have changed the
case) without case; a null path stays null; nothing comes back whose hash is wrong or whose day is too old; no address
longer than a path may be is made (RFC 5321 4.5.3.1.3; its 64 octets for a local part are only a SHOULD, and
``max_local`` makes them a rule for those who want it).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.ports import Clock
from rules.mail.address import quote_local, split

DAY = 86400
SLOTS = 1024  # days until a time stamp comes round again
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
HASH_MIN = 4  # base64 characters
HASH_MAX = 27  # of a whole SHA-1, without padding
ADDRESS_LIMIT = 254  # octets: a path of 256 without its brackets
_SRS0 = re.compile(r"SRS0([-+=])(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_SRS1 = re.compile(r"SRS1[-+=](?P<rest>.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The new reverse-path."""

    address: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The reverse-path stays: it is null or our own."""

    address: str


@dataclass(frozen=True, slots=True)
class Original:
    """Whom the bounce is for."""

    address: str


@dataclass(frozen=True, slots=True)
class NotSrs:
    """An ordinary address."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """``why``: "malformed", "wrong hash", "expired", "too long", "no secret"."""

    why: str


class Srs:
    """Rewrites for one domain. ``own_domains`` are not rewritten; ``valid_days`` is how long a bounce finds its way."""

    def __init__(
        self,
        domain: str,
        secrets: Sequence[bytes],
        clock: Clock,
        own_domains: Collection[str] = (),
        valid_days: int = 21,
        hash_length: int = HASH_MIN,
        separator: str = "=",
        max_local: int = 0,
    ) -> None:
        if not secrets or not all(secrets):
            raise ValueError("SRS needs a secret, and none may be empty")
        if separator not in ("=", "+", "-") or len(separator) != 1:
            raise ValueError("the separator of SRS is one of = + -")
        if not HASH_MIN <= hash_length <= HASH_MAX or not 0 < valid_days < SLOTS:
            raise ValueError("SRS: hash length is 4 to 27 characters, validity 1 to 1023 days")
        self.domain = domain
        self._secrets = tuple(secrets)
        self._clock = clock
        self._own = {name.lower() for name in (*own_domains, domain)}
        self._valid_days = valid_days
        self._hash_length = hash_length
        self._separator = separator
        self._max_local = max_local

    def forward(self, sender: str) -> Rewritten | Unchanged | Unusable:
        """The reverse-path for a message that is sent on. ``sender`` without brackets, "" is the null path."""
        if not sender:
            return Unchanged(sender)
        local, host = split(sender)
        if not local or not host:
            return Unusable("malformed")
        if host.lower() in self._own:
            return Unchanged(sender)
        made = quote_local(self._compile(local, host))
        address = f"{made}@{self.domain}"
        too_long = self._max_local and len(made.encode()) > self._max_local
        if too_long or len(address.encode("utf-8", "replace")) > ADDRESS_LIMIT:
            return Unusable("too long")
        return Rewritten(address)

    def _compile(self, local: str, host: str) -> str:
        srs1 = _SRS1.fullmatch(local)
        if srs1:
            parts = srs1["rest"].split("=", 2)
            if len(parts) == 3:  # somebody else's guard: keep the first forwarder, put our hash in its place
                _hash, first, rest = parts
                return f"SRS1{self._separator}{self._sign(first, rest)}={first}={rest}"
        srs0 = _SRS0.fullmatch(local)
        if srs0:
            rest = srs0[1] + srs0["rest"]
            return f"SRS1{self._separator}{self._sign(host, rest)}={host}={rest}"
        stamp = self._stamp()
        return f"SRS0{self._separator}{self._sign(stamp, host, local)}={stamp}={host}={local}"

    def reverse(self, address: str) -> Original | NotSrs | Unusable:
        """Whom a bounce to one of our addresses is for. Whether the address' domain is ours is the caller's question."""
        local, _host = split(address)
        srs0, srs1 = _SRS0.fullmatch(local), _SRS1.fullmatch(local)
        if srs0:
            parts = srs0["rest"].split("=", 3)
            if len(parts) != 4 or not all(parts):
                return Unusable("malformed")
            given, stamp, host, user = parts
            if not self._verify(given, stamp, host, user):
                return Unusable("wrong hash")
            age = self._age(stamp)
            if age is None:
                return Unusable("malformed")
            if age > self._valid_days:
                return Unusable("expired")
            return Original(f"{quote_local(user)}@{host}")
        if srs1:
            parts = srs1["rest"].split("=", 2)
            if len(parts) != 3 or not all(parts) or parts[2][0] not in "=+-":
                return Unusable("malformed")
            given, host, rest = parts
            if not self._verify(given, host, rest):
                return Unusable("wrong hash")
            return Original(f"{quote_local('SRS0' + rest)}@{host}")
        return NotSrs()

    def _mac(self, secret: bytes, parts: Sequence[str]) -> str:
        text = "".join(parts).encode("utf-8", "replace").lower()
        return base64.b64encode(hmac.digest(secret, text, hashlib.sha1)).decode("ascii")

    def _sign(self, *parts: str) -> str:
        return self._mac(self._secrets[0], parts)[: self._hash_length]

    def _verify(self, given: str, *parts: str) -> bool:
        if not HASH_MIN <= len(given) <= HASH_MAX:
            return False
        wanted = given.lower().encode("utf-8", "replace")
        good = False
        for secret in self._secrets:  # all of them, always: the time tells nothing
            expected = self._mac(secret, parts)[: len(given)].lower().encode("ascii")
            good |= hmac.compare_digest(wanted, expected)
        return good

    def _today(self) -> int:
        return int(self._clock.time() // DAY) % SLOTS

    def _stamp(self) -> str:
        today = self._today()
        return BASE32[today >> 5] + BASE32[today & 31]

    def _age(self, stamp: str) -> int | None:
        """Days since ``stamp``; a day in the future is nearly a whole round old."""
        digits = [BASE32.find(char) for char in stamp.upper()]
        if len(digits) != 2 or min(digits) < 0:
            return None
        return (self._today() - (digits[0] << 5 | digits[1])) % SLOTS
