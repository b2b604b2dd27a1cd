"""The async resolver, and the DNS wire form, on dnspython (the only importer of ``dns``).

Specification: RFC 1035 (queries, TCP), RFC 2308 (negative answers, referrals), RFC 6891 (EDNS0, 1232 octets), RFC 7766 (TCP),
RFC 6840 5.7 (AD bit in a query asks for it in the answer), the 0x20 draft (random case against forged answers).

A look-up: cache, else one task shared by all who ask the same thing at once; servers in turn, the last good one
first; a truncated answer, or one that did not keep our random case, is asked again over TCP; CNAMEs are followed
inside an answer and across answers. SERVFAIL, REFUSED, garbage, silence and a passed deadline are TEMPORARY, never
NXDOMAIN. Nothing here raises for what the network does.

Bounds: one deadline a look-up whatever happens inside, CONCURRENCY look-ups on the wire, WAITING in all, RECORDS a
set, the cache's entries. The shell code is plain asyncio; dnspython parses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset
from dns.rdtypes.ANY import CNAME, MX, NS, PTR, TLSA, TXT
from dns.rdtypes.IN import SRV

from pipeline.dns_cache import DnsCache
from pipeline.dns_name import normalise
from pipeline.ports import Clock, DnsAnswer, DnsStatus, Ids, Resolver
from pipeline.zone import Zone

DEADLINE = 5.0  # seconds a look-up, all servers and tries together
ATTEMPT = 1.2  # seconds the first try waits; the second waits twice as long
ROUNDS = 3  # times round the servers
CONCURRENCY = 400
WAITING = 10_000
RECORDS = 256
CNAME_LIMIT = 8
NEGATIVE_TTL = 60  # when a negative answer carries no SOA
EDNS_PAYLOAD = 1232
Server = tuple[str, int]


def parse_server(text: str) -> Server:
    """``127.0.0.1``, ``127.0.0.1:5353``, ``::1`` or ``[::1]:5353``; raises ValueError."""
    host, port = text.strip(), "53"
    if host.startswith("["):
        host, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    address = ipaddress.ip_address(host)
    number = int(port)
    if not 0 < number < 65536:
        raise ValueError(f"port out of range: {text}")
    return str(address), number


def system_servers() -> tuple[Server, ...]:
    """The servers of this machine's resolver configuration; 127.0.0.1 when there is none."""
    try:
        found = dns.resolver.Resolver(configure=True)
    except (dns.exception.DNSException, OSError):
        return (("127.0.0.1", 53),)
    servers = tuple(
        (host, found.port) for host in found.nameservers if isinstance(host, str) and "://" not in host
    )
    return servers or (("127.0.0.1", 53),)


class ServerFailed(Exception):
    """One server gave no usable answer; the text says why."""


@dataclass(slots=True)
class Query:
    """One question on the wire."""

    name: dns.name.Name
    wire: bytes
    question: bytes  # the question section, in the case we chose

    def matches(self, data: bytes) -> bool:
        """Is this the answer to our question (case aside)?"""
        if len(data) < 12 or data[:2] != self.wire[:2] or not data[2] & 0x80:
            return False
        end = 12 + len(self.question)
        if data[4:6] == b"\0\0":
            return bool(data[3] & 15)  # an error may leave the question out
        return data[12:end].lower() == self.question.lower()

    def same_case(self, data: bytes) -> bool:
        return data[4:6] == b"\0\0" or data[12 : 12 + len(self.question)] == self.question


def make_query(name: str, rdtype: str, random: str, edns: bool = True) -> Query:
    """A query for a normalised name; ``random`` gives 16 bits of id and then a bit a letter, in hex."""
    bits = int(random, 16)
    ident, bits = bits & 0xFFFF, bits >> 16
    labels = []
    for label in name.encode("ascii").split(b"."):
        cased = bytearray(label)
        for at, octet in enumerate(cased):
            if 97 <= octet <= 122:
                if bits & 1:
                    cased[at] = octet - 32
                bits >>= 1
        labels.append(bytes(cased))
    number = int(dns.rdatatype.from_text(rdtype))
    question = b"".join(bytes((len(label),)) + label for label in labels) + struct.pack("!BHH", 0, number, 1)
    # RD and AD; one question; an OPT record when EDNS is spoken
    head = struct.pack("!HHHHHH", ident, 0x0120, 1, 0, 0, 1 if edns else 0)
    opt = struct.pack("!BHHIH", 0, 41, EDNS_PAYLOAD, 0, 0) if edns else b""
    return Query(dns.name.Name((*labels, b"")), head + question + opt, question)


