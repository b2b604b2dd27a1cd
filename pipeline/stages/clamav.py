"""clamav: has clamd look for viruses.

Settled in PACKAGES.md section 1: pyclamd frames the stream behind our fence (pipeline/adapters/pyclamd.py), only the
exact ``stream: OK`` is clean, and anything unexpected is a fault that takes ``on_error``. clamd cannot be asked for its
StreamMaxLength, so the size is judged before anything is sent.

clamd reads MIME in its own way and a mail program in another: after the message itself each decoded part is scanned in each of
its readings (pipeline/ambiguity.py), one after the other, all within the one time limit. What has more than one reading
is evidence and takes ``ambiguous``.

Verdicts are not remembered here, unlike those of the spam stage: clamd keeps the digests of clean files itself (CacheSize,
DisableCache) and forgets them with each new database, which we would learn of minutes later (VERSION_LIFE).

Writes ``X-Virus-Scanned``, ``X-Virus-Status`` and ``X-Virus-Ambiguous``, tags ``virus.status`` (RFC 5235 2.2: 0 not
tested, 1 clean, 5 infected), ``virus.name`` and ``mime.ambiguous``.
Invariant: at most ``parallel`` threads, each ends within the stage's time limit.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pipeline import ambiguity, endpoint
from pipeline.adapters.pyclamd import Absent, Question
from pipeline.clamsweep import Sweep, Swept
from pipeline.errors import StageFault
from pipeline.forged import from_outside, removals
from pipeline.presence import Presence
from pipeline.registry import StageContext, setting
from pipeline.reply import Reply
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, HeaderEdit, Verdict
from pipeline.wire.clamd import Version

log = logging.getLogger(__name__)

VERSION_LIFE = 300.0  # seconds an answer to VERSION is believed
VERSION_WAIT = 0.25  # seconds a finished scan waits for it: it is evidence only
TOO_LARGE = Reply(552, "5.3.4", "The message is larger than what can be checked for viruses here")
TOO_LARGE_NOW = Reply(451, "4.3.4", "The message is larger than what can be checked for viruses right now")
AMBIGUOUS = Reply(
    554, "5.6.0", "The message can be read in more than one way: please send it again in another form"
)


@dataclass(frozen=True, slots=True)
class ClamavSettings:
    enabled: str = setting(
        "auto",
        "auto: on when clamd answers at the socket, else skipped and the trace says so.",
        choices=("auto", "on", "off"),
    )
    socket: str = setting("unix:/run/clamav/clamd.ctl", "Where clamd listens.", "socket")
    found: str = setting(
        "reject",
        "What a find means: reject, quarantine, tag (X-Virus-Status only) or discard.",
        choices=("reject", "quarantine", "tag", "discard"),
    )
    timeout: float = setting(10.0, "For one message.", "duration")
    on_error: str = setting("defer", "When clamd is on and fails.", choices=("defer", "accept", "reject"))
    max_size: int = setting(
        25 << 20, "Larger messages are not sent to clamd: at most clamd's StreamMaxLength.", "size"
    )
    oversize: str = setting("skip", "What happens to larger messages.", choices=("skip", "reject", "defer"))
    parts: str = setting(
        "all",
        "all: the message and each decoded part of it are scanned; ambiguous: the parts only where readers could disagree.",
        choices=("all", "ambiguous"),
    )
    ambiguous: str = setting(
        "note",
        "Mail that programs may read in more than one way (two Content-Types, base64 with junk, uuencoded files, ...): note, "
        "tag (X-Virus-Ambiguous), quarantine or reject.",
        choices=("note", "tag", "quarantine", "reject"),
    )
    parallel: int = setting(8, "Scans at the same time; at most clamd's MaxThreads.")


class ClamavStage:
    """The stage; one for the life of a configuration."""

    name = "clamav"
    phases = frozenset({Phase.EOM})
    after: tuple[str, ...] = ()
    breaker = True

    def __init__(self, settings: ClamavSettings, context: StageContext) -> None:
        self.settings = settings
        self.on_error = OnError(settings.on_error)
        self.timeout = settings.timeout
        self._context = context
        self._endpoint = endpoint.parse(settings.socket, default_port=3310)
        self._presence = Presence(settings.enabled, context.clock)
        self._pool = ThreadPoolExecutor(max(1, settings.parallel), thread_name_prefix="clamav")
        self._version: Version | None = None
        self._version_until = 0.0

    def quick(self, transaction: Transaction) -> Verdict | None:
        """What needs no clamd."""
        if self._presence.off:
            return self._skipped(transaction, "switched off")
        size = transaction.message.size
        if size > self.settings.max_size:
            return self._oversize(transaction, size)
        if self.settings.ambiguous == "note" and self._presence.skipped():
            return self._skipped(transaction, "no clamd here")
        return None

    async def check(self, transaction: Transaction) -> Verdict:
        verdict = self.quick(transaction)
        if verdict is not None:
            return verdict
        if self._presence.skipped():
            return await self._unscanned(transaction)
        loop = asyncio.get_running_loop()
        version = self._ask_version(loop)
        sweep = Sweep(self._endpoint, self.timeout, self._context.clock)
        every = self.settings.parts == "all"
        try:
            found = await loop.run_in_executor(
                self._pool, sweep.run, transaction.message, every, self.settings.max_size
            )
        except asyncio.CancelledError:
            sweep.stop()
            raise
        except Absent as absent:
            if self._presence.missing():
                return await self._unscanned(transaction, absent.reason)
            raise
        self._presence.answered()
        if version is not None and not version.done():
            await asyncio.wait((version,), timeout=VERSION_WAIT)
        return self._ambiguous(self._verdict(transaction, found), found.words)

    def abort(self, transaction: Transaction) -> None:
        """Nothing is kept between calls; a running scan is stopped by its cancellation."""

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def fault_edits(self, transaction: Transaction) -> tuple[HeaderEdit, ...]:
        return (
            *removals(transaction.message, b"x-virus-"),
            HeaderEdit("add", "X-Virus-Status", "Unknown (not scanned)"),
        )

    # -- the version, evidence only -----------------------------------------------------------------------------------

    def _ask_version(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        now = self._context.clock.monotonic()
        if now < self._version_until:
            return None
        self._version_until = now + VERSION_LIFE
        return loop.run_in_executor(self._pool, self._fetch_version)

    def _fetch_version(self) -> None:
        try:
            self._version = Question(self._endpoint, min(2.0, self.timeout), self._context.clock).version()
        except StageFault as fault:
            self._version_until = 0.0
            log.debug("clamd told no version: %s", fault)

    def _engine(self) -> dict[str, str]:
        version = self._version
        if version is None:
            return {}
        out = {"engine": version.engine}
        if version.signatures is not None:
            out["signatures"] = version.signatures.isoformat()
            out["signatures_age"] = _age(self._context.clock.time() - version.signatures.timestamp())
        return out

    # -- verdicts -------------------------------------------------------------------------------------------------

    def _skipped(self, transaction: Transaction, why: str, reason: str = "") -> Verdict:
        edits = removals(transaction.message, b"x-virus-") if from_outside(transaction.envelope) else ()
        return Verdict(
            self.name,
            result="skipped",
            summary=f"not scanned: {why}",
            evidence={"reason": reason} if reason else {},
            edits=edits,
            tags={"virus.status": "0"},
        )

    async def _unscanned(self, transaction: Transaction, reason: str = "") -> Verdict:
        """No clamd here: what can be told without one is told when somebody wants more than a note of it."""
        verdict = self._skipped(transaction, "no clamd here", reason)
        if self.settings.ambiguous == "note":
            return verdict
        reading = await asyncio.get_running_loop().run_in_executor(
            self._pool, ambiguity.read, transaction.message, self.settings.max_size
        )
        return self._ambiguous(verdict, tuple(reading.words))

    def _ambiguous(self, verdict: Verdict, words: tuple[str, ...]) -> Verdict:
        """The verdict with what the message's other readings mean."""
        if not words:
            return verdict
        text = ", ".join(words)
        summary = f"{verdict.summary}; ambiguous: {text}" if verdict.summary else f"ambiguous: {text}"
        verdict = replace(
            verdict,
            summary=summary,
            evidence={**verdict.evidence, "ambiguous": text},
            tags={**verdict.tags, "mime.ambiguous": text},
        )
        match self.settings.ambiguous:
            case "tag":
                return replace(verdict, edits=(*verdict.edits, HeaderEdit("add", "X-Virus-Ambiguous", text)))
            case "quarantine" if verdict.disposition < Disposition.QUARANTINE:
                return replace(verdict, disposition=Disposition.QUARANTINE)
            case "reject" if verdict.disposition < Disposition.REJECT:
                return replace(verdict, disposition=Disposition.REJECT, reply=AMBIGUOUS)
        return verdict

    def _oversize(self, transaction: Transaction, size: int) -> Verdict:
        summary = f"not scanned: {size} octets, the limit is {self.settings.max_size}"
        disposition, reply = Disposition.CONTINUE, None
        if self.settings.oversize == "reject":
            disposition, reply = Disposition.REJECT, TOO_LARGE
        elif self.settings.oversize == "defer":
            disposition, reply = Disposition.TEMPFAIL, TOO_LARGE_NOW
        return Verdict(
            self.name,
            disposition,
            "skipped",
            summary,
            reply,
            edits=self.fault_edits(transaction),
            tags={"virus.status": "0"},
        )

    def _verdict(self, transaction: Transaction, scan: Swept) -> Verdict:
        evidence = self._engine()
        if scan.parts:
            evidence["scanned"] = f"the message and {scan.parts} decoded part{'s' if scan.parts > 1 else ''}"
        about = [f"engine {evidence['engine']}"] if "engine" in evidence else []
        if "signatures_age" in evidence:
            about.append(f"signatures {evidence['signatures_age']} old")
        by = HeaderEdit("add", "X-Virus-Scanned", f"ClamAV at {self._context.hostname}")
        removed = removals(transaction.message, b"x-virus-")
        if not scan.virus and ambiguity.LIMIT in scan.words:  # decoys in front of what was not looked at
            return Verdict(
                self.name,
                result="partial",
                summary=", ".join(["not every part was scanned", *about]),
                evidence=evidence,
                edits=(*removed, by),
                tags={"virus.status": "0"},
            )
        if not scan.virus:
            return Verdict(
                self.name,
                result="clean",
                summary=", ".join(about),
                evidence=evidence,
                edits=(*removed, by, HeaderEdit("add", "X-Virus-Status", "Clean")),
                tags={"virus.status": "1"},
            )
        disposition, reply = _found(self.settings.found, scan.virus)
        return Verdict(
            self.name,
            disposition,
            "found",
            ", ".join([scan.virus, *about]),
            reply,
            {**evidence, "virus": scan.virus, "found_in": scan.where},
            edits=(*removed, by, HeaderEdit("add", "X-Virus-Status", f"Infected ({_plain(scan.virus)})")),
            tags={"virus.status": "5", "virus.name": scan.virus},
        )


def _found(policy: str, virus: str) -> tuple[Disposition, Reply | None]:
    match policy:
        case "quarantine":
            return Disposition.QUARANTINE, None
        case "discard":
            return Disposition.DISCARD, None
        case "tag":
            return Disposition.CONTINUE, None
        case _:
            return Disposition.REJECT, Reply(550, "5.7.1", f"The message contains a virus: {_plain(virus)}")


def _plain(name: str) -> str:
    """A signature's name for strangers and for a header's comment: letters, digits and ``.-_`` only."""
    return "".join(char if char.isascii() and (char.isalnum() or char in ".-_") else "_" for char in name)[
        :80
    ]


def _age(seconds: float) -> str:
    hours = max(0, int(seconds // 3600))
    return f"{hours} h" if hours < 72 else f"{hours // 24} days"
