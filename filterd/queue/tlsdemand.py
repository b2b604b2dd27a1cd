"""What is demanded of TLS with one host, and how it went: the values that policy, connector and reports share.

``TlsResult`` names are those of RFC 8460 4.3; OK is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """From the least to the most. TRY takes clear text when TLS is not there or fails."""

    NEVER = "none"
    TRY = "opportunistic"
    ENCRYPT = "encrypted"  # any certificate, never clear text
    DANE = "dane"
    NAMED = "verified"  # a certificate that the system (or tls_ca) trusts, for one of ``names``


class TlsResult(Enum):
    OK = "ok"
    NO_STARTTLS = "starttls-not-supported"
    MISMATCH = "certificate-host-mismatch"
    EXPIRED = "certificate-expired"
    UNTRUSTED = "certificate-not-trusted"
    FAILURE = "validation-failure"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    STS_FETCH = "sts-policy-fetch-error"
    STS_INVALID = "sts-policy-invalid"
    STS_WEBPKI = "sts-webpki-invalid"


@dataclass(frozen=True, slots=True)
class Tlsa:
    """One TLSA record: ``usage``, ``selector``, ``matching`` (RFC 6698 2.1), ``data``."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        text = self.data.hex()
        return f"{self.usage} {self.selector} {self.matching} {text[:16]}{'…' if len(text) > 16 else ''}"

    @property
    def full(self) -> str:
        """As it stands in the DNS."""
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"


@dataclass(frozen=True, slots=True)
class Policy:
    """Which policy of the recipient's domain applied, as a report tells it. ``kind``: tlsa, sts, no-policy-found; ``base``: where
    it was found when that is another name (DANE: the TLSA base domain)."""

    kind: str
    domain: str
    lines: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()
    base: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """For one hop. ``why`` for people: who demands it. ``names``: acceptable names of the certificate (".x": any below x).
    ``problem``: this host must not be used now, and why; ``result`` is what a report says about that. ``only_told``: what
    fails is reported and the mail goes all the same (MTA-STS testing). ``policy`` None: nobody asks for reports about it."""

    level: Level
    why: str = ""
    tlsa: tuple[Tlsa, ...] = ()
    names: tuple[str, ...] = ()
    only_told: bool = False
    problem: str = ""
    result: TlsResult = TlsResult.OK
    policy: Policy | None = None

    @property
    def must(self) -> bool:
        """Never in clear text."""
        return self.level in (Level.ENCRYPT, Level.DANE, Level.NAMED) and not self.only_told


@dataclass(frozen=True, slots=True)
class Session:
    """How one session, or the attempt at one, went."""

    policy: Policy
    result: TlsResult
    mx: str
    address: str = ""
    detail: str = ""
