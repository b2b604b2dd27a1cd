"""What a session wants to hear of without asking, and what has happened since it was told last.

Specification: RFC 5465. Complete but for AnnotationChange (no annotations of messages here) and access rights.

Before the first NOTIFY a session hears of its selected mailbox as ever. Afterwards: of the selected mailbox what a SELECTED or
SELECTED-DELAYED group names (``Selected``), of the others what their first matching group names (``Group``).

A change notice says only "look at that mailbox" ("" is the account: names, subscriptions, metadata). ``news`` then compares what
the store has with what the client was told: notices may be late, doubled, or gathered while the session was busy, and nothing is
told twice or missed. So nothing can overflow but the number of mailboxes, which ``limits.notify_mailboxes`` bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.imap import acl, names
from filterd.imap.boxes import Boxes
from filterd.imap.errors import Fatal
from filterd.imap.fetch import Plan
from filterd.imap.watching import follow
from filterd.imap.work import IdleWork, Sink
from filterd.store.base import AccountStore, MailboxInfo, NoSuchMailbox, Status, StoreError

if TYPE_CHECKING:
    from filterd.imap.session import Session

MESSAGE_NEW, MESSAGE_EXPUNGE, FLAG_CHANGE = b"MESSAGENEW", b"MESSAGEEXPUNGE", b"FLAGCHANGE"
MAILBOX_NAME, SUBSCRIPTION = b"MAILBOXNAME", b"SUBSCRIPTIONCHANGE"
MAILBOX_METADATA, SERVER_METADATA = b"MAILBOXMETADATACHANGE", b"SERVERMETADATACHANGE"
ACCOUNT = ""  # a notice about no single mailbox
INDEX = "/.names"  # where ext.metadata keeps the names of a mailbox's entries
_NO_EVENTS: frozenset[bytes] = frozenset()
OVERFLOW = b"* OK [NOTIFICATIONOVERFLOW] Too many mailboxes: notifications are off\r\n"


@dataclass(frozen=True, slots=True)
class Group:
    boxes: Boxes
    events: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Selected:
    """``plan``: what is fetched of new messages."""

    delayed: bool
    events: frozenset[bytes]
    plan: Plan | None = None

    @property
    def quiet(self) -> bool:
        return MESSAGE_NEW not in self.events


class Notify:
    """One session's NOTIFY. Used by one step or by the loop at a time."""

    __slots__ = ("_metadata", "_names", "_statuses", "_subscribed", "groups", "selected", "stale")

    def __init__(self, groups: tuple[Group, ...], selected: Selected | None) -> None:
        self.groups = groups
        self.selected = selected
        self.stale = False  # the mailboxes to be watched are others now
        self._names: dict[str, str] = {}  # mailbox id -> name
        self._subscribed: frozenset[str] = frozenset()
        self._statuses: dict[str, Status] = {}  # mailbox id -> as told
        self._metadata: dict[
            str, dict[str, int]
        ] = {}  # mailbox id, "" of the server -> entry -> hash of its value

    # -- what applies to a mailbox ------------------------------------------------------------------------------------
    def events_of(self, name: str, subscribed: bool) -> frozenset[bytes]:
        """RFC 5465 6: the first group that has the mailbox decides."""
        for group in self.groups:
            if group.boxes.has(name, subscribed):
                return group.events
        return _NO_EVENTS

    def _wants(self, event: bytes, name: str) -> bool:
        return event in self.events_of(name, name in self._subscribed)

    def _any(self, event: bytes) -> bool:
        return any(event in group.events for group in self.groups)

    def watched(self, selected: str | None) -> tuple[str, ...]:
        """Names of the mailboxes whose notices matter."""
        found = {name for name in self._names.values() if self._wants(MESSAGE_NEW, name)}
        if self.selected is not None and selected is not None:
            found.add(selected)
        return (ACCOUNT, *sorted(found))

    # -- the beginning ------------------------------------------------------------------------------------------------
    def begin(self, store: AccountStore, limit: int) -> list[MailboxInfo] | None:
        """Notes what there is; the mailboxes whose messages are followed, None when they are too many."""
        infos = store.mailboxes()
        self._names = {info.id: info.name for info in infos}
        self._subscribed = frozenset(store.subscriptions())
        found = [info for info in infos if self._wants(MESSAGE_NEW, info.name)]
        if len(found) > limit:
            return None
        self._metadata = dict(self._read_metadata(store))
        return found

    def note(self, session: Session, store: AccountStore, info: MailboxInfo, tell: bool) -> Iterator[bytes]:
        """The mailbox as it is now; ``tell``: NOTIFY SET STATUS."""
        status = store.status(info.name)
        self._statuses[info.id] = status
        if tell:
            yield _status(session, info.name, status)

    # -- news -----------------------------------------------------------------------------------------------------------
    def news(self, session: Session, store: AccountStore, dirty: frozenset[str]) -> Iterator[bytes]:
        """Everything that is to be told after notices about these mailboxes."""
        view = session.view
        if ACCOUNT in dirty:
            yield from self._tree(session, store)
            if self.stale and len(self.watched(None)) > session.config.limits.notify_mailboxes + 1:
                yield OVERFLOW
                session.set_notify(Notify((), None))
                return
        if view is not None and view.mailbox in dirty and self.selected is not None:
            expunge = not self.selected.delayed or session.idling
            yield from follow(session, store, expunge=expunge)
        for mid, name in self._names.items():
            if name in dirty:
                yield from self._messages(session, store, mid, name)

    def _messages(self, session: Session, store: AccountStore, mid: str, name: str) -> Iterator[bytes]:
        events = self.events_of(name, name in self._subscribed)
        if MESSAGE_NEW not in events:
            return
        try:
            new = store.status(name)
        except NoSuchMailbox:
            self._statuses.pop(mid, None)
            return
        old = self._statuses.get(mid)
        self._statuses[mid] = new
        here = session.view is not None and session.view.mailbox_id == mid
        if (here and self.selected is not None) or old is None or old == new:
            return
        messages = (new.messages, new.uidnext, new.uidvalidity) != (
            old.messages,
            old.uidnext,
            old.uidvalidity,
        )
        if messages or (FLAG_CHANGE in events and new.highestmodseq != old.highestmodseq):
            yield _status(session, name, new)

    # -- names, subscriptions, metadata -----------------------------------------------------------------------------------
    def _tree(self, session: Session, store: AccountStore) -> Iterator[bytes]:
        infos = store.mailboxes()
        before, old = self._subscribed, self._names
        subscribed = frozenset(store.subscriptions())
        new = {info.id: info.name for info in infos}
        if new != old or subscribed != before:
            self.stale = True
        self._names, self._subscribed = new, before | subscribed  # a SUBSCRIBED group covers both
        there = set(new.values())
        told: set[str] = set()
        for mid, name in old.items():
            if mid not in new and name not in there and self._wants(MAILBOX_NAME, name):
                told.add(name)
                yield _list(session, name, b"\\NonExistent", name in subscribed)
        for mid, name in new.items():
            was = old.get(mid)
            if was == name:
                continue
            if was is None and self._wants(MESSAGE_NEW, name):
                with suppress(NoSuchMailbox):
                    self._statuses[mid] = store.status(name)
            if self._wants(MAILBOX_NAME, name) or (was is not None and self._wants(MAILBOX_NAME, was)):
                told.add(name)
                yield _list(session, name, b"", name in subscribed, was)
        for name in sorted(before ^ subscribed):
            if name not in told and self._wants(SUBSCRIPTION, name):
                yield _list(session, name, b"" if name in there else b"\\NonExistent", name in subscribed)
        self._subscribed = subscribed
        yield from self._entries(session, store)

    def _entries(self, session: Session, store: AccountStore) -> Iterator[bytes]:
        now = dict(self._read_metadata(store))
        utf8 = session.utf8 or session.rev2
        for mid, entries in now.items():
            old = self._metadata.get(mid, {})
            changed = sorted(
                name for name in entries.keys() | old.keys() if entries.get(name) != old.get(name)
            )
            if changed:
                # RFC 5464 4.4.2: the names alone.
                box = names.encode(self._names.get(mid, ""), utf8)
                yield b"* METADATA %b %b\r\n" % (box, " ".join(changed).encode())
        self._metadata = now

    def _read_metadata(self, store: AccountStore) -> Iterator[tuple[str, dict[str, int]]]:
        if self._any(SERVER_METADATA):
            yield "", _entries_of(store, None)
        if self._any(MAILBOX_METADATA):
            for mid, name in self._names.items():
                if self._wants(MAILBOX_METADATA, name):
                    try:
                        yield mid, _entries_of(store, name)
                    except NoSuchMailbox:
                        continue