class _Datagram(asyncio.DatagramProtocol):
    """Waits for the one datagram that answers."""

    def __init__(self, query: Query, answer: asyncio.Future[bytes]) -> None:
        self._query = query
        self._answer = answer

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self._answer.done() and self._query.matches(data):
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(ServerFailed(f"{type(exc).__name__}"))


class Transport(Protocol):
    """How octets get to a server and back; the real one is ``SocketTransport``. Raises OSError or ServerFailed."""

    async def udp(self, server: Server, query: Query) -> bytes: ...

    async def tcp(self, server: Server, query: Query) -> bytes: ...


class SocketTransport(Transport):
    """A fresh socket for each question: the kernel chooses an unguessable port, and filters by sender."""

    async def udp(self, server: Server, query: Query) -> bytes:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagram(query, answer), remote_addr=server
        )
        try:
            transport.sendto(query.wire)
            return await answer
        finally:
            transport.close()

    async def tcp(self, server: Server, query: Query) -> bytes:
        reader, writer = await asyncio.open_connection(*server)
        try:
            writer.write(struct.pack("!H", len(query.wire)) + query.wire)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            return await reader.readexactly(length)
        finally:
            writer.close()


@dataclass(slots=True)
class _Partial:
    """What one response says: an answer, or the name a CNAME leads to."""

    answer: DnsAnswer | None
    target: str = ""
    ttl: int = 0
    authentic: bool = False


def read_response(data: bytes, name: dns.name.Name, rdtype: str) -> _Partial:
    """Read a NOERROR or NXDOMAIN response; raises ServerFailed on anything else."""
    try:
        response = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, struct.error) as error:
        raise ServerFailed(f"unreadable answer ({type(error).__name__})") from error
    code = response.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise ServerFailed(dns.rcode.to_text(code))
    authentic = bool(response.flags & dns.flags.AD)
    sets = {(rrset.name, rrset.rdtype): rrset for rrset in response.answer}
    wanted = dns.rdatatype.from_text(rdtype)
    ttl = 2**31
    hops = 0
    while True:
        found = sets.get((name, wanted))
        if found is not None:
            records = tuple(_text(rdata) for rdata in list(found)[:RECORDS])
            return _Partial(DnsAnswer(DnsStatus.OK, records, authentic, min(ttl, found.ttl)))
        alias = sets.get((name, dns.rdatatype.CNAME))
        if alias is None:
            break
        name, ttl, hops = alias[0].target, min(ttl, alias.ttl), hops + 1
        if hops > CNAME_LIMIT:
            return _Partial(DnsAnswer(DnsStatus.NODATA, (), authentic, NEGATIVE_TTL, "CNAME chain too long"))
    soa = next((rrset for rrset in response.authority if rrset.rdtype == dns.rdatatype.SOA), None)
    if code == dns.rcode.NOERROR and hops and soa is None:
        return _Partial(None, _name(name), ttl, authentic)
    if (
        code == dns.rcode.NOERROR
        and soa is None
        and any(one.rdtype == dns.rdatatype.NS for one in response.authority)
    ):
        # RFC 2308 2.2: a referral says nothing of the name; a server that gives one does not resolve for us (lame)
        raise ServerFailed("a referral instead of an answer")
    life = min(ttl, soa.ttl, soa[0].minimum) if soa is not None else min(ttl, NEGATIVE_TTL)
    status = DnsStatus.NXDOMAIN if code == dns.rcode.NXDOMAIN else DnsStatus.NODATA
    return _Partial(DnsAnswer(status, (), authentic, life))


def _name(name: dns.name.Name) -> str:
    return b".".join(name.labels[:-1]).decode("latin-1").lower()


