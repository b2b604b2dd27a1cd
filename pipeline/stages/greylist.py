"""greylist: a sender, recipient and network that were never seen together are asked to come again in a few minutes.

Specification: RFC 6647 (3: triplets, networks instead of addresses, exemptions; 5: 4xx at RCPT). Off by default.

It is asked at RCPT, so that nothing is transferred in vain, and once more at the end of data, which then only confirms. The
null reverse-path is judged at the end of data alone (RFC 6647 3: others call back with ``<>`` to verify a sender, and must
not be put off for that). A network that has passed with ``auto_exempt`` different triplets is not asked any more.
``Triplets`` keeps the state; when it fails mail goes through. Tag ``greylist.result``: pass, wait, exempt.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.envelope import Client, Envelope
from pipeline.errors import PipelineError
from pipeline.registry import StageContext, setting
from pipeline.reply import Reply
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict

_VARIES = re.compile(r"[0-9a-f]{8,}|[0-9]+")  # message numbers in bounce addresses
_PRVS = re.compile(r"\Aprvs=[^=/]*[=/]")  # BATV
_MEMORY = 10_000  # triplets kept without a database


@dataclass(frozen=True, slots=True)
class GreylistSettings:
    enabled: bool = setting(False, "Ask new senders to come again in a few minutes.")
    delay: float = setting(300.0, "How long a new sender has to wait.", "duration")
    window: float = setting(2 * 86400.0, "He must come again within this time.", "duration")
    keep: float = setting(
        36 * 86400.0, "A sender who passed is known so long after his last mail.", "duration"
    )
    auto_exempt: int = setting(
        5, "A network that passed with so many senders and recipients is not asked any more; 0 = never so."
    )
    exempt: tuple[str, ...] = setting(
        ("127.0.0.0/8", "::1/128"), "Networks that are never asked to wait.", "patterns"
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """The times of the settings, in seconds."""

    delay: float
    window: float
    keep: float


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a triplet: when it was first and last seen, and whether it has passed."""

    first: float
    last: float
    passed: bool = False


@dataclass(frozen=True, slots=True)
class Noted:
    """``waits``: seconds each triplet still has to wait, 0 = passed. ``known``: triplets of the network that passed."""

    waits: tuple[float, ...]
    known: int


class Triplets(Protocol):
    """The memory, shared by the processes of a server. May raise ``pipeline.errors.StageFault``."""

    async def note(self, network: str, keys: Sequence[bytes], now: float, limits: Limits) -> Noted:
        """Note that these triplets were tried now."""
        ...

    async def close(self) -> None: ...


def step(row: Row | None, now: float, limits: Limits) -> tuple[Row, float]:
    """The row after a try at ``now``, and how long is still to wait (0 = passes)."""
    if row is not None and row.passed and now - row.last <= limits.keep:
        return Row(row.first, now, True), 0.0
    if row is None or row.passed or not 0 <= now - row.first <= limits.window:
        return Row(now, now), limits.delay
    if now - row.first >= limits.delay:
        return Row(row.first, now, True), 0.0
    return Row(row.first, now), limits.delay - (now - row.first)


class MemoryTriplets(Triplets):
    """State of one process, for tests and tries."""

    def __init__(self) -> None:
        self._rows: OrderedDict[tuple[str, bytes], Row] = OrderedDict()

    async def note(self, network: str, keys: Sequence[bytes], now: float, limits: Limits) -> Noted:
        waits = []
        for key in keys:
            row, wait = step(self._rows.pop((network, key), None), now, limits)
            self._rows[network, key] = row
            waits.append(wait)
        while len(self._rows) > _MEMORY:
            self._rows.popitem(last=False)
        known = sum(1 for (place, _), row in self._rows.items() if place == network and row.passed)
        return Noted(tuple(waits), known)

    async def close(self) -> None: ...


class GreylistStage:
    """The stage; one for the life of a configuration."""

    name = "greylist"
    phases = frozenset({Phase.RCPT, Phase.EOM})
    after: tuple[str, ...] = ()
    on_error = OnError.ACCEPT
    timeout = 5.0

    def __init__(
        self, settings: GreylistSettings, context: StageContext, triplets: Triplets | None = None
    ) -> None:
        """Raises PipelineError for a network that cannot be read."""
        self.settings = settings
        self._clock = context.clock
        self._triplets = triplets or MemoryTriplets()
        self._limits = Limits(settings.delay, settings.window, settings.keep)
        try:
            self._exempt = tuple(ipaddress.ip_network(text) for text in settings.exempt)
        except ValueError as error:
            raise PipelineError(f"greylist exempt: {error}") from error

    def quick(self, transaction: Transaction) -> Verdict | None:
        """The verdict when the state need not be asked."""
        envelope = transaction.envelope
        if not self.settings.enabled:
            return Verdict(self.name, result="skipped", summary="switched off")
        why = self._skipped(envelope.client)
        if why is not None:
            return why
        if not envelope.reverse_path and not transaction.message.size:
            return Verdict(self.name, result="none", summary="judged at the end of data")
        return None

    async def check(self, transaction: Transaction) -> Verdict:
        done = self.quick(transaction)
        if done is not None:
            return done
        envelope = transaction.envelope
        network = network_of(envelope.client.ip or "")
        noted = await self._triplets.note(network, triplets(envelope), self._clock.time(), self._limits)
        if 0 < self.settings.auto_exempt <= noted.known:
            return self._say("exempt", f"{network} passed with {noted.known} senders before")
        wait = max(noted.waits, default=0.0)
        if wait <= 0:
            return self._say("pass", "seen before")
        seconds = int(wait) + 1
        return Verdict(
            self.name,
            Disposition.TEMPFAIL,
            result="wait",
            summary=f"new sender from {network}: {seconds} s to wait",
            reply=Reply(451, "4.7.1", f"Greylisted, please try again in {seconds} seconds"),
            tags={"greylist.result": "wait"},
        )

    def abort(self, transaction: Transaction) -> None:
        """Nothing is held for a transaction."""

    async def close(self) -> None:
        await self._triplets.close()

    def _say(self, result: str, summary: str) -> Verdict:
        return Verdict(self.name, result=result, summary=summary, tags={"greylist.result": result})

    def _skipped(self, client: Client) -> Verdict | None:
        if client.auth:
            return Verdict(self.name, result="skipped", summary="authenticated")
        if client.ip is None or not client.facts_trusted:
            return Verdict(self.name, result="none", summary="the client's address is not known")
        try:
            address = _address(client.ip)
        except ValueError:
            return Verdict(self.name, result="none", summary="the client's address cannot be read")
        if any(address in network for network in self._exempt):
            return Verdict(self.name, result="skipped", summary="exempt network")
        return None


def _address(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(ip.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def network_of(ip: str) -> str:
    """The /24 or /64 of an address: large senders try again from a neighbour. Raises ValueError."""
    address = _address(ip)
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 64), strict=False))


def triplets(envelope: Envelope) -> list[bytes]:
    """One key a recipient; what varies from mail to mail in a sender's address is left out."""
    sender = _PRVS.sub("", envelope.reverse_path.lower())
    local, at, domain = sender.rpartition("@")
    sender = _VARIES.sub("#", local.partition("+")[0]) + at + domain
    out = []
    for recipient in envelope.recipients:
        text = f"{sender}\0{recipient.address.lower()}".encode("utf-8", "surrogateescape")
        out.append(hashlib.blake2b(text, digest_size=16).digest())
    return out
