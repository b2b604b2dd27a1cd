"""The directory's contract: what an address leads to. A failure to look up is a value (TryLater), never 'unknown'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from filterd.accounts.outlets import Outlet


@dataclass(frozen=True, slots=True)
class Account:
    """``id`` is the full address in lower case and the log-in name; ``quota`` octets, 0 = none."""

    id: str
    name: str = ""
    quota: int = 0
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Local:
    """Delivered here. ``detail`` is the subaddress; ``via`` the aliases passed, first asked for first;
    ``catch_all`` when only the domain's catch-all led here (vacation then stays silent)."""

    account: Account
    detail: str = ""
    via: tuple[str, ...] = ()
    catch_all: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """Leaves: sent to ``address`` elsewhere because an alias says so; ``relayed``: to the store behind us that the domain's mail
    is in."""

    address: str
    via: tuple[str, ...] = ()
    relayed: bool = False


@dataclass(frozen=True, slots=True)
class ToOutlet:
    """Given to a program or put into a file, because an alias or a .forward says so."""

    outlet: Outlet
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Targets:
    """An alias or group expanded and de-duplicated: all of these."""

    targets: tuple[Local | Forward | ToOutlet, ...]


@dataclass(frozen=True, slots=True)
class Foreign:
    """Not a domain of ours: only authenticated clients may send there."""

    address: str


@dataclass(frozen=True, slots=True)
class SrsReturn:
    """An SRS address of ours, verified: the mail goes back to ``address`` (null reverse-path only)."""

    address: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A domain of ours, nobody there."""

    reason: str = "no such user here"


@dataclass(frozen=True, slots=True)
class TryLater:
    reason: str


Resolution = Local | Forward | ToOutlet | Targets | Foreign | SrsReturn | Unknown | TryLater


class Directory(Protocol):
    """Blocking where it must be (a disk, a network): asked through the pool; ``lookup`` answers from memory when it can."""

    @property
    def waits(self) -> bool:
        """May ``lookup`` wait for a disk? Then a loop asks by ``filterd.accounts.beside``."""
        ...

    def lookup(self, address: str) -> Resolution:
        """``address`` without brackets; postmaster (no domain) leads to the first domain's postmaster."""
        ...

    def account(self, account_id: str) -> Account | None: ...

    def accounts(self) -> Sequence[Account]: ...

    def authenticate(self, login: str, password: str) -> Account | None:
        """Constant work for known and unknown log-ins; None for wrong or disabled. CPU-heavy: only in the pool."""
        ...

    def may_send_as(self, account: Account, address: str) -> bool:
        """Own address, subaddresses, aliases that lead to the account."""
        ...

    def sendable_addresses(self, account: Account) -> Sequence[str]: ...

    def own_addresses(self, account: Account) -> Sequence[str]:
        """Addresses by which people know the account: itself and aliases to it, not catch-all, not groups."""
        ...
