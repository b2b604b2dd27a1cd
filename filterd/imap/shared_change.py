"""Changes in other people's mailboxes: flags, new messages, copies and moves (``shared``).

Specification: RFC 4314 4 and 5.1.1. Complete. A flag needs the right ``s`` (\\Seen), ``t`` (\\Deleted) or ``w`` (all others); those
that may not be set are left out, and a change that would change none is refused.

A move between two accounts copies, commits, and then takes the messages away from where they were. Whose expunge removes a message
has claimed it; a copy of a message that somebody else has taken meanwhile is removed again, so two movers never double it. A crash
between the copy and the claim, or a claim that fails half-way, leaves the message in both places, never in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from filterd.imap.sharing import Box, Place, refuse, rights_in
from filterd.store.acl import permitted, right_for
from filterd.store.acl_guests import both
from filterd.store.base import (
    DELETED,
    SYSTEM_FLAGS,
    AccountStore,
    Attempt,
    Copied,
    FlagChange,
    NewMessage,
    NoPermission,
    Row,
    Stored,
    StoreError,
)

if TYPE_CHECKING:
    from filterd.imap.shared import SharedStore

DELETED_FLAG = "\\Deleted"
_BLOCK = 200  # rows
_OCTETS = 32 * 1024 * 1024  # of texts that are copied together


def _is_seen(flag: str) -> bool:
    return right_for(flag) == "s"


# -- what the reader has seen ------------------------------------------------------------------------------------------------


def mark_seen(box: Box, inner: str, uids: Iterable[int], seen: bool) -> None:
    """Under both locks."""
    snapshot = box.guest.snapshot(inner)
    entry = box.seen_entry(snapshot.info)
    old = box.seen(snapshot.info)
    todo = [uid for uid in uids if old.has(uid) != seen]
    if todo:
        there = frozenset(snapshot.uids) if len(old.marks) > len(snapshot.uids) else old.marks
        new = old.changed(todo, seen, box.guest.advance(inner), there)
        box.own.set_metadata(None, entry, new.render())


# -- flags -------------------------------------------------------------------------------------------------------------------


def set_flags(
    me: str, box: Box, uids: Sequence[int], mode: str, flags: tuple[str, ...], unchanged_since: int | None
) -> FlagChange:
    wanted = permitted(flags, box.rights)
    if not (wanted if mode != "set" else box.rights & frozenset("stw")) and (flags or mode == "set"):
        raise NoPermission(f"no flags may be changed in {box.place.name}")
    inner = box.place.inner
    shared = [flag for flag in wanted if not _is_seen(flag)]
    with both(box.own, me, box.guest, box.place.owner):
        seen = box.seen()
        modseqs = {row.uid: seen.modseq(row.uid, row.modseq) for row in _rows(box.guest, inner, uids)}
        modified = [
            uid for uid, at in modseqs.items() if unchanged_since is not None and at > unchanged_since
        ]
        left = frozenset(modified)
        todo = [uid for uid in modseqs if uid not in left]
        if mode == "set":
            if others := _other_flags(box, shared):
                box.guest.set_flags(inner, todo, "remove", others)
        if shared:
            box.guest.set_flags(inner, todo, "remove" if mode == "remove" else "add", shared)
        if "s" in box.rights and (mode == "set" or any(map(_is_seen, flags))):
            mark_seen(box, inner, todo, any(map(_is_seen, flags)) if mode != "remove" else False)
        seen = box.seen()
        changed = tuple(
            (row.uid, seen.flags(row.uid, row.flags), seen.modseq(row.uid, row.modseq))
            for row in _rows(box.guest, inner, todo)
        )
    return FlagChange(changed, tuple(modified))


def _other_flags(box: Box, kept: Sequence[str]) -> list[str]:
    """What a STORE FLAGS takes away: of the flags that the reader may change, those he does not name. Never the owner's \\Seen."""
    keep = {flag.lower() for flag in kept}
    known = (*SYSTEM_FLAGS, *box.guest.snapshot(box.place.inner).keywords)
    return [f for f in permitted(known, box.rights) if not _is_seen(f) and f.lower() not in keep]


def _rows(store: AccountStore, mailbox: str, uids: Sequence[int]) -> Iterator[Row]:
    for start in range(0, len(uids), _BLOCK):
        yield from store.rows(mailbox, list(uids[start : start + _BLOCK]))


# -- new messages ------------------------------------------------------------------------------------------------------------


def append(
    me: str, box: Box, messages: Sequence[NewMessage], part_of: Attempt | None = None
) -> tuple[Stored, ...]:
    """Of several goes, whoever has begun them marks at their end what is \\Seen (``seen_copies``)."""
    kept = [
        replace(one, flags=tuple(f for f in permitted(one.flags, box.rights) if not _is_seen(f)))
        for one in messages
    ]
    stored = box.guest.append(box.place.inner, kept, part_of)
    if part_of is None:
        seen_copies(me, box, [any(map(_is_seen, one.flags)) for one in messages], [to.uid for to in stored])
    return tuple(replace(one, mailbox=box.place.name) for one in stored)


def seen_copies(me: str, box: Box, seen: Iterable[bool], uids: Iterable[int]) -> None:
    """The reader's own \\Seen of new messages, where he may set it."""
    mine = [uid for uid, is_seen in zip(uids, seen, strict=True) if is_seen] if "s" in box.rights else []
    if mine:
        with both(box.own, me, box.guest, box.place.owner):
            mark_seen(box, box.place.inner, mine, True)