def _entries_of(store: AccountStore, mailbox: str | None) -> dict[str, int]:
    known = filter(None, (store.get_metadata(mailbox, INDEX) or "").split("\n"))
    # A name comes before its value and goes behind it: between the two there is nothing to tell.
    found = ((name, store.get_metadata(mailbox, name)) for name in known)
    return {name: hash(value) for name, value in found if value is not None}


def _status(session: Session, name: str, status: Status) -> bytes:
    box = names.encode(name, session.utf8 or session.rev2)
    return b"* STATUS %b (MESSAGES %d UIDNEXT %d UIDVALIDITY %d UNSEEN %d HIGHESTMODSEQ %d)\r\n" % (
        box,
        status.messages,
        status.uidnext,
        status.uidvalidity,
        status.unseen,
        status.highestmodseq,
    )


def _list(session: Session, name: str, attribute: bytes, subscribed: bool, old: str | None = None) -> bytes:
    utf8 = session.utf8 or session.rev2
    shown = b" ".join(filter(None, (attribute, b"\\Subscribed" if subscribed else b"")))
    extra = b"" if old is None else b' ("OLDNAME" (%b))' % names.encode(old, utf8)
    return b'* LIST (%b) "/" %b%b\r\n' % (shown, names.encode(name, utf8), extra)


class NotifyWork(IdleWork):
    """A look at what the notices were about, between two commands."""

    __slots__ = ("_dirty",)

    def __init__(self, session: Session, dirty: frozenset[str]) -> None:
        super().__init__(session)
        self.quick = False
        self._dirty = dirty

    def step(self, store: AccountStore, sink: Sink | None = None) -> list[bytes]:
        self.done = True
        session = self._session
        notify = session.notify
        if notify is None:
            return []
        news: list[bytes] = []
        try:
            for line in notify.news(session, acl.stored(session, store), self._dirty):
                news.append(line)
        except Fatal as error:
            self.fatal = True
            news.append(b"* BYE %b\r\n" % error.text.encode("ascii", "replace"))
        except StoreError:
            pass  # what was not told is told after the next notice
        return news if sink is None or not news else sink.write(news)
