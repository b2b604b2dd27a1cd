"""spf: may this client send mail in the name of its MAIL FROM domain, and of its HELO name?

Specification: RFC 7208 (evaluation in pipeline/adapters/pyspf.py), RFC 8601 2.7.2 (results), RFC 7372 (reply codes).

Both identities are checked (RFC 7208 2.3, 2.4); beside them, as evidence only, the address' reverse name (iprev, RFC 8601
2.7.3; tags ``iprev.result``, ``iprev.name``). The verdict is that of MAIL FROM, or of postmaster@HELO for the null
reverse-path. Tags ``spf.result``, ``spf.domain``, ``spf.identity``, ``spf.helo``; ``state["spf"]`` is the SpfResult.
Authenticated clients are skipped; a client whose address is not known or not believed (HOUSE item 6) gives ``none``.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TypeVar

from pipeline import iprev
from pipeline.adapters.pyspf import SpfQuestion, SpfResult, check, check_cached, printable
from pipeline.envelope import Client, Envelope
from pipeline.forged import from_outside, removals
from pipeline.registry import StageContext, setting
from pipeline.reply import Reply
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import AuthResult, Disposition, HeaderEdit, Verdict

RECENT = 1000  # results of ``prefetch`` that are kept
RECENT_SECONDS = 5.0
K = TypeVar("K", SpfQuestion, str)
R = TypeVar("R", SpfResult, iprev.Iprev)
_DOT_ATOM = re.compile(r"[0-9A-Za-z!#$%&'*+/=?^_`{|}~.:-]+")
_COMMENT = {
    "pass": "{domain} allows {ip}",
    "fail": "{domain} does not allow {ip}",
    "softfail": "{domain} discourages mail from {ip}",
    "neutral": "{domain} says nothing about {ip}",
    "none": "{domain} has no SPF record",
    "temperror": "DNS failure while asking {domain}",
    "permerror": "the SPF record of {domain} is broken",
}


@dataclass(frozen=True, slots=True)
class SpfSettings:
    fail: str = setting(
        "note",
        "What a fail means: note, junk or reject. SPF alone rejects forwarded mail: note is sane.",
        choices=("note", "junk", "reject"),
    )
    temperror: str = setting(
        "note",
        "What a DNS failure means: note, or defer (the sender tries again).",
        choices=("note", "defer"),
    )
    helo: bool = setting(True, "Also check the HELO name (RFC 7208 2.3).")
    header: bool = setting(True, "Also write Received-SPF.")
    reverse: bool = setting(
        True, "Also look whether the client's address has a name that leads back to it; evidence only."
    )
    timeout: float = setting(20.0, "For all look-ups of one message together (RFC 7208 4.6.4).", "duration")


class SpfStage:
    """The stage; one for the life of a configuration."""

    name = "spf"
    phases = frozenset({Phase.EOM})
    after: tuple[str, ...] = ()
    on_error = OnError.ACCEPT

    def __init__(self, settings: SpfSettings, context: StageContext) -> None:
        self.settings = settings
        self.timeout = settings.timeout + 2.0  # the stage keeps its own limit and answers temperror
        self._context = context
        self._recent: OrderedDict[SpfQuestion, tuple[float, SpfResult]] = OrderedDict()
        self._names: OrderedDict[str, tuple[float, iprev.Iprev]] = OrderedDict()
        self._early: set[asyncio.Task[object]] = set()

    def quick(self, transaction: Transaction) -> Verdict | None:
        """The verdict when no look-up is needed."""
        why = _not_checked(transaction.envelope.client)
        if why is not None:
            return why
        questions = self._questions(transaction.envelope)
        results: list[SpfResult] = []
        for question in questions:
            found = self._at_hand(question)
            if found is None:
                return None
            results.append(found)
        reverse: iprev.Iprev | None = None
        if self.settings.reverse:
            reverse = self._name_at_hand(transaction.envelope.client)
            if reverse is None:
                return None
        return self._verdict(transaction, results, reverse)

    async def check(self, transaction: Transaction) -> Verdict:
        why = _not_checked(transaction.envelope.client)
        if why is not None:
            return why
        questions = self._questions(transaction.envelope)
        *results, reverse = await asyncio.gather(
            *(self._ask(question) for question in questions), self._reverse(transaction.envelope.client)
        )
        spf = [result for result in results if isinstance(result, SpfResult)]
        return self._verdict(transaction, spf, reverse if isinstance(reverse, iprev.Iprev) else None)

    def prefetch(self, envelope: Envelope) -> None:
        """Start the look-ups in the background (at MAIL): ``check`` then finds them in the cache or under way."""
        if _not_checked(envelope.client) is not None:
            return
        work: list[Coroutine[object, object, object]] = [
            self._ask(one) for one in self._questions(envelope) if self._at_hand(one) is None
        ]
        if self.settings.reverse and self._name_at_hand(envelope.client) is None:
            work.append(self._reverse(envelope.client))
        for one in work:
            task = asyncio.get_running_loop().create_task(one)
            self._early.add(task)
            task.add_done_callback(self._early.discard)

    def abort(self, transaction: Transaction) -> None:
        """Nothing is held for a transaction."""

    async def close(self) -> None:
        """End what ``prefetch`` began."""
        tasks = list(self._early)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, question: SpfQuestion) -> SpfResult:
        found = self._recent_result(question)
        if found is None:
            clock = self._context.clock
            found = await check(self._context.resolver, clock, question, self.settings.timeout)
            self._note(self._recent, question if found.personal else question.anyone, found)
        return found

    def _at_hand(self, question: SpfQuestion) -> SpfResult | None:
        """What needs no look-up: found out a moment ago, or all answers are in the cache."""
        found = self._recent_result(question)
        if found is None:
            found = check_cached(self._context.resolver, self._context.clock, question)
            if found is not None:
                self._note(self._recent, question if found.personal else question.anyone, found)
        return found

    def _name_at_hand(self, client: Client) -> iprev.Iprev | None:
        ip = client.ip or ""
        entry = self._names.get(ip)
        if entry is not None and self._context.clock.monotonic() - entry[0] <= RECENT_SECONDS:
            return entry[1]
        looked = iprev.evaluate(ip, self._context.resolver.cached)
        if isinstance(looked, list):
            return None
        self._note(self._names, ip, looked)
        return looked

    def _note(self, recent: OrderedDict[K, tuple[float, R]], key: K, found: R) -> None:
        """Keep it for the few commands up to the end of data; a failure is worth another try then."""
        if found.result != "temperror":
            recent[key] = (self._context.clock.monotonic(), found)
            recent.move_to_end(key)
            if len(recent) > RECENT:
                recent.popitem(last=False)

    def _recent_result(self, question: SpfQuestion) -> SpfResult | None:
        """What was found out a moment ago, of this sender (by ``prefetch``) or, without macros, of any of the domain."""
        for key in (question.anyone, question):
            entry = self._recent.get(key)
            if entry is not None:
                if self._context.clock.monotonic() - entry[0] <= RECENT_SECONDS:
                    return entry[1]
                del self._recent[key]
        return None

    async def _reverse(self, client: Client) -> iprev.Iprev | None:
        if not self.settings.reverse:
            return None
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await iprev.look(self._context.resolver, client.ip or "")
        except TimeoutError:
            return iprev.Iprev("temperror")

    def _questions(self, envelope: Envelope) -> list[SpfQuestion]:
        """The main identity first."""
        client = envelope.client
        receiver = self._context.hostname or "unknown"
        main = SpfQuestion(client.ip or "", envelope.reverse_path, client.helo, receiver)
        named = client.helo.strip("[]") == client.helo and "." in client.helo
        if not self.settings.helo or not named or main.domain.lower() == client.helo.lower():
            return [main]
        return [main, SpfQuestion(client.ip or "", "", client.helo, receiver)]

    def _verdict(
        self, transaction: Transaction, results: list[SpfResult], reverse: iprev.Iprev | None = None
    ) -> Verdict:
        envelope = transaction.envelope
        ip = envelope.client.ip or ""
        main = results[0]
        transaction.state["spf"] = main
        comment = printable(_COMMENT[main.result].format(domain=main.domain or "the client", ip=ip))
        tags = {"spf.result": main.result, "spf.domain": main.domain, "spf.identity": main.identity}
        if len(results) == 2:
            tags["spf.helo"] = results[1].result
        elif main.identity == "helo" or main.domain.lower() == envelope.client.helo.lower():
            tags["spf.helo"] = main.result
        authres = [_authres(result, envelope, comment if result is main else "") for result in results]
        evidence = _evidence(results, ip)
        if reverse is not None:
            tags |= {
                "iprev.result": reverse.result,
                "iprev.name": reverse.name if reverse.result == "pass" else "",
            }
            evidence["reverse name"] = f"{reverse.result} {printable(reverse.name)}".strip()
            properties = (("policy.iprev", ip),)
            authres.append(
                AuthResult("iprev", reverse.result, properties=properties, comment=printable(reverse.name))
            )
        disposition, reply = self._decide(main, ip)
        return Verdict(
            stage=self.name,
            disposition=disposition,
            result=main.result,
            summary=comment + (f" ({main.mechanism})" if main.mechanism else ""),
            reply=reply,
            evidence=evidence,
            authres=tuple(authres),
            edits=self._edits(transaction, main, comment),
            tags=tags,
        )

    def _decide(self, main: SpfResult, ip: str) -> tuple[Disposition, Reply | None]:
        if main.result == "fail" and self.settings.fail == "reject":
            text = f"SPF: {printable(main.domain)} does not allow mail from {ip}"
            if main.explanation:  # RFC 7208 8.4: say whose words they are
                text += f"\nThe domain explains: {main.explanation}"
            return Disposition.REJECT, Reply(550, "5.7.23", text)
        if main.result == "fail" and self.settings.fail == "junk":
            return Disposition.QUARANTINE, None
        if main.result == "temperror" and self.settings.temperror == "defer":
            text = f"SPF: temporary DNS failure while asking {printable(main.domain)}"
            return Disposition.TEMPFAIL, Reply(451, "4.7.24", text)
        return Disposition.CONTINUE, None

    def _edits(self, transaction: Transaction, main: SpfResult, comment: str) -> tuple[HeaderEdit, ...]:
        edits: tuple[HeaderEdit, ...] = ()
        if self.settings.header or from_outside(transaction.envelope):
            edits = removals(transaction.message, b"received-spf")
        if not self.settings.header:
            return edits
        value = received_spf(main, transaction.envelope, self._context.hostname, comment)
        return (*edits, HeaderEdit("add", "Received-SPF", value))


def _not_checked(client: Client) -> Verdict | None:
    if client.auth:
        return Verdict("spf", result="skipped", summary="authenticated")
    if client.ip is None:
        why = "the client's address is not known"
    elif not client.facts_trusted:
        why = "the address belongs to a hop of ours"
    else:
        return None
    return Verdict("spf", result="none", summary=why, tags={"spf.result": "none"})


def _evidence(results: list[SpfResult], ip: str) -> dict[str, str]:
    main = results[0]
    out = {"ip": ip, "identity": main.identity, "domain": printable(main.domain)}
    for key in ("mechanism", "explanation", "problem"):
        value: str = getattr(main, key)
        if value:
            out[key] = value
    if len(results) == 2:
        out["helo"] = f"{results[1].result} ({printable(results[1].domain)})"
    return out


def _authres(result: SpfResult, envelope: Envelope, comment: str) -> AuthResult:
    if result.identity == "helo":
        properties = (("smtp.helo", envelope.client.helo),)
    else:
        properties = (("smtp.mailfrom", envelope.reverse_path),)
    return AuthResult("spf", result.result, reason=result.problem, properties=properties, comment=comment)


def received_spf(result: SpfResult, envelope: Envelope, hostname: str, comment: str) -> str:
    """The value of a Received-SPF field (RFC 7208 9.1), on one line."""
    pairs = [("client-ip", envelope.client.ip or "")]
    if result.identity == "mailfrom":
        pairs.append(("envelope-from", envelope.reverse_path))
    pairs += [
        ("helo", envelope.client.helo),
        ("receiver", hostname or "unknown"),
        ("identity", result.identity),
    ]
    if result.mechanism:
        pairs.append(("mechanism", result.mechanism))
    if result.problem:
        pairs.append(("problem", result.problem))
    said = comment.translate({40: "[", 41: "]", 92: "/"})
    return f"{result.result} ({hostname or 'unknown'}: {said}) " + "; ".join(
        f"{key}={_word(value)}" for key, value in pairs if value
    )


def _word(value: str) -> str:
    """A dot-atom as it is, anything else as a quoted-string of visible ASCII."""
    text = printable(value)
    if _DOT_ATOM.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
