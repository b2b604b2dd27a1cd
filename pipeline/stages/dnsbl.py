"""dnsbl: is the client's address, or a domain of the message, on lists that the operator trusts?

Specification: RFC 5782 (query form, 127.0.0.0/8 answers, test entries). Off by default: no list is configured.

A list is written ``zone``, ``zone=weight`` or ``zone=weight:127.0.0.2,127.0.0.10-11``: without return codes any answer
in 127.0.0.0/8 counts, except those by which lists say that they refuse to answer (an open resolver, too many questions):
127.255.255.0/24, and 127.0.0.1 and 127.0.1.255 unless they are named as codes. ``domain:zone`` asks for the MAIL FROM and
HELO domains instead of the address. A list that cannot be asked counts nothing and is named in the
evidence. Tags ``dnsbl.score`` and ``dnsbl.lists``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from dataclasses import dataclass

from pipeline.adapters.publicsuffix import organisational
from pipeline.adapters.pyspf import printable
from pipeline.dns_name import normalise, reverse_name
from pipeline.envelope import Client, Envelope
from pipeline.errors import PipelineError
from pipeline.ports import DnsAnswer, DnsStatus
from pipeline.registry import StageContext, setting
from pipeline.reply import Reply
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict

_REFUSED = ipaddress.ip_network("127.255.255.0/24")
_ANSWERS = ipaddress.ip_network("127.0.0.0/8")
_NO_ANSWERS = ("127.0.0.1", "127.0.1.255")  # URIBL and SURBL; Spamhaus' DBL
_DOMAIN = re.compile(r"[a-z0-9_.-]*\.[a-z0-9-]*[a-z][a-z0-9-]*")  # the last label of an address is a number


@dataclass(frozen=True, slots=True)
class DnsblSettings:
    lists: tuple[str, ...] = setting(
        (),
        'Lists with weight and return codes: "zen.example=3:127.0.0.2-11", "domain:dbl.example=2".',
        "patterns",
    )
    reject_at: float = setting(0.0, "Refuse at this sum of weights; 0 never refuses.")
    junk_at: float = setting(1.0, "Put into Junk at this sum of weights; 0 only notes.")
    exempt: tuple[str, ...] = setting(
        ("127.0.0.0/8", "::1/128"), "Networks that are not asked for.", "patterns"
    )
    timeout: float = setting(5.0, "For all lists of one message together.", "duration")


@dataclass(frozen=True, slots=True)
class BlockList:
    """One list as configured. ``codes``: ranges of addresses that count, empty for all."""

    zone: str
    weight: float = 1.0
    domains: bool = False
    codes: tuple[tuple[int, int], ...] = ()

    def counts(self, answer: str) -> bool:
        """Does this A record mean "listed"?"""
        try:
            address = ipaddress.IPv4Address(answer)
        except ValueError:
            return False
        if address not in _ANSWERS or address in _REFUSED:
            return False
        if not self.codes:
            return answer not in _NO_ANSWERS
        return any(low <= int(address) <= high for low, high in self.codes)


def parse_list(text: str) -> BlockList:
    """Read one entry of ``lists``; raises PipelineError with what is wrong."""
    rest = text.strip()
    domains = rest.startswith("domain:")
    rest = rest.removeprefix("domain:")
    name, _, rest = rest.partition("=")
    zone = normalise(name.strip())
    if zone is None or "." not in zone:
        raise PipelineError(f"dnsbl list {text!r}: {name!r} is not a zone")
    weight, _, codes = rest.partition(":")
    try:
        return BlockList(
            zone, float(weight or 1), domains, tuple(map(_range, filter(None, codes.split(","))))
        )
    except ValueError as error:
        raise PipelineError(f"dnsbl list {text!r}: {error}") from error


def _range(text: str) -> tuple[int, int]:
    low, dash, high = text.strip().partition("-")
    first = int(ipaddress.IPv4Address(low))
    if not dash:
        return first, first
    if high.isdigit():
        high = f"{text.strip().rpartition('-')[0].rpartition('.')[0]}.{high}"
    last = int(ipaddress.IPv4Address(high))
    if last < first:
        raise ValueError(f"{text.strip()!r} is no range")
    return first, last


class DnsblStage:
    """The stage; one for the life of a configuration."""

    name = "dnsbl"
    phases = frozenset({Phase.EOM})
    after: tuple[str, ...] = ()
    on_error = OnError.ACCEPT

    def __init__(self, settings: DnsblSettings, context: StageContext) -> None:
        """Raises PipelineError for a list or network that cannot be read."""
        self.settings = settings
        self.timeout = settings.timeout + 2.0
        self._context = context
        self._lists = tuple(parse_list(text) for text in settings.lists)
        try:
            self._exempt = tuple(ipaddress.ip_network(text) for text in settings.exempt)
        except ValueError as error:
            raise PipelineError(f"dnsbl exempt: {error}") from error

    def quick(self, transaction: Transaction) -> Verdict | None:
        """The verdict when nothing is to be asked, or all answers are in the cache."""
        skipped = self._skipped(transaction.envelope.client)
        if skipped is not None:
            return skipped
        questions = self._questions(transaction.envelope)
        answers = [self._context.resolver.cached(name, "A") for _, name in questions]
        known = [answer for answer in answers if answer is not None]
        return self._verdict(questions, known) if len(known) == len(questions) else None

    async def check(self, transaction: Transaction) -> Verdict:
        skipped = self._skipped(transaction.envelope.client)
        if skipped is not None:
            return skipped
        questions = self._questions(transaction.envelope)
        answers = await asyncio.gather(*(self._ask(name) for _, name in questions))
        return self._verdict(questions, answers)

    def abort(self, transaction: Transaction) -> None:
        """Nothing is held for a transaction."""

    def _skipped(self, client: Client) -> Verdict | None:
        if client.auth:
            return Verdict(self.name, result="skipped", summary="authenticated")
        if not self._lists:
            return Verdict(self.name, result="skipped", summary="no lists configured")
        if client.ip is None or not client.facts_trusted:
            return Verdict(self.name, result="none", summary="the client's address is not known")
        try:
            address = _address(client.ip)
        except ValueError:
            return Verdict(self.name, result="none", summary="the client's address cannot be read")
        if any(address in network for network in self._exempt):
            return Verdict(self.name, result="skipped", summary="exempt network")
        return None

    def _questions(self, envelope: Envelope) -> list[tuple[BlockList, str]]:
        reverse = reverse_name(str(_address(envelope.client.ip or ""))).rsplit(".", 2)[
            0
        ]  # without in-addr.arpa
        names = [normalise(envelope.reverse_path.rpartition("@")[2]), normalise(envelope.client.helo)]
        domains = dict.fromkeys(
            organisational(name) for name in names if name is not None and _DOMAIN.fullmatch(name)
        )
        out: list[tuple[BlockList, str]] = []
        for one in self._lists:
            for subject in domains if one.domains else (reverse,):
                out.append((one, f"{subject}.{one.zone}"))
        return out

    async def _ask(self, name: str) -> DnsAnswer:
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await self._context.resolver.query(name, "A")
        except TimeoutError:
            return DnsAnswer(DnsStatus.TEMPORARY, reason="time limit")

    def _verdict(self, questions: list[tuple[BlockList, str]], answers: list[DnsAnswer]) -> Verdict:
        hits: dict[BlockList, list[str]] = {}  # several names on one list count once
        evidence: dict[str, str] = {}
        for (one, name), answer in zip(questions, answers, strict=True):
            codes = [record for record in answer.records if one.counts(record)]
            if codes:
                text = f"{', '.join(codes[:5])} for {printable(name)} (weight {one.weight:g})"
                hits.setdefault(one, []).append(text)
            elif answer.status is DnsStatus.TEMPORARY or answer.records:
                evidence.setdefault(
                    one.zone, f"no usable answer: {answer.reason or ', '.join(answer.records[:5])}"
                )
        zones: dict[
            str, list[str]
        ] = {}  # one may be configured several times: each code with a weight of its own
        for one, texts in hits.items():
            zones.setdefault(one.zone, []).extend(texts)
        evidence |= {zone: "; ".join(texts[:5]) for zone, texts in zones.items()}
        names = ", ".join(zones)
        score = sum(one.weight for one in hits)
        disposition, reply = Disposition.CONTINUE, None
        if hits and self.settings.reject_at > 0 and score >= self.settings.reject_at:
            disposition = Disposition.REJECT
            reply = Reply(554, "5.7.1", "The sending host is on a block list: " + names)
        elif hits and self.settings.junk_at > 0 and score >= self.settings.junk_at:
            disposition = Disposition.QUARANTINE
        return Verdict(
            self.name,
            disposition,
            result="listed" if hits else "clean",
            summary=f"score {score:g}: {names}" if hits else f"on none of {len(self._lists)} lists",
            reply=reply,
            evidence=evidence,
            tags={"dnsbl.score": f"{score:g}", "dnsbl.lists": " ".join(zones)},
        )


def _address(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 address in IPv6 form is that IPv4 address. Raises ValueError."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
