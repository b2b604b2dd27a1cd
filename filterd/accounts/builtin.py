"""The directory that comes with filterd: domains and aliases of the configuration, accounts of the database.

Order of a look-up in a domain of ours: alias (``filterd.accounts.aliases``), account or where its .forward leads, the same
without the subaddress, alias pattern, SRS return address, postmaster and abuse (RFC 5321 4.5.1, RFC 2142: somebody must read
them), catch-all, unknown. Everything is answered from memory; when the database or an alias file cannot be read, or a loop asks
while a thread reads it again, an address that was known stays known and any other is TryLater, never unknown.
An alias that leads back to an address already passed means the account of that name there (as in other mail systems),
so circles end; expansion is bounded by MAX_TARGETS and MAX_DEPTH.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from filterd.accounts import apppasswords
from filterd.accounts.aliases import Aliases
from filterd.accounts.aliasfile import Entry
from filterd.accounts.aside import Aside
from filterd.accounts.database import AccountDatabase, Record
from filterd.accounts.directory import (
    Account,
    Foreign,
    Forward,
    Local,
    Resolution,
    SrsReturn,
    Targets,
    ToOutlet,
    TryLater,
    Unknown,
)
from filterd.accounts.errors import AccountsUnavailable
from filterd.accounts.forwardfiles import ForwardFiles, Later
from filterd.accounts.names import fold, fold_domain, fold_local, split
from filterd.accounts.outlets import Outlet, Permits
from filterd.accounts.password import Passwords
from filterd.accounts.relayed import Recipients
from filterd.config.schema import Config, Domain
from filterd.proto.sasl_keys import ScramKeys, made_up

log = logging.getLogger("filterd.accounts")

MAX_TARGETS = 1000  # of one alias, expanded
MISSING_TOLD = 5  # members of an alias that are nobody, in one line of the log
MAX_DEPTH = 20  # aliases on the way to one target
DUTY_NAMES = frozenset({"postmaster", "abuse"})
SRS_PREFIXES = ("srs0=", "srs0+", "srs0-", "srs1=", "srs1+", "srs1-")

SrsVerifier = Callable[
    [str], str | None
]  # an address of ours -> whom it stands for, None when it is not genuine


@dataclass(frozen=True, slots=True)
class _Domain:
    name: str
    catch_all: str
    aliases: Aliases
    behind: Recipients | None = None  # its store is behind us, with these people


@dataclass(slots=True)
class _Expansion:
    """What was found on the way from one address."""

    local: dict[str, Local] = field(default_factory=dict)
    foreign: dict[str, Forward] = field(default_factory=dict)
    outlets: dict[Outlet, ToOutlet] = field(default_factory=dict)
    forwards: ForwardFiles | None = None
    unknown: str = ""
    later: str = ""
    missing: list[str] = field(default_factory=list)  # addresses of ours that lead nowhere
    whole: bool = True  # what the alias files say now was known before they were looked into

    @property
    def size(self) -> int:
        return len(self.local) + len(self.foreign) + len(self.outlets)


def _behind(domain: Domain, config: Config) -> Recipients | None:
    if domain.relay is None:
        return None
    return Recipients(domain.name, domain.recipients, config.accounts.subaddress)


def _aliases(domain: Domain, config: Config) -> Aliases:
    return Aliases(
        domain.name, domain.aliases, domain.alias_files, config.accounts.alias_includes, Permits.of(config)
    )


class BuiltinDirectory:
    """Implements ``filterd.accounts.directory.Directory``; safe to use from several threads."""

    def __init__(
        self,
        config: Config,
        database: AccountDatabase,
        passwords: Passwords,
        srs: SrsVerifier | None = None,
        secret: bytes = b"",
    ) -> None:
        """``secret``: the same in all processes, for what a name that is not there is answered (SCRAM)."""
        self._domains = {
            domain.name: _Domain(
                domain.name, domain.catch_all, _aliases(domain, config), _behind(domain, config)
            )
            for domain in config.domain
        }
        self._first = config.domain[0].name if config.domain else ""
        self._quota = config.accounts.quota
        self._subaddress = config.accounts.subaddress
        self._forwards = (
            ForwardFiles(
                self._first,
                config.accounts.forward.path,
                includes=config.accounts.forward.includes,
                permits=Permits.of(config),
            )
            if config.accounts.forward.enabled
            else None
        )
        self._srs_domain = fold_domain(config.srs.domain) or self._first
        self._database = database
        self._passwords = passwords
        self._srs = srs
        self._secret = secret
        self._told: set[str] = set()
        # Made once for each state of the accounts and aliases; a loop gets those of the last state meanwhile.
        self._complete: tuple[object, bool] = (None, False)
        self._own: dict[str, list[str]] = {}
        self._owned_for: tuple[Mapping[str, Record] | None, list[int]] | None = None
        self._completeness = Aside("scram", self._complete_changed, self._make_complete)
        self._ownership = Aside("own addresses", self._own_changed, self._make_own)

    # -- addresses ----------------------------------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        return self._forwards is not None

    def lookup(self, address: str) -> Resolution:
        return self._lookup(address, self._forwards)

    def _lookup(self, address: str, forwards: ForwardFiles | None) -> Resolution:
        """``forwards`` None: whose the address is, wherever he has his mail sent."""
        local, domain = split(address.strip())
        if not domain:
            if (
                fold_local(local) != "postmaster"
            ):  # RFC 5321 4.1.1.3: only <postmaster> may come without a domain
                return Unknown("an address needs a domain")
            domain = self._first
        name = fold_domain(domain)
        if name not in self._domains:
            return Foreign(address.strip())
        records, fresh = self._records()
        if records is None:
            return TryLater("the accounts cannot be read")
        if (
            self._domains[name].behind is not None
        ):  # everybody may be there: return addresses are ours all the same
            back = self._srs_return(local, name)
            if back is not None:
                return back
        found = _Expansion(forwards=forwards)
        key = f"{fold_local(local)}@{name}"
        self._expand(local, name, (), found, records)
        asked = found.foreign.get(key)
        if asked is not None and asked.relayed:
            # no alias: the local part goes on as it was written (RFC 5321 2.4)
            written = address.strip().rpartition("@")[0] or local
            found.foreign[key] = replace(asked, address=f"{written}@{name}")
        if not found.size and not found.later:
            back = self._srs_return(local, name)
            if back is not None:
                return back
            self._fall_back(fold_local(local), name, found, records)
        return self._answer(found, fresh, address)

    def _answer(self, found: _Expansion, fresh: bool, address: str) -> Resolution:
        if found.later:
            return TryLater(found.later)
        away: tuple[Forward | ToOutlet, ...] = (*found.foreign.values(), *found.outlets.values())
        targets: tuple[Local | Forward | ToOutlet, ...] = (*found.local.values(), *away)
        if not targets and not fresh:
            return TryLater("the accounts cannot be read")
        if not targets and not found.whole:
            return TryLater("an alias file has lines that are not understood, or is being read again")
        if not targets:
            return Unknown(found.unknown or "no such user here")
        if found.missing:
            self._tell_missing(address, found.missing)
        return targets[0] if len(targets) == 1 else Targets(targets)

    def _tell_missing(self, address: str, missing: Sequence[str]) -> None:
        """Nobody else is told: the others get it. Once a list."""
        told = f"{fold(address)}: {', '.join(missing[:MISSING_TOLD])}"
        if told not in self._told and len(self._told) < MAX_TARGETS:
            self._told.add(told)
            log.warning("nobody here has the address of a member of an alias; %s", told)

    def _expand(
        self, local: str, domain: str, via: tuple[str, ...], found: _Expansion, records: Mapping[str, Record]
    ) -> None:
        """Follow one address of ours, depth first; ``via`` are the aliases passed so far."""
        waiting: list[tuple[str, str, str, tuple[str, ...]]] = [(local, domain, "", via)]
        steps = 0
        while waiting:
            local, domain, detail, via = waiting.pop()
            steps += 1
            if len(via) > MAX_DEPTH or steps + len(waiting) + len(found.outlets) > MAX_TARGETS:
                found.later = "an alias leads to too many addresses"
                return
            if domain not in self._domains:
                address = f"{local}@{domain}"
                found.foreign.setdefault(address.lower(), Forward(address, via))
                continue
            written, local = local, fold_local(local)
            aliases = self._domains[domain].aliases
            if not aliases.whole:
                found.whole = False
                if not aliases.ready:
                    found.later = "the aliases cannot be read"
                    return
            name, rest, entry = self._candidate(local, domain, records, written)
            detail = rest or detail
            address = f"{name}@{domain}"
            if entry is not None and entry.refused and address not in via:
                found.unknown = entry.refused
                continue
            targets = entry.targets if entry is not None and address not in via else None
            behind = self._domains[domain].behind
            if targets is None and behind is not None:
                self._relayed(behind, f"{name}{self._subaddress}{rest}" if rest else name, domain, via, found)
                continue
            if targets is None:
                record = records.get(address)
                entry = self._forwarded(record, via, found)
                if entry is None:
                    self._account(record, address, detail, via, found)
                    continue
                targets = entry.targets
            for outlet in entry.outlets if entry is not None else ():
                found.outlets.setdefault(outlet, ToOutlet(outlet, (*via, address)))
            for target in reversed(targets):
                target_local, target_domain = split(target)
                waiting.append((target_local, fold_domain(target_domain), detail, (*via, address)))

    @staticmethod
    def _forwarded(record: Record | None, via: tuple[str, ...], found: _Expansion) -> Entry | None:
        """What the account's .forward says; one that leads back to itself means the mailbox, as with aliases."""
        files = found.forwards
        if files is None or record is None or not record.enabled or record.id in via:
            return None
        local, domain = split(record.id)
        if domain != files.domain:
            return None
        try:
            entry = files.find(local)
        except Later:
            found.later = "a forward file cannot be read"
            return Entry((), "")
        return entry if entry is not None and not entry.refused else None

    def forward_of(self, account_id: str) -> Entry | None:
        """What stands in an account's .forward, followed or not."""
        local, domain = split(account_id)
        if self._forwards is None or domain != self._forwards.domain:
            return None
        try:
            return self._forwards.find(local)
        except Later:
            return None

    def _candidate(
        self, local: str, domain: str, records: Mapping[str, Record], written: str = ""
    ) -> tuple[str, str, Entry | None]:
        """(name, detail, alias): the address as it is when something is there, else without its subaddress.
        ``written``: not folded."""
        aliases = self._domains[domain].aliases
        entry = aliases.find(local, written)
        if entry is not None or f"{local}@{domain}" in records:
            return local, "", entry
        base, separator, detail = local.partition(self._subaddress) if self._subaddress else (local, "", "")
        if separator and base:
            entry = aliases.find(base, written.partition(self._subaddress)[0])
            if entry is not None or f"{base}@{domain}" in records:
                return base, detail, entry
        entry = aliases.pattern(local)
        if entry is not None or not (separator and base):
            return local, "", entry
        return base, detail, aliases.pattern(base)

    def missing(self, address: str) -> list[str]:
        """Members of an alias that are nobody here: who sends to it is not told of them."""
        local, domain = split(address)
        records, _ = self._records()
        found = _Expansion(forwards=self._forwards)
        if records is not None and fold_domain(domain) in self._domains:
            self._expand(local, fold_domain(domain), (), found, records)
        return found.missing if found.size else []

    def alias_of(self, address: str) -> Entry | None:
        """The alias that stands for this address of ours, as ``via`` names it; None for accounts and catch-alls."""
        local, domain = split(address)
        known = self._domains.get(fold_domain(domain))
        records, _ = self._records()
        if known is None or records is None:
            return None
        entry = self._candidate(fold_local(local), known.name, records)[2]
        return entry if entry is not None else self.forward_of(f"{fold_local(local)}@{known.name}")

    def _account(
        self, record: Record | None, address: str, detail: str, via: tuple[str, ...], found: _Expansion
    ) -> None:
        if record is None:
            if address not in found.missing:
                found.missing.append(address)
            return
        if not record.enabled:
            found.unknown = "mailbox disabled"
            return
        found.local.setdefault(record.id, Local(self._as_account(record), detail, via))

    @staticmethod
    def _relayed(
        behind: Recipients, local: str, domain: str, via: tuple[str, ...], found: _Expansion
    ) -> None:
        known = behind.knows(local)
        if known:
            address = f"{local}@{domain}"
            found.foreign.setdefault(address, Forward(address, via, relayed=True))
        elif known is None:
            found.later = "the recipients of the domain cannot be read"

    def _srs_return(self, local: str, domain: str) -> Resolution | None:
        if self._srs is None or domain != self._srs_domain or not local.lower().startswith(SRS_PREFIXES):
            return None
        original = self._srs(f"{local}@{domain}")
        return SrsReturn(original) if original else Unknown("not a return address of ours")

    def _fall_back(self, local: str, domain: str, found: _Expansion, records: Mapping[str, Record]) -> None:
        """Catch-all, then somebody for postmaster and abuse."""
        asked = f"{local}@{domain}"
        entry = self._domains[domain].aliases.everybody(local)
        catch_all = entry.targets if entry is not None else (self._domains[domain].catch_all,)
        for target in catch_all if not found.unknown else ():
            if not target or found.later:
                continue
            target_local, target_domain = split(target)
            self._expand(target_local, fold_domain(target_domain), (asked,), found, records)
        if any(catch_all):
            found.local = {
                key: Local(hit.account, hit.detail, hit.via, catch_all=True)
                for key, hit in found.local.items()
            }
        base = local.partition(self._subaddress)[0] if self._subaddress else local
        if base in DUTY_NAMES and not found.size and not found.later:
            enabled = [record for record in records.values() if record.enabled]
            in_domain = [record for record in enabled if record.id.endswith(f"@{domain}")]
            for record in (in_domain or enabled)[:1]:
                found.local[record.id] = Local(self._as_account(record), "", (asked,))

    # -- accounts -----------------------------------------------------------------------------------------------------

    def account(self, account_id: str) -> Account | None:
        """Raises AccountsUnavailable when the database was never read."""
        record = self._all().get(fold(account_id))
        return self._as_account(record) if record else None

    def accounts(self) -> Sequence[Account]:
        return tuple(self._as_account(record) for record in self._all().values())

    def authenticate(self, login: str, password: str) -> Account | None:
        """Raises AccountsUnavailable when the database was never read."""
        record = self._all().get(fold(login))
        if record is not None and record.enabled and record.apps and apppasswords.fits(record.apps, password):
            return self._as_account(record)
        good = self._passwords.verify(record.password if record and record.password else None, password)
        if not (good and record and record.enabled):
            return None
        if self._passwords.scram(record.password) is None:
            self._improve(record, password)
        return self._as_account(record)

    def _improve(self, record: Record, password: str) -> None:
        """An account of an older version gets what SCRAM needs; when that fails the next log-in tries again."""
        try:
            self._database.improve(
                record.id, record.password, self._passwords.completed(record.password, password)
            )
        except AccountsUnavailable as error:
            log.warning("the SCRAM keys of %s could not be written: %s", record.id, error)

    def scram(self, login: str) -> ScramKeys:
        """SCRAM's keys of an account that may log in so, else made-up ones. From memory."""
        records, _ = self._records()
        record = (records or {}).get(fold(login))
        usable = record is not None and record.enabled
        return (self._passwords.scram(record.password) if record is not None and usable else None) or made_up(
            self._secret, fold(login)
        )

    def scram_offered(self) -> bool:
        """Can everybody who has a password log in by SCRAM? Programs that prefer it do not try another way afterwards."""
        self._completeness.fresh(wait=self._complete[0] is None)
        return self._complete[1]

    def _complete_changed(self) -> bool:
        return self._complete[0] is not self._records()[0]

    def _make_complete(self) -> None:
        records, _ = self._records()
        complete = records is not None and all(
            self._passwords.scram(record.password) is not None
            for record in records.values()
            if record.password and record.enabled
        )
        self._complete = (records, complete)

    def may_send_as(self, account: Account, address: str) -> bool:
        if not split(address)[1]:
            return False
        if fold(address) == account.id:  # wherever its mail goes
            return True
        found = self._lookup(address, None)
        targets = found.targets if isinstance(found, Targets) else (found,)
        return any(
            (isinstance(target, Local) and target.account.id == account.id and not target.catch_all)
            or (isinstance(target, Forward) and target.relayed and self._base(target.address) == account.id)
            for target in targets
        )

    def _base(self, address: str) -> str:
        """Folded, without its subaddress."""
        local, domain = split(address)
        base = local.partition(self._subaddress)[0] if self._subaddress else local
        return fold(f"{base or local}@{domain}")

    def sendable_addresses(self, account: Account) -> Sequence[str]:
        return (account.id, *(alias for alias in self._aliases() if self.may_send_as(account, alias)))

    def own_addresses(self, account: Account) -> Sequence[str]:
        self._ownership.fresh(wait=self._owned_for is None)
        return (account.id, *self._own.get(account.id, ()))

    def _state(self) -> tuple[Mapping[str, Record] | None, list[int]]:
        """Of the accounts and aliases."""
        aliases = [number for domain in self._domains.values() for number in domain.aliases.state]
        return self._records()[0], aliases

    def _own_changed(self) -> bool:
        records, aliases = self._state()
        return self._owned_for is None or self._owned_for[0] is not records or self._owned_for[1] != aliases

    def _make_own(self) -> None:
        state, own = self._state(), dict[str, list[str]]()
        for alias in self._aliases():
            found = self._lookup(alias, None)
            if isinstance(found, Local) and not found.catch_all:
                own.setdefault(found.account.id, []).append(alias)
        self._own = own
        self._owned_for = state

    def _aliases(self) -> list[str]:
        return [
            f"{name}@{domain.name}" for domain in self._domains.values() for name in domain.aliases.names()
        ]

    def _all(self) -> Mapping[str, Record]:
        records, _ = self._records()
        if records is None:
            raise AccountsUnavailable("the accounts cannot be read")
        return records

    def _records(self) -> tuple[Mapping[str, Record] | None, bool]:
        """(rows, True when they are today's)."""
        try:
            return self._database.records(), True
        except AccountsUnavailable:
            return self._database.last_known(), False

    def _as_account(self, record: Record) -> Account:
        quota = self._quota if record.quota is None else record.quota
        return Account(record.id, record.name, quota, record.enabled)