def _text(rdata: dns.rdata.Rdata) -> str:
    """One record in the form that ``DnsAnswer`` promises."""
    match rdata:
        case TXT.TXT():
            return b"".join(rdata.strings).decode("latin-1")
        case MX.MX():
            return f"{rdata.preference} {_name(rdata.exchange) or '.'}"
        case PTR.PTR() | CNAME.CNAME() | NS.NS():
            return _name(rdata.target)
        case TLSA.TLSA():
            return f"{rdata.usage} {rdata.selector} {rdata.mtype} {rdata.cert.hex()}"
        case SRV.SRV():
            return f"{rdata.priority} {rdata.weight} {rdata.port} {_name(rdata.target) or '.'}"
        case _:
            return str(rdata.to_text())  # A, AAAA: the address


class DnsResolver(Resolver):
    """The resolver of the running server. ``servers`` empty: those of this machine's configuration.

    ``trust_ad``: believe the AD flag of servers that are not on loopback too (RFC 6698 A.3: the way to them must be safe).
    ``least_ttl``: seconds that an answer is kept though its TTL is less.
    """

    def __init__(
        self,
        clock: Clock,
        ids: Ids,
        servers: Sequence[Server] = (),
        *,
        transport: Transport | None = None,
        trust_ad: bool = False,
        deadline: float = DEADLINE,
        attempt: float = ATTEMPT,
        cache_limit: int = 20_000,
        least_ttl: float = 0.0,
    ) -> None:
        self._ids = ids
        self._servers = list(servers) or list(system_servers())
        self._transport = transport or SocketTransport()
        self._trust_ad = trust_ad
        self._deadline = deadline
        self._attempt = attempt
        self.cache = DnsCache(clock, cache_limit, least=least_ttl)
        self._under_way: dict[tuple[str, str], asyncio.Task[DnsAnswer]] = {}
        self._wire = asyncio.Semaphore(CONCURRENCY)

    def cached(self, name: str, rdtype: str) -> DnsAnswer | None:
        if not name.islower() or name[-1:] == "." or len(name) > 63:  # the plain case needs no check
            normal = normalise(name)
            if normal is None:
                return _NOT_A_NAME
            name = normal
        return self.cache.get((name, rdtype))

    async def query(self, name: str, rdtype: str) -> DnsAnswer:
        normal = normalise(name)
        if normal is None:
            return _NOT_A_NAME
        key = (normal, rdtype)
        found = self.cache.get(key)
        if found is not None:
            return found
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= WAITING:
                return DnsAnswer(DnsStatus.TEMPORARY, reason="too many look-ups")
            task = asyncio.get_running_loop().create_task(self._resolve(key))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)  # one who gives up does not end it for the others

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _resolve(self, key: tuple[str, str]) -> DnsAnswer:
        try:
            async with asyncio.timeout(self._deadline):
                async with self._wire:
                    answer = await self._follow(*key)
        except TimeoutError:
            answer = DnsAnswer(DnsStatus.TEMPORARY, reason="time limit")
        self.cache.put(key, answer)
        return answer

    async def _follow(self, name: str, rdtype: str) -> DnsAnswer:
        seen = {name}
        ttl, authentic = 2**31, True
        while True:
            partial = await self._ask(name, rdtype)
            if isinstance(partial, DnsAnswer):
                return partial
            if partial.answer is not None:
                answer = partial.answer
                if len(seen) == 1:
                    return answer
                life = min(ttl, answer.ttl)
                return DnsAnswer(
                    answer.status, answer.records, authentic and answer.authentic, life, answer.reason
                )
            ttl, authentic = min(ttl, partial.ttl), authentic and partial.authentic
            target = normalise(partial.target)
            if target is None or target in seen or len(seen) > CNAME_LIMIT:
                return DnsAnswer(DnsStatus.NODATA, ttl=min(ttl, NEGATIVE_TTL), reason="CNAME loop")
            seen.add(target)
            name = target

    async def _ask(self, name: str, rdtype: str) -> _Partial | DnsAnswer:
        """Ask the servers in turn; the _Partial of the first that answers, or TEMPORARY."""
        reason = "no server"
        limit = self._attempt
        for number in range(ROUNDS):
            silent = False
            for server in list(self._servers):
                try:
                    async with asyncio.timeout(limit):
                        partial = await self._exchange(server, name, rdtype, edns=number == 0)
                except TimeoutError:
                    reason, silent = "time-out", True
                except ServerFailed as failed:
                    reason = str(failed)
                except (OSError, asyncio.IncompleteReadError) as error:
                    reason = type(error).__name__
                else:
                    self._prefer(server)
                    return partial
            if not silent:
                break  # every server has spoken: asking again at once changes nothing
            limit *= 2
        return DnsAnswer(DnsStatus.TEMPORARY, reason=reason)

    def _prefer(self, server: Server) -> None:
        if self._servers[0] != server:
            self._servers.remove(server)
            self._servers.insert(0, server)

    async def _exchange(self, server: Server, name: str, rdtype: str, edns: bool) -> _Partial:
        """``edns`` False: it, or something on the way to it, may have dropped the query for that (RFC 6891 6.2.2)."""
        query = make_query(name, rdtype, self._ids.token(34), edns)
        data = await self._transport.udp(server, query)
        if edns and data[3] & 15 in (1, 4):  # FORMERR, NOTIMP: perhaps it does not speak EDNS
            query = make_query(name, rdtype, self._ids.token(34), edns=False)
            data = await self._transport.udp(server, query)
        if data[2] & 2 or not query.same_case(data):
            data = await self._transport.tcp(server, query)
            if not query.matches(data):
                raise ServerFailed("answer to another question")
        partial = read_response(data, query.name, rdtype)
        if not self._trust_ad and not ipaddress.ip_address(server[0].partition("%")[0]).is_loopback:
            partial.authentic = False
            if partial.answer is not None and partial.answer.authentic:
                partial.answer = replace(partial.answer, authentic=False)
        return partial


