"""spamassassin: has spamd score the message.

spamassassin-client, which the plan names, contains no module in its newest release: aiospamc takes its place behind our
fence (pipeline/adapters/aiospamc.py, PACKAGES.md section 1). From ``junk_at`` on a message is marked (``X-Spam-Flag``,
tag ``spam.flag``) and the recipient's Sieve script decides; from ``reject_at`` on it is refused.

Writes X-Spam-Status, X-Spam-Score, X-Spam-Level and, for spam, X-Spam-Flag; tags ``spam.score``, ``spam.threshold``,
``spam.flag``. Every X-Spam field that came along is removed, unless another MTA of ours hands us the mail and nothing
was scored. Invariant: at most ``parallel`` questions at a time (spamd's children); the time limit is the runner's.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline import endpoint, received
from pipeline.edits import render_field
from pipeline.errors import StageFault
from pipeline.forged import from_outside, removals
from pipeline.presence import Presence
from pipeline.registry import StageContext, setting
from pipeline.reply import Reply
from pipeline.reverse import verified_name
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, HeaderEdit, Verdict
from pipeline.wire.spamd import Judgement

REFUSED = Reply(550, "5.7.1", "The message looks like spam and is not accepted")
SHOWN_RULES = 6  # in the one-line summary, the heaviest first
LEVEL_LIMIT = 50  # stars
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")


@dataclass(frozen=True, slots=True)
class SpamassassinSettings:
    enabled: str = setting(
        "auto",
        "auto: on when spamd answers at the socket, else skipped and the trace says so.",
        choices=("auto", "on", "off"),
    )
    socket: str = setting("inet:783@127.0.0.1", "Where spamd listens.", "socket")
    junk_at: float = setting(5.0, "From this score on a message is spam and goes to Junk.")
    reject_at: float = setting(15.0, "From this score on a message is refused; 0 = never.")
    max_size: int = setting(512 << 10, "Larger messages are not scored.", "size")
    timeout: float = setting(15.0, "For one message.", "duration")
    on_error: str = setting("accept", "When spamd is on and fails.", choices=("defer", "accept", "reject"))
    parallel: int = setting(5, "Questions at the same time; at most spamd's --max-children.")
    user: str = setting(
        "recipient",
        'The user whose preferences spamd takes: "recipient" (when there is just one), a fixed name, or "" for none.',
    )
    command: str = setting(
        "report",
        "report tells the points of each rule; symbols only their names (when spamd's report template was changed).",
        choices=("report", "symbols"),
    )


class SpamassassinStage:
    """The stage; one for the life of a configuration."""

    name = "spamassassin"
    phases = frozenset({Phase.EOM})
    after: tuple[str, ...] = ()
    breaker = True

    def __init__(self, settings: SpamassassinSettings, context: StageContext) -> None:
        self.settings = settings
        self.on_error = OnError(settings.on_error)
        self.timeout = settings.timeout
        self._context = context
        self._endpoint = endpoint.parse(settings.socket, default_port=783)
        self._presence = Presence(settings.enabled, context.clock)
        self._turn = asyncio.Semaphore(max(1, settings.parallel))

    def quick(self, transaction: Transaction) -> Verdict | None:
        """What needs no spamd."""
        if self._presence.off:
            return self._skipped(transaction, "switched off")
        if transaction.envelope.client.auth:
            return self._skipped(transaction, "authenticated")
        size = transaction.message.size
        if size > self.settings.max_size:
            return self._skipped(transaction, f"{size} octets, the limit is {self.settings.max_size}")
        if self._presence.skipped():
            return self._skipped(transaction, "no spamd here")
        return None

    async def check(self, transaction: Transaction) -> Verdict:
        verdict = self.quick(transaction)
        if verdict is not None:
            return verdict
        data = await self._as_delivered(transaction)
        async with self._turn:
            try:
                reader, writer = await self._dial()
            except OSError as error:
                if self._presence.nobody(error) and self._presence.missing():
                    return self._skipped(transaction, "no spamd here", str(error))
                raise StageFault(
                    "unavailable", f"cannot reach {self._endpoint}: {error.strerror or error}"
                ) from error
            from pipeline.adapters import aiospamc  # late: see the adapter's heading

            judgement = await aiospamc.ask(
                reader,
                writer,
                self.settings.command.upper(),
                data,
                self._user(transaction),
                self.timeout,
            )
        self._presence.answered()
        return self._verdict(transaction, judgement)

    def abort(self, transaction: Transaction) -> None:
        """Nothing is kept between calls; a running question ends by its cancellation."""

    def fault_edits(self, transaction: Transaction) -> tuple[HeaderEdit, ...]:
        return removals(transaction.message, b"x-spam-")

    async def _as_delivered(self, transaction: Transaction) -> bytes:
        """The message below the trace it will get: without our Received line SpamAssassin would take the line of the
        hop before for ours, and judge the wrong host; without a reverse name in it, it would count that against the
        sender. X-Envelope-From is where it looks for the reverse-path."""
        envelope = transaction.envelope
        client = envelope.client
        if client.ip is None or not client.facts_trusted:
            return transaction.message.data
        if not client.name:
            client = replace(client, name=await verified_name(self._context.resolver, client.ip))
        when = datetime.fromtimestamp(self._context.clock.time(), UTC)
        line = received.line(client, envelope.profile, self._context.hostname, transaction.trace_id, when)
        path = "".join(char for char in envelope.reverse_path if char.isprintable())[:256]
        return render_field("X-Envelope-From", f"<{path}>") + line + transaction.message.data

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._endpoint.is_unix:
            return await asyncio.open_unix_connection(self._endpoint.path)
        return await asyncio.open_connection(self._endpoint.host, self._endpoint.port)

    def _user(self, transaction: Transaction) -> str:
        """A name that cannot break the request's header, or none."""
        name = self.settings.user
        if name == "recipient":
            recipients = transaction.envelope.recipients
            name = recipients[0].account if len(recipients) == 1 else ""
        return name if _USER.fullmatch(name) else ""

    # -- verdicts -------------------------------------------------------------------------------------------------

    def _skipped(self, transaction: Transaction, why: str, reason: str = "") -> Verdict:
        edits = removals(transaction.message, b"x-spam-") if from_outside(transaction.envelope) else ()
        return Verdict(
            self.name,
            result="skipped",
            summary=f"not scored: {why}",
            evidence={"reason": reason} if reason else {},
            edits=edits,
        )

    def _verdict(self, transaction: Transaction, judgement: Judgement) -> Verdict:
        junk_at, reject_at = self.settings.junk_at, self.settings.reject_at
        score = judgement.score
        spam = score >= junk_at
        refused = reject_at > 0 and score >= reject_at
        names = ", ".join(name for name, _points in judgement.rules) or "none"
        status = f"{'Yes' if spam else 'No'}, score={score:.1f} required={junk_at:.1f} tests={names}"
        added = [
            HeaderEdit("add", "X-Spam-Status", status),
            HeaderEdit("add", "X-Spam-Score", f"{score:.1f}"),
        ]
        if score >= 1:
            added.append(HeaderEdit("add", "X-Spam-Level", "*" * min(int(score), LEVEL_LIMIT)))
        if spam:
            added.insert(0, HeaderEdit("add", "X-Spam-Flag", "YES"))
        return Verdict(
            self.name,
            Disposition.REJECT if refused else Disposition.CONTINUE,
            "spam" if spam else "ham",
            f"{score:.1f} of {junk_at:g}  {_summary(judgement)}".rstrip(),
            REFUSED if refused else None,
            _evidence(judgement, junk_at, reject_at),
            edits=(*removals(transaction.message, b"x-spam-"), *added),
            tags={
                "spam.score": f"{score:.2f}",
                "spam.threshold": f"{junk_at:g}",
                "spam.flag": "YES" if spam else "NO",
            },
        )


def _evidence(judgement: Judgement, junk_at: float, reject_at: float) -> dict[str, str]:
    rules = " ".join(name if points is None else f"{name} {points:+.1f}" for name, points in judgement.rules)
    return {
        "score": f"{judgement.score:.1f}",
        "junk_at": f"{junk_at:g}",
        "reject_at": f"{reject_at:g}",
        "spamd_threshold": f"{judgement.threshold:g}",
        "rules": rules,
    }


def _summary(judgement: Judgement) -> str:
    """``BAYES_99 +3.5  HTML_IMAGE_ONLY +1.9``: the heaviest first."""
    ordered = sorted(judgement.rules, key=_weight, reverse=True)
    return "  ".join(
        name if points is None else f"{name} {points:+.1f}" for name, points in ordered[:SHOWN_RULES]
    )


def _weight(rule: tuple[str, float | None]) -> float:
    return abs(rule[1] or 0.0)
