"""Which way an item takes: routes of the configuration by sender and recipient, and what the operator chose by hand.

A row's ``domain`` is its lane: what is due is looked up by it, and each lane has its own few connections. It is the recipient's
domain, or
``=TOKEN``          a route with a next hop: one lane for all that takes it
``=TOKEN:DOMAIN``   a route by MX (it only chooses the source address): a lane for each domain
``!URL``            the operator's choice (`filterd queue reroute`), a next hop without a log-in
``|PROGRAM``, ``/PATH``   not sent at all: an alias gives it to a program, or puts it into a file (``filterd.outlets``)
No domain begins with one of these characters. The token is a digest of the route, so a worker and a sender that have read different
configurations never mean different routes by one lane; the sender gives all rows their lanes anew when it starts.

Invariant: mail for domains of ours takes no route: it is delivered here, or goes to the store behind us.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from filterd.config.values import BadValue
from filterd.config.values import relay as read_relay
from filterd.queue.route import Relay
from filterd.queue.rows import domain_of
from pipeline.dns_name import normalise

ROUTED, BY_HAND = "=", "!"
OUTLETS = ("|", "/")
MX = "mx"

Lane = Callable[[str, str], str]  # (reverse-path, recipient) -> lane


@dataclass(frozen=True, slots=True)
class Rule:
    """``recipients`` and ``senders``: addresses, domains, ".domain" (all below it), "<>" (a sender: none); empty = all. ``relay``
    None: by MX. ``bind``: source addresses."""

    recipients: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    relay: Relay | None = None
    bind: tuple[str, ...] = ()

    @property
    def token(self) -> str:
        hop = self.relay
        said = (hop.host, hop.port, hop.path, hop.lmtp, hop.smtps, hop.login is not None) if hop else None
        text = repr((self.recipients, self.senders, said, self.bind))
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=6).hexdigest()

    def holds(self, reverse_path: str, recipient: str) -> bool:
        return _among(recipient, self.recipients) and _among(reverse_path, self.senders)


def _among(address: str, patterns: Sequence[str]) -> bool:
    if not patterns:
        return True
    if not address:
        return "<>" in patterns
    local, _, _ = address.rpartition("@")
    domain = domain_of(address)
    whole = f"{local.lower()}@{domain}"
    return any(
        whole == one if "@" in one else domain.endswith(one) if one.startswith(".") else domain == one
        for one in patterns
    )


def folded(pattern: str) -> str:
    """As ``Rule`` compares it."""
    if pattern == "<>":
        return pattern
    local, at, domain = pattern.rpartition("@")
    dot = "." if domain.startswith(".") else ""
    name = domain.removeprefix(".")
    return f"{local.lower()}{at}{dot}{normalise(name) or name.lower()}"


def plain(reverse_path: str, recipient: str) -> str:
    """Without routes."""
    return domain_of(recipient)


@dataclass(frozen=True, slots=True)
class Way:
    """What a lane stands for. ``domain`` "" when ``relay`` takes all of it."""

    relay: Relay | None
    domain: str = ""
    bind: tuple[str, ...] = ()


@dataclass(slots=True)
class Routes:
    """``ours``: domains that take no route. The first rule that holds is taken."""

    rules: Sequence[Rule] = ()
    ours: frozenset[str] = frozenset()
    _by_token: dict[str, Rule] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._by_token = {rule.token: rule for rule in self.rules}

    def rule_for(self, reverse_path: str, recipient: str) -> Rule | None:
        if not self.rules or domain_of(recipient) in self.ours:
            return None
        return next((rule for rule in self.rules if rule.holds(reverse_path, recipient)), None)

    def lane(self, reverse_path: str, recipient: str) -> str:
        rule = self.rule_for(reverse_path, recipient)
        domain = domain_of(recipient)
        if rule is None:
            return domain
        return f"{ROUTED}{rule.token}" + (f":{domain}" if rule.relay is None else "")

    def way(self, lane: str) -> Way | None:
        """What a routed lane means; None: a route that we do not have (another configuration's)."""
        if lane.startswith(BY_HAND):
            return Way(by_hand(lane[1:]))
        token, _, domain = lane.removeprefix(ROUTED).partition(":")
        rule = self._by_token.get(token)
        return Way(rule.relay, domain, rule.bind) if rule is not None else None


def is_route(lane: str) -> bool:
    return lane.startswith((ROUTED, BY_HAND))


def is_outlet(lane: str) -> bool:
    return lane.startswith(OUTLETS)


def by_hand(text: str) -> Relay | None:
    """A next hop that the operator names. None when it is none, or has a log-in, which does not belong into the queue."""
    try:
        found = read_relay(text)
    except BadValue:
        return None
    if found is None or found.user or (found.path and not found.path.startswith("/")):
        return None
    return Relay(found.host, found.port, None, found.lmtp, found.path, found.smtps)
