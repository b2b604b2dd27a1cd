"""The answers a Sieve script gets: one ``AccountHost`` a recipient and run.

Facts of the store (mailboxes, remembered ids, metadata) need the account's index. Most scripts never ask for them, so a
script first runs on the loop without a store; when it asked all the same, ``needed_store`` is set, the run's result is
thrown away and the script runs again in the account's job, where the store is at hand. Answers stay the same in one run.

A client that lost our reply sends again what is already remembered. The script must then act as it did at first, or a copy goes
where duplicates go. So beside each id that is new stands a mark of the delivery that brought it, until the client acknowledges;
to this delivery the id is still unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import make_msgid
from pathlib import Path
from typing import Protocol

from filterd.scripts import global_script
from filterd.store.base import MailboxInfo
from filterd.store.delivery import fingerprint
from rules.host import Host

LIST_PREFIX = "/private/vendor/filterd/list/"  # server annotations that hold an account's lists


def _same_name(one: str, other: str) -> bool:
    """RFC 9051 5.1: only INBOX has no case."""
    return one == other or one.upper() == other.upper() == "INBOX"


def _no_script(_name: str) -> str | None:
    return None


def _never(_mark: bytes) -> bool:
    return False


class AccountFacts(Protocol):
    """What a script may ask of the account's store."""

    def mailboxes(self) -> tuple[MailboxInfo, ...]: ...

    def remembered(self, key: bytes, now: float) -> bool: ...

    def get_metadata(self, mailbox: str | None, name: str) -> str | None: ...


@dataclass(slots=True)
class AccountHost(Host):
    """``environment_items`` and ``own`` are facts of the message and the account; ``included`` gives script texts."""

    at: float
    hostname: str
    environment_items: Mapping[str, str]
    own: Sequence[str]
    personal: Callable[[str], str | None] = _no_script
    global_dir: Path | None = None
    spam: tuple[float, float] | None = None
    virus: int | None = None
    store: AccountFacts | None = None
    needed_store: bool = False
    offers_programs: bool = False  # there is a service for them
    needed_program: bool = False  # asked for where nobody may wait: run again where one may
    programs: Callable[[str, Sequence[str], bytes], tuple[int, bytes] | None] | None = None
    delivery: Callable[[], bytes] | None = (
        None  # a key of this message for this account; None: nobody will send it again
    )
    retry: Callable[[bytes], bool] = _never  # may this mark be that of a reply which was lost?
    _seen: dict[bytes, bool] = field(default_factory=dict)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC).astimezone()

    def mailbox_exists(self, name: str) -> bool:
        return any(_same_name(info.name, name) for info in self._mailboxes())

    def special_use_exists(self, mailbox: str | None, uses: Sequence[str]) -> bool:
        wanted = {use.lower() for use in uses}
        have = {
            info.special_use.lower()
            for info in self._mailboxes()
            if mailbox is None or _same_name(info.name, mailbox)
        }
        return bool(have) and wanted <= have

    def special_use_mailbox(self, use: str) -> str | None:
        for info in self._mailboxes():
            if info.special_use.lower() == use.lower():
                return info.name
        return None

    def mailbox_id_exists(self, mailbox_id: str) -> bool:
        return any(info.id == mailbox_id for info in self._mailboxes())

    def metadata(self, mailbox: str | None, name: str) -> str | None:
        if self.store is None:
            self.needed_store = True
            return None
        return self.store.get_metadata(mailbox, name)

    def seen(self, key: bytes) -> bool:
        if key not in self._seen:
            if self.store is None:
                self.needed_store = True
                return False
            known = self.store.remembered(key, self.at)
            if known and self.delivery is not None:
                mark = self._mark(key)
                known = not (self.store.remembered(fingerprint(mark), self.at) and self.retry(mark))
            self._seen[key] = known
        return self._seen[key]

    def marks(self, remember: Iterable[bytes]) -> tuple[bytes, ...]:
        """The marks of those keys that were new to this run, as delivery keys to be acknowledged."""
        if self.delivery is None:
            return ()
        return tuple(self._mark(key) for key in remember if self._seen.get(key) is False)

    def _mark(self, key: bytes) -> bytes:
        assert self.delivery is not None
        return hashlib.blake2b(key, key=self.delivery(), digest_size=16).digest()

    def list_contains(self, list_name: str, value: str) -> bool | None:
        if self.store is None:
            self.needed_store = True
            return None
        members = self.store.get_metadata(None, LIST_PREFIX + list_name)
        if members is None:
            return None
        return value.strip().lower() in members.lower().split("\n")

    def environment(self, name: str) -> str | None:
        return self.environment_items.get(name)

    def spam_status(self) -> tuple[float, float] | None:
        return self.spam

    def virus_status(self) -> int | None:
        return self.virus

    def own_addresses(self) -> Sequence[str]:
        return self.own

    def include(self, location: str, name: str) -> str | None:
        if location == "personal":
            return self.personal(name)
        return global_script(self.global_dir, name)

    def execute(self, program: str, arguments: Sequence[str], data: bytes) -> tuple[int, bytes] | None:
        if self.programs is None:
            self.needed_program = self.offers_programs
            return None
        return self.programs(program, arguments, data)

    def new_message_id(self) -> str:
        return make_msgid(domain=self.hostname).strip("<>")

    def _mailboxes(self) -> Sequence[MailboxInfo]:
        if self.store is None:
            self.needed_store = True
            return ()
        return self.store.mailboxes()
