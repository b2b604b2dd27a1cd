"""Opening connections to other servers: every address in turn, TLS when it is there, clear text when it fails.

Opportunistic TLS proves nothing about who is there (RFC 7435) and beats clear text. A relay that gets a password must show a
certificate for its name, unless it is on this machine or a private network; then there is no falling back. A hop with a
demand (``tlspolicy``) that it does not meet is left before mail is spoken of, and the next one is tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from filterd.ports import SystemClock
from filterd.queue import tlsverify
from filterd.queue.dialogue import Conversation, Refused
from filterd.queue.link import HANDSHAKE_SECONDS, Broken, Link, Untrusted, Wire
from filterd.queue.replies import RemoteReply
from filterd.queue.route import Hop
from filterd.queue.tlsdemand import Demand, Level, Session, TlsResult
from pipeline.ports import Clock

CONNECT_SECONDS = 30.0


def opportunistic() -> ssl.SSLContext:
    """Any certificate will do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def verifying(ca_file: str, names: bool = True) -> ssl.SSLContext:
    """The system's certificate authorities and those of ``ca_file``; ``names``: the handshake checks the host's name too.
    Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    context.check_hostname = names
    return context


def unheard(session: Session) -> None:
    """For who keeps no count."""


LOOSE = Demand(Level.TRY)


class Connector(Protocol):
    """How couriers come to a connection."""

    async def first(self, hops: Sequence[Hop]) -> Link | RemoteReply:
        """The first hop that talks; else the reply to record."""
        ...


@dataclass(slots=True)
class Dialer(Connector):
    """One a process. ``helo`` is our name; ``login`` goes to every hop that has none of its own; ``ca_file``: authorities that
    are trusted beside the system's; ``heard`` is told how TLS went with hosts whose domain has a policy."""

    helo: str
    login: tuple[str, str] | None = None
    unverified: ssl.SSLContext = field(default_factory=opportunistic)
    ca_file: str = ""
    clock: Clock = field(default_factory=SystemClock)
    heard: Callable[[Session], None] = unheard
    _verified: dict[bool, ssl.SSLContext] = field(default_factory=dict)

    async def first(self, hops: Sequence[Hop]) -> Link | RemoteReply:
        """The first hop that talks; else the reply to record, always a temporary one: another time another host may answer."""
        last = RemoteReply(451, ("4.4.1 no host could be reached",))
        failed: list[str] = []
        for hop in hops:
            try:
                link = await self.dial(hop)
            except Broken as error:
                code = "4.7.5" if isinstance(error, Untrusted) else "4.4.1"
                last = RemoteReply(451, (f"{code} {error}",))
                failed.append(str(error))
            except Refused as error:
                # RFC 5321 4.2.1: a 5xx greeting concerns this host; the next one may be willing
                last = RemoteReply(451, (f"4.3.2 {hop.name} refused: {error.reply.text}",))
                failed.append(last.lines[0])
            else:
                link.transcript[:0] = [f"* {text[:500]}" for text in failed]
                return link
        return last

    async def dial(self, hop: Hop) -> Link:
        """A conversation that is ready for mail. Raises Broken, Untrusted and Refused."""
        demand = hop.demand or LOOSE
        if demand.problem:
            self._tell(hop, demand.result, demand.problem)
            raise Untrusted(f"{hop.name} is not used: {demand.problem}", demand.result)
        try:
            return await self._once(hop, demand.level is not Level.NEVER)
        except Untrusted as failed:
            self._tell(hop, failed.result, str(failed))
            if demand.must:
                raise
            # MTA-STS testing: told, and sent all the same (RFC 8461 5)
            link = await self._once(replace(hop, demand=Demand(Level.TRY, demand.why)), want_tls=True)
            link.note("*", f"{demand.why}: {failed}; it asks us to send all the same")
            return link
        except _TlsFailed as failed:
            self._tell(hop, TlsResult.FAILURE, str(failed))
            if demand.must:
                raise Untrusted(
                    f"TLS with {hop.name} failed: {failed} ({demand.why})", TlsResult.FAILURE
                ) from failed
            if self._login(hop) is not None or hop.tls_first:
                raise Broken(f"TLS with {hop.name} failed: {failed}") from failed
            reason = str(failed)
        link = await self._once(hop, want_tls=False)
        link.note("*", f"TLS failed ({reason}): sent in clear text")
        return link

    def _tell(self, hop: Hop, result: TlsResult, detail: str = "") -> None:
        if hop.demand is not None and hop.demand.policy is not None:
            self.heard(Session(hop.demand.policy, result, hop.name, hop.address, detail))

    def _login(self, hop: Hop) -> tuple[str, str] | None:
        return hop.login or self.login

    async def _once(self, hop: Hop, want_tls: bool) -> Link:
        talk = Conversation(helo=self.helo, lmtp=hop.lmtp, want_tls=want_tls, login=self._login(hop))
        context = self._context(hop)
        wire = await self._connect(hop, context)
        talk.secure = hop.tls_first
        link = Link(hop, talk, wire, context, now=self.clock.time())
        if hop.demand is not None and hop.demand.why:
            link.note("*", f"TLS with {hop.name}: {hop.demand.level.value}: {hop.demand.why}")
        try:
            if talk.secure:
                link.check_tls()
            await link.run(talk.open())
        except Broken as error:
            wire.abort()
            if isinstance(error, Untrusted) and hop.demand is not None:
                raise Untrusted(f"{hop.name} [{hop.address}]: {error}", error.result) from error
            if talk.tls_begun and not talk.secure:
                raise _TlsFailed(str(error)) from error
            raise Broken(f"{hop.name} [{hop.address or hop.path}]: {error}") from error
        except Refused:
            await link.close()
            raise
        except BaseException:
            wire.abort()
            raise
        if want_tls:
            await self._settle(link)
        talk.proven = _loopback(hop) or (
            talk.secure and (bool(link.verified) or context.verify_mode is ssl.CERT_REQUIRED)
        )
        return link

    async def _settle(self, link: Link) -> None:
        """The session is open: with TLS, or without because the other side has none. Raises Untrusted."""
        hop, talk = link.hop, link.talk
        demand = hop.demand or LOOSE
        if talk.secure:
            self._tell(hop, demand.result, demand.why if demand.result is not TlsResult.OK else "")
            return
        what = "refuses STARTTLS" if "STARTTLS" in talk.features else "offers no STARTTLS"
        if demand.must:
            await link.close()
            raise Untrusted(f"{hop.name} [{hop.address}] {what} ({demand.why})", TlsResult.NO_STARTTLS)
        self._tell(hop, TlsResult.NO_STARTTLS)
        if hop.demand is not None:
            link.note("*", f"{hop.name} {what}: sent in clear text")

    async def _connect(self, hop: Hop, context: ssl.SSLContext) -> Wire:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if hop.path:
                    _, wire = await loop.create_unix_connection(Wire, hop.path)
                elif hop.tls_first:
                    _, wire = await loop.create_connection(
                        Wire, hop.address, hop.port, ssl=context, server_hostname=tlsverify.server_name(hop) or "",
                        ssl_handshake_timeout=HANDSHAKE_SECONDS, local_addr=source(hop),
                    )  # fmt: skip
                else:
                    _, wire = await loop.create_connection(
                        Wire, hop.address, hop.port, local_addr=source(hop)
                    )
        except (OSError, ValueError, TimeoutError) as error:
            where = hop.path or f"{hop.name} [{hop.address}]:{hop.port}"
            raise Broken(f"cannot connect to {where}: {_reason(error)}") from error
        return wire

    def _context(self, hop: Hop) -> ssl.SSLContext:
        named = hop.demand is not None and hop.demand.level is Level.NAMED
        loose = hop.demand is not None and not named
        if loose or (not named and (self._login(hop) is None or _near(hop.address))):
            return self.unverified
        if named not in self._verified:
            try:
                self._verified[named] = verifying(self.ca_file, names=not named)
            except (OSError, ssl.SSLError) as error:
                raise Broken(f"queue.tls_ca cannot be read: {error}") from error
        return self._verified[named]


class _TlsFailed(Exception):
    """STARTTLS was agreed on and came to nothing."""


def source(hop: Hop) -> tuple[str, int] | None:
    """Where the connection comes from; None: the system chooses. Raises Broken when there is no such address."""
    if not hop.bind:
        return None
    version = ipaddress.ip_address(hop.address).version
    for text in hop.bind:
        if ipaddress.ip_address(text).version == version:
            return text, 0
    raise Broken(f"no source address for IPv{version} is configured (bind)")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = error.strerror if isinstance(error, OSError) else ""
    return text or str(error) or type(error).__name__


def _loopback(hop: Hop) -> bool:
    if hop.path:
        return True
    with contextlib.suppress(ValueError):
        return hop.ours and ipaddress.ip_address(hop.address).is_loopback
    return False


def _near(address: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address).is_private
    return True  # a unix socket
