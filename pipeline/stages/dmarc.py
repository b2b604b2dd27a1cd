"""dmarc: does SPF or DKIM vouch for the domain that readers see in From, and what does its owner want otherwise?

Specification: RFC 7489 section 6, RFC 9091 (pipeline/dmarc.py); RFC 7372 (5.7.26); RFC 8617 9 (local trust in sealers).

It reads ``state["spf"]``, ``state["dkim"]`` and ``state["arc"]`` of the stages before it. Not more than Junk: mail of a
list (List-Id, and a passing signature that covers it or is of its organisation) and mail with a passing ARC chain of a
trusted sealer. A trusted sealer whose ARC-Authentication-Results say dmarc=pass, and senders in ``exempt``, override the
policy. Where the client's facts are not known (HOUSE item 6) only a pass is said, never a failure. ``state["dmarc"]`` is
the list of Outcomes; tags ``dmarc.result``, ``dmarc.policy`` (what the owner asks), ``dmarc.domain``,
``dmarc.disposition`` (what we do, as in RFC 7489 appendix C: none, quarantine, reject) and ``dmarc.override``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.adapters.publicsuffix import organisational
from pipeline.adapters.pyspf import SpfResult, printable
from pipeline.dkim.arc import ArcResult
from pipeline.dkim.verify import SignatureResult
from pipeline.dmarc import (
    POLICIES,
    Authenticated,
    Discovery,
    Observation,
    Outcome,
    author_domains,
    evaluate,
    policy_for,
    sampled,
)
from pipeline.dns_name import normalise
from pipeline.ports import DnsAnswer, DnsStatus
from pipeline.registry import StageContext, setting
from pipeline.reply import Reply
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import AuthResult, Disposition, Verdict

Observe = Callable[[Observation], None]
_LIST_ID = re.compile(rb"<([^<>]{1,255})>[ \t]*\Z")
_RESULTS = ("fail", "temperror", "permerror", "none", "pass")  # the worst of several author domains counts


@dataclass(frozen=True, slots=True)
class DmarcSettings:
    reject: str = setting(
        "follow",
        "When the domain's policy is reject: follow it, put the mail into Junk, or note it.",
        choices=("follow", "junk", "note"),
    )
    quarantine: str = setting(
        "follow",
        "When the domain's policy is quarantine: follow it (Junk; junk means the same), or note it.",
        choices=("follow", "junk", "note"),
    )
    malformed_from: str = setting(
        "junk",
        "Mail with several From fields, or one that cannot be read: reject, junk or note.",
        choices=("reject", "junk", "note"),
    )
    temperror: str = setting(
        "note",
        "When the DNS cannot be asked: note, or defer (the sender tries again).",
        choices=("note", "defer"),
    )
    discovery: str = setting(
        "list",
        "How the organisational domain is found: by the public suffix list, or by a walk up the DNS tree.",
        choices=("list", "tree"),
    )
    exempt: tuple[str, ...] = setting(
        (), "Domains of forwarders and lists that break signatures: their mail is noted only.", "patterns"
    )
    trusted_sealers: tuple[str, ...] = setting(
        (), "Domains whose ARC seals are believed (forwarders that you know).", "patterns"
    )
    timeout: float = setting(10.0, "For the look-ups of one message together.", "duration")


class DmarcStage:
    """The stage; one for the life of a configuration."""

    name = "dmarc"
    phases = frozenset({Phase.EOM})
    after: tuple[str, ...] = ("spf", "dkim", "arc")
    on_error = OnError.ACCEPT

    def __init__(
        self,
        settings: DmarcSettings,
        context: StageContext,
        observe: Observe | None = None,
        end: Callable[[], None] | None = None,
    ) -> None:
        """``observe`` hears of every message that a policy was applied to: aggregate reports. ``end`` is called in a thread
        when the stage is closed."""
        self._observe = observe
        self._end = end
        self.settings = settings
        self.timeout = settings.timeout + 2.0
        self._context = context

    def quick(self, transaction: Transaction) -> Verdict | None:
        """The verdict when all answers are in the cache."""
        done, domains = self._before(transaction)
        if done is not None:
            return done
        outcomes = []
        for domain in domains:
            found = self._discovery(domain)
            while not found.done:
                answer = self._context.resolver.cached(found.name, "TXT")
                if answer is None:
                    return None
                found.give(answer)
            if found.record is not None and found.record.absent_policy and found.record.domain != domain:
                return None  # np= needs to know whether the domain exists
            identifiers = _identifiers(transaction)
            if found.branches(identifiers):
                return None  # further look-ups, of mail that few send
            outcomes.append(evaluate(found, identifiers))
        return self._verdict(transaction, outcomes)

    async def check(self, transaction: Transaction) -> Verdict:
        done, domains = self._before(transaction)
        if done is not None:
            return done
        identifiers = _identifiers(transaction)
        outcomes = await asyncio.gather(*(self._judge(domain, identifiers) for domain in domains))
        return self._verdict(transaction, list(outcomes))

    def abort(self, transaction: Transaction) -> None:
        """Nothing is held for a transaction."""

    async def close(self) -> None:
        if self._end is not None:
            await asyncio.to_thread(self._end)

    def _before(self, transaction: Transaction) -> tuple[Verdict | None, tuple[str, ...]]:
        if transaction.envelope.client.auth:
            return Verdict(self.name, result="skipped", summary="authenticated"), ()
        domains, problem = author_domains(transaction.message)
        if problem:
            return self._malformed(transaction, problem), ()
        return None, domains

    def _malformed(self, transaction: Transaction, problem: str) -> Verdict:
        """Several authors may hide the one that readers see; without any From nobody is impersonated."""
        client = transaction.envelope.client
        disposition, reply = Disposition.CONTINUE, None
        if b"from" not in transaction.message.header or client.ip is None or not client.facts_trusted:
            pass  # noted only; mail of local programs (cron) comes with odd authors too
        elif self.settings.malformed_from == "junk":
            disposition = Disposition.QUARANTINE
        elif self.settings.malformed_from == "reject":
            disposition = Disposition.REJECT
            reply = Reply(550, "5.7.1", "The message needs exactly one readable From field")
        return Verdict(
            self.name,
            disposition,
            result="permerror",
            summary=problem,
            reply=reply,
            authres=(AuthResult("dmarc", "permerror", reason=problem),),
            tags={"dmarc.result": "permerror"},
        )

    def _discovery(self, domain: str) -> Discovery:
        return Discovery(domain, tree=self.settings.discovery == "tree")

    async def _judge(self, domain: str, identifiers: list[Authenticated]) -> Outcome:
        found = self._discovery(domain)
        exists = True
        try:
            async with asyncio.timeout(self.settings.timeout):
                while not found.done:
                    found.give(await self._context.resolver.query(found.name, "TXT"))
                for one in found.branches(identifiers):
                    found.give_branch(one, await self._texts(found.branch(one)))
                if found.record is not None and found.record.absent_policy and found.record.domain != domain:
                    exists = await self._exists(domain)
        except TimeoutError:
            if not found.done:
                found.give(DnsAnswer(DnsStatus.TEMPORARY, reason="time limit"))
        return evaluate(found, identifiers, exists)

    async def _texts(self, names: list[str]) -> list[DnsAnswer]:
        return await asyncio.gather(*(self._context.resolver.query(name, "TXT") for name in names))

    async def _exists(self, domain: str) -> bool:
        """RFC 9091 2.7: none of A, AAAA and MX means it does not exist; an unsure answer means it does."""
        query = self._context.resolver.query
        answers = await asyncio.gather(*(query(domain, rdtype) for rdtype in ("A", "AAAA", "MX")))
        return any(answer.status in (DnsStatus.OK, DnsStatus.TEMPORARY) for answer in answers)

    def _verdict(self, transaction: Transaction, outcomes: list[Outcome]) -> Verdict:
        client = transaction.envelope.client
        transaction.state["dmarc"] = outcomes
        outcome = min(outcomes, key=lambda one: (_RESULTS.index(one.result), -POLICIES.index(one.policy)))
        if outcome.result in ("fail", "temperror") and (client.ip is None or not client.facts_trusted):
            return Verdict(
                self.name,
                result="none",
                summary=f"{outcome.domain}: the client is not known, so a failure would prove nothing",
                tags={"dmarc.result": "none", "dmarc.domain": outcome.domain},
            )
        asked, override = "none", ""
        if outcome.result == "fail" and outcome.record is not None:
            chance = int(self._context.ids.token(4), 16) % 100
            asked = sampled(outcome.record, outcome.policy, chance)
            if asked != outcome.policy:
                override = "policy_test_mode" if outcome.record.testing else "sampled_out"
        done, disposition, why = self._decide(transaction, asked)
        if self._observe is not None and client.ip is not None and client.facts_trusted:
            self._tell(transaction, outcomes, done, why or override)
        return self._say(outcome, disposition, done, why or override)

    def _tell(self, transaction: Transaction, outcomes: list[Outcome], done: str, override: str) -> None:
        assert self._observe is not None
        envelope = transaction.envelope
        for outcome in outcomes:
            if outcome.result in ("pass", "fail"):
                self._observe(
                    Observation(
                        at=self._context.clock.time(),
                        ip=envelope.client.ip or "",
                        envelope_from=envelope.reverse_path.rpartition("@")[2].lower(),
                        outcome=outcome,
                        disposition=done,
                        override=override,
                        identifiers=tuple(_identifiers(transaction)),
                    )
                )

    def _decide(self, transaction: Transaction, asked: str) -> tuple[str, Disposition, str]:
        """(what is done in DMARC's words, the disposition, the override's name)."""
        if asked == "none":
            return "none", Disposition.CONTINUE, ""
        mildest, why = self._override(transaction)
        choice = self.settings.reject if asked == "reject" else self.settings.quarantine
        if choice == "note" or mildest == "none":
            return "none", Disposition.CONTINUE, why or "local_policy"
        if asked == "reject" and choice == "follow" and mildest != "quarantine":
            return "reject", Disposition.REJECT, ""
        if asked == "reject":
            return "quarantine", Disposition.QUARANTINE, why or "local_policy"
        return "quarantine", Disposition.QUARANTINE, ""

    def _override(self, transaction: Transaction) -> tuple[str, str]:
        """("none", why), ("quarantine", why): the strongest that may be done; ("", "") when nothing softens it."""
        passing = [one.domain for one in _signatures(transaction) if one.passed]
        vouched = passing + [transaction.envelope.client.name.lower().rstrip("."), _reverse_name(transaction)]
        spf = transaction.state.get("spf")
        if isinstance(spf, SpfResult) and spf.result == "pass":
            vouched.append(spf.domain.lower())
        if any(_within(domain, self.settings.exempt) for domain in vouched if domain):
            return "none", "trusted_forwarder"
        arc = transaction.state.get("arc")
        if isinstance(arc, ArcResult) and arc.result == "pass" and arc.sets:
            trusted = 0
            for one in reversed(arc.sets):
                if not _within(one.domain, self.settings.trusted_sealers):
                    break
                trusted += 1
                if one.says("dmarc", "pass"):
                    return "none", "trusted_forwarder"
            if trusted:
                return "quarantine", "trusted_forwarder"
        if _of_list(transaction):
            return "quarantine", "mailing_list"
        return "", ""

    def _say(self, outcome: Outcome, disposition: Disposition, done: str, override: str) -> Verdict:
        record = outcome.record
        domain = printable(outcome.domain)
        published = policy_for(record, outcome.domain) if record is not None else ""
        reply = None
        if disposition is Disposition.REJECT:
            text = f"DMARC: {domain} asks to reject mail that fails both SPF and DKIM for it, as this does"
            reply = Reply(550, "5.7.26", text)
        elif outcome.result == "temperror" and self.settings.temperror == "defer":
            disposition = Disposition.TEMPFAIL
            reply = Reply(451, "4.7.26", f"DMARC: temporary DNS failure while checking {domain}")
        applied = (
            outcome.policy if outcome.result == "fail" else published
        )  # np= counts when it was looked at
        comment = f"p={applied} dis={done}" if record is not None else ""
        return Verdict(
            self.name,
            disposition,
            result=outcome.result,
            summary=_summary(outcome, done, override),
            reply=reply,
            evidence=_evidence(outcome, done, override),
            authres=(
                AuthResult(
                    "dmarc",
                    outcome.result,
                    reason=outcome.reason if outcome.result == "temperror" else "",
                    properties=(("header.from", outcome.domain),),
                    comment=comment,
                ),
            ),
            tags={
                "dmarc.result": outcome.result,
                "dmarc.domain": outcome.domain,
                "dmarc.policy": applied,
                "dmarc.disposition": done,
                "dmarc.override": override,
            },
        )


def _signatures(transaction: Transaction) -> list[SignatureResult]:
    found = transaction.state.get("dkim")
    return [one for one in found if isinstance(one, SignatureResult)] if isinstance(found, list) else []


def _reverse_name(transaction: Transaction) -> str:
    """The client's confirmed reverse name, as the spf stage found it."""
    verdict = transaction.verdicts.get("spf")
    return verdict.tags.get("iprev.name", "") if verdict is not None else ""


