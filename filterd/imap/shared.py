"""A reader's view of everything he may see: his own account, and other people's mailboxes under their names (``sharing``).

This is the account store that commands are given where sharing is on, so no command can forget to ask for rights: each method asks
for those that RFC 4314 section 4 wants. Flags that a reader may not change are left as they are; \\Seen is the reader's own
(``shared_seen``). What changes messages is in ``shared_change``.

Made once a session; ``enter`` gives it the account of the step. Of a mailbox that is not still looked up in memory it knows
nothing at once (``NotReady``): other people's are opened in the pool only.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from filterd.imap import shared_change
from filterd.imap.notify import INDEX
from filterd.imap.shared_seen import Seen
from filterd.imap.sharing import Box, Place, Sharing, opened, refuse, rights_in
from filterd.store.acl import ALL, ENTRY
from filterd.store.acl_guests import both
from filterd.store.acl_shares import change, note
from filterd.store.base import (
    SEPARATOR,
    AccountStore,
    Attempt,
    BadName,
    Changes,
    Copied,
    Facts,
    Field,
    FlagChange,
    HeaderTexts,
    MailboxInfo,
    NewMessage,
    NoSuchMailbox,
    Quota,
    Row,
    SieveState,
    Snapshot,
    Status,
    Stored,
    TextHits,
)
from filterd.store.ready import NotReady

KNOWN_PLACES = 2_000
_SHARED = "/shared"
_SCRIPTS = (
    "/shared/imapsieve"  # which of the owner's scripts run (RFC 6785): for who may change the rights, too
)


class SharedStore(AccountStore):
    """One session's."""

    def __init__(self, sharing: Sharing, me: str) -> None:
        self.sharing = sharing
        self.me = me
        self.prefixes = sharing.prefixes(me)
        self._at_once = False
        self._own: AccountStore | None = None
        self._places: dict[str, tuple[str, str]] = {}  # name -> (account, mailbox), of those that were found
        self._statuses: dict[str, tuple[Status, Status]] = {}  # likewise: (the owner's, the reader's)
        self._last: tuple[Snapshot, Snapshot] | None = None  # (the owner's, the reader's)
        self._seen: tuple[str | None, Seen] = (None, Seen())  # of the mailbox that was looked at last

    def enter(self, own: AccountStore, at_once: bool = False) -> SharedStore:
        self._own = own
        self._at_once = at_once
        return self

    @property
    def own(self) -> AccountStore:
        assert self._own is not None, "between two steps"
        return self._own

    # -- whose is it ----------------------------------------------------------------------------------------------
    def place(self, name: str) -> Place | None:
        """None: a name of one's own. Raises NoSuchMailbox for a name of others that means nothing."""
        if not name.startswith(self.prefixes):
            return None
        if self._at_once:
            raise NotReady(name)
        if name not in self._places:  # no mailbox of one's own is made by a name that is another's
            with contextlib.suppress(NoSuchMailbox):
                self.own.info(name)
                return None
        place = self.sharing.place(self.me, name)
        if place is None:
            raise NoSuchMailbox(f"no mailbox {name}")
        if len(self._places) >= KNOWN_PLACES:
            self._places.clear()
        self._places[place.name] = (place.owner, place.inner)
        return place

    def foreign(self, name: str) -> bool:
        """Does the name belong to the others' namespaces?"""
        return name.startswith(self.prefixes)

    def place_of(self, name: str) -> tuple[str, str]:
        """Account and mailbox whose changes concern this name."""
        return self._places.get(name, (self.me, name))

    def open(self, place: Place, need: str) -> contextlib.AbstractContextManager[Box]:
        return opened(self.sharing, self.own, self.me, place, need, self._parsed)

    def _parsed(self, text: str | None) -> Seen:
        """It is asked for with every block of rows, and may be long."""
        if text != self._seen[0]:
            self._seen = (text, Seen.parse(text))
        return self._seen[1]

    # -- rights ---------------------------------------------------------------------------------------------------
    def rights(self, mailbox: str) -> frozenset[str]:
        """Raises NoSuchMailbox when there are none."""
        place = self.place(mailbox)
        if place is None:
            self.own.info(mailbox)
            return ALL
        with self.open(place, "") as box:
            return box.rights

    def require(self, mailbox: str, need: str) -> None:
        """Before the first of several changes."""
        place = self.place(mailbox)
        if place is not None:
            with self.open(place, need):
                pass

    @contextlib.contextmanager
    def administered(self, mailbox: str) -> Iterator[tuple[AccountStore, str, str]]:
        """The account, its mailbox and its owner, when the reader may see and change who has which rights."""
        place = self.place(mailbox)
        if place is None:
            yield self.own, self.own.info(mailbox).name, self.me
            return
        with self.open(place, "a") as box:
            yield box.guest, place.inner, place.owner

    def change_acl(self, mailbox: str, name: str, mode: str, rights: frozenset[str], most: int) -> bool:
        """Durable. False: the list would have more than ``most`` entries."""
        with self.administered(mailbox) as (store, inner, owner):
            return change(self.sharing.shares, owner, store, inner, (name, mode, rights), most)

    # -- mailboxes ------------------------------------------------------------------------------------------------
    def mailboxes(self) -> tuple[MailboxInfo, ...]:
        found = self.own.mailboxes()
        if self._at_once:
            raise NotReady("others")
        taken = {info.name for info in found}
        subscribed = frozenset(self.own.subscriptions())
        shared: list[MailboxInfo] = []
        for owner, prefix in self.sharing.owners(self.me):
            with contextlib.suppress(NoSuchMailbox), self.sharing.guests.use(owner) as guest:
                for info in guest.mailboxes():
                    name = prefix + info.name
                    if name not in taken and "l" in rights_in(guest, info.name, self.me):
                        shared.append(MailboxInfo(info.id, name, info.uidvalidity, "", name in subscribed))
        return (*found, *sorted(shared, key=lambda info: info.name))

    def info(self, mailbox: str) -> MailboxInfo:
        """Any right will do: whoever may only append must be able to."""
        place = self.place(mailbox)
        if place is None:
            return self.own.info(mailbox)
        with self.open(place, "") as box:
            return box.info(box.guest.info(place.inner), place.name in self.own.subscriptions())

    def create(self, mailbox: str, special_use: str = "") -> MailboxInfo:
        """A new mailbox has the list of the one above it."""
        if not self.foreign(mailbox):
            return _create(self.own, mailbox, special_use)
        place = self._place_or_none(mailbox)
        if place is None:
            refuse(mailbox, ALL)
        if special_use:
            raise BadName("special uses are one's own")
        with self.sharing.guests.use(place.owner) as guest:
            self._require_creator(guest, place)
            made = _create(guest, place.inner, "")
            return Box(guest, self.own, place, ALL).info(made)

    def _place_or_none(self, mailbox: str) -> Place | None:
        with contextlib.suppress(NoSuchMailbox):
            return self.place(mailbox)
        return None

    def _require_creator(self, guest: AccountStore, place: Place) -> None:
        """RFC 4314 4: the right ``k`` in what is above; the answer does not tell what there is."""
        above = _above(guest, place.inner)
        if above is None or "k" not in rights_in(guest, above, self.me):
            refuse(place.name, ALL)

    def delete(self, mailbox: str) -> None:
        place = self.place(mailbox)
        if place is None:
            self.own.delete(mailbox)
            note(self.sharing.shares, self.me, self.own)
            return
        with self.open(place, "x") as box:
            box.guest.delete(place.inner)

    def rename(self, old: str, new: str) -> None:
        """Inside one account; RFC 4314 4: ``x`` in all that is moved, ``k`` in what will be above it."""
        source = self.place(old)
        target = self._place_or_none(new) if self.foreign(new) else None
        if source is None and not self.foreign(new):
            self.own.rename(old, new)
            return
        if source is not None:
            self.require(old, "x")
        if source is None or target is None or source.owner != target.owner or source.inner == "INBOX":
            raise BadName("not from one account to another")
        with self.open(source, "x") as box:
            self._require_creator(box.guest, target)
            for info in box.guest.mailboxes():
                if info.name.startswith(source.inner + SEPARATOR):
                    if "x" not in rights_in(box.guest, info.name, self.me):
                        refuse(old, ALL)
            box.guest.rename(source.inner, target.inner)

    def subscribe(self, mailbox: str, on: bool) -> None:
        self.own.subscribe(mailbox, on)

    def subscriptions(self) -> tuple[str, ...]:
        return self.own.subscriptions()

    def status(self, mailbox: str) -> Status:
        place = self.place(mailbox)
        if place is None:
            return self.own.status(mailbox)
        with self.open(place, "r") as box:
            inner = box.guest.status(place.inner)
            last = self._statuses.get(place.name)
            if last is not None and last[0] == inner:  # what he has seen has no modseq but a new one
                return last[1]
            with both(self.own, self.me, box.guest, place.owner):
                inner = box.guest.status(place.inner)
                snapshot = box.guest.snapshot(place.inner)
                shown = replace(inner, recent=0, unseen=box.seen(snapshot.info).unseen(snapshot))
            if len(self._statuses) >= KNOWN_PLACES:
                self._statuses.clear()
            self._statuses[place.name] = (inner, shown)
            return shown

    # -- reading --------------------------------------------------------------------------------------------------
    def snapshot(self, mailbox: str) -> Snapshot:
        place = self.place(mailbox)
        if place is None:
            return self.own.snapshot(mailbox)
        with self.open(place, "r") as box:
            inner = box.guest.snapshot(place.inner)
            last = self._last
            if last is not None and _same(last[0], inner) and last[1].info.name == place.name:
                return last[1]
            # Under both locks: a modseq was given out for a change of what is seen that is not written yet.
            with both(self.own, self.me, box.guest, place.owner):
                inner = box.guest.snapshot(place.inner)
                seen = box.seen(inner.info)
            info = box.info(inner.info, place.name in self.own.subscriptions())
            flags = array("Q", map(seen.flags, inner.uids, inner.flags))
            shown = replace(inner, info=info, flags=flags)
            self._last = (inner, shown)
            return shown

    def changes(self, mailbox: str, since_modseq: int) -> Changes:
        place = self.place(mailbox)
        if place is None:
            return self.own.changes(mailbox, since_modseq)
        with self.open(place, "r") as box:
            found = box.guest.changes(place.inner, since_modseq)
            return _overlaid(found, box, since_modseq)

    def rows(self, mailbox: str, uids: Sequence[int], cold: bool = False) -> list[Row]:
        place = self.place(mailbox)
        if place is None:
            return self.own.rows(mailbox, uids, cold)
        with self.open(place, "r") as box:
            seen = box.seen()
            rows = box.guest.rows(place.inner, uids, cold)
            for row in rows:
                row.flags, row.modseq = seen.flags(row.uid, row.flags), seen.modseq(row.uid, row.modseq)
                row.trace = row.decision = ""  # how it came to the owner is told to him alone
            return rows

    def fields(self, mailbox: str, uids: Sequence[int], wanted: Sequence[str]) -> list[tuple[Field, ...]]:
        place = self.place(mailbox)
        if place is None:
            return self.own.fields(mailbox, uids, wanted)
        with self.open(place, "r") as box:
            rows = box.guest.fields(place.inner, uids, wanted)
            if not {"flags", "modseq", "trace", "decision"} & set(wanted):
                return rows
            seen = box.seen()
            return [(row[0], *_fields(seen, row, wanted)) for row in rows]

    def read(self, mailbox: str, uid: int) -> bytes | None:
        place = self.place(mailbox)
        if place is None:
            return self.own.read(mailbox, uid)
        with self.open(place, "r") as box:
            return box.guest.read(place.inner, uid)

    def read_many(self, mailbox: str, uids: Sequence[int], octets: int) -> list[bytes | None]:
        place = self.place(mailbox)
        if place is None:
            return self.own.read_many(mailbox, uids, octets)
        with self.open(place, "r") as box:
            return box.guest.read_many(place.inner, uids, octets)

    def text_candidates(self, mailbox: str, needle: str, uids: Sequence[int]) -> Sequence[int] | None:
        place = self.place(mailbox)
        if place is None:
            return self.own.text_candidates(mailbox, needle, uids)
        with self.open(place, "r") as box:
            return box.guest.text_candidates(place.inner, needle, uids)

    def text_hits(self, mailbox: str, needle: str, header: bool, uids: Sequence[int]) -> TextHits | None:
        place = self.place(mailbox)
        if place is None:
            return self.own.text_hits(mailbox, needle, header, uids)
        with self.open(place, "r") as box:
            return box.guest.text_hits(place.inner, needle, header, uids)

    def facts(self, snapshot: Snapshot) -> Facts | None:
        place = self.place(snapshot.info.name)
        if place is None:
            return self.own.facts(snapshot)
        with self.open(place, "r") as box:
            return box.guest.facts(_inner(snapshot, place))

    def header_texts(self, snapshot: Snapshot, name: bytes) -> HeaderTexts | None:
        place = self.place(snapshot.info.name)
        if place is None:
            return self.own.header_texts(snapshot, name)
        with self.open(place, "r") as box:
            return box.guest.header_texts(_inner(snapshot, place), name)

    def uidls(self, mailbox: str) -> Mapping[int, str]:
        return self.own.uidls(mailbox)

    # -- writing --------------------------------------------------------------------------------------------------
    def deliver(self, mailbox: str, message: NewMessage, state: SieveState | None = None) -> Stored:
        return self.own.deliver(mailbox, message, state)

    def append(
        self, mailbox: str, messages: Sequence[NewMessage], part_of: Attempt | None = None
    ) -> tuple[Stored, ...]:
        place = self.place(mailbox)
        if place is None:
            return self.own.append(mailbox, messages, part_of)
        with self.open(place, "i") as box:
            return shared_change.append(self.me, box, messages, part_of)

    def attempt(self) -> Attempt:
        return self.own.attempt()

    def attempt_in(self, mailbox: str) -> Attempt:
        place = self.place(mailbox)
        if place is None:
            return self.own.attempt()
        with self.open(place, "i") as box:
            return box.guest.attempt()

    def set_flags(
        self,
        mailbox: str,
        uids: Sequence[int],
        mode: str,
        flags: Iterable[str],
        unchanged_since: int | None = None,
    ) -> FlagChange:
        place = self.place(mailbox)
        if place is None:
            return self.own.set_flags(mailbox, uids, mode, flags, unchanged_since)
        with self.open(place, "r") as box:
            return shared_change.set_flags(self.me, box, uids, mode, tuple(flags), unchanged_since)

    def copy(self, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
        source, target = self.place(mailbox), self.place(destination)
        if source is None and target is None:
            return self.own.copy(mailbox, uids, destination)
        if source is not None and target is not None and source.owner == target.owner:
            with self.open(source, "r") as box:
                return shared_change.inside(self.me, box, target, uids, move=False)
        return shared_change.copy(self, mailbox, uids, destination)

    def move(self, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
        source, target = self.place(mailbox), self.place(destination)
        if source is None and target is None:
            return self.own.move(mailbox, uids, destination)
        self.require(mailbox, "rte")
        if source is not None and target is not None and source.owner == target.owner:
            with self.open(source, "rte") as box:
                return shared_change.inside(self.me, box, target, uids, move=True)
        return shared_change.move(self, mailbox, uids, destination)

    def expunge(self, mailbox: str, uids: Sequence[int] | None = None) -> tuple[int, ...]:
        place = self.place(mailbox)
        if place is None:
            return self.own.expunge(mailbox, uids)
        with self.open(place, "e") as box:
            return box.guest.expunge(place.inner, uids)

    def advance(self, mailbox: str) -> int:
        return self.own.advance(mailbox)

    def hold(self) -> contextlib.AbstractContextManager[None]:
        return self.own.hold()

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        self.own.acknowledge(keys)

    def delivered(self, mailbox: str, key: bytes) -> bool:
        return self.own.delivered(mailbox, key)

    # -- what else belongs to the account -----------------------------------------------------------------------------
    def remembered(self, key: bytes, now: float) -> bool:
        return self.own.remembered(key, now)

    def remember(self, state: SieveState) -> None:
        self.own.remember(state)

    def get_metadata(self, mailbox: str | None, name: str) -> str | None:
        """RFC 5464 3.3: shared entries for those who may read; private ones are each reader's own."""
        place = None if mailbox is None else self.place(mailbox)
        if place is None:
            return self.own.get_metadata(mailbox, name)
        with self.open(place, "lr") as box:
            mine = self.own.get_metadata(None, _private(box, name))
            if name == INDEX:
                return _join(_split(box.guest.get_metadata(place.inner, name))[0], _split(mine)[1])
            return box.guest.get_metadata(place.inner, name) if name.startswith(_SHARED) else mine

    def set_metadata(self, mailbox: str | None, name: str, value: str | None) -> None:
        """RFC 5464 3.3: shared entries need the right ``w``."""
        place = None if mailbox is None else self.place(mailbox)
        if place is None:
            self.own.set_metadata(mailbox, name, value)
            return
        with self.open(place, "lr") as box:
            private = _private(box, name)
            if name == INDEX:
                shared, mine = _split(value)
                old, theirs = _split(box.guest.get_metadata(place.inner, name))
                self.own.set_metadata(None, private, _join(mine))
                if old != shared:
                    box.require("w")
                    box.guest.set_metadata(place.inner, name, _join(shared, theirs))
            elif name.startswith(_SHARED):
                box.require("wa" if name.startswith(_SCRIPTS) else "w")
                box.guest.set_metadata(place.inner, name, value)
            else:
                self.own.set_metadata(None, private, value)

    def quota(self) -> Quota:
        return self.own.quota()

    def close(self) -> None:
        """Nothing is held open."""


def _same(old: Snapshot, new: Snapshot) -> bool:
    return (
        old.uids is new.uids
        and (old.modseq, old.uidnext, old.keywords, old.info)
        == (new.modseq, new.uidnext, new.keywords, new.info)
        and old.flags is new.flags
    )


def _inner(snapshot: Snapshot, place: Place) -> Snapshot:
    return replace(snapshot, info=replace(snapshot.info, name=place.inner))


def _fields(seen: Seen, row: tuple[Field, ...], wanted: Sequence[str]) -> Iterator[Field]:
    uid = row[0]
    assert isinstance(uid, int)
    for name, value in zip(wanted, row[1:], strict=True):
        if name == "flags" and isinstance(value, int):
            yield seen.flags(uid, value)
        elif name == "modseq" and isinstance(value, int):
            yield seen.modseq(uid, value)
        else:
            yield "" if name in ("trace", "decision") else value


def _overlaid(found: Changes, box: Box, since: int) -> Changes:
    """With what the reader has seen since."""
    seen = box.seen()
    flags = {uid: (uid, seen.flags(uid, mask), seen.modseq(uid, at)) for uid, mask, at in found.flags}
    new = {uid for uid, _ in found.appended}
    also = [
        uid
        for uid, (_, at) in sorted(seen.marks.items())
        if at > since and uid not in flags and uid not in new
    ]
    for start in range(0, len(also), 1_000):
        for row in box.guest.rows(box.place.inner, also[start : start + 1_000]):
            flags[row.uid] = (row.uid, seen.flags(row.uid, row.flags), seen.modseq(row.uid, row.modseq))
    return replace(
        found,
        modseq=max(found.modseq, seen.highest),
        flags=tuple(flags[uid] for uid in sorted(flags)),
        appended=tuple((uid, seen.flags(uid, mask)) for uid, mask in found.appended),
    )


def _above(store: AccountStore, mailbox: str) -> str | None:
    """The nearest mailbox above that there is."""
    there = {info.name for info in store.mailboxes()}
    while SEPARATOR in mailbox:
        mailbox = mailbox.rpartition(SEPARATOR)[0]
        if mailbox in there:
            return mailbox
    return None


def _create(store: AccountStore, mailbox: str, special_use: str) -> MailboxInfo:
    above = _above(store, mailbox) if SEPARATOR in mailbox else None
    given = store.get_metadata(above, ENTRY) if above is not None else None
    before = {info.name for info in store.mailboxes()} if given else frozenset()
    made = store.create(mailbox, special_use)
    if given and above is not None:
        for info in store.mailboxes():
            if info.name not in before and (made.name + SEPARATOR).startswith(info.name + SEPARATOR):
                store.set_metadata(info.name, ENTRY, given)
    return made


def _private(box: Box, name: str) -> str:
    return f"/.private/{box.guest.info(box.place.inner).id}{name}"


def _split(index: str | None) -> tuple[list[str], list[str]]:
    """Names of entries: (shared, private)."""
    known = [name for name in (index or "").split("\n") if name]
    return [n for n in known if n.startswith(_SHARED)], [n for n in known if not n.startswith(_SHARED)]


def _join(*parts: list[str]) -> str | None:
    return "\n".join(sorted(name for part in parts for name in part)) or None
