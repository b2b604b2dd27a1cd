"""DMARC, without IO: records, the names to ask, alignment, the policy that follows.

Specification: RFC 7489 (6.3 record, 6.6 processing, 3.1 alignment), RFC 9091 (np), and of RFC 9989 the tree walk (4.10:
discovery, psd=, organisational domains) and t=. Complete: yes but for ``ri`` and ``rf``, which are obsolete.

The order of a check: ``author_domains`` of From; ``Discovery`` says which name to ask next, until it has a record or
knows that there is none, then for which identifiers below the organisation a walk of their own is needed (``branches``);
``evaluate`` puts SPF and DKIM results beside it. Invariants: nothing raises on any input;
at most WALK look-ups a domain; a record that breaks the grammar is no record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from pipeline.adapters.publicsuffix import is_suffix, organisational
from pipeline.dns_name import normalise
from pipeline.ports import DnsAnswer, DnsStatus
from rules.mail.message import Message

POLICIES: Final = ("none", "quarantine", "reject")  # ordered by strength
WALK: Final = 8  # look-ups of a tree walk
RECORD_LIMIT: Final = 4096
AUTHORS: Final = 4  # domains in From that are evaluated
_VERSION: Final = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_TAG: Final = re.compile(r"[A-Za-z]+")
_OPTIONS: Final = re.compile(r"[01dsDS](?::[01dsDS]){0,3}")


@dataclass(frozen=True, slots=True)
class Record:
    """A published policy. ``domain``: where it was found. Policies are words of POLICIES."""

    domain: str
    policy: str = "none"
    subdomain_policy: str = ""  # sp=, "" = as policy
    absent_policy: str = ""  # np=, "" = as sp=
    strict_dkim: bool = False
    strict_spf: bool = False
    percent: int = 100
    testing: bool = False  # t=y
    public_suffix: str = "u"  # psd=: y, n or u
    rua: tuple[str, ...] = ()
    ruf: tuple[str, ...] = ()
    text: str = ""
    failure_options: str = "0"  # fo=, repeated in reports
    asks: bool = True  # False: neither p= nor rua=, so it has a place in the tree, but no policy


def parse(text: str, domain: str) -> Record | None:
    """Read one TXT record; None when it is not DMARC or cannot be used (RFC 7489 6.6.3)."""
    return None if len(text) > RECORD_LIMIT else _parse(text, domain)


@lru_cache(maxsize=1024)
def _parse(text: str, domain: str) -> Record | None:
    if not _VERSION.match(text):
        return None
    tags: dict[str, str] = {}
    for item in text.split(";")[1:]:
        name, equals, value = item.partition("=")
        if equals and _TAG.fullmatch(name.strip()):
            tags.setdefault(name.strip().lower(), value.strip())
    rua = _addresses(tags.get("rua", ""))
    policy = tags.get("p", "").lower()
    if policy not in POLICIES:
        if not rua and "p" in tags:
            return None
        policy = "none"  # 6.6.3 step 6: a report address is enough to be treated as p=none
    below = [tags.get(name, "").lower() for name in ("sp", "np")]
    if any(
        value and value not in POLICIES for value in below
    ):  # the same step (RFC 9989 4.10.1): as p=none, or not at all
        if not rua:
            return None
        policy, below = "none", ["", ""]
    percent = tags.get("pct", "100")
    options = "".join(tags.get("fo", "0").split())
    return Record(
        domain=domain,
        policy=policy,
        subdomain_policy=below[0],
        absent_policy=below[1],
        strict_dkim=tags.get("adkim", "r").lower() == "s",
        strict_spf=tags.get("aspf", "r").lower() == "s",
        percent=int(percent) if percent.isascii() and percent.isdigit() and len(percent) < 4 else 100,
        testing=tags.get("t", "n").lower() == "y",
        public_suffix=tags.get("psd", "u").lower()[:1],
        failure_options=options if _OPTIONS.fullmatch(options) else "0",
        rua=rua,
        ruf=_addresses(tags.get("ruf", "")),
        text=text,
        asks="p" in tags or bool(rua),
    )


def _addresses(value: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in value.split(",") if item.strip().lower().startswith("mailto:"))[:10]


def select(answer: DnsAnswer, domain: str) -> Record | None:
    """The one DMARC record of a TXT answer; several are none (RFC 7489 6.6.3 step 5)."""
    found = _versioned(answer)
    return parse(found[0], domain) if len(found) == 1 else None


def _versioned(answer: DnsAnswer) -> list[str]:
    return [text for text in answer.records if _VERSION.match(text)]


def author_domains(message: Message) -> tuple[tuple[str, ...], str]:
    """The domains of From as A-labels, and what is wrong with the field ("" when nothing)."""
    header = message.header
    if header.fields and header.fields[-1].end != header.end:
        return (), "the header has more fields than we look at"
    count = len(header.fields_named(b"from"))
    if count == 0:
        return (), "no From field"
    if count > 1:
        return (), f"{count} From fields"
    domains: list[str] = []
    for mailbox in message.from_addresses():
        domain = normalise(mailbox.domain)
        if domain is None or "." not in domain:
            return (), "From has no domain"
        if domain not in domains:
            domains.append(domain)
    if not domains:
        return (), "From has no address"
    if len(domains) > AUTHORS:
        return (), f"From has {len(domains)} domains"
    return tuple(domains), ""


class Discovery:
    """Finds the record that speaks for a domain: ask ``name``, ``give`` the answer, until ``done``.

    ``tree`` False: the domain, then its organisational domain by the list. True: up the tree (WALK look-ups); the
    organisational domain is where the walk ends, and after the domain's own record comes that of the organisation, then
    that of the public suffix (RFC 9989 4.10.1): what lies between says nothing.
    """

    def __init__(self, domain: str, tree: bool = False) -> None:
        self.domain = domain
        self.failure = ""
        self.problem = ""  # why what is published at the domain is no policy
        self._tree = tree
        self._found: list[Record] = []
        self._left = _walk(domain) if tree else list(dict.fromkeys((domain, organisational(domain))))
        self._apart: dict[str, str] = {}  # organisation of identifiers with a record of their own below ours

    @property
    def done(self) -> bool:
        return not self._left or bool(self.failure)

    @property
    def name(self) -> str:
        """The name whose TXT records are wanted now."""
        return f"_dmarc.{self._left[0]}"

    def give(self, answer: DnsAnswer) -> None:
        domain = self._left.pop(0)
        if answer.status is DnsStatus.TEMPORARY:
            self.failure = answer.reason or "DNS failure"
            return
        record = select(answer, domain)
        if record is None:
            published = len(_versioned(answer))
            if (
                published and not self._tree
            ):  # RFC 7489 6.6.3: only where there is none at all the organisation is asked
                self.problem = f"{published} DMARC records" if published > 1 else "the DMARC record is broken"
                self._left.clear()
            return
        self._found.append(record)
        if not self._tree or record.public_suffix in ("n", "y"):
            self._left.clear()

    @property
    def record(self) -> Record | None:
        """The record to apply, known when ``done``."""
        if not self._tree or not self._found or self._found[0].domain == self.domain:
            return self._found[0] if self._found else None
        organisation = self.organisation
        at_home = next((record for record in self._found if record.domain == organisation), None)
        return at_home or self._found[-1]

    @property
    def organisation(self) -> str:
        """The organisational domain, known when ``done``."""
        return _organisation(self.domain, self._found) if self._tree else organisational(self.domain)

    def branches(self, identifiers: Iterable[Authenticated]) -> list[str]:
        """Domains that passed and lie below the organisation: by the tree they may be of one of their own. Give each the
        answers to its ``branch``."""
        if not self._tree or self.record is None:
            return []
        below = "." + self.organisation
        passed = (one.domain.lower().rstrip(".") for one in identifiers if one.result == "pass")
        return list(dict.fromkeys(one for one in passed if one != self.domain and one.endswith(below)))

    def branch(self, domain: str) -> list[str]:
        """The names between an identifier and our organisation whose TXT records are wanted."""
        return [f"_dmarc.{one}" for one in _walk(domain) if one.endswith("." + self.organisation)]

    def give_branch(self, domain: str, answers: Iterable[DnsAnswer]) -> None:
        """The answers, in the order of ``branch``. A DNS failure leaves it with us: nobody is refused for it."""
        found = []
        for name, answer in zip(self.branch(domain), answers, strict=True):
            record = select(answer, name.removeprefix("_dmarc."))
            if record is not None and record.public_suffix in ("n", "y"):
                found.append(record)
                break
        self._apart[domain] = _organisation(domain, found) if found else self.organisation

    def aligned(self, domain: str, strict: bool) -> bool:
        """RFC 7489 3.1: equal, or (relaxed) of one organisation that is not a public suffix. Ask when ``done``."""
        domain = domain.lower().rstrip(".")
        if domain == self.domain:
            return True
        organisation = self.organisation
        if strict or not domain or (not self._tree and is_suffix(organisation)):
            return False
        if not self._tree:
            return organisational(domain) == organisation
        if self._apart.get(domain, organisation) != organisation:
            return False
        return domain == organisation or domain.endswith("." + organisation)


def _organisation(domain: str, found: list[Record]) -> str:
    """RFC 9989 4.10.2: of the records of a walk that began at ``domain``, the longest name first."""
    for record in found:
        if record.public_suffix == "n":
            return record.domain
        if record.public_suffix == "y" and record.domain != domain:
            return ".".join(domain.split(".")[-record.domain.count(".") - 2 :])
    return found[-1].domain if found else domain


def _walk(domain: str) -> list[str]:
    """The domain and its parents; when it is long, the last WALK - 1 of them."""
    labels = domain.split(".")
    names = [".".join(labels[at:]) for at in range(len(labels))]
    return names if len(names) <= WALK else [names[0], *names[1 - WALK :]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What DMARC says of one author domain. ``result``: none pass fail temperror permerror (RFC 8601).

    ``policy`` is what the owner asks for this message (pct= and t= not yet applied).
    """

    domain: str
    result: str
    reason: str = ""
    policy: str = "none"
    spf_aligned: bool = False
    dkim_aligned: bool = False
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Authenticated:
    """One identifier that SPF or DKIM looked at. ``note``: the selector, or SPF's identity (helo, mailfrom)."""

    method: str  # "spf" or "dkim"
    result: str
    domain: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """One evaluated message, as aggregate reports count it (RFC 7489 7.2). ``at``: seconds since the epoch."""

    at: float
    ip: str
    envelope_from: str  # domain of the reverse-path
    outcome: Outcome
    disposition: str
    override: str
    identifiers: tuple[Authenticated, ...]


