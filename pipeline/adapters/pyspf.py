"""SPF evaluation by pyspf, fenced: the library never waits for the DNS and never sees uncapped input.

Specification: RFC 7208, complete. RFC 8616 (internationalised domains): U-labels are looked up as A-labels.

pyspf asks the process-wide function ``spf.DNSLookup``. It is replaced once, here, by ``_lookup``, which reads the
state of the check that is running (a context variable: one per thread and task) and knows only answers that are
already there: fetched by this check, or in the resolver's cache. A miss is noted and ends the run; the misses are
resolved on the loop and the run begins again, until a run ends without a miss that mattered. pyspf swallows every
exception while it reads an ``exp=`` text, so a miss is *noted* first and only then raised.

Invariants: at most ROUNDS runs and one deadline; SERVFAIL, time-out or a passed deadline is temperror; any exception
that is not pyspf's own is permerror; nothing here raises on hostile input. The caps keep pyspf's quadratic parts
(macro expansion, domain-spec check) below a few milliseconds a record.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import spf

from pipeline.dns_name import to_ascii
from pipeline.ports import Clock, DnsAnswer, DnsStatus, Resolver

ROUNDS = 25
DEADLINE = 20.0  # seconds, RFC 7208 4.6.4
RECORD_LIMIT = 4096  # octets of one SPF record
TERM_LIMIT = 384  # octets of one term: 253 of a domain, a name, a CIDR length and some macros
EXPLANATION_LIMIT = 1024  # octets of an exp= text
SHOWN_LIMIT = 400  # characters of an expanded explanation
ADDRESS_LIMIT = 100  # addresses of one name that are looked at
MX_LIMIT = 11  # one more than RFC 7208 4.6.4 allows, so that pyspf can object
PTR_LIMIT = 10
HELO_LIMIT = 255
PATH_LIMIT = 320

Records = list[tuple[tuple[str, str], object]]


@dataclass(frozen=True, slots=True)
class SpfResult:
    """``result``: none neutral pass fail softfail temperror permerror. ``identity``: mailfrom or helo.

    ``mechanism`` decided ("" for the default); ``explanation`` is the domain's own text for a fail, safe to show;
    ``problem`` says what was wrong with a temperror or permerror. ``personal``: a record on the way has macros, so another
    local part may get another result.
    """

    result: str
    identity: str
    domain: str
    mechanism: str = ""
    explanation: str = ""
    problem: str = ""
    personal: bool = False


# RFC 7208 7.1, 7.3: what follows a percent sign, and a number of labels is not zero. pyspf takes "%{d" and "%{d0}" as text.
_MACROS = re.compile(
    rb"(?:[^%]++|%(?:[%_-]|\{[slodiphcrtvSLODIPHCRTV](?!0+[^0-9])[0-9]{0,3}[rR]?[.+,/_=-]*+\}))*+"
)
# ABNF literals have no case (RFC 5234 2.3); pyspf takes "Redirect=" for a modifier that nobody knows.
_MODIFIER = re.compile(rb"(?<= )(?:redirect|exp)(?==)", re.IGNORECASE)
_TWICE = "= MUST appear at most once"


class _Miss(Exception):
    """An answer that is not there yet."""


@dataclass(slots=True)
class _Run:
    """The state of one check."""

    resolver: Resolver
    address_type: str = "A"  # what an MX or PTR answer will be followed by
    answers: dict[tuple[str, str], DnsAnswer] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)
    macros: bool = False  # in a text that was read

    def lookup(self, name: str, rdtype: str) -> Records:
        """Records in pyspf's shape; raises its TempError, or _Miss."""
        if rdtype == "SPF" or not name.isascii():
            return []  # type 99 is gone (RFC 7208 3.1); RFC 8616 4: a non-ASCII local part matches nothing
        key = (name, rdtype)
        answer = self.answers.get(key)
        if answer is None:
            answer = self.resolver.cached(name, rdtype)
            if answer is None:
                self.missing.append(key)
                raise _Miss(name)
            self.answers[key] = answer
        if answer.status is DnsStatus.TEMPORARY:
            raise spf.TempError(f"DNS {answer.reason or 'failure'}: {name} {rdtype}")
        if rdtype == "TXT" and any("%" in record for record in answer.records):
            self.macros = True
        return _shape(key, answer.records)

    def has_no_record(self, domain: str) -> bool:
        """True when it is known that the domain has no SPF record: most HELO names, so worth not asking pyspf."""
        if "." not in domain or "[" in domain:  # RFC 7208 4.3: no domain name, nothing to ask the DNS for
            return True
        key = (domain.lower(), "TXT")
        answer = self.answers.get(key) or self.resolver.cached(*key)
        return (
            answer is not None
            and answer.status is not DnsStatus.TEMPORARY
            and not any(record[:6].lower() == "v=spf1" for record in answer.records)
        )

    async def fetch(self) -> None:
        """Resolve what was missed, and the addresses that an MX or PTR answer will be asked for next."""
        wanted = list(dict.fromkeys(self.missing))
        self.missing.clear()
        got = await asyncio.gather(*(self.resolver.query(name, rdtype) for name, rdtype in wanted))
        self.answers.update(zip(wanted, got, strict=True))
        further = [
            key
            for (_, rdtype), answer in zip(wanted, got, strict=True)
            for key in _followers(rdtype, answer.records, self.address_type)
            if key not in self.answers
        ]
        if further:
            more = await asyncio.gather(*(self.resolver.query(name, rdtype) for name, rdtype in further))
            self.answers.update(zip(further, more, strict=True))


