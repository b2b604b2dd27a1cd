"""What one message asks of the connection it leaves by, and the hops that can give it.

Specification: RFC 8689. A message with REQUIRETLS leaves only to a host that proves who it is and offers REQUIRETLS: every
exchanger of the domain is asked before it comes back (4.2.1). One whose header says ``TLS-Required: No`` goes whatever the
recipient's domain has published (DANE, MTA-STS; 4.1, 5); what our own configuration demands stays. REQUIRETLS makes that field
void (3).

Invariants: a connection opened with fewer demands never carries mail that did not ask for it; a host that could not be
reached may be the one that offers REQUIRETLS, so such mail waits while there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from filterd.queue.link import Link
from filterd.queue.outbound import Connector
from filterd.queue.replies import RemoteReply
from filterd.queue.route import Hop
from filterd.queue.rows import TLS_REQUIRED, Item
from rules.mail.header import HeaderBlock

REQUIRETLS = "REQUIRETLS"


class Need(IntEnum):
    """In the order in which they are served: where LOOSE cannot be met nothing can, and STRICT's connection is good for all."""

    LOOSE = 0  # TLS-Required: No
    STRICT = 1  # REQUIRETLS
    PLAIN = 2


class Unfit(RemoteReply):
    """Some host talked, and others would take other mail: this says nothing about the destination."""


def need_of(item: Item) -> Need:
    """A report goes all the same (RFC 8689 5), so it is never strict."""
    if REQUIRETLS in item.params:
        return Need.STRICT if item.reverse_path else Need.PLAIN
    return Need.LOOSE if item.params.get(TLS_REQUIRED) == "no" else Need.PLAIN


def wishes(header: HeaderBlock, params: Mapping[str, str]) -> dict[str, str]:
    """What a row has to remember of the field: ``TLS-Required: No``, once and without REQUIRETLS (RFC 8689 3)."""
    said = header.get_all(b"tls-required")
    if REQUIRETLS in params or len(said) != 1 or said[0].strip().lower() != b"no":
        return {}
    return {TLS_REQUIRED: "no"}


def fits(link: Link, need: Need) -> bool:
    """May mail with this need leave by a connection that was opened with every demand?"""
    if need is not Need.STRICT or link.talk.lmtp:
        return True
    return link.talk.proven and REQUIRETLS in link.talk.features


async def strict(connector: Connector, hops: Sequence[Hop]) -> Link | RemoteReply:
    """The first hop that offers REQUIRETLS and proves who it is. Where none does but all have talked: one that talked, whose
    conversation then says why it will not do; where some did not talk: a temporary reply."""
    other: Link | None = None
    unreached: RemoteReply | None = None
    unfit: set[str] = set()
    for hop in hops:
        if hop.name and hop.name in unfit:  # another address of a host that does not know it
            continue
        found = await connector.first([hop])
        if isinstance(found, RemoteReply):
            unreached = found
        elif fits(found, Need.STRICT):
            if other is not None:
                await other.close()
            found.transcript[:0] = [
                f"* {name} does not offer REQUIRETLS or cannot prove who it is" for name in sorted(unfit)
            ]
            return found
        else:
            unfit.add(hop.name)
            if other is None:
                other = found
            else:
                await found.close()
    if unreached is None:
        return other or RemoteReply(451, ("4.4.1 no host could be reached",))
    if other is None:
        return unreached
    await other.close()
    return Unfit(unreached.code, unreached.lines)