def evaluate(found: Discovery, identifiers: Iterable[Authenticated], exists: bool = True) -> Outcome:
    """The verdict on one author domain. ``exists`` False: the domain is not in the DNS (np=)."""
    domain, record = found.domain, found.record
    if found.failure:
        return Outcome(domain, "temperror", f"DNS failure for the policy: {found.failure}")
    if record is None:
        return Outcome(domain, "none", found.problem or "no DMARC record")
    if not record.asks:  # RFC 7489 6.6.3 step 6
        return Outcome(domain, "none", "the DMARC record has no p=")
    outcome = Outcome(domain, "fail", policy=policy_for(record, domain, exists), record=record)
    uncertain = ""
    for one in identifiers:
        strict = record.strict_spf if one.method == "spf" else record.strict_dkim
        if not found.aligned(one.domain, strict):
            continue
        if one.result == "pass":
            outcome = replace(
                outcome,
                result="pass",
                spf_aligned=outcome.spf_aligned or one.method == "spf",
                dkim_aligned=outcome.dkim_aligned or one.method == "dkim",
            )
        elif one.result == "temperror":
            uncertain = f"{one.method} of {one.domain} could not be checked"
    if outcome.result == "fail" and uncertain:
        return replace(outcome, result="temperror", reason=uncertain)
    if outcome.result == "fail":
        outcome = replace(outcome, reason="neither SPF nor DKIM passed for this domain")
    return outcome


def policy_for(record: Record, domain: str, exists: bool = True) -> str:
    """p=, or below the record's domain sp= or np= (RFC 7489 6.3, RFC 9091 3.1)."""
    if domain == record.domain:
        return record.policy
    below = record.subdomain_policy or record.policy
    return below if exists else record.absent_policy or below


def sampled(record: Record, policy: str, chance: int) -> str:
    """The policy after pct= and t=: outside the sample one step weaker. ``chance``: 0 to 99."""
    if record.testing or chance >= record.percent:
        return POLICIES[max(0, POLICIES.index(policy) - 1)]
    return policy