def _followers(rdtype: str, records: Iterable[str], address_type: str) -> list[tuple[str, str]]:
    if rdtype == "MX":
        hosts = [record.partition(" ")[2] for record in records][:MX_LIMIT]
    elif rdtype == "PTR":
        hosts = list(records)[:PTR_LIMIT]
    else:
        return []
    return [(host, address_type) for host in hosts if host and host != "." and host.isascii()]


def _shape(key: tuple[str, str], records: tuple[str, ...]) -> Records:
    match key[1]:
        case "TXT":
            return [(key, (_capped(record),)) for record in records]
        case "MX":
            return [(key, _mx(record)) for record in records[:MX_LIMIT]]
        case "PTR":
            return [(key, record) for record in records[:PTR_LIMIT]]
        case _:
            return [(key, record) for record in records[:ADDRESS_LIMIT]]


def _mx(record: str) -> tuple[int, str]:
    preference, _, host = record.partition(" ")
    return int(preference), "" if host == "." else host


def _capped(record: str) -> bytes:
    """A TXT record as octets, or PermError when it is an SPF record beyond the caps."""
    data = record.encode("latin-1", "replace")
    if data[:6].lower() != b"v=spf1" or data[6:7] not in (b"", b" "):
        if len(data) > EXPLANATION_LIMIT or not _MACROS.fullmatch(data):
            return b""  # 6.2: a text with an error in it is no text
        return data
    if b"%" in data and not _MACROS.fullmatch(data):
        raise spf.PermError("a broken macro")
    if len(data) > RECORD_LIMIT:
        raise spf.PermError(f"SPF record of {len(data)} octets (limit {RECORD_LIMIT})")
    if len(data) > TERM_LIMIT and max(map(len, data.split(b" "))) > TERM_LIMIT:
        raise spf.PermError(f"SPF term of more than {TERM_LIMIT} octets")
    return _MODIFIER.sub(lambda found: found[0].lower(), data)


_CURRENT: ContextVar[_Run] = ContextVar("filterd_spf_run")


def _lookup(name: str, qtype: str, strict: object = True, timeout: object = None) -> Records:
    """What pyspf calls instead of the DNS."""
    return _CURRENT.get().lookup(name, qtype)


spf.DNSLookup = _lookup


class _Query(spf.query):  # type: ignore[misc]  # pyspf has no types
    """pyspf's evaluation where it is stricter than RFC 7208: void look-ups, ptr, modifiers that nobody knows.

    4.6.4 counts *terms* whose look-up is void: not each host of an mx or ptr (a client with IPv6 and three mail hosts
    without it would be a permerror), and not what %{p} and exp= ask for. 5.5, 7.3: a DNS failure for a ptr is no match.
    """

    _uncounted: tuple[str, ...] = ()

    def dns(
        self, name: str, qtype: str, cnames: dict[str, str] | None = None, ignore_void: bool = False
    ) -> list[object]:
        found: list[object] = super().dns(name, qtype, cnames, ignore_void or qtype in self._uncounted)
        return found

    @contextmanager
    def _without(self, *types: str) -> Iterator[None]:
        before, self._uncounted = self._uncounted, (*self._uncounted, *types)
        try:
            yield
        finally:
            self._uncounted = before

    def dns_mx(self, domainname: str) -> list[str]:
        with self._without("A", "AAAA"):
            found: list[str] = super().dns_mx(domainname)
        return found

    def validated_ptrs(self) -> list[str]:
        try:
            names: list[str] = self.dns_ptr(self.i)
        except spf.TempError:
            return []
        with self._without("A", "AAAA"):
            return [name for name in names if self._leads_back(name)]

    def _leads_back(self, name: str) -> bool:
        try:
            return bool(self.cidrmatch(self.dns_a(name, self.A), self.cidrmax))
        except spf.TempError:
            return False

    def getp(self) -> str:
        self.p = ""  # another one in each domain that is included
        with self._without("PTR"):
            return str(super().getp())

    def note_error(self, *said: str) -> object:
        if said[0].endswith(_TWICE) and said[0] != "exp" + _TWICE:
            return None  # 6: ignored, no matter where or how often
        return super().note_error(*said)


