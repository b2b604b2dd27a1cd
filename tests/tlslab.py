"""Certificates of every kind and mail hosts that show them, for the tests of transport security. Loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = 1_790_000_000.0
Key = ec.EllipticCurvePrivateKey


@lru_cache(maxsize=64)
def key(name: str) -> Key:
    """The same key for the same name."""
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Cert:
    """A certificate with its key. ``issuer`` None: signed by itself."""

    name: str
    issuer: Cert | None = None
    ca: bool = False
    names: Sequence[str] = ()
    start: float = -1.0  # days from ``now``
    days: float = 30.0
    path_length: int | None = None
    now: float = NOW
    server: bool = True
    extra: Sequence[tuple[x509.ExtensionType, bool]] = ()
    key_name: str = ""
    constrained: bool = True  # an authority says so
    pem: bytes = field(init=False)
    der: bytes = field(init=False)

    def __post_init__(self) -> None:
        at = datetime.datetime.fromtimestamp(self.now, datetime.UTC)
        issuer = self.issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at + datetime.timedelta(days=self.start))
            .not_valid_after(at + datetime.timedelta(days=self.days))
        )
        if self.names:
            names = x509.SubjectAlternativeName([x509.DNSName(one) for one in self.names])
            builder = builder.add_extension(names, critical=False)
        if self.constrained:
            builder = builder.add_extension(x509.BasicConstraints(self.ca, self.path_length), critical=True)
        if not self.server:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(usage, critical=False)
        for extension, critical in self.extra:
            builder = builder.add_extension(extension, critical=critical)
        made = builder.sign(issuer.key, hashes.SHA256())
        self.pem = made.public_bytes(serialization.Encoding.PEM)
        self.der = made.public_bytes(serialization.Encoding.DER)

    @property
    def subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])

    @property
    def key(self) -> Key:
        return key(self.key_name or self.name)

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def tlsa(self, usage: int, selector: int, matching: int) -> str:
        """The record that means this certificate."""
        data = self.spki if selector else self.der
        made = {0: data, 1: hashlib.sha256(data).digest(), 2: hashlib.sha512(data).digest()}[matching]
        return f"{usage} {selector} {matching} {made.hex()}"

    def files(self, folder: Path, *above: Cert) -> tuple[Path, Path]:
        cert, secret = folder / f"{id(self)}.pem", folder / f"{id(self)}.key"
        cert.write_bytes(b"".join((self.pem, *(one.pem for one in above))))
        secret.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert, secret

    def context(self, folder: Path, *above: Cert) -> ssl.SSLContext:
        """A server that shows this certificate and those above it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.files(folder, *above))
        return context


@dataclass
class MailHost:
    """An SMTP server with moods. ``tls`` None: offers none. ``stripped``: somebody took STARTTLS out of its answer; ``refuses``:
    454; ``garbage``: 220, then no TLS. ``taken``: (over TLS?, MAIL line, text)."""

    tls: ssl.SSLContext | None = None
    stripped: bool = False
    refuses: bool = False
    garbage: bool = False
    keywords: tuple[str, ...] = ()
    port: int = 0
    taken: list[tuple[bool, str, bytes]] = field(default_factory=list)
    sni: list[str | None] = field(default_factory=list)
    sessions: int = 0

    def _ehlo(self, secure: bool) -> bytes:
        offered = [*self.keywords]
        if self.tls is not None and not secure and not self.stripped:
            offered.append("STARTTLS")
        lines = ["mx", *offered]
        return b"".join(
            f"250{' ' if at == len(lines) - 1 else '-'}{line}\r\n".encode() for at, line in enumerate(lines)
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        secure, sender = False, ""
        writer.write(b"220 mx\r\n")
        while line := await reader.readline():
            word = line.strip().decode("ascii", "replace").upper()
            if word.startswith("EHLO"):
                writer.write(self._ehlo(secure))
            elif word == "STARTTLS":
                if self.refuses:
                    writer.write(b"454 4.7.0 not now\r\n")
                    continue
                writer.write(b"220 go\r\n")
                if self.garbage or self.tls is None:
                    await reader.read(1)
                    writer.write(b"this is no TLS\r\n" * 20)
                    await writer.drain()
                    return
                await writer.drain()
                await writer.start_tls(self.tls)
                secure = True
            elif word == "DATA":
                writer.write(b"354 go\r\n")
                self.taken.append((secure, sender, await reader.readuntil(b"\r\n.\r\n")))
                writer.write(b"250 2.0.0 taken\r\n")
            elif word == "QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                sender = word if word.startswith("MAIL") else sender
                writer.write(b"250 ok\r\n")
            await writer.drain()


@contextlib.asynccontextmanager
async def running(*hosts: MailHost) -> AsyncIterator[None]:
    """The hosts listen, each on a port of its own."""
    tasks: set[asyncio.Task[None]] = set()
    servers = []
    for host in hosts:

        async def guarded(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: MailHost = host
        ) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await host.serve(reader, writer)
            writer.close()

        server = await asyncio.start_server(guarded, "127.0.0.1", 0)
        host.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def listening(host: MailHost) -> Iterator[MailHost]:
    """The host, in a thread of its own."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with running(host):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(20)
    try:
        yield host
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
