"""The resolver on real sockets: against the zone server, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable

import pytest

from filterd.ports import SystemClock, SystemIds
from pipeline.adapters.dnspython import DnsResolver, parse_server
from pipeline.ports import DnsStatus
from pipeline.zone import Zone
from pipeline.zone_server import ZoneServer

pytestmark = pytest.mark.e2e
ZONE = Zone.parse(
    """
    mail.example A 192.0.2.1
    alias.example CNAME mail.example
    slow.example TIMEOUT
    broken.example SERVFAIL
    *.many.example A 192.0.2.2
    """
)
ZONE.add("long.example", "TXT", "0123456789" * 6_000)
Tcp = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def resolver(address: str, deadline: float = 1.0, attempt: float = 0.2) -> DnsResolver:
    return DnsResolver(
        SystemClock(), SystemIds(), [parse_server(address)], deadline=deadline, attempt=attempt
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_zone_server(host: str) -> None:
    async def story() -> None:
        server = ZoneServer(ZONE, host)
        try:
            await server.start()
        except OSError:
            pytest.skip(f"no {host} here")
        ours = resolver(server.address)
        try:
            assert (await ours.query("Mail.Example.", "A")).records == ("192.0.2.1",)
            assert (await ours.query("alias.example", "A")).records == ("192.0.2.1",)
            assert (await ours.query("mail.example", "TXT")).status is DnsStatus.NODATA
            assert (await ours.query("none.example", "A")).status is DnsStatus.NXDOMAIN
            assert (await ours.query("broken.example", "A")).status is DnsStatus.TEMPORARY
            assert (await ours.query("long.example", "TXT")).records == ("0123456789" * 6_000,)
            before = server.queries
            names = [f"h{at % 20}.many.example" for at in range(200)]
            answers = await asyncio.gather(*(ours.query(name, "A") for name in names))
            assert {answer.records for answer in answers} == {("192.0.2.2",)}
            assert server.queries - before == 20
        finally:
            await ours.close()
            await server.close()

    asyncio.run(story())


def test_fifty_in_the_tar_pit_do_not_slow_one_outside() -> None:
    async def story() -> None:
        server = ZoneServer(ZONE)
        for at in range(50):
            server.zone.add(f"s{at}.slow.example", "TIMEOUT")
        await server.start()
        ours = resolver(server.address, deadline=2.0)
        try:
            stuck = [asyncio.create_task(ours.query(f"s{at}.slow.example", "TXT")) for at in range(50)]
            await asyncio.sleep(0)
            start = time.monotonic()
            assert (await ours.query("mail.example", "A")).records
            assert time.monotonic() - start < 1.0
            assert not any(task.done() for task in stuck)
        finally:
            await ours.close()
            await asyncio.gather(*stuck, return_exceptions=True)
            await server.close()

    asyncio.run(story())


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(struct.pack("!H", 500))
    for _ in range(100):
        writer.write(b"x")
        await asyncio.sleep(0.05)


async def _cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(struct.pack("!H", 500) + b"x" * 20)
    writer.close()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


async def _other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(struct.pack("!H", 20) + b"y" * 20)


class _Truncating(asyncio.DatagramProtocol):
    """Answers every query with "truncated": come again over TCP."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a datagram transport, by the endpoint's contract

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data[:2] + b"\x83\x80" + data[4:], addr)


@pytest.mark.parametrize("behaviour", [_drip, _cut, _silent, _other])
def test_bad_tcp_is_temporary_within_the_deadline(behaviour: Tcp) -> None:
    async def story() -> None:
        tcp = await asyncio.start_server(behaviour, "127.0.0.1", 0)
        port = tcp.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        udp, _ = await loop.create_datagram_endpoint(_Truncating, local_addr=("127.0.0.1", port))
        ours = resolver(f"127.0.0.1:{port}", deadline=0.6)
        start = time.monotonic()
        try:
            answer = await ours.query("mail.example", "A")
        finally:
            udp.close()
            tcp.close()
        assert answer.status is DnsStatus.TEMPORARY
        assert time.monotonic() - start < 2.0

    asyncio.run(story())


def test_nobody_there() -> None:
    async def story() -> None:
        server = ZoneServer(ZONE)
        await server.start()
        address = server.address
        await server.close()
        answer = await resolver(address).query("mail.example", "A")
        assert (answer.status, bool(answer.reason)) == (DnsStatus.TEMPORARY, True)

    asyncio.run(story())


def test_only_loopback() -> None:
    with pytest.raises(ValueError):
        ZoneServer(ZONE, "0.0.0.0")
