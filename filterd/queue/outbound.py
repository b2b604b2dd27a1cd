"""Opening connections to other servers: every address in turn, TLS when it is there, clear text when it fails.

Opportunistic TLS proves nothing about who is there (RFC 7435) and beats clear text. A relay that gets a password must show a
certificate for its name, unless it is on this machine or a private network; then there is no falling back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from filterd.queue.dialogue import Conversation, Refused
from filterd.queue.link import HANDSHAKE_SECONDS, Broken, Link, Wire
from filterd.queue.replies import RemoteReply
from filterd.queue.route import Hop

CONNECT_SECONDS = 30.0
SUBMISSIONS = 465  # RFC 8314: TLS from the first octet


def opportunistic() -> ssl.SSLContext:
    """Any certificate will do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Connector(Protocol):
    """How couriers come to a connection."""

    async def first(self, hops: Sequence[Hop]) -> Link | RemoteReply:
        """The first hop that talks; else the reply to record."""
        ...


@dataclass(slots=True)
class Dialer(Connector):
    """One a process. ``helo`` is our name; ``login`` goes to every hop that has none of its own."""

    helo: str
    login: tuple[str, str] | None = None
    unverified: ssl.SSLContext = field(default_factory=opportunistic)
    _verified: ssl.SSLContext | None = None

    async def first(self, hops: Sequence[Hop]) -> Link | RemoteReply:
        """The first hop that talks; else the reply to record, always a temporary one: another time another host may answer."""
        last = RemoteReply(451, ("4.4.1 no host could be reached",))
        for hop in hops:
            try:
                return await self.dial(hop)
            except Broken as error:
                last = RemoteReply(451, (f"4.4.1 {error}",))
            except Refused as error:
                # RFC 5321 4.2.1: a 5xx greeting concerns this host; the next one may be willing
                last = RemoteReply(451, (f"4.3.2 {hop.name} refused: {error.reply.text}",))
        return last

    async def dial(self, hop: Hop) -> Link:
        """A conversation that is ready for mail. Raises Broken and Refused."""
        try:
            return await self._once(hop, want_tls=True)
        except _TlsFailed as failed:
            if self._login(hop) is not None or hop.port == SUBMISSIONS:
                raise Broken(f"TLS with {hop.name} failed: {failed}") from failed
        return await self._once(hop, want_tls=False)

    def _login(self, hop: Hop) -> tuple[str, str] | None:
        return hop.login or self.login

    async def _once(self, hop: Hop, want_tls: bool) -> Link:
        talk = Conversation(helo=self.helo, lmtp=hop.lmtp, want_tls=want_tls, login=self._login(hop))
        context = self._context(hop)
        wire = await self._connect(hop, context)
        talk.secure = hop.port == SUBMISSIONS
        link = Link(hop, talk, wire, context)
        try:
            await link.run(talk.open())
        except Broken as error:
            wire.abort()
            if talk.tls_begun and not talk.secure:
                raise _TlsFailed(str(error)) from error
            raise Broken(f"{hop.name} [{hop.address or hop.path}]: {error}") from error
        except Refused:
            await link.close()
            raise
        except BaseException:
            wire.abort()
            raise
        return link

    async def _connect(self, hop: Hop, context: ssl.SSLContext) -> Wire:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if hop.path:
                    _, wire = await loop.create_unix_connection(Wire, hop.path)
                elif hop.port == SUBMISSIONS:
                    _, wire = await loop.create_connection(
                        Wire, hop.address, hop.port, ssl=context, server_hostname=hop.name,
                        ssl_handshake_timeout=HANDSHAKE_SECONDS,
                    )  # fmt: skip
                else:
                    _, wire = await loop.create_connection(Wire, hop.address, hop.port)
        except (OSError, ValueError, TimeoutError) as error:
            where = hop.path or f"{hop.name} [{hop.address}]:{hop.port}"
            raise Broken(f"cannot connect to {where}: {_reason(error)}") from error
        return wire

    def _context(self, hop: Hop) -> ssl.SSLContext:
        if self._login(hop) is None or _near(hop.address):
            return self.unverified
        if self._verified is None:
            self._verified = ssl.create_default_context()
        return self._verified


class _TlsFailed(Exception):
    """STARTTLS was agreed on and came to nothing."""


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = error.strerror if isinstance(error, OSError) else ""
    return text or str(error) or type(error).__name__


def _near(address: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address).is_private
    return True  # a unix socket
