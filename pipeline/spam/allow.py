"""Mail that is not scored: from networks, and from senders whose domain vouches for them.

An entry is a network (``192.0.2.0/24``), an address (``ann@example.org``) or a domain (``example.org`` with what is below it).
A sender counts only where From is not forged: DMARC passed, or an aligned SPF or DKIM pass. ``match`` reads what the
dmarc stage found, so the spam stage runs ``after`` it; without that stage senders are never allowed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from pipeline.dmarc import Outcome
from pipeline.transaction import Transaction

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AllowList:
    """Entries that are neither are senders: they simply match nobody when they are no addresses."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._networks: list[Network] = []
        self._senders: set[str] = set()
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._senders.add(entry.strip().lower().removeprefix("@").removeprefix("."))
        self.after: tuple[str, ...] = ("dmarc",) if self._senders else ()

    def match(self, transaction: Transaction) -> str:
        """Which entry allows it, for people; "" when none does."""
        client = transaction.envelope.client
        if self._networks and client.ip is not None and client.facts_trusted:
            try:
                address = ipaddress.ip_address(client.ip)
            except ValueError:
                address = None
            if address is not None and any(address in network for network in self._networks):
                return client.ip
        return self._sender(transaction) if self._senders else ""

    def _sender(self, transaction: Transaction) -> str:
        outcomes = transaction.state.get("dmarc")
        boxes = transaction.message.from_addresses()
        if not isinstance(outcomes, list) or len(outcomes) != 1 or len(boxes) != 1:
            return ""
        outcome = outcomes[0]
        if not isinstance(outcome, Outcome) or not (outcome.spf_aligned or outcome.dkim_aligned):
            return ""
        address = boxes[0].address.lower()
        if address in self._senders:
            return address
        domain = address.rpartition("@")[2]
        while domain:
            if domain in self._senders:
                return domain
            domain = domain.partition(".")[2]
        return ""
