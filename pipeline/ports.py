"""What the pipeline needs from the outside, as Protocols. The clock, chance and the DNS come only through these."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Clock(Protocol):
    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds for measuring durations and deadlines."""
        ...


class Ids(Protocol):
    def token(self, octets: int) -> str:
        """Unguessable lower-case hex, two characters an octet."""
        ...


class DnsStatus(Enum):
    """How a look-up ended. SERVFAIL, refusal and time-out are TEMPORARY and never the same as NXDOMAIN."""

    OK = "ok"
    NXDOMAIN = "nxdomain"
    NODATA = "nodata"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """``records`` by type: A/AAAA text addresses; MX ``"10 host"``; TXT the concatenated strings (latin-1 decoded);
    PTR/CNAME names; TLSA ``"3 1 1 hex"``. Names are lower-case without the trailing dot. ``authentic`` = AD flag."""

    status: DnsStatus
    records: tuple[str, ...] = ()
    authentic: bool = False
    ttl: int = 0
    reason: str = ""


class Resolver(Protocol):
    async def query(self, name: str, rdtype: str) -> DnsAnswer:
        """Never raises for a failure of the DNS; cached; one deadline a look-up; CNAMEs followed."""
        ...

    def cached(self, name: str, rdtype: str) -> DnsAnswer | None:
        """The cached answer, or None when it must be asked for; immediate."""
        ...
