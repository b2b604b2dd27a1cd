"""The simulated mailboxes and the outbox of a test: plain lists, nothing on any disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rules.mail.message import Message
from rules.result import is_inbox

INBOX = "INBOX"
_NAME_OCTETS = 255  # of one level of a mailbox's name


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a mailbox."""

    data: bytes
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on its way to one recipient; ``sender`` "" is the null reverse-path."""

    sender: str
    recipient: str
    data: bytes
    mail_params: Mapping[str, str] = field(default_factory=dict)
    rcpt_params: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class MailStore:
    """Mailboxes by name (hierarchy separator "."), each with its messages in order; annotations of RFC 5464."""

    mailboxes: dict[str, list[Stored]] = field(default_factory=lambda: {INBOX: []})
    annotations: dict[tuple[str | None, str], str] = field(default_factory=dict)
    special_uses: dict[str, str] = field(default_factory=dict)  # use in lower case -> mailbox
    ids: dict[str, str] = field(default_factory=dict)  # mailbox id -> mailbox

    def name(self, mailbox: str) -> str:
        """The name as the store has it: INBOX in capitals, also as the first level."""
        first, dot, rest = mailbox.partition(".")
        return INBOX + dot + rest if is_inbox(first) else mailbox

    def exists(self, mailbox: str) -> bool:
        """Is there such a mailbox?"""
        return self.name(mailbox) in self.mailboxes

    def create(self, mailbox: str) -> None:
        """Makes a mailbox; nothing happens when it is there."""
        self.mailboxes.setdefault(self.name(mailbox), [])

    def delete(self, mailbox: str) -> bool:
        """Removes a mailbox with its messages; False when there was none."""
        return self.mailboxes.pop(self.name(mailbox), None) is not None

    def store(self, mailbox: str, data: bytes, flags: Sequence[str]) -> None:
        """Appends a message to a mailbox that exists; the store itself notes whether it has attachments."""
        own = "$HasAttachment" if has_attachment(data) else "$HasNoAttachment"
        self.mailboxes[self.name(mailbox)].append(Stored(data, (*flags, own)))

    def message(self, mailbox: str, index: int) -> Stored | None:
        """A message by its place, from 0."""
        messages = self.mailboxes.get(self.name(mailbox), [])
        return messages[index] if index < len(messages) else None


def has_attachment(data: bytes) -> bool:
    """Does a message have a part that is not shown inline? (Dovecot's keywords $HasAttachment, $HasNoAttachment)"""
    stack = [Message(data).root]
    while stack:
        part = stack.pop()
        stack.extend(part.children)
        if part.is_multipart:
            continue
        given = part.disposition()
        if given is not None and given.value == "attachment":
            return True
        if part.ctype not in ("text", "message") and (given is None or given.value != "inline"):
            return True
    return False


def name_fault(mailbox: str) -> str | None:
    """Why a store would refuse to make a mailbox of this name; None when it would not."""
    levels = mailbox.split(".")
    if any(not level for level in levels):
        return "invalid mailbox name: it has an empty level"
    if any("/" in level or level in ("~",) for level in levels) or mailbox.startswith("~"):
        return "invalid mailbox name: it has a character that the store cannot keep"
    if any(len(level.encode("utf-8", "replace")) > _NAME_OCTETS for level in levels):
        return "invalid mailbox name: it is too long"
    return None
