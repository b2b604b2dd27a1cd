"""The resolver against faulty servers, without a socket: the transport is a table of behaviours."""

from __future__ import annotations

import asyncio
import itertools
import struct

import pytest

from pipeline.adapters.dnspython import (
    DnsResolver,
    Query,
    Server,
    ServerFailed,
    Transport,
    build_response,
    make_query,
    parse_server,
    read_response,
)
from pipeline.ports import DnsAnswer, DnsStatus
from pipeline.zone import Zone

GOOD, BAD = ("127.0.0.1", 53), ("127.0.0.2", 53)
ZONE = Zone.parse(
    """
    mail.example.org A 192.0.2.1
    mail.example.org AAAA 2001:db8::1
    example.org MX 10 mail.example.org
    example.org MX 5 .
    example.org TXT "v=spf1 " "-all"
    alias.example CNAME mail.example.org
    loop.example CNAME loop.example
    _25._tcp.example.org TLSA 3 1 1 0000000000000000000000000000000000000000000000000000000000000000
    broken.example SERVFAIL
    silent.example TIMEOUT
    """
)
ZONE.add("long.example", "TXT", "x" * 60_000)


class Clock:
    now = 0.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Ids:
    def __init__(self) -> None:
        self._numbers = itertools.count(0x1234_5678_9ABC)

    def token(self, octets: int) -> str:
        return f"{next(self._numbers) * 0x9E3779B97F4A7C15 % (1 << 8 * octets):0{2 * octets}x}"


class Servers(Transport):
    """GOOD serves the zone; BAD does what ``how`` says."""

    def __init__(self, how: str = "") -> None:
        self.how = how
        self.log: list[str] = []

    async def udp(self, server: Server, query: Query) -> bytes:
        self.log.append(f"udp {server[0]}")
        await asyncio.sleep(0)
        answer = build_response(query.wire, ZONE, udp=True)
        if server == BAD:
            answer = self._spoil(query, answer or b"")
        if answer is None:
            await asyncio.Event().wait()
        return answer or b""

    def _spoil(self, query: Query, answer: bytes) -> bytes | None:
        match self.how:
            case "silent":
                return None
            case "reset":
                raise ConnectionRefusedError
            case "garbage":
                return answer[: 12 + len(query.question)] + b"\xff" * 40
            case "cut":
                return answer[:-3]
            case "refused":
                return answer[:3] + bytes((answer[3] & 0xF0 | 5,)) + answer[4:]
            case "lame":
                referral = b"\0" + struct.pack("!HHIH", 2, 1, 300, 11) + b"\x01a\x07example\0"
                return query.wire[:2] + b"\x80\0\0\1\0\0\0\1\0\0" + query.question + referral
            case "no edns":
                if query.wire[11]:
                    return query.wire[:2] + b"\x81\x81" + b"\0" * 8
                return answer
            case "drops edns":
                return None if query.wire[11] else answer
            case "lower case":
                return answer.lower()
            case _:
                return answer

    async def tcp(self, server: Server, query: Query) -> bytes:
        self.log.append(f"tcp {server[0]}")
        answer = build_response(query.wire, ZONE, udp=False)
        if answer is None:
            raise asyncio.IncompleteReadError(b"", 2)
        return answer


def ask(
    name: str, rdtype: str, *servers: Server, how: str = "", patience: float = 1.0
) -> tuple[DnsAnswer, list[str]]:
    transport = Servers(how)
    resolver = DnsResolver(
        Clock(),
        Ids(),
        servers or (GOOD,),
        transport=transport,
        deadline=0.05 * patience,
        attempt=0.005 * patience,
    )
    return asyncio.run(resolver.query(name, rdtype)), transport.log


@pytest.mark.parametrize(
    ("name", "rdtype", "records"),
    [
        ("Mail.Example.ORG.", "A", ("192.0.2.1",)),
        ("mail.example.org", "AAAA", ("2001:db8::1",)),
        ("example.org", "TXT", ("v=spf1 -all",)),
        ("alias.example", "A", ("192.0.2.1",)),
        ("_25._tcp.example.org", "TLSA", ("3 1 1 " + "00" * 32,)),
    ],
)
def test_records(name: str, rdtype: str, records: tuple[str, ...]) -> None:
    answer, _ = ask(name, rdtype)
    assert (answer.status, answer.records, answer.ttl) == (DnsStatus.OK, records, 300)


def test_mx_and_null_mx() -> None:
    answer, _ = ask("example.org", "MX")
    assert sorted(answer.records) == ["10 mail.example.org", "5 ."]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("nothing.example", DnsStatus.NXDOMAIN),
        ("example", DnsStatus.NODATA),
        ("loop.example", DnsStatus.NODATA),
        ("broken.example", DnsStatus.TEMPORARY),
        ("silent.example", DnsStatus.TEMPORARY),
        ("not..a.name", DnsStatus.NXDOMAIN),
    ],
)
def test_what_there_is_not(name: str, status: DnsStatus) -> None:
    assert ask(name, "A")[0].status is status