_NOT_A_NAME = DnsAnswer(DnsStatus.NXDOMAIN, reason="not a DNS name")


def build_response(data: bytes, zone: Zone, udp: bool) -> bytes | None:
    """The answer of a server that holds ``zone``; None for silence (a TIMEOUT, or a query that cannot be read)."""
    try:
        query = dns.message.from_wire(data, ignore_trailing=True)
        response = dns.message.make_response(query, recursion_available=True)
    except dns.exception.DNSException:
        return None
    if len(query.question) != 1:
        response.set_rcode(dns.rcode.FORMERR)
        return response.to_wire()
    try:
        return _fill(query, response, zone, udp)
    except dns.exception.DNSException:  # a record of the zone that has no wire form
        response.answer.clear()
        response.set_rcode(dns.rcode.SERVFAIL)
        return response.to_wire()


def _fill(query: dns.message.Message, response: dns.message.Message, zone: Zone, udp: bool) -> bytes | None:
    question = query.question[0]
    rdtype = dns.rdatatype.to_text(question.rdtype)
    name = question.name
    for _ in range(CNAME_LIMIT):
        fault = zone.fault(_name(name), rdtype)
        if fault == "TIMEOUT":
            return None
        if fault:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response.to_wire()
        records = zone.records(_name(name), rdtype)
        if records:
            response.answer.append(_rrset(name, zone.ttl, rdtype, records))
            break
        alias = zone.records(_name(name), "CNAME")
        if not alias:
            if not zone.exists(_name(name)):
                response.set_rcode(dns.rcode.NXDOMAIN)
            soa = f". . 1 3600 600 86400 {zone.ttl}"
            response.authority.append(dns.rrset.from_text(dns.name.root, zone.ttl, "IN", "SOA", soa))
            break
        response.answer.append(_rrset(name, zone.ttl, "CNAME", alias))
        name = dns.name.from_text(alias[0])
    if zone.authentic and query.flags & dns.flags.AD:
        response.flags |= dns.flags.AD
    limit = max(512, query.payload if query.edns >= 0 else 0) if udp else 65535
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire(max_size=limit)


def _rrset(name: dns.name.Name, ttl: int, rdtype: str, records: Sequence[str]) -> dns.rrset.RRset:
    if rdtype != "TXT":
        absolute = [record + "." if rdtype in ("CNAME", "PTR", "NS") else record for record in records]
        return dns.rrset.from_text_list(
            name, ttl, "IN", rdtype, absolute, origin=dns.name.root, relativize=False
        )
    rdatas = []
    for record in records:
        octets = record.encode("latin-1", "replace")
        strings = [octets[at : at + 255] for at in range(0, len(octets), 255)] or [b""]
        rdatas.append(TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings))
    return dns.rrset.from_rdata_list(name, ttl, rdatas)
