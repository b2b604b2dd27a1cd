"""A host made of plain values: for trying scripts, for tests, and for use of the language without a mail server.

Every field is an answer. ``environment`` also holds settings, under ``vnd.filterd.setting.`` (``setting()``
sets one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rules.context import SETTING_PREFIX

Execute = Callable[[str, Sequence[str], bytes], "tuple[int, bytes] | None"]


@dataclass(slots=True)
class SimpleHost:
    """Implements ``rules.host.Host``. ``mailboxes`` None: every mailbox exists."""

    moment: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    mailboxes: set[str] | None = None
    special_uses: dict[str, set[str]] = field(default_factory=dict)  # mailbox -> its uses
    mailbox_ids: set[str] = field(default_factory=set)
    annotations: dict[tuple[str | None, str], str] = field(default_factory=dict)
    remembered: set[bytes] = field(default_factory=set)
    lists: dict[str, set[str]] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)
    spam: tuple[float, float] | None = None
    virus: int | None = None
    addresses: Sequence[str] = ()
    scripts: dict[tuple[str, str], str] = field(default_factory=dict)
    run_program: Execute | None = None
    fetch: Callable[[str, str], str | None] | None = None  # further scripts to include, by location and name
    message_ids: int = 0

    def setting(self, name: str, value: str) -> None:
        """Sets a setting that the engine asks for."""
        self.items[SETTING_PREFIX + name] = value

    def now(self) -> datetime:
        """The moment that was set."""
        return self.moment

    def mailbox_exists(self, name: str) -> bool:
        """INBOX always exists."""
        return self.mailboxes is None or name.upper() == "INBOX" or name in self.mailboxes

    def special_use_exists(self, mailbox: str | None, uses: Sequence[str]) -> bool:
        """RFC 8579 section 3: without a mailbox, each use must be that of some mailbox."""
        wanted = {use.lower() for use in uses}
        if mailbox is not None:
            return wanted <= {use.lower() for use in self.special_uses.get(mailbox, ())}
        return wanted <= {use.lower() for every in self.special_uses.values() for use in every}

    def special_use_mailbox(self, use: str) -> str | None:
        """The first mailbox with this use."""
        for name, uses in self.special_uses.items():
            if use.lower() in {one.lower() for one in uses}:
                return name
        return None

    def mailbox_id_exists(self, mailbox_id: str) -> bool:
        """Is the id among the known ones?"""
        return mailbox_id in self.mailbox_ids

    def metadata(self, mailbox: str | None, name: str) -> str | None:
        """RFC 5464: names of annotations are compared without case."""
        return self.annotations.get((mailbox, name.lower()))

    def seen(self, key: bytes) -> bool:
        """Was the key remembered before the run?"""
        return key in self.remembered

    def list_contains(self, list_name: str, value: str) -> bool | None:
        """Members are compared without case."""
        members = self.lists.get(list_name)
        return None if members is None else value.lower() in {member.lower() for member in members}

    def environment(self, name: str) -> str | None:
        """An item, or a setting."""
        return self.items.get(name)

    def spam_status(self) -> tuple[float, float] | None:
        """(score, threshold)"""
        return self.spam

    def virus_status(self) -> int | None:
        """0 to 5"""
        return self.virus

    def own_addresses(self) -> Sequence[str]:
        """The account's addresses."""
        return self.addresses

    def include(self, location: str, name: str) -> str | None:
        """A script's text."""
        found = self.scripts.get((location, name))
        return self.fetch(location, name) if found is None and self.fetch is not None else found

    def execute(self, program: str, arguments: Sequence[str], data: bytes) -> tuple[int, bytes] | None:
        """Runs nothing unless told how."""
        return None if self.run_program is None else self.run_program(program, arguments, data)

    def new_message_id(self) -> str:
        """Counts up."""
        self.message_ids += 1
        return f"{self.message_ids}@localhost.invalid"
