"""What TLS is demanded of each hop: the operator's word, DANE, MTA-STS, in this order; else TLS when it is offered.

Specification: RFC 7672 2.2 (DANE), RFC 8461 5 (MTA-STS; a failing DANE is never overruled by it, section 2), RFC 7435.

Invariants: the name of a mail host is believed by DANE only when the MX records (or the operator) are; no demand is lowered by a
failure: a host whose TLSA look-up fails, or that an enforced MTA-STS policy does not name, is not used, the mail waits for
another one. A next hop of our own choice (``Hop.ours``) on this machine or a private network is left as it is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from filterd.queue import dane
from filterd.queue.mtasts import Known, Mode, StsCache
from filterd.queue.route import Hop
from filterd.queue.tlsdemand import Demand, Level, Policy, TlsResult
from pipeline.dns_name import normalise
from pipeline.ports import Resolver

NONE, OPPORTUNISTIC, PUBLISHED, SECURE = "none", "opportunistic", "dane", "secure"
WORDS = (NONE, OPPORTUNISTIC, PUBLISHED, SECURE)


@dataclass(frozen=True, slots=True)
class Wish:
    """The operator's word for one destination. ``names``: what its certificate may be for (".x": any below x)."""

    word: str
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class TlsPolicies:
    """``default``: a word of WORDS. ``wishes`` by domain, ".example.org" for all below it. ``sts`` None: no MTA-STS."""

    resolver: Resolver
    default: str = PUBLISHED
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    sts: StsCache | None = None

    def wish(self, domain: str) -> Wish:
        """What the operator wants for a domain."""
        name = normalise(domain) or domain.lower()
        found = self.wishes.get(name)
        while found is None and "." in name:
            name = name.partition(".")[2]
            found = self.wishes.get(f".{name}")
        return found or Wish(self.default)

    async def guard(self, domain: str, hops: Sequence[Hop], loose: bool = False) -> Sequence[Hop]:
        """The same hops, each with its demand. ``loose``: the message asks us to go past what the domain has published
        (``TLS-Required: No``, RFC 8689 5)."""
        if not hops or hops[0].path or hops[0].lmtp:
            return hops
        if hops[0].ours:
            return [await self._ours(hop) for hop in hops]
        wish = self.wish(domain)
        if wish.word in (NONE, OPPORTUNISTIC) or domain.startswith("["):
            demand = _plain(wish, domain)
            return [replace(hop, demand=demand) for hop in hops]
        if loose and wish.word == PUBLISHED:
            demand = Demand(Level.TRY, "the message says TLS-Required: No")
            return [replace(hop, demand=demand) for hop in hops]
        domain = normalise(domain) or domain
        answer = await self.resolver.query(domain, "MX")
        known = await self._sts_of(domain)
        demands: dict[str, Demand] = {}
        for hop in hops:
            if hop.name not in demands:
                demands[hop.name] = await self._of(domain, hop, answer.authentic, known, wish)
        return [replace(hop, demand=demands[hop.name]) for hop in hops]

    async def _sts_of(self, domain: str) -> Known:
        return await self.sts.policy(domain) if self.sts is not None else Known()

    async def _of(self, domain: str, hop: Hop, secure_mx: bool, known: Known, wish: Wish) -> Demand:
        """The demand on one exchanger of a domain."""
        why_not = "the MX records are not secured by DNSSEC"
        if secure_mx:
            found = await dane.lookup(self.resolver, hop.name, hop.port)
            if found.state is not dane.State.ABSENT:
                return _by_dane(found, domain, hop)
            why_not = found.reason
        trusted = secure_mx or (known.policy is not None and known.policy.mode is Mode.ENFORCE)
        if wish.word == SECURE:
            names = wish.names or ((hop.name,) if trusted else (domain, f".{domain}"))
            if known.policy is None or known.policy.mode is not Mode.ENFORCE:
                return Demand(Level.NAMED, "our configuration", names=names, policy=_none(domain))
        if known.policy is not None and known.policy.mode is not Mode.NONE:
            return _by_sts(known, domain, hop)
        if known.problem:
            policy = Policy("sts", domain)
            why = f"no MTA-STS policy: {known.problem}"
            return Demand(Level.TRY, why, result=known.result, policy=policy)
        return Demand(Level.TRY, f"no DANE ({why_not}), no MTA-STS", policy=_none(domain))

    async def _ours(self, hop: Hop) -> Hop:
        """A relay of ours: named by the operator, so its name is to be trusted; a log-in has its own rule in the connector.
        It takes the mail of many domains: only the word for its own name counts."""
        wish = self.wishes.get(hop.name) or Wish(self.default)
        near = _near(hop.address)
        if wish.word == SECURE and (not near or hop.name in self.wishes):
            names = wish.names or (hop.name,)
            return replace(hop, demand=Demand(Level.NAMED, "our configuration", names=names))
        if wish.word == NONE and hop.login is None:
            return replace(hop, demand=Demand(Level.NEVER, "our configuration"))
        if wish.word != PUBLISHED or near or hop.login is not None:
            return hop
        found = await dane.lookup(self.resolver, hop.name, hop.port)
        if found.state is dane.State.ABSENT:
            return hop
        return replace(hop, demand=replace(_by_dane(found, hop.name, hop), policy=None))


def _plain(wish: Wish, domain: str) -> Demand:
    if wish.word == NONE:
        return Demand(Level.NEVER, "our configuration")
    why = "an address has no policy" if domain.startswith("[") else "our configuration"
    if wish.word == SECURE:
        return Demand(Level.NAMED, why, names=wish.names or (domain.strip("[]"),))
    return Demand(Level.TRY, why)


def _none(domain: str) -> Policy:
    return Policy("no-policy-found", domain)


def _by_dane(found: dane.Found, domain: str, hop: Hop) -> Demand:
    lines = tuple(one.full for one in found.records)
    policy = Policy("tlsa", domain, lines, (hop.name,), found.base or hop.name)
    if found.state is dane.State.BROKEN:
        return Demand(
            Level.DANE, "DANE", problem=found.reason, result=TlsResult.DNSSEC_INVALID, policy=policy
        )
    if found.state is dane.State.UNUSABLE:
        return Demand(Level.ENCRYPT, f"DANE: {found.reason}", result=TlsResult.TLSA_INVALID, policy=policy)
    # RFC 7672 3.2.2, 3.2.3: where the records are, the host, the domain of the mail
    names = tuple(dict.fromkeys((found.base, hop.name, domain)))
    return Demand(Level.DANE, f"DANE: {found.reason}", found.records, names, policy=policy)


def _by_sts(known: Known, domain: str, hop: Hop) -> Demand:
    policy = known.policy
    assert policy is not None
    told = Policy("sts", domain, policy.lines, policy.mx)
    why = f"MTA-STS of {domain}, mode {policy.mode.value}"
    enforced = policy.mode is Mode.ENFORCE
    if policy.allows(hop.name):
        return Demand(Level.NAMED, why, names=(hop.name,), only_told=not enforced, policy=told)
    problem = f"the MTA-STS policy of {domain} does not name {hop.name}"
    if enforced:
        return Demand(Level.NAMED, why, problem=problem, result=TlsResult.FAILURE, policy=told)
    return Demand(Level.TRY, f"{why}; {problem}", result=TlsResult.FAILURE, policy=told)


def _near(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_private
    except ValueError:
        return True
