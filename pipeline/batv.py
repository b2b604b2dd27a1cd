"""Bounce Address Tag Validation: a tag in the reverse-path of what we send, by which a bounce shows that it answers our mail.

Specification: draft-levine-smtp-batv-01, the scheme "prvs": ``prvs=KDDDSSSSSS=local@domain``. ``K`` the number of the key, ``DDD``
the day on which the tag ends (days since 1970, modulo 1000), ``SSSSSS`` the first three octets of the HMAC-SHA1 over
``KDDDlocal@domain``, in hexadecimal. Complete: yes.

Invariants: the first secret signs, all verify (``K`` is no more than a hint), compared in constant time and without case, as an
MTA on the way may have changed it; a null path stays null; only addresses of our own domains are signed or opened.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.ports import Clock
from rules.mail.address import quote_local, split

DAY = 86400
ROUND = 1000  # days until a tag's day comes round again
VALID_DAYS = 7  # draft 5: a bounce that takes longer is no bounce any more
HASH_OCTETS = 3
ADDRESS_LIMIT = 254  # octets: a path of 256 without its brackets
_SRS = re.compile("SRS[01][-+=]", re.IGNORECASE)
_TAGGED = re.compile(r"prvs=([0-9])([0-9]{3})([0-9a-f]{6})=(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Tagged:
    """``address`` without its tag; ``why`` it is not believed, "" = genuine."""

    address: str
    why: str = ""


class Batv:
    """``secrets``: octets, none empty."""

    def __init__(self, domains: Collection[str], secrets: Sequence[bytes], clock: Clock) -> None:
        if not secrets or not all(secrets):
            raise ValueError("BATV needs a secret, and none may be empty")
        self._domains = frozenset(name.lower() for name in domains)
        self._secrets = tuple(secrets)
        self._clock = clock

    def sign(self, sender: str) -> str:
        """The reverse-path as it leaves. Foreign, tagged and rewritten (SRS) addresses stay, so do the null path and what would get
        too long."""
        local, domain = split(sender)
        if not local or domain.lower() not in self._domains or _TAGGED.fullmatch(local) or _SRS.match(local):
            return sender
        stamp = f"0{(self._today() + VALID_DAYS) % ROUND:03d}"
        tag = self._mac(self._secrets[0], stamp, local, domain)
        made = f"{quote_local(f'prvs={stamp}{tag}={local}')}@{domain}"
        return made if len(made.encode("utf-8", "replace")) <= ADDRESS_LIMIT else sender

    def open(self, address: str) -> Tagged | None:
        """What stands behind a tagged address of ours; None for every other address."""
        local, domain = split(address)
        found = _TAGGED.fullmatch(local)
        if found is None or domain.lower() not in self._domains:
            return None
        key, day, given, plain = found.groups()
        bare = f"{quote_local(plain)}@{domain}"
        good = False
        for secret in self._secrets:  # all of them, always: the time tells nothing
            good |= hmac.compare_digest(given.lower(), self._mac(secret, key + day, plain, domain))
        if not good:
            return Tagged(bare, "wrong tag")
        left = (int(day) - self._today()) % ROUND
        return Tagged(bare, "" if left <= VALID_DAYS else "expired")

    def _mac(self, secret: bytes, stamp: str, local: str, domain: str) -> str:
        text = f"{stamp}{local}@{domain}".lower().encode("utf-8", "replace")
        return hmac.digest(secret, text, hashlib.sha1)[:HASH_OCTETS].hex()

    def _today(self) -> int:
        return int(self._clock.time() // DAY)
