"""DANE for SMTP: which TLSA records hold for a host, and whether its certificate answers to them.

Specification: RFC 7672 (SMTP), RFC 6698 and RFC 7671 (TLSA). Complete: yes, except a trust anchor that is published as a bare
key (2 1 0) while the server does not send its certificate, which RFC 7672 3.1.2 tells it to send.

Invariants: a record counts only when the DNS vouches for it (AD) and for the host's address; PKIX-TA and PKIX-EE are not used
in SMTP (3.1.3); when the look-up fails the host is not used, because somebody may be hiding the record (2.1.2, 2.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from filterd.net.tls import is_certificate, is_public_key, key_of, name_fits, names_of, why_no_path
from filterd.queue.tlsdemand import Tlsa, TlsResult
from pipeline.ports import DnsAnswer, DnsStatus, Resolver

TA, EE = 2, 3
CERTIFICATE, KEY = 0, 1  # selectors
FULL, SHA256, SHA512 = 0, 1, 2  # matching types
DIGEST_OCTETS = {SHA256: 32, SHA512: 64}
DATA_OCTETS = 16_384
MAX_RECORDS = 32
CNAME_STEPS = 8


class State(Enum):
    """ABSENT: no DANE here. USABLE: records to check. UNUSABLE: records, none of which says anything to us: TLS is a must,
    who is there cannot be known (RFC 7672 2.2). BROKEN: the look-up failed."""

    ABSENT = "absent"
    USABLE = "usable"
    UNUSABLE = "unusable"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Found:
    """``base``: the name under which the records were found. ``reason`` for people."""

    state: State
    records: tuple[Tlsa, ...] = ()
    base: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    result: TlsResult
    text: str


def parse(record: str) -> Tlsa | None:
    """``"3 1 1 hex"``; None for what is no TLSA record."""
    parts = record.split()
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts[:3]):
        return None
    try:
        data = bytes.fromhex(parts[3])
    except ValueError:
        return None
    return Tlsa(int(parts[0]), int(parts[1]), int(parts[2]), data)


def usable(record: Tlsa) -> bool:
    """Can this record be checked by a mail sender (RFC 7672 3.1)?"""
    if record.usage not in (TA, EE) or record.selector not in (CERTIFICATE, KEY):
        return False
    if record.matching == FULL:
        if not 0 < len(record.data) <= DATA_OCTETS:
            return False
        return is_certificate(record.data) if record.selector == CERTIFICATE else is_public_key(record.data)
    return len(record.data) == DIGEST_OCTETS.get(record.matching, -1)


def strongest(records: Sequence[Tlsa]) -> tuple[Tlsa, ...]:
    """RFC 7671 9: of two digests of one kind only the stronger counts; what is published whole always does."""
    strong = {(one.usage, one.selector) for one in records if one.matching == SHA512}
    return tuple(one for one in records if one.matching != SHA256 or (one.usage, one.selector) not in strong)


def matches(record: Tlsa, der: bytes) -> bool:
    """Is this the certificate that the record means?"""
    try:
        selected = der if record.selector == CERTIFICATE else key_of(der)
    except ValueError:
        return False
    if record.matching == SHA256:
        selected = hashlib.sha256(selected).digest()
    elif record.matching == SHA512:
        selected = hashlib.sha512(selected).digest()
    return selected == record.data


def judge(records: Sequence[Tlsa], chain: Sequence[bytes], names: Sequence[str], now: float) -> Judgement:
    """Does the chain (leaf first, DER) answer to one of the records? ``names`` count for DANE-TA only (RFC 7672 3.1.1)."""
    if not chain:
        return Judgement(TlsResult.FAILURE, "the server showed no certificate")
    for record in records:
        if record.usage == EE and matches(record, chain[0]):
            return Judgement(TlsResult.OK, f"DANE: the certificate is the one of TLSA {record}")
    anchors = [record for record in records if record.usage == TA]
    if not anchors:
        return Judgement(TlsResult.FAILURE, "DANE: the certificate matches no TLSA record")
    # RFC 7671 5.2.2: a trust anchor that is published whole need not be sent
    published = [one.data for one in anchors if one.selector == CERTIFICATE and one.matching == FULL]
    full = [*chain, *(one for one in published if one not in chain)]

    def is_anchor(der: bytes) -> bool:
        return any(matches(record, der) for record in anchors)

    problem = why_no_path(full, is_anchor, now)
    if problem:
        expired = problem.endswith("has expired")
        return Judgement(TlsResult.EXPIRED if expired else TlsResult.UNTRUSTED, f"DANE-TA: {problem}")
    presented = names_of(chain[0], common_name=True)
    if not any(name_fits(one, wanted) for one in presented for wanted in names):
        text = f"DANE-TA: the certificate is for {', '.join(presented[:5]) or 'no name'}, not for {names[0]}"
        return Judgement(TlsResult.MISMATCH, text)
    return Judgement(TlsResult.OK, "DANE: the certificate comes from the trust anchor of a TLSA record")


async def lookup(resolver: Resolver, host: str, port: int) -> Found:
    """The TLSA records of a mail host whose name is to be trusted already (RFC 7672 2.2.2)."""
    last = Found(State.ABSENT, reason=f"the address of {host} is not secured by DNSSEC")
    for base in await _bases(resolver, host):
        answer = await resolver.query(f"_{port}._tcp.{base}", "TLSA")
        if answer.status is DnsStatus.TEMPORARY:
            reason = f"the TLSA records of {base} cannot be looked up: {answer.reason or 'time-out'}"
            return Found(State.BROKEN, base=base, reason=reason)
        if answer.status is not DnsStatus.OK or not answer.records:
            last = Found(State.ABSENT, base=base, reason=f"{base} has no TLSA record")
        elif not answer.authentic:
            last = Found(
                State.ABSENT, base=base, reason=f"the TLSA records of {base} are not secured by DNSSEC"
            )
        else:
            return _read(answer, base)
    return last


def _read(answer: DnsAnswer, base: str) -> Found:
    parsed = [parse(text) for text in answer.records[:MAX_RECORDS]]
    good = strongest([one for one in parsed if one is not None and usable(one)])
    if good:
        return Found(State.USABLE, good, base, f"{len(good)} TLSA record(s) of {base}")
    return Found(State.UNUSABLE, base=base, reason=f"none of the TLSA records of {base} can be used")


async def _bases(resolver: Resolver, host: str) -> list[str]:
    """Under which names TLSA records may be, best first: where secure CNAMEs lead, then the name itself."""
    name, seen = host, [host]
    while len(seen) <= CNAME_STEPS:
        alias = await resolver.query(name, "CNAME")
        if alias.status is not DnsStatus.OK or not alias.records or not alias.authentic:
            break
        name = alias.records[0]
        if name in seen:
            return []
        seen.append(name)
    out = []
    if await _secure_address(resolver, name):
        out.append(name)
    if name != host:  # the alias itself was found to be secure
        out.append(host)
    return out


async def _secure_address(resolver: Resolver, name: str) -> bool:
    for kind in ("A", "AAAA"):
        answer = await resolver.query(name, kind)
        if answer.status is DnsStatus.OK and answer.authentic:
            return True
    return False
