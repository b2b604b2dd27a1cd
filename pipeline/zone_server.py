"""A small DNS server on loopback that serves a Zone over UDP and TCP: for the demo and the end-to-end tests.

Specification: RFC 1035 4.2 (both transports), RFC 7766. It answers like a recursive server that knows only the zone.
Not for the network: it refuses to bind anything but a loopback address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from typing import cast

from pipeline.adapters.dnspython import build_response
from pipeline.zone import Zone

IDLE = 10.0  # seconds a TCP connection may wait


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: ZoneServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.answer(data, udp=True)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


class ZoneServer:
    """``await start()`` binds UDP and TCP on the same port; ``port`` says which. ``queries`` counts."""

    def __init__(self, zone: Zone, host: str = "127.0.0.1") -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError("the zone server binds loopback addresses only")
        self.zone = zone
        self.host = host
        self.port = 0
        self.queries = 0
        self._udp: asyncio.BaseTransport | None = None
        self._tcp: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """``HOST:PORT`` as the configuration key dns.resolver wants it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def answer(self, data: bytes, udp: bool) -> bytes | None:
        self.queries += 1
        return build_response(data, self.zone, udp)

    async def start(self, port: int = 0) -> None:
        """Bind; the kernel chooses the port when it is 0. Raises OSError."""
        loop = asyncio.get_running_loop()
        for attempt in range(8):
            self._tcp = await asyncio.start_server(self._serve, self.host, port)
            number: int = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: _Udp(self), local_addr=(self.host, number)
                )
            except OSError:  # someone has that port for UDP: take another
                self._tcp.close()
                if port or attempt == 7:
                    raise
            else:
                self.port = number
                return

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(IDLE):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    data = await reader.readexactly(length)
                answer = self.answer(data, udp=False)
                if answer is None:
                    return
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def close(self) -> None:
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
            await self._tcp.wait_closed()
