"""Admission: who may have one more connection, decided at accept, before TLS and before any task (RELIABILITY 7).

Invariants: one network (an IPv4 address, an IPv6 /64) never holds more than ``per_address`` places, so flooding from one
costs the others nothing; when all places are taken, the oldest connection that has not settled (not logged in, no
MAIL yet) gives up its place. ``per_address`` is counted over all processes of a server (``filterd.board``); ``total`` is what one
process serves, since it guards that process's memory and only it can cut its own newcomers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from filterd.board import Desk

LOCAL = ""  # the key of unix sockets: trusted by file mode, counted in the total only


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    total: int = 4000
    per_address: int = 100


class Ticket:
    """One admitted connection. ``settle`` when it has shown what it is; ``release`` when it is over (any number of times).

    The connection sets ``evict`` (cut it at once, to take the place back) and ``stop`` (say good-bye and close); the
    listener sets ``gone`` (told once, at the release). ``client`` is (address, port) as a proxy told it in place of the socket's
    peer, ``told`` says which; ``unknown``: it came by a proxy that could not tell.
    """

    __slots__ = ("_admission", "client", "evict", "gone", "key", "stop", "told", "unknown")

    def __init__(self, admission: Admission, key: str) -> None:
        self._admission: Admission | None = admission
        self.key = key
        self.evict: Callable[[], None] | None = None
        self.gone: Callable[[], None] | None = None
        self.stop: Callable[[], None] | None = None
        self.client: tuple[str, int] | None = None
        self.told = ""
        self.unknown = False

    def introduce(self, client: tuple[str, int] | None, told: str) -> None:
        """What a proxy told about the connection; ``client`` None: whose it is is not known."""
        self.client, self.told, self.unknown = client, told, client is None

    def settle(self) -> None:
        if self._admission is not None:
            self._admission.newcomers.pop(self, None)

    def release(self) -> None:
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.release(self)
            if self.gone is not None:
                self.gone()


class Admission:
    """The places of one listener or of several that share them."""

    def __init__(self, limits: AdmissionLimits, desk: Desk | None = None) -> None:
        """``desk``: where the counts of the server's other processes are."""
        self.limits = limits
        self._desk = desk
        self.total = 0
        self.by_key: dict[str, int] = {}
        self.tickets: set[Ticket] = set()
        self.newcomers: dict[Ticket, None] = {}  # in order of arrival
        self.refused = 0

    def admit(self, ip: str | None) -> Ticket | None:
        """A place for a client at ``ip`` (None: unix socket), or None: refuse it now."""
        key = network_key(ip)
        if key != LOCAL and self._held(key) >= self.limits.per_address:
            self.refused += 1
            return None
        if self.total >= self.limits.total and not self._make_room():
            self.refused += 1
            return None
        self.total += 1
        self._count(key)
        ticket = Ticket(self, key)
        self.newcomers[ticket] = None
        self.tickets.add(ticket)
        return ticket

    def readmit(self, ticket: Ticket, ip: str) -> bool:
        """The place is a client's at ``ip``, as a proxy has told; False: that network has enough of them."""
        key = network_key(ip)
        if ticket not in self.tickets or self._held(key) >= self.limits.per_address:
            self.refused += 1
            return False
        self._uncount(ticket.key)
        ticket.key = key
        self._count(key)
        return True

    def release(self, ticket: Ticket) -> None:
        self.newcomers.pop(ticket, None)
        self.tickets.discard(ticket)
        self.total -= 1
        self._uncount(ticket.key)

    def _held(self, key: str) -> int:
        """Connections of this network, to whichever process."""
        held = self.by_key.get(key, 0)
        return held if self._desk is None else max(held, self._desk.connections(key))

    def _count(self, key: str) -> None:
        self.by_key[key] = self.by_key.get(key, 0) + 1
        if self._desk is not None and key != LOCAL:
            self._desk.count(key, 1)

    def _uncount(self, key: str) -> None:
        if self._desk is not None and key != LOCAL:
            self._desk.count(key, -1)
        left = self.by_key[key] - 1
        if left:
            self.by_key[key] = left
        else:
            del self.by_key[key]

    def shut_down(self) -> None:
        """Ask every connection to end between two commands; those that do not listen are cut by the loop's end."""
        for ticket in list(self.tickets):
            if ticket.stop is not None:
                ticket.stop()

    def _make_room(self) -> bool:
        victim = next(iter(self.newcomers), None)
        if victim is None:
            return False
        victim.release()
        if victim.evict is not None:
            victim.evict()
        return True


def network_key(ip: str | None) -> str:
    """What counts as one client: the IPv4 address, the IPv6 /64 (every host there can take 2^64 addresses)."""
    if ip is None:
        return LOCAL
    if ":" not in ip:
        return ip
    try:
        address = ipaddress.IPv6Address(ip.partition("%")[0])
    except ValueError:
        return ip
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def plain_ip(peername: object) -> tuple[str | None, int]:
    """(address, port) of a socket's peer name; IPv4 in IPv6 unwrapped, scope dropped; (None, 0) for unix sockets."""
    if not isinstance(peername, tuple) or len(peername) < 2 or not isinstance(peername[0], str):
        return None, 0
    ip = peername[0].partition("%")[0]
    if ip.startswith("::ffff:") and "." in ip:
        ip = ip[7:]
    port = peername[1]
    return ip, port if isinstance(port, int) else 0