@dataclass(frozen=True, slots=True)
class SpfQuestion:
    """One identity to check. ``mail_from`` "" means the null reverse-path: postmaster@helo (RFC 7208 2.4)."""

    ip: str
    mail_from: str
    helo: str
    receiver: str = "unknown"

    @property
    def address_type(self) -> str:
        return "AAAA" if ":" in self.ip and not self.ip.lower().startswith("::ffff:") else "A"

    @property
    def identity(self) -> str:
        return "mailfrom" if self.mail_from else "helo"

    @property
    def domain(self) -> str:
        return self.mail_from.rpartition("@")[2] if self.mail_from else self.helo

    @property
    def anyone(self) -> SpfQuestion:
        """The same of any sender of the domain."""
        return replace(self, mail_from=f"@{self.domain}") if self.mail_from else self


def _ascii_domain(text: str, limit: int) -> str:
    """An address or name with its domain as A-labels, cut at the limit."""
    local, at, domain = text[-limit:].rpartition("@")
    if not domain.isascii():
        domain = to_ascii(domain) or domain
    return f"{local}{at}{domain}"


def _evaluate(run: _Run, question: SpfQuestion, now: float) -> SpfResult | None:
    """One run of pyspf; None when answers are missing."""
    if run.has_no_record(question.domain):
        return SpfResult("none", question.identity, question.domain)
    token = _CURRENT.set(run)
    try:
        query = _Query(
            i=question.ip.partition("%")[0],
            s=_ascii_domain(question.mail_from, PATH_LIMIT),
            h=_ascii_domain(question.helo, HELO_LIMIT),
            receiver=question.receiver,
        )
        query.t = str(int(now))
        query.set_default_explanation("")
        result, _, explanation = query.check()
    except _Miss:
        return None
    except Exception as error:  # the library met something it was not written for: RFC 7208 2.6.7
        return SpfResult(
            "permerror",
            question.identity,
            question.domain,
            problem=printable(f"{type(error).__name__}: {error}"),
            personal=True,
        )
    finally:
        _CURRENT.reset(token)
    if run.missing and result == "fail":
        return None  # swallowed while reading exp=: only a fail shows the text
    return SpfResult(
        result,
        question.identity,
        question.domain,
        mechanism=printable(query.mechanism or ""),
        explanation=printable(explanation) if result == "fail" else "",
        problem=printable(explanation.partition(": ")[2]) if result in ("temperror", "permerror") else "",
        personal=run.macros,
    )


def printable(text: str) -> str:
    """A text of strangers, safe for a reply, a header or a terminal: visible ASCII and blanks, cut."""
    text = text[:SHOWN_LIMIT]
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def check_cached(resolver: Resolver, clock: Clock, question: SpfQuestion) -> SpfResult | None:
    """The verdict when every answer is at hand, else None. Immediate."""
    return _evaluate(_Run(resolver, question.address_type), question, clock.time())


async def check(
    resolver: Resolver, clock: Clock, question: SpfQuestion, seconds: float = DEADLINE
) -> SpfResult:
    """The verdict on one identity, in at most ``seconds``. Never raises for what the DNS or the sender says."""
    run = _Run(resolver, question.address_type)
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            for _ in range(ROUNDS):
                found = _evaluate(run, question, clock.time())
                if found is not None:
                    return found
                await run.fetch()
    except TimeoutError:
        return SpfResult("temperror", question.identity, question.domain, problem="time limit")
    return SpfResult("temperror", question.identity, question.domain, problem="too many rounds")
