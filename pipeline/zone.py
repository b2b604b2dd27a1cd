"""A DNS zone as data, and a Resolver over it: for tests, the demo and `filterd check` without a network.

The zone text is a plain subset of the master file form (RFC 1035 5.1), one record a line::

    ; comment            # comment
    $TTL 300
    example.org          TXT    "v=spf1 " "-all"        strings are joined without a blank
    example.org          MX     10 mail.example.org
    *.wild.example       A      192.0.2.7
    slow.example         TIMEOUT                        every type of that name that has no record ends so
    half.example         TXT    SERVFAIL                only that type does

Names are absolute, with or without the last dot. TXT values are octets, written latin-1.
Invariant: ``Zone.lookup`` follows CNAMEs, never raises, and tells NXDOMAIN from NODATA.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from pipeline.dns_name import normalise
from pipeline.ports import DnsAnswer, DnsStatus, Resolver

CNAME_LIMIT = 8
_FAULTS = ("TIMEOUT", "SERVFAIL")
_NAME_TYPES = ("CNAME", "NS", "PTR")


class ZoneError(ValueError):
    """A line of a zone text that cannot be read; the message names it."""


class Zone:
    """Records by (name, type), and the faults to play."""

    def __init__(
        self, records: Mapping[str, Iterable[tuple[str, str]]] | None = None, ttl: int = 300
    ) -> None:
        self.ttl = ttl
        self.authentic = False
        self._records: dict[tuple[str, str], list[str]] = {}
        self._faults: dict[tuple[str, str], str] = {}
        self._names: set[str] = set()
        for name, pairs in (records or {}).items():
            for rdtype, value in pairs:
                self.add(name, rdtype, value)

    @classmethod
    def parse(cls, text: str) -> Zone:
        """Read a zone text; raises ZoneError with the line's number."""
        zone = cls()
        for number, line in enumerate(text.split("\n"), 1):
            line = line.strip()
            if not line or line[0] in ";#":
                continue
            if line.startswith("$TTL"):
                zone.ttl = int(line.split()[1])
                continue
            name, _, rest = line.partition(" ") if "\t" not in line.split(" ", 1)[0] else line.partition("\t")
            words = rest.split(None, 1)
            if words and words[0].isdigit() and len(words) == 2:  # a TTL of its own is read over
                words = words[1].split(None, 1)
            if words and words[0].upper() == "IN" and len(words) == 2:
                words = words[1].split(None, 1)
            if not words:
                raise ZoneError(f"line {number}: no type")
            rdtype = words[0].upper()
            try:
                zone.add(name, rdtype, words[1].strip() if len(words) == 2 else "")
            except ValueError as error:
                raise ZoneError(f"line {number}: {error}") from error
        return zone

    def add(self, name: str, rdtype: str, value: str = "") -> None:
        """Add one record, or a fault: type TIMEOUT / SERVFAIL, or that word as the value."""
        key = name.lower().rstrip(".")
        self._note_name(key)
        if rdtype in _FAULTS:
            self._faults[key, "*"] = rdtype
            return
        if value in _FAULTS:
            self._faults[key, rdtype] = value
            return
        if not value:
            raise ValueError(f"no value for {rdtype}")
        self._records.setdefault((key, rdtype), []).append(_value(rdtype, value))

    def _note_name(self, key: str) -> None:
        while key and key not in self._names:
            self._names.add(key)  # the name and each empty non-terminal above it
            key = key.partition(".")[2]

    def remove(self, name: str, rdtype: str) -> None:
        """Drop all records of a name and type."""
        self._records.pop((name.lower().rstrip("."), rdtype), None)

    def records(self, name: str, rdtype: str) -> list[str]:
        """The records as they stand, wild cards applied, CNAMEs not followed."""
        return self._records.get((self._owner(name), rdtype), [])

    def _owner(self, name: str) -> str:
        if name in self._names:
            return name
        parent = name
        while "." in parent:
            parent = parent.partition(".")[2]
            if "*." + parent in self._names:
                return "*." + parent
            if parent in self._names:
                break
        return name

    def fault(self, name: str, rdtype: str) -> str:
        """``TIMEOUT``, ``SERVFAIL`` or nothing."""
        owner = self._owner(name)
        found = self._faults.get((owner, rdtype))
        if found is None and (owner, rdtype) not in self._records:
            found = self._faults.get((owner, "*"))
        return found or ""

    def exists(self, name: str) -> bool:
        return self._owner(name) in self._names

    def lookup(self, name: str, rdtype: str) -> DnsAnswer:
        """What a recursive server would say."""
        current = normalise(name)
        seen: set[str] = set()
        while current is not None:
            fault = self.fault(current, rdtype)
            if fault:
                return DnsAnswer(DnsStatus.TEMPORARY, reason=fault.lower())
            found = self.records(current, rdtype)
            if found:
                return DnsAnswer(DnsStatus.OK, tuple(found), self.authentic, self.ttl)
            alias = self.records(current, "CNAME")
            if not alias:
                status = DnsStatus.NODATA if self.exists(current) else DnsStatus.NXDOMAIN
                return DnsAnswer(status, (), self.authentic, self.ttl)
            seen.add(current)
            if alias[0] in seen or len(seen) > CNAME_LIMIT:
                return DnsAnswer(DnsStatus.NODATA, ttl=self.ttl, reason="CNAME loop")
            current = normalise(alias[0])
        return DnsAnswer(DnsStatus.NXDOMAIN, ttl=self.ttl, reason="not a DNS name")


def _value(rdtype: str, value: str) -> str:
    if rdtype in ("TXT", "SPF"):
        return _strings(value)
    if rdtype in _NAME_TYPES:
        return value.lower().rstrip(".")
    if rdtype == "MX":
        preference, _, host = value.partition(" ")
        return f"{int(preference)} {host.strip().lower().rstrip('.') or '.'}"
    return value


def _strings(value: str) -> str:
    if not value.startswith('"'):
        return value
    out: list[str] = []
    at = 0
    while at < len(value):
        if value[at] != '"':
            at += 1
            continue
        at += 1
        while at < len(value) and value[at] != '"':
            if value[at] == "\\" and at + 1 < len(value):
                at += 1
            out.append(value[at])
            at += 1
        at += 1
    return "".join(out)


class ZoneResolver(Resolver):
    """Answers from a zone at once. ``warm``: ``cached`` knows everything; else only what was asked before.

    ``asked`` lists the look-ups that would have gone out, in order.
    """

    def __init__(self, zone: Zone, warm: bool = False) -> None:
        self.zone = zone
        self.warm = warm
        self.asked: list[tuple[str, str]] = []
        self._known: dict[tuple[str, str], DnsAnswer] = {}

    async def query(self, name: str, rdtype: str) -> DnsAnswer:
        key = (name.lower(), rdtype)
        if key in self._known:
            return self._known[key]
        self.asked.append(key)
        await asyncio.sleep(0)  # as a real look-up: others run meanwhile
        answer = self._known[key] = self.zone.lookup(name, rdtype)
        return answer

    def cached(self, name: str, rdtype: str) -> DnsAnswer | None:
        if self.warm:
            return self.zone.lookup(name, rdtype)
        return self._known.get((name.lower(), rdtype))
