"""Once a day: the reports that domains ask for, built and put into our queue.

A day (UTC) is reported when it is over. Each domain's reports are queued under a key that derives from day, domain and
address, so that doing it again after a crash sends nothing twice. A destination in another organisation gets reports only
when its DNS says that it wants them (RFC 7489 7.1); when the DNS does not answer, the day is tried again at the next run.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from filterd.config.schema import Config
from filterd.queue.base import Outgoing, Spool
from filterd.reports import aggregate, data, days
from filterd.reports.aggregate import Reporter, Target, Unsure
from pipeline.ports import Clock, Resolver

log = logging.getLogger("filterd.reports")

Sign = Callable[[bytes, str], bytes]
PAUSE_SECONDS = 3600.0
TARGETS = 5  # addresses of one domain that get its report


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one domain's day; ``result`` for people."""

    day: str
    domain: str
    result: str


def reporter(config: Config) -> Reporter:
    settings = config.stage.dmarc.reports
    return Reporter(
        settings.org_name or config.server.hostname,
        settings.email or f"postmaster@{config.domain[0].name}",
        config.server.hostname,
    )


@dataclass(slots=True)
class Daily(ABC):
    """Everything that is needed to report. ``sign``: (message, domain) -> DKIM-Signature fields or b"".

    ``kind``: for people. ``seen``: the table of counts (``days.connect``).
    """

    kind: ClassVar[str]
    seen: ClassVar[str]

    path: Path
    who: Reporter
    resolver: Resolver
    spool: Spool
    sign: Sign
    clock: Clock
    stop: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Report what is due, every hour, until told to stop."""
        self.stop = stop
        while not stop.is_set():
            try:
                await self.send_due()
            except (sqlite3.Error, OSError) as error:
                log.warning("%s reports not sent: %s", self.kind, error)
            try:
                async with asyncio.timeout(PAUSE_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue

    async def send_due(self) -> list[Told]:
        """Queue the reports of all days that are over. Raises sqlite3.Error."""
        if not await asyncio.to_thread(self.path.exists):
            return []
        db = await asyncio.to_thread(days.connect, self.path, self.seen)
        try:
            today = days.day_of(self.clock.time())
            out = []
            for day, domain in await asyncio.to_thread(days.due, db, today):
                told = await self._domain(db, day, domain)
                if told is not None:
                    out.append(told)
            return out + await self._beside(db)
        finally:
            db.close()

    @abstractmethod
    async def _domain(self, db: sqlite3.Connection, day: str, domain: str) -> Told | None:
        """Queue one domain's reports of a day. None: its DNS does not answer, the day waits."""

    async def _beside(self, db: sqlite3.Connection) -> list[Told]:
        """What this kind of report does in each round besides."""
        return []

    def _outgoing(self, message: bytes, to: str, what: str) -> Outgoing:
        """``what``: the same for the same report."""
        sender = self.who.email
        signed = self.sign(message, sender.rpartition("@")[2]) + message
        key = hashlib.blake2b(f"{what}|{to}".encode(), digest_size=16).digest()
        return Outgoing(key=key, reverse_path=sender, recipient=to, data=signed, kind="report")


@dataclass(slots=True)
class Reporting(Daily):
    """DMARC aggregate reports."""

    kind = "DMARC"
    seen = data.SEEN

    async def _domain(self, db: sqlite3.Connection, day: str, domain: str) -> Told | None:
        found = await asyncio.to_thread(data.rows, db, day, domain)
        try:
            wanted = await self._targets(domain, aggregate.targets(list(found)))
        except Unsure as unsure:
            log.info("DMARC report for %s of %s waits: %s", domain, day, unsure)
            return None
        outgoing, too_large = [], 0
        for number, (policy, rows) in enumerate(found.items()):
            text = aggregate.xml(self.who, day, policy, rows, number)
            for one in wanted:
                message = aggregate.mail(self.who, one.address, day, policy, number, text, self.clock.time())
                if one.limit and len(message) > one.limit:
                    too_large += 1
                    continue
                outgoing.append(self._outgoing(message, one.address, f"dmarc|{day}|{domain}|{number}"))
        if outgoing:
            await self.spool.enqueue(outgoing)
        names = ", ".join(one.address for one in wanted)
        result = f"queued for {names}" if outgoing else "nobody to report to" if not wanted else "not sent"
        if too_large:
            result += f" ({too_large} larger than the recipient takes)"
        await asyncio.to_thread(days.mark, db, day, domain, self.clock.time(), result)
        log.info("DMARC report for %s of %s: %s", domain, day, result)
        return Told(day, domain, result)

    async def _targets(self, domain: str, uris: list[str]) -> list[Target]:
        out: list[Target] = []
        for uri in uris[:TARGETS]:
            wanted = aggregate.target(uri)
            if wanted is None:
                continue
            agreed = await aggregate.verified(self.resolver, domain, wanted)
            if agreed is not None and agreed not in out:
                out.append(agreed)
        return out
