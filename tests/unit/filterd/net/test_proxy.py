"""PROXY headers: good ones at every cut, bad ones refused, hostile octets, and a header never read past its end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.net.limits import Admission, AdmissionLimits
from filterd.net.listen import Server, bind, bound_address, parse
from filterd.net.proxy import LENGTH, SIGNATURE, Proxied, Proxies, ProxyFault, ProxyReader, crc32c
from filterd.net.tls import TlsFiles, ensure_self_signed
from filterd.proto.smtp_limits import SmtpConfig
from filterd.servers.smtp import SmtpDoor
from pipeline.envelope import Profile
from tests.doors import SmtpApplication

V4 = ipaddress.ip_address("192.0.2.9").packed + ipaddress.ip_address("198.51.100.1").packed
V6 = ipaddress.ip_address("2001:db8::9").packed + ipaddress.ip_address("2001:db8::1").packed
PORTS = struct.pack("!HH", 40000, 25)


def v2(family: int, body: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", len(body)) + body


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + struct.pack("!H", len(value)) + value


def summed(family: int, body: bytes) -> bytes:
    """With a right checksum behind ``body``."""
    header = v2(family, body + tlv(3, bytes(4)))
    return header[:-4] + struct.pack("!I", crc32c(header))


GOOD = [
    (b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25\r\n", Proxied("192.0.2.9", 40000)),
    (b"PROXY TCP6 2001:DB8::9 2001:db8::1 0 65535\r\n", Proxied("2001:db8::9", 0)),
    (b"PROXY TCP6 ::ffff:192.0.2.9 ::1 1 2\r\n", Proxied("192.0.2.9", 1)),
    (b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", Proxied("ffff:" * 7 + "ffff", 65535)),
    (b"PROXY UNKNOWN\r\n", Proxied(None)),
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", Proxied(None)),
    (v2(0x11, V4 + PORTS), Proxied("192.0.2.9", 40000, 2)),
    (v2(0x21, V6 + PORTS), Proxied("2001:db8::9", 40000, 2)),
    (v2(0x11, V4 + PORTS + tlv(2, b"mx.example") + tlv(0x20, b"\x01" * 200)), Proxied("192.0.2.9", 40000, 2)),
    (summed(0x11, V4 + PORTS + tlv(0xEE, b"own")), Proxied("192.0.2.9", 40000, 2)),
    (v2(0x31, b"/run/x".ljust(108, b"\0") * 2), Proxied(None, 0, 2)),
    (v2(0x00, b"", command=0x20), Proxied(None, 0, 2, True)),
    (v2(0x11, V4 + PORTS, command=0x20), Proxied(None, 0, 2, True)),
    (v2(0x00, b"whatever it is"), Proxied(None, 0, 2)),
]  # fmt: skip
BAD = [
    b"EHLO mail.example\r\n",
    b"PROXY\r\n\r\n\r\n\r\n\r\n",
    b"proxy TCP4 192.0.2.9 198.51.100.1 40000 25\r\n",
    b"PROXY  TCP4 192.0.2.9 198.51.100.1 40000 25\r\n",
    b"PROXY TCP4 192.0.2.9 198.51.100.1 40000\r\n",
    b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25 x\r\n",
    b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 65536\r\n",
    b"PROXY TCP4 192.0.2.9 198.51.100.1 040 25\r\n",
    b"PROXY TCP4 192.0.2.9 198.51.100.1 -1 25\r\n",
    b"PROXY TCP4 2001:db8::9 2001:db8::1 40000 25\r\n",
    b"PROXY TCP6 192.0.2.9 198.51.100.1 40000 25\r\n",
    b"PROXY TCP6 fe80::1%eth0 fe80::2 40000 25\r\n",
    b"PROXY UDP4 192.0.2.9 198.51.100.1 40000 25\r\n",
    b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25\n",
    b"PROXY TCP4 192.0.2.9\r198.51.100.1 40000 25\r\n",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"PROXY TCP4 " + b"1" * 200,
    SIGNATURE[:-1] + b"x" + b"\x21\x11\0\x0c" + V4 + PORTS,
    v2(0x11, V4 + PORTS, command=0x11),
    v2(0x11, V4 + PORTS, command=0x22),
    v2(0x41, V4 + PORTS),
    v2(0x12, V4 + PORTS),
    v2(0x13, V4 + PORTS),
    v2(0x11, V4),
    v2(0x21, V4 + PORTS),
    v2(0x31, b"x" * 100),
    v2(0x11, V4 + PORTS + b"\x01\0"),
    v2(0x11, V4 + PORTS + b"\x01\0\x09abc"),
    v2(0x11, V4 + PORTS + tlv(3, b"abc")),
    v2(0x11, V4 + PORTS + tlv(3, b"\0\0\0\x01")),
    v2(0x11, V4 + PORTS + b"x" * LENGTH),
]


def read(data: bytes, sizes: list[int] | None = None) -> tuple[Proxied | None, int]:
    """(result, octets used), given pieces of at most ``sizes`` octets; never more than the reader wants."""
    reader, at, turn = ProxyReader(), 0, 0
    while reader.result is None and at < len(data):
        assert reader.wanted > 0
        count = min(reader.wanted, sizes[turn % len(sizes)] if sizes else reader.wanted)
        reader.feed(data[at : at + count])
        at, turn = min(len(data), at + count), turn + 1
    assert reader.result is None or reader.wanted == 0
    return reader.result, at


def test_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720 B.4 names the polynomial; this is its check value


@pytest.mark.parametrize(("data", "found"), GOOD)
def test_good_headers_at_every_cut(data: bytes, found: Proxied) -> None:
    behind = b"\x16\x03\x01 or EHLO c\r\n"
    assert read(data + behind) == (found, len(data))
    assert read(data + behind, [1]) == (found, len(data))
    for cut in range(1, len(data)):
        reader = ProxyReader()
        at = 0
        while at < cut:  # everything up to the cut in one piece, as far as it is wanted
            piece = data[at : min(cut, at + reader.wanted)]
            reader.feed(piece)
            at += len(piece)
        assert reader.result is None
        rest, _ = read(data)
        assert rest == found


@pytest.mark.parametrize("data", BAD)
def test_bad_headers(data: bytes) -> None:
    for sizes in (None, [1], [7]):
        with pytest.raises(ProxyFault):
            read(data, sizes)


@pytest.mark.parametrize("data", [data for data, _ in GOOD])
def test_a_header_that_is_cut_off_is_none(data: bytes) -> None:
    for end in range(len(data)):
        assert read(data[:end])[0] is None


@pytest.mark.fuzz
@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(lambda tail: SIGNATURE + tail),
        st.binary(max_size=120).map(lambda tail: b"PROXY " + tail),
        st.tuples(st.sampled_from([data for data, _ in GOOD]), st.integers(0, 300), st.binary(min_size=1, max_size=2)).map(
            lambda found: found[0][: found[1]] + found[2] + found[0][found[1] + len(found[2]) :]
        ),
    ),
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
)  # fmt: skip
def test_any_octets(data: bytes, sizes: list[int]) -> None:
    """A result or a fault or a wish for more, the same however the octets are cut; never past the header."""

    def outcome(cuts: list[int] | None) -> object:
        try:
            return read(data, cuts)
        except ProxyFault:
            return ProxyFault

    assert outcome(sizes) == outcome(None)


# -- over real sockets ---------------------------------------------------------------------------------------------


def talk(port: int, first: bytes, *, source: str = "127.0.0.1", trust: ssl.SSLContext | None = None) -> bytes:
    """What the server says until it waits for us, or b"" when it hangs up."""
    raw = socket.create_connection(("127.0.0.1", port), 5, source_address=(source, 0))
    with raw:
        try:
            raw.sendall(first)
            plain = trust.wrap_socket(raw, server_hostname="localhost") if trust is not None else raw
            with plain:
                out = plain.recv(4096)
                if out.startswith(b"220"):
                    plain.sendall(b"EHLO c\r\nMAIL FROM:<a@example.net>\r\nQUIT\r\n")
                    while piece := plain.recv(4096):
                        out += piece
                return out
        except (ConnectionError, ssl.SSLError):
            return b""


@contextlib.asynccontextmanager
async def listener(
    log: list[str], admission: Admission, proxies: Proxies, files: TlsFiles | None = None
) -> AsyncIterator[int]:
    networks = [ipaddress.ip_network("192.0.2.0/24")]
    config = SmtpConfig("mx.example.org", Profile.MX)
    door = SmtpDoor(config, SmtpApplication(log), xclient_trusted=networks)
    sock = bind(parse("127.0.0.1:0"))
    context = files.current if files is not None else None
    server = Server(sock, door.connection, admission, refusal=door.REFUSAL, proxies=proxies, context=context)
    server.start()
    try:
        yield bound_address(sock).port
    finally:
        server.stop()
        server.cut_handshakes()
        admission.shut_down()
        async with asyncio.timeout(10):
            while admission.total:
                await asyncio.sleep(0.01)
        sock.close()


LOOPBACK = [ipaddress.ip_network("127.0.0.1/32")]


@pytest.mark.e2e
def test_the_real_client_is_seen_and_counted() -> None:
    async def story() -> None:
        admission = Admission(AdmissionLimits(total=50, per_address=2))
        async with listener([], admission, Proxies(LOOPBACK)) as port:
            head = b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25\r\n"
            said = await asyncio.to_thread(talk, port, head)
            assert (
                said.startswith(b"220 ") and b"XCLIENT" in said and b"221 " in said
            )  # trusted by the real address
            said = await asyncio.to_thread(talk, port, v2(0x11, b"\xc6\x33\x64\x09" + V4[4:] + PORTS))
            assert said.startswith(b"220 ") and b"XCLIENT" not in said
            # refused by its real address, as the application does it
            assert (await asyncio.to_thread(talk, port, head.replace(b".9 ", b".66 "))).startswith(b"554 ")
            # nobody known: no rights, though the proxy has an address
            said = await asyncio.to_thread(talk, port, v2(0, b"", command=0x20))
            assert said.startswith(b"220 ") and b"XCLIENT" not in said

            def crowd() -> list[bytes]:
                held = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(3)]
                out = []
                for one in held:
                    one.sendall(head)
                    out.append(one.recv(4096))
                other = talk(port, b"PROXY TCP4 192.0.2.10 198.51.100.1 40000 25\r\n")
                for one in held:
                    one.close()
                return [*out, other]

            said_to = await asyncio.to_thread(crowd)
            assert [said[:4] for said in said_to] == [b"220 ", b"220 ", b"421 ", b"220 "]

    asyncio.run(story())


@pytest.mark.e2e
def test_strangers_and_nonsense_are_cut_off() -> None:
    async def story() -> None:
        admission = Admission(AdmissionLimits(total=5, per_address=5))
        async with listener([], admission, Proxies(LOOPBACK, seconds=0.2)) as port:
            head = b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25\r\n"
            assert await asyncio.to_thread(talk, port, head, source="127.0.0.2") == b""
            assert await asyncio.to_thread(talk, port, b"EHLO c\r\n" * 4) == b""
            assert await asyncio.to_thread(talk, port, b"PROXY TCP4 192.0") == b""  # the rest never comes
            assert await asyncio.to_thread(talk, port, b"") == b""
            assert (await asyncio.to_thread(talk, port, head)).startswith(b"220 ")

    asyncio.run(story())


@pytest.mark.e2e
def test_before_implicit_tls(tmp_path: Path) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    ensure_self_signed(cert, key, ["localhost"], time.time())
    trust = ssl.create_default_context(cafile=cert)

    async def story() -> None:
        admission = Admission(AdmissionLimits())
        async with listener([], admission, Proxies(LOOPBACK), TlsFiles(cert, key)) as port:
            for head in (b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25\r\n", summed(0x11, V4 + PORTS)):
                said = await asyncio.to_thread(talk, port, head, trust=trust)
                assert said.startswith(b"220 ") and b"XCLIENT" in said

    asyncio.run(story())
