"""arc: is the chain of those who handed the message on unbroken, and what did they see?

Specification: RFC 8617 (pipeline/dkim/arc.py), RFC 8601 (method arc). It only notes; DMARC reads ``state["arc"]``, an
ArcResult, and believes the sealers that the configuration names. Tags ``arc.result``, ``arc.sealers`` and
``arc.signed`` (header fields covered by the newest message signature of a passing chain: privacy leaves them alone).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pipeline.adapters.pyspf import printable
from pipeline.dkim.arc import ArcResult, ArcVerification
from pipeline.ports import DnsAnswer, DnsStatus
from pipeline.registry import StageContext, setting
from pipeline.stage import OnError, Phase
from pipeline.stages.dkim import INLINE, feed_body
from pipeline.transaction import Transaction
from pipeline.verdict import AuthResult, Verdict


@dataclass(frozen=True, slots=True)
class ArcSettings:
    timeout: float = setting(10.0, "For the key look-ups of one message together.", "duration")


class ArcStage:
    """The stage; one for the life of a configuration."""

    name = "arc"
    phases = frozenset({Phase.EOM})
    after: tuple[str, ...] = ()
    on_error = OnError.ACCEPT

    def __init__(self, settings: ArcSettings, context: StageContext) -> None:
        self.settings = settings
        self.timeout = settings.timeout + 20.0
        self._context = context

    def quick(self, transaction: Transaction) -> Verdict | None:
        """The verdict when there is no chain, or its keys are in the cache and the body is small."""
        if transaction.envelope.client.auth:
            return Verdict(self.name, result="skipped", summary="authenticated")
        message = transaction.message
        chain = ArcVerification(message.header, self._context.clock.time())
        for name in chain.wanted():
            answer = self._context.resolver.cached(name, "TXT")
            if answer is None:
                return None
            chain.give(name, answer)
        if chain.needs_body():
            if message.size - message.header.body_start > INLINE:
                return None
            chain.feed(message.data[message.header.body_start :])
        return self._verdict(transaction, chain.result())

    async def check(self, transaction: Transaction) -> Verdict:
        if transaction.envelope.client.auth:
            return Verdict(self.name, result="skipped", summary="authenticated")
        chain = ArcVerification(transaction.message.header, self._context.clock.time())
        names = chain.wanted()
        answers = await asyncio.gather(*(self._key(name) for name in names))
        for name, answer in zip(names, answers, strict=True):
            chain.give(name, answer)
        if chain.needs_body():
            await feed_body(chain, transaction.message)
        return self._verdict(transaction, chain.result())

    def abort(self, transaction: Transaction) -> None:
        """Nothing is held for a transaction."""

    async def _key(self, name: str) -> DnsAnswer:
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await self._context.resolver.query(name, "TXT")
        except TimeoutError:
            return DnsAnswer(DnsStatus.TEMPORARY, reason="time limit")

    def _verdict(self, transaction: Transaction, found: ArcResult) -> Verdict:
        transaction.state["arc"] = found
        sealers = " ".join(one.domain for one in found.sets)
        if found.result == "pass":
            summary = f"sealed by {sealers.replace(' ', ', ')}"
        else:
            summary = found.reason
        evidence = {f"set {one.instance}": f"{one.domain}: {printable(one.results)}" for one in found.sets}
        if found.reason and found.sets:
            evidence["reason"] = found.reason
        # RFC 8601 and 8617 know none, pass and fail; a DNS failure is said as fail with its reason
        said = "fail" if found.result == "temperror" else found.result
        result = AuthResult("arc", said, reason=found.reason if said == "fail" else "")
        return Verdict(
            self.name,
            result=found.result,
            summary=printable(summary),
            evidence=evidence,
            authres=(result,) if found.result != "none" else (),
            tags={
                "arc.result": found.result,
                "arc.sealers": sealers if found.result == "pass" else "",
                "arc.signed": " ".join(sorted({name.decode("ascii", "replace") for name in found.headers})),
            },
        )
