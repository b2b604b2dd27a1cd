"""The PROXY protocol: what a proxy in front of us says first about the client it connects.

Specification: "The PROXY protocol", versions 1 and 2 (haproxy's doc/proxy-protocol.txt). Complete: yes; TLVs are read over, but
for the checksum, which is checked when it is there.

Version 1 is a line, ``PROXY TCP4 <source> <destination> <port> <port> CR LF``, of at most 107 octets. Version 2 is binary: a
signature of 12 octets, version and command, family, the length of what follows, addresses, TLVs.

``ProxyReader`` is the sans-IO half. It never asks for an octet that might not be the header's: ``wanted`` says how many may be
read now, so what comes behind (a TLS handshake, a command) stays in the socket for whoever reads next. ``Proxies`` is the
shell: who may send a header, and reading it from a socket in time.

Invariants: a header is never guessed (it is required where it is expected and not looked for anywhere else); anything but a
well-formed one ends the connection; an unknown client (UNKNOWN, LOCAL, unix sockets at the proxy) counts as the proxy itself and
is never believed to be local to us.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
HEAD = 16  # octets of a version 2 header before addresses
SHORTEST = 15  # "PROXY UNKNOWN" CR LF
LINE = 107  # octets of the longest version 1 line, its end included
LENGTH = 4096  # of a version 2 header behind its head; TLS facts take some hundred octets
SECONDS = 10.0  # for the whole header; senders send it at once
ADDRESSES = {1: 12, 2: 36, 3: 216}  # octets by family: IPv4, IPv6, unix
STREAM, DATAGRAM = 1, 2
CRC32C = 3  # PP2_TYPE_CRC32C
POLYNOMIAL = 0x82F63B78  # of CRC32C, reflected

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxyFault(Exception):
    """What came is no PROXY header, or one that must not be believed."""


@dataclass(frozen=True, slots=True)
class Proxied:
    """``ip`` None: the proxy speaks for itself, or does not know the client's address."""

    ip: str | None
    port: int = 0
    version: int = 1
    local: bool = False  # the proxy's own connection: a health check


class ProxyReader:
    """Feed it at most ``wanted`` octets at a time until ``result`` is there. Raises ProxyFault."""

    __slots__ = ("_data", "result")

    def __init__(self) -> None:
        self._data = b""
        self.result: Proxied | None = None

    @property
    def wanted(self) -> int:
        """How many octets certainly still belong to the header; 0 when it is whole."""
        data = self._data
        if self.result is not None:
            return 0
        if len(data) < SHORTEST:
            return SHORTEST - len(data)
        if data.startswith(SIGNATURE):
            return HEAD - len(data) if len(data) < HEAD else HEAD + _length(data) - len(data)
        return 1 if data.endswith(b"\r") else 2

    def feed(self, data: bytes) -> None:
        self._data += data
        if not (self._data.startswith(b"PROXY "[: len(self._data)])) and not (
            self._data.startswith(SIGNATURE[: len(self._data)])
        ):
            raise ProxyFault("no PROXY header")
        if self._data.startswith(b"P"):
            self._line()
        elif len(self._data) >= HEAD and len(self._data) == HEAD + _length(self._data):
            self.result = _binary(self._data)

    def _line(self) -> None:
        at = self._data.find(b"\r\n")
        if at >= 0:
            self.result = _text(self._data[:at])
        elif len(self._data) >= LINE:
            raise ProxyFault("the line has no end")
        elif b"\n" in self._data or b"\r" in self._data[:-1]:
            raise ProxyFault("a bare CR or LF")


def _length(data: bytes) -> int:
    (length,) = struct.unpack_from("!H", data, 14)
    if length > LENGTH:
        raise ProxyFault(f"{length} octets are too many")
    return int(length)


def _text(line: bytes) -> Proxied:
    """Version 1."""
    words = line.split(b" ")
    if len(words) >= 2 and words[1] == b"UNKNOWN":
        return Proxied(None)  # "must ignore anything presented before the CRLF"
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyFault("not a line of version 1")
    wanted = 4 if words[1] == b"TCP4" else 6
    source = _address(words[2], wanted)
    _address(words[3], wanted)
    port = _port(words[4])
    _port(words[5])
    return Proxied(source, port)


def _address(word: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(word.decode("ascii"))
    except ValueError:
        raise ProxyFault("not an address") from None
    if address.version != version or b"%" in word:
        raise ProxyFault("an address of another family")
    return _plain(address)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or int(word) > 65535 or (len(word) > 1 and word[:1] == b"0"):
        raise ProxyFault("not a port")
    return int(word)


def _binary(data: bytes) -> Proxied:
    """Version 2, whole."""
    version, command = data[12] >> 4, data[12] & 15
    family, kind = data[13] >> 4, data[13] & 15
    if version != 2 or command > 1:
        raise ProxyFault("not version 2, or an unknown command")
    if command == 0:  # LOCAL: whatever addresses it shows do not count
        _checked(data, HEAD, loose=True)
        return Proxied(None, version=2, local=True)
    if family == 0 or kind == 0:
        if family > 3 or kind > DATAGRAM:
            raise ProxyFault("an unknown family")
        _checked(data, HEAD, loose=True)
        return Proxied(None, version=2)
    if family not in ADDRESSES or kind != STREAM:
        raise ProxyFault("an unknown family, or no stream")
    end = HEAD + ADDRESSES[family]
    if len(data) < end:
        raise ProxyFault("the addresses are cut short")
    _checked(data, end)
    if family == 3:
        return Proxied(None, version=2)
    size = 4 if family == 1 else 16
    source = ipaddress.ip_address(data[HEAD : HEAD + size])
    (port,) = struct.unpack_from("!H", data, HEAD + 2 * size)
    return Proxied(_plain(source), port, 2)


def _checked(data: bytes, at: int, loose: bool = False) -> None:
    """Look over the TLVs; check the checksum. ``loose``: what is there may be no TLVs, then nothing is checked."""
    while at < len(data):
        if len(data) - at < 3:
            if loose:
                return
            raise ProxyFault("a TLV is cut short")
        kind, length = data[at], struct.unpack_from("!H", data, at + 1)[0]
        end = at + 3 + length
        if end > len(data):
            if loose:
                return
            raise ProxyFault("a TLV is cut short")
        if kind == CRC32C and not (loose and length != 4):
            if length != 4:
                raise ProxyFault("a checksum of the wrong size")
            said = struct.unpack_from("!I", data, at + 3)[0]
            if crc32c(data[: at + 3] + bytes(4) + data[end:]) != said:
                raise ProxyFault("the checksum is wrong")
        at = end


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720 B.4). Headers are short: no table."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Proxies:
    """Who may tell us the client. The proxies at a unix socket are trusted by its file mode."""

    networks: Sequence[Network] = ()
    seconds: float = field(default=SECONDS)

    def trusts(self, ip: str | None) -> bool:
        if ip is None:
            return True
        address = ipaddress.ip_address(ip)
        return any(address in network for network in self.networks if network.version == address.version)

    async def read(self, client: socket.socket) -> Proxied:
        """The header at the head of the connection, and no octet more. Raises ProxyFault, TimeoutError, OSError."""
        loop = asyncio.get_running_loop()
        reader = ProxyReader()
        async with asyncio.timeout(self.seconds):
            while reader.result is None:
                data = await loop.sock_recv(client, reader.wanted)
                if not data:
                    raise ProxyFault("the connection ended")
                reader.feed(data)
        return reader.result