# -- copies ------------------------------------------------------------------------------------------------------------------


def inside(me: str, box: Box, target: Place, uids: Sequence[int], *, move: bool) -> Copied:
    """From one mailbox of an account to another of the same: its store does it, in one piece."""
    rights = rights_in(box.guest, target.inner, me)
    if "i" not in rights:
        refuse(target.name, rights)
    seen = box.seen()
    transfer = box.guest.move if move else box.guest.copy
    copied = transfer(box.place.inner, uids, target.inner)
    at = Box(box.guest, box.own, target, rights)
    known = (*SYSTEM_FLAGS, *box.guest.snapshot(target.inner).keywords)
    refused = [flag for flag in known if not _is_seen(flag) and right_for(flag) not in rights]
    if refused and copied.uids:
        box.guest.set_flags(target.inner, copied.uids, "remove", refused)
    seen_copies(me, at, map(seen.has, copied.source_uids), copied.uids)
    return replace(copied, destination=at.info(copied.destination))


def copy(store: SharedStore, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
    """From one account to another, all or none, over a crash too (RFC 9051 6.4.7)."""
    store.require(mailbox, "r")
    store.require(destination, "i")
    info = store.info(destination)
    keywords = store.snapshot(mailbox).keywords
    sources: list[int] = []
    made: list[int] = []
    seen: list[bool] = []
    attempt = store.attempt_in(destination)
    try:
        for batch in _batches(store, mailbox, uids, (*SYSTEM_FLAGS, *keywords)):
            sources += [uid for uid, _ in batch]
            attempt.last = len(sources) >= len(uids)
            made += [one.uid for one in store.append(destination, [new for _, new in batch], attempt)]
            seen += [any(map(_is_seen, new.flags)) for _, new in batch]
        if not attempt.last:  # some were gone
            attempt.last = True
            made += [one.uid for one in store.append(destination, (), attempt)]
        if made and store.foreign(destination) and (place := store.place(destination)) is not None:
            with store.open(place, "i") as box:
                seen_copies(store.me, box, seen, made)
        attempt.end()
    except BaseException:
        remove(store, destination, made)
        with suppress(StoreError):
            attempt.end()
        raise
    return Copied(info, tuple(sources), tuple(made))


def _batches(
    store: SharedStore, mailbox: str, uids: Sequence[int], names: Sequence[str]
) -> Iterator[list[tuple[int, NewMessage]]]:
    batch: list[tuple[int, NewMessage]] = []
    octets = 0
    for start in range(0, len(uids), _BLOCK):
        for row in store.rows(mailbox, list(uids[start : start + _BLOCK])):
            text = store.read(mailbox, row.uid)
            if text is None:
                continue  # gone meanwhile
            flags = tuple(name for bit, name in enumerate(names) if row.flags >> bit & 1)
            batch.append((row.uid, NewMessage(text, flags, row.date)))
            octets += len(text)
            if octets >= _OCTETS:
                yield batch
                batch, octets = [], 0
    if batch:
        yield batch


def move(store: SharedStore, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
    """From one account to another. The caller has asked for the rights in the source."""
    copied = copy(store, mailbox, uids, destination)
    pairs = list(zip(copied.source_uids, copied.uids, strict=True))
    gone: set[int] = set()
    try:
        _remove(store, mailbox, copied.source_uids, gone)
    finally:
        if doubled := [uid for source, uid in pairs if source not in gone]:
            remove(store, destination, doubled)
    kept = [pair for pair in pairs if pair[0] in gone]
    return Copied(copied.destination, tuple(source for source, _ in kept), tuple(uid for _, uid in kept))


def remove(store: SharedStore, mailbox: str, uids: Sequence[int]) -> None:
    """Expunge these, whatever the reader's rights."""
    _remove(store, mailbox, uids, set())


def _remove(store: SharedStore, mailbox: str, uids: Sequence[int], gone: set[int]) -> None:
    """``gone``: those that this call removed, and those of which nobody knows because it failed."""
    with _account(store, mailbox) as (account, inner):
        for start in range(0, len(uids), _BLOCK):
            _claim(account, inner, uids[start : start + _BLOCK], gone)


def _claim(account: AccountStore, inner: str, uids: Sequence[int], gone: set[int]) -> None:
    """Nobody else may expunge what is marked only to be moved. What was \\Deleted before stays so when it cannot be claimed."""
    with account.hold():
        found = account.fields(inner, uids, ("flags",))
        marked = [int(uid) for uid, flags in found if not int(flags) & DELETED]
        try:
            account.set_flags(inner, marked, "add", (DELETED_FLAG,))
            try:
                gone.update(account.expunge(inner, uids))
            except BaseException:
                gone.update(uids)
                raise
        except BaseException:
            account.set_flags(inner, marked, "remove", (DELETED_FLAG,))
            raise


@contextmanager
def _account(store: SharedStore, mailbox: str) -> Iterator[tuple[AccountStore, str]]:
    place = store.place(mailbox)
    if place is None:
        yield store.own, mailbox
        return
    with store.sharing.guests.use(place.owner) as guest:
        yield guest, place.inner