@pytest.mark.parametrize("how", ["silent", "reset", "garbage", "cut", "refused", "lame"])
def test_the_next_server_is_asked(how: str) -> None:
    answer, log = ask("mail.example.org", "A", BAD, GOOD, how=how)
    assert answer.records == ("192.0.2.1",)
    assert log == ["udp 127.0.0.2", "udp 127.0.0.1"]


@pytest.mark.parametrize("how", ["silent", "reset", "garbage", "cut", "refused", "lame"])
def test_no_server_left_is_temporary_and_never_nxdomain(how: str) -> None:
    answer, _ = ask("nothing.example", "A", BAD, how=how)
    assert answer.status is DnsStatus.TEMPORARY
    assert answer.reason


def test_truncated_answers_come_again_over_tcp() -> None:
    answer, log = ask("long.example", "TXT")
    assert answer.records == ("x" * 60_000,)
    assert log == ["udp 127.0.0.1", "tcp 127.0.0.1"]


def test_lost_case_is_asked_again_over_tcp() -> None:
    answer, log = ask("mail.example.org", "A", BAD, how="lower case")
    assert answer.records == ("192.0.2.1",)
    assert log == ["udp 127.0.0.2", "tcp 127.0.0.2"]


def test_a_server_without_edns() -> None:
    answer, log = ask("mail.example.org", "A", BAD, how="no edns")
    assert answer.records == ("192.0.2.1",)
    assert log == ["udp 127.0.0.2"] * 2


def test_a_server_that_drops_what_has_edns_is_asked_without() -> None:
    answer, log = ask("mail.example.org", "A", BAD, how="drops edns", patience=40)
    assert answer.records == ("192.0.2.1",)
    assert log == ["udp 127.0.0.2"] * 2
    answer, log = ask("long.example", "TXT", BAD, how="drops edns", patience=40)
    assert answer.records == ("x" * 60_000,)
    assert log == ["udp 127.0.0.2"] * 2 + ["tcp 127.0.0.2"]


def test_one_look_up_for_many_who_ask_and_one_who_gives_up() -> None:
    async def story() -> None:
        transport = Servers()
        resolver = DnsResolver(Clock(), Ids(), (GOOD,), transport=transport)
        tasks = [asyncio.create_task(resolver.query("mail.example.org", "A")) for _ in range(20)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks[1:])
        assert {answer.records for answer in answers} == {("192.0.2.1",)}
        assert transport.log == ["udp 127.0.0.1"]
        assert resolver.cached("mail.example.org", "A") == answers[0]
        assert resolver.cached("Mail.Example.Org.", "A") == answers[0]

    asyncio.run(story())


def test_a_tar_pit_does_not_slow_others() -> None:
    async def story() -> None:
        resolver = DnsResolver(Clock(), Ids(), (GOOD,), transport=Servers(), deadline=5)
        stuck = [
            asyncio.create_task(resolver.query("silent.example", rdtype)) for rdtype in ("A", "TXT", "MX")
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(1):
            assert (await resolver.query("mail.example.org", "A")).records
        assert not any(task.done() for task in stuck)
        await resolver.close()
        await asyncio.gather(*stuck, return_exceptions=True)

    asyncio.run(story())


def test_the_authentic_flag() -> None:
    zone = Zone.parse("a.example A 192.0.2.1")
    query = make_query("a.example", "A", "ff" * 34)
    for zone.authentic in (True, False):
        wire = build_response(query.wire, zone, udp=True)
        assert wire is not None
        partial = read_response(wire, query.name, "A")
        assert partial.answer is not None
        assert partial.answer.authentic is zone.authentic


@pytest.mark.parametrize(
    ("server", "trust", "authentic"),
    [(("127.0.0.1", 53), False, True), (("192.0.2.53", 53), False, False), (("192.0.2.53", 53), True, True)],
)
def test_who_is_believed_to_validate(server: Server, trust: bool, authentic: bool) -> None:
    class Validating(Servers):
        async def udp(self, server: Server, query: Query) -> bytes:
            zone = Zone.parse("a.example A 192.0.2.1")
            zone.authentic = True
            return build_response(query.wire, zone, udp=True) or b""

    ours = DnsResolver(Clock(), Ids(), (server,), transport=Validating(), trust_ad=trust)
    assert asyncio.run(ours.query("a.example", "A")).authentic is authentic


def test_forged_answers_do_not_match() -> None:
    query = make_query("a.example", "A", "5a" * 34)
    wire = build_response(query.wire, Zone.parse("a.example A 192.0.2.1"), udp=True)
    assert wire is not None
    assert query.matches(wire)
    assert query.same_case(wire)
    assert not query.matches(b"\0\0" + wire[2:])  # another id
    assert not query.matches(query.wire)  # no answer at all
    assert not query.same_case(wire.replace(query.question, query.question.swapcase()))
    for end in range(len(wire)):
        try:
            read_response(wire[:end], query.name, "A")
        except ServerFailed:
            pass


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_parse_server(text: str, server: Server) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize("text", ["", "resolver.example", "127.0.0.1:0", "127.0.0.1:x"])
def test_parse_server_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        parse_server(text)
