"""The spam stage: SpamAssassin through spamd, rspamd, or the builtin classifier, by ``engine``.

spamd is asked REPORT, which tells the score, the rules that hit and the points of each; with ``command = "symbols"`` the
rules have no points. rspamd is asked by HTTP (``checkv2``); its symbols are the rules, and what it wants done is done when
``rspamd_actions`` says so. The builtin classifier asks each local recipient's own counts (``pipeline.spam.bayes``); where
spamd is "auto" and not there, it judges in its place, once it has learned enough. With ``sure`` it judges first, and who is
asked next is asked only where it is not sure.

The decision is made here: from ``junk_at`` on a message is spam (``result`` "spam", tag ``spam.flag``) and the recipient's
Sieve script decides; from ``reject_at`` on it is refused.

Copies of one mail are scored once (``remember``): several transactions for several people, a client that tries again. Which
mails are copies of each other, and why that is safe, is told in ``pipeline.spam.copies``. An answer is used again only where
its score is further than a margin from every threshold, for the same person's preferences, and until something is learned;
``evidence["remembered"]`` says of which message it was told and how long ago. Answers that rewrite the message, rspamd's
wish to defer, and failures are never remembered.

Writes X-Spam-Status, X-Spam-Score, X-Spam-Level and, for spam, X-Spam-Flag; tags ``spam.score``, ``spam.threshold``,
``spam.flag``; of the builtin classifier also ``spam.score.ACCOUNT``: where recipients differ, the fields and the plain tags
say what the mildest says. Every X-Spam field that came along is removed, unless another MTA of ours hands us the mail and
nothing was scored. Invariant: at most ``parallel`` questions at a time (spamd's children); the time limit is the runner's.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from pipeline import endpoint, received
from pipeline.edits import render_field
from pipeline.errors import StageFault
from pipeline.forged import from_outside, removals
from pipeline.presence import Presence
from pipeline.registry import StageContext, setting
from pipeline.reply import Reply
from pipeline.reverse import verified_name
from pipeline.spam import bayes, copies, rewritten, rspamd
from pipeline.spam.allow import AllowList
from pipeline.spam.memory import Mail, Memory, Remembered
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, HeaderEdit, Verdict
from pipeline.wire import rspamd as wire
from pipeline.wire.spamd import Judgement

log = logging.getLogger(__name__)

OWNERS = 10  # recipients whose own counts are asked; of more, only what everybody shares
DEFERRED = Reply(451, "4.7.1", "Please try again later")
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
    engine: str = setting(
        "spamd",
        "Who judges: spamd (SpamAssassin), rspamd, or builtin (a Bayes classifier; also in place of an absent spamd).",
        choices=("spamd", "rspamd", "builtin"),
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
        "report tells the points of each rule; symbols only their names (when spamd's report template was changed); headers takes "
        "over the fields that spamd writes (add_header, rewrite_header), process also its body (report_safe).",
        choices=("report", "symbols", "headers", "process"),
    )
    rspamd_socket: str = setting("127.0.0.1:11333", "Where rspamd answers checkv2.", "socket")
    rspamd_controller: str = setting("127.0.0.1:11334", "Where rspamd learns (its controller).", "socket")
    rspamd_password: tuple[str, ...] = setting((), "The controller's password, for learning.")
    rspamd_actions: bool = setting(
        True, "Do what rspamd wants done (reject, soft reject, add header), whatever the score."
    )
    min_learned: int = setting(
        10, "The builtin classifier judges once it has learned so many of spam and of ham."
    )
    sure: float = setting(
        0.0,
        "From this probability on (0.999), for spam as for ham, the builtin classifier's word is enough: spamd and rspamd are not "
        "asked; 0 = they always are.",
    )
    shared: bool = setting(False, "What one person teaches the builtin classifier counts for all others too.")
    learn: bool = setting(
        True,
        "Moves into and out of Junk by IMAP, and $Junk and $NotJunk, teach the engine and the builtin one.",
    )
    remember: float = setting(
        600.0,
        "How long the engine's answer counts for further copies of the same mail; 0 = every copy is scored.",
        "duration",
    )
    allow: tuple[str, ...] = setting(
        (),
        "Not scored: networks, and addresses or domains in From where DMARC, SPF or DKIM vouches for them.",
    )


SURE_LEARNED = 200  # of spam and of ham, before the builtin classifier can be sure of anything
WHOLE = frozenset({"HEADERS", "PROCESS"})  # commands whose answer is the message
REWROTE = "spamassassin.rewrote"
KEY = "spamassassin.key"
# What copies of one mail may differ by for the engine: rules about the characters of a Message-ID (1.4); of exact copies about
# signatures (0.2) and about ids in Received. A score nearer to a threshold is not used again.
MARGIN, EXACT_MARGIN = 1.5, 0.3
KEPT_ACTIONS = frozenset({"no action", "add header", "rewrite subject", "reject"})  # of rspamd
Answer = Judgement | wire.Answer


class _Absent(Exception):
    """The daemon of an "auto" stage is not there; the reason."""


class SpamassassinStage:
    """The stage; one for the life of a configuration."""

    name = "spamassassin"
    phases = frozenset({Phase.EOM})
    breaker = True

    def __init__(
        self,
        settings: SpamassassinSettings,
        context: StageContext,
        classifier: bayes.Classifier | None = None,
        lessons: Callable[[], int] | None = None,
    ) -> None:
        """``lessons``: a number that changes whenever something was learned."""
        self.settings = settings
        self._classifier = classifier
        self._allow = AllowList(settings.allow)
        self.after: tuple[str, ...] = self._allow.after
        self.on_error = OnError(settings.on_error)
        self.timeout = settings.timeout
        self._context = context
        self._rspamd = settings.engine == "rspamd"
        self._endpoint = (
            endpoint.parse(settings.rspamd_socket, default_port=11333)
            if self._rspamd
            else endpoint.parse(settings.socket, default_port=783)
        )
        self._presence = Presence(settings.enabled, context.clock)
        self._turn = asyncio.Semaphore(max(1, settings.parallel))
        whole = not self._rspamd and settings.command.upper() in WHOLE
        self._memory: Memory[Answer] | None = None
        if settings.remember > 0 and settings.engine != "builtin" and not whole:
            patience = settings.timeout / 2
            self._memory = Memory(context.clock, settings.remember, patience, self._fits, lessons)
            self._mark = context.ids.token(16).encode()

    def quick(self, transaction: Transaction) -> Verdict | None:
        """What needs no engine."""
        known = transaction.state.get(REWROTE)
        if isinstance(known, tuple) and transaction.message.data.endswith(b"\r\n\r\n" + known[0]):
            verdict: Verdict = known[1]
            return verdict
        if self._presence.off:
            return self._skipped(transaction, "switched off")
        if transaction.envelope.client.auth:
            return self._skipped(transaction, "authenticated")
        size = transaction.message.size
        if size > self.settings.max_size:
            return self._skipped(transaction, f"{size} octets, the limit is {self.settings.max_size}")
        why = self._allow.match(transaction)
        if why:
            return self._skipped(transaction, f"allowed: {why}")
        if self.settings.engine == "builtin":
            return None
        if self._presence.skipped() and not self._stands_in(transaction):
            return self._skipped(transaction, self._absent)
        if self._memory is not None and not self.settings.sure and not self._presence.skipped():
            known = self._memory.recall(self._mail(transaction))
            return self._concluded(transaction, known) if known is not None else None
        return None

    async def check(self, transaction: Transaction) -> Verdict:
        verdict = self.quick(transaction)
        if verdict is not None:
            return verdict
        if self.settings.engine == "builtin":
            return await self._builtin(transaction)
        if self._presence.skipped():
            return await self._in_place(transaction, "")
        sure = await self._surely(transaction)
        if sure is not None:
            return sure
        ask = partial(self._ask, transaction)
        try:
            if self._memory is None:
                found = Remembered(await ask(), Mail(b"", b"", transaction.trace_id), 0.0)
            else:
                found = await self._memory.ask(self._mail(transaction), ask)
        except _Absent as absent:
            return await self._in_place(transaction, str(absent))
        return self._concluded(transaction, found)

    async def _ask(self, transaction: Transaction) -> Answer:
        """What the engine says. Raises StageFault, _Absent."""
        async with self._turn:
            try:
                reader, writer = await rspamd.dial(self._endpoint)
            except OSError as error:
                if self._presence.nobody(error) and self._presence.missing():
                    raise _Absent(str(error)) from error
                raise StageFault(
                    "unavailable", f"cannot reach {self._endpoint}: {error.strerror or error}"
                ) from error
            asked = self._ask_rspamd if self._rspamd else self._ask_spamd
            answer = await asked(transaction, reader, writer)
        self._presence.answered()
        return answer

    def _concluded(self, transaction: Transaction, found: Remembered[Answer]) -> Verdict:
        """The verdict on this message."""
        answer = found.answer
        if isinstance(answer, Judgement):
            verdict = self._verdict(transaction, answer)
            if answer.text:
                verdict = self._taken_over(transaction, verdict, answer.text)
        elif answer.skipped:
            return self._skipped(transaction, "rspamd's settings leave it out")
        else:
            verdict = self._rspamd_verdict(transaction, answer)
        if found.mail.trace_id == transaction.trace_id:
            return verdict
        age = self._context.clock.monotonic() - found.at
        told = f"{found.mail.trace_id}, {age:.0f} s ago"
        summary = f"{verdict.summary}  (remembered from {told})"
        return replace(verdict, summary=summary, evidence={**verdict.evidence, "remembered": told})

    def _mail(self, transaction: Transaction) -> Mail:
        """Which mail this is a copy of (``pipeline.spam.copies``); worked out once for a message."""
        message, envelope = transaction.message, transaction.envelope
        known = transaction.state.get(KEY)
        if isinstance(known, tuple) and known[0] is message:
            found: Mail = known[1]
            return found
        user, client = self._user(transaction), envelope.client
        addresses = [one.address for one in envelope.recipients]
        told = [envelope.profile.value, user]
        if self._rspamd:  # its settings may be about recipients
            told += [f"{name} {value}" for name, value in wire.question(transaction, "", user)[1:]]
        elif client.ip is not None and client.facts_trusted:
            line = received.line(client, envelope.profile, "", "", datetime.fromtimestamp(0, UTC))
            told += [envelope.reverse_path.rpartition("@")[2].lower(), line.decode()]
        extra = [one.encode("utf-8", "replace") for one in told]
        alike, exact = copies.keys(message, addresses, extra, self._context.clock.time(), self._mark)
        made = Mail(alike, exact, transaction.trace_id)
        transaction.state[KEY] = (message, made)
        return made

    def _fits(self, answer: Answer, exact: bool) -> bool:
        """May the answer be used for a copy?"""
        margin = EXACT_MARGIN if exact else MARGIN
        limits = [self.settings.junk_at]
        if self.settings.reject_at > 0:
            limits.append(self.settings.reject_at)
        if isinstance(answer, Judgement):
            score = answer.score
        elif answer.skipped or answer.action not in KEPT_ACTIONS:
            return False
        else:
            score = answer.judgement.score
            limits.append(answer.judgement.threshold)
        return all(abs(score - limit) >= margin for limit in limits)

    def _taken_over(self, transaction: Transaction, verdict: Verdict, text: bytes) -> Verdict:
        """The verdict with what spamd wrote in place of our words."""
        whole = self.settings.command == "process"
        message = transaction.message
        theirs = rewritten.header_edits(message, text, whole)
        names = {edit.name.lower() for edit in theirs}
        ours = [one for one in verdict.edits if one.kind == "remove" or one.name.lower() not in names]
        body = rewritten.new_body(message, text) if whole else None
        out = replace(verdict, edits=(*ours, *theirs), body=body)
        if body is not None:  # the new body is shown to us as well: it is spamd's own
            transaction.state[REWROTE] = (body, replace(out, body=None))
        return out

    async def _ask_spamd(
        self, transaction: Transaction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Judgement:
        from pipeline.adapters import aiospamc  # late: see the adapter's heading

        data = await self._as_delivered(transaction)
        command = self.settings.command.upper()
        if command in WHOLE:
            return await aiospamc.ask(
                reader, writer, command, data, self._user(transaction), self.timeout, 2 * len(data)
            )
        return await aiospamc.ask(reader, writer, command, data, self._user(transaction), self.timeout)

    async def _ask_rspamd(
        self, transaction: Transaction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> wire.Answer:
        fields = wire.question(transaction, self._context.hostname, self._user(transaction))
        host = self._endpoint.host or "localhost"
        data = transaction.message.data
        return wire.judged(await rspamd.post(reader, writer, "/checkv2", host, fields, data))

    async def close(self) -> None:
        if self._classifier is not None:
            await self._classifier.close()

    # -- the builtin classifier -----------------------------------------------------------------------------------------

    @property
    def _absent(self) -> str:
        return f"no {'rspamd' if self._rspamd else 'spamd'} here"

    def _owners(self, transaction: Transaction) -> list[str]:
        accounts = list(dict.fromkeys(one.account for one in transaction.envelope.recipients if one.account))
        return accounts if 0 < len(accounts) <= OWNERS else [""]

    def _stands_in(self, transaction: Transaction) -> bool:
        """Has the builtin classifier learned anything for these recipients? Cheap."""
        known = self._classifier
        return known is not None and any(known.knows(owner) for owner in self._owners(transaction))

    async def _in_place(self, transaction: Transaction, reason: str) -> Verdict:
        """The daemon of an "auto" stage is not there: what the builtin classifier says, if it has learned enough."""
        if self._stands_in(transaction):
            verdict = await self._builtin(transaction)
            if verdict.result != "skipped":
                return verdict
        return self._skipped(transaction, self._absent, reason)

    async def _surely(self, transaction: Transaction) -> Verdict | None:
        """What the builtin classifier says when nobody else need be asked: it is sure, and of the same, for every recipient."""
        known, sure = self._classifier, self.settings.sure
        owners = self._owners(transaction)
        if known is None or not sure or not all(known.knows(owner) for owner in owners):
            return None
        try:
            opinions = await known.ask(owners, transaction.message.data)
        except StageFault as fault:
            log.info("message %s: %s", transaction.trace_id, fault)
            return None
        for one in opinions:
            if one.probability is None or min(one.spam, one.ham) < SURE_LEARNED:
                return None
        likely = [one.probability or 0.0 for one in opinions]
        if not (min(likely) >= sure or max(likely) <= 1 - sure):
            return None
        verdict = self._judged(transaction, owners, opinions)
        return replace(verdict, evidence={**verdict.evidence, "not_asked": self.settings.engine})

    async def _builtin(self, transaction: Transaction) -> Verdict:
        if self._classifier is None:
            return self._skipped(transaction, "there is no classifier here")
        owners = self._owners(transaction)
        return self._judged(transaction, owners, await self._classifier.ask(owners, transaction.message.data))

    def _judged(
        self, transaction: Transaction, owners: Sequence[str], opinions: Sequence[bayes.Opinion]
    ) -> Verdict:
        least, junk_at = self.settings.min_learned, self.settings.junk_at
        judged = [
            (owner, bayes.score(opinion.probability, junk_at), opinion)
            for owner, opinion in zip(owners, opinions, strict=True)
            if opinion.probability is not None
        ]
        if not judged:
            most = max(opinions, key=lambda one: min(one.spam, one.ham))
            learned = f"{most.spam} spam and {most.ham} ham learned, {least} of each are needed"
            return self._skipped(transaction, "not enough training", learned)
        _owner, score, opinion = min(judged, key=lambda one: one[1])
        verdict = self._verdict(transaction, Judgement(score, junk_at, ()), _named(opinion))
        tags = {f"spam.score.{owner}": f"{score:.2f}" for owner, score, _ in judged if owner}
        if len(judged) < len(owners):  # some have no opinion: the message itself stays unmarked
            tags["spam.threshold"] = f"{junk_at:g}"
            plain = self._skipped(transaction, "only some recipients have trained enough")
            return replace(plain, result=verdict.result, tags=tags, evidence=verdict.evidence)
        return replace(verdict, tags={**verdict.tags, **tags})

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

    def _user(self, transaction: Transaction) -> str:
        """A name that cannot break the request's header, or none."""
        recipients = transaction.envelope.recipients
        return user_name(self.settings.user, recipients[0].account if len(recipients) == 1 else "")

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

    def _verdict(
        self, transaction: Transaction, judgement: Judgement, told: dict[str, str] | None = None
    ) -> Verdict:
        junk_at, reject_at = self.settings.junk_at, self.settings.reject_at
        score = judgement.score
        refused = reject_at > 0 and score >= reject_at
        evidence = {**_evidence(judgement, junk_at, reject_at), "engine": self.settings.engine}
        if told is not None:
            evidence = {**evidence, **told, "engine": "builtin"}
            del evidence["spamd_threshold"], evidence["rules"]
        return self._marked(transaction, judgement, score >= junk_at, refused, evidence)

    def _rspamd_verdict(self, transaction: Transaction, answer: wire.Answer) -> Verdict:
        """``rspamd_actions``: what it wants done counts as much as its score."""
        follow, judgement = self.settings.rspamd_actions, answer.judgement
        score, reject_at = judgement.score, self.settings.reject_at
        spam = score >= self.settings.junk_at or (follow and answer.action in wire.SPAM_ACTIONS)
        refused = reject_at > 0 and (score >= reject_at or (follow and answer.action == "reject"))
        evidence = _evidence(judgement, self.settings.junk_at, reject_at)
        evidence["required_score"] = evidence.pop("spamd_threshold")
        evidence |= {"engine": "rspamd", "action": answer.action}
        verdict = self._marked(transaction, judgement, spam, refused, evidence)
        ours = {edit.name.lower() for edit in verdict.edits}
        extra = [pair for pair in answer.headers if pair[0].lower() not in ours]
        present = transaction.message.header
        edits = [HeaderEdit("remove", name) for name, _ in extra if name.lower().encode() in present]
        edits += [HeaderEdit("add", name, value) for name, value in extra]
        verdict = replace(verdict, edits=(*verdict.edits, *edits))
        if follow and answer.action == "soft reject" and not refused:
            return replace(verdict, disposition=Disposition.TEMPFAIL, result="deferred", reply=DEFERRED)
        return verdict

    def _marked(
        self,
        transaction: Transaction,
        judgement: Judgement,
        spam: bool,
        refused: bool,
        evidence: dict[str, str],
    ) -> Verdict:
        junk_at, score = self.settings.junk_at, judgement.score
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
            f"{score:.1f} of {junk_at:g}  {_summary(judgement) or evidence.get('tokens', '')}".rstrip(),
            REFUSED if refused else None,
            evidence,
            edits=(*removals(transaction.message, b"x-spam-"), *added),
            tags={
                "spam.score": f"{max(score, junk_at) if spam else score:.2f}",
                "spam.threshold": f"{junk_at:g}",
                "spam.flag": "YES" if spam else "NO",
            },
        )


def user_name(chosen: str, account: str) -> str:
    """The setting ``user`` for one account: a name that cannot break a request's header, or none."""
    name = account if chosen == "recipient" else chosen
    return name if _USER.fullmatch(name) else ""


def _named(opinion: bayes.Opinion) -> dict[str, str]:
    """What the builtin classifier went by."""
    words = "  ".join(f"{name} {probability:.2f}" for name, probability in opinion.names)
    return {
        "probability": f"{opinion.probability or 0.0:.4f}",
        "learned": f"{opinion.spam} spam, {opinion.ham} ham",
        "tokens": words[:400],
    }


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