def _of_list(transaction: Transaction) -> bool:
    """Has the list signed: does a passing signature cover List-Id, or is it of the organisation that List-Id names?"""
    values = transaction.message.header.get_all(b"list-id")
    passing = [one for one in _signatures(transaction) if one.passed]
    if len(values) != 1 or not passing:
        return False
    if any(b"list-id" in one.headers for one in passing):
        return True
    match = _LIST_ID.search(values[0])
    named = normalise((match[1] if match else values[0]).decode("ascii", "replace").strip())
    return named is not None and any(organisational(one.domain) == organisational(named) for one in passing)


def _identifiers(transaction: Transaction) -> list[Authenticated]:
    """What SPF and DKIM found out; a DKIM signature in l= or with uncovered fields is no pass already."""
    found = [Authenticated("dkim", one.result, one.domain, one.selector) for one in _signatures(transaction)]
    spf = transaction.state.get("spf")
    if isinstance(spf, SpfResult):
        found.append(Authenticated("spf", spf.result, spf.domain, spf.identity))
    return found


def _within(domain: str, patterns: tuple[str, ...]) -> bool:
    return any(domain == one or domain.endswith("." + one) for one in map(str.lower, patterns))


def _summary(outcome: Outcome, done: str, override: str) -> str:
    domain = printable(outcome.domain)
    if outcome.result == "pass":
        means = " and ".join(
            name for name, has in (("SPF", outcome.spf_aligned), ("DKIM", outcome.dkim_aligned)) if has
        )
        return f"{means} vouch{'' if 'and' in means else 'es'} for {domain}"
    if outcome.result != "fail":
        return f"{domain}: {printable(outcome.reason)}"
    text = f'policy of {domain} is "{outcome.policy}": '
    if done == outcome.policy:
        return text + ("their choice is to let it pass" if done == "none" else f"done ({done})")
    return text + f"softened to {done}" + (f" ({override.replace('_', ' ')})" if override else "")


def _evidence(outcome: Outcome, done: str, override: str) -> dict[str, str]:
    out = {"from": printable(outcome.domain)}
    if outcome.record is not None:
        out["record"] = f"_dmarc.{outcome.record.domain}: {printable(outcome.record.text)}"
        out["aligned"] = (
            ", ".join(
                name for name, has in (("spf", outcome.spf_aligned), ("dkim", outcome.dkim_aligned)) if has
            )
            or "nothing"
        )
        out["disposition"] = done
    if outcome.reason:
        out["reason"] = printable(outcome.reason)
    if override:
        out["override"] = override
    return out
