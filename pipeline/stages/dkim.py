"""dkim: who signed the message, and does the signature still hold?

Specification: RFC 6376 (pipeline/dkim), RFC 8601 2.7.1 and RFC 6008 (header.b tells several signatures apart).

It only notes: what a failure means is DMARC's business. ``state["dkim"]`` is the list of all SignatureResults (DMARC,
privacy: ``headers`` of those that passed); tags ``dkim.result``, ``dkim.pass`` (passing domains), ``dkim.signed`` (the
header fields that a passing signature covers), blank separated.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.dkim.body import PIECE
from pipeline.dkim.verify import SignatureResult, Verification
from pipeline.ports import DnsAnswer, DnsStatus
from pipeline.registry import StageContext, setting
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import AuthResult, Verdict
from rules.mail.message import Message

INLINE = 1 << 20  # octets hashed without giving the loop a turn
_ORDER = ("pass", "temperror", "fail", "policy", "permerror", "none")
_SUMMARY_LIMIT = 3  # signatures named in the summary


@dataclass(frozen=True, slots=True)
class DkimSettings:
    min_rsa_bits: int = setting(1024, "Shorter RSA keys do not count (RFC 8301: at least 1024).")
    timeout: float = setting(10.0, "For the key look-ups of one message together.", "duration")


class DkimStage:
    """The stage; one for the life of a configuration."""

    name = "dkim"
    phases = frozenset({Phase.EOM})
    after: tuple[str, ...] = ()
    on_error = OnError.ACCEPT

    def __init__(self, settings: DkimSettings, context: StageContext) -> None:
        self.settings = settings
        self.timeout = settings.timeout + 20.0  # look-ups keep their own limit; a large body takes its time
        self._context = context

    def quick(self, transaction: Transaction) -> Verdict | None:
        """The verdict when the keys are in the cache and the body is small."""
        if transaction.envelope.client.auth:
            return Verdict(self.name, result="skipped", summary="authenticated")
        message = transaction.message
        verification = Verification(message.header, self._context.clock.time())
        for name in verification.wanted():
            answer = self._context.resolver.cached(name, "TXT")
            if answer is None:
                return None
            verification.give(name, answer)
        body_start = message.header.body_start
        if verification.needs_body():
            if message.size - body_start > INLINE:
                return None
            verification.feed(message.data[body_start:])
        return self._verdict(transaction, verification)

    async def check(self, transaction: Transaction) -> Verdict:
        if transaction.envelope.client.auth:
            return Verdict(self.name, result="skipped", summary="authenticated")
        verification = Verification(transaction.message.header, self._context.clock.time())
        await self._keys(verification)
        if verification.needs_body():
            await feed_body(verification, transaction.message)
        return self._verdict(transaction, verification)

    def abort(self, transaction: Transaction) -> None:
        """Nothing is held for a transaction."""

    async def _keys(self, verification: Verification) -> None:
        names = verification.wanted()
        answers = await asyncio.gather(*(self._key(name) for name in names))
        for name, answer in zip(names, answers, strict=True):
            verification.give(name, answer)

    async def _key(self, name: str) -> DnsAnswer:
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await self._context.resolver.query(name, "TXT")
        except TimeoutError:
            return DnsAnswer(DnsStatus.TEMPORARY, reason="time limit")

    def _verdict(self, transaction: Transaction, verification: Verification) -> Verdict:
        results = [self._policy(result) for result in verification.results()]
        transaction.state["dkim"] = results
        passing = [result for result in results if result.passed]
        overall = min((result.result for result in results), key=_ORDER.index, default="none")
        evidence = {f"signature {at}": describe(result) for at, result in enumerate(results, 1)}
        if verification.skipped:
            evidence["not looked at"] = f"{verification.skipped} further signatures"
        return Verdict(
            stage=self.name,
            result=overall,
            summary=_summary(results, overall),
            evidence=evidence,
            authres=tuple(_authres(result) for result in results) or (AuthResult("dkim", "none"),),
            tags={
                "dkim.result": overall,
                "dkim.pass": " ".join(dict.fromkeys(result.domain for result in passing)),
                "dkim.signed": " ".join(_covered(passing)),
            },
        )

    def _policy(self, result: SignatureResult) -> SignatureResult:
        if not result.passed or not result.algorithm.startswith("rsa"):
            return result
        if result.key_bits >= self.settings.min_rsa_bits:
            return result
        why = f"a key of {result.key_bits} bits is too short here"
        return replace(result, result="policy", reason=why)


class _Feeds(Protocol):
    def feed(self, data: bytes) -> None: ...


async def feed_body(verification: _Feeds, message: Message) -> None:
    """Feed the body in pieces, giving the loop a turn after every INLINE octets."""
    view = memoryview(message.data)
    since = 0
    for at in range(message.header.body_start, len(view), PIECE):
        verification.feed(bytes(view[at : at + PIECE]))
        since += PIECE
        if since >= INLINE:
            since = 0
            await asyncio.sleep(0)


def describe(result: SignatureResult) -> str:
    """One signature for people."""
    text = f"{result.result} d={result.domain} s={result.selector}"
    if result.algorithm:
        text += f" {result.algorithm}"
    if result.key_bits:
        text += f" {result.key_bits} bits"
    if result.testing:
        text += " (key in test mode)"
    return text + (f": {result.reason}" if result.reason else "")


def _summary(results: list[SignatureResult], overall: str) -> str:
    if not results:
        return "not signed"
    named = [result for result in results if result.result == overall]
    shown = ", ".join(f"{one.domain} (selector {one.selector})" for one in named[:_SUMMARY_LIMIT])
    if overall == "pass":
        return f"signed by {shown}"
    return f"{named[0].reason}: {shown}"


def _covered(passing: list[SignatureResult]) -> list[str]:
    return sorted({name.decode("ascii", "replace") for result in passing for name in result.headers})


def _authres(result: SignatureResult) -> AuthResult:
    pairs = (
        ("header.d", result.domain),
        ("header.i", "" if result.identity == "@" + result.domain else result.identity),
        ("header.s", result.selector),
        ("header.a", result.algorithm),
        ("header.b", result.b_prefix),
    )
    comment = f"{result.key_bits}-bit key" if result.passed else ""
    if result.testing:
        comment += ", test mode" if comment else "test mode"
    properties = tuple((name, value) for name, value in pairs if value)
    return AuthResult("dkim", result.result, result.reason, properties, comment)
