"""One session's view of its selected mailbox: which message is number 7, and what the client has been told.

Specification: RFC 9051 5.2, 5.5, 7.5; RFC 7162 3.2 (VANISHED, MODSEQ).

The arrays are the store's shared snapshot, held by reference. Only while messages are gone that the client may not be told
of yet (no EXPUNGE during FETCH, STORE, SEARCH and their kin without UID) the view keeps arrays of its own, in which those
messages still have their numbers.

Invariants: ``uids`` is ascending and ``flags`` runs beside it; a number, once told, moves only by an EXPUNGE/VANISHED that
this file wrote; ``snapshot`` is the newest state whose flags and messages the client knows of.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from filterd.imap import numset
from filterd.imap.ascending import flags_of, joined, missing
from filterd.imap.errors import Fatal
from filterd.imap.flags import FlagTable
from filterd.store.acl import ALL, permitted
from filterd.store.acl import read_only as read_only_with
from filterd.store.base import (
    MAX_KEYWORDS,
    SYSTEM_FLAGS,
    AccountStore,
    Changes,
    FlagChange,
    NoPermission,
    NoSuchMailbox,
    Snapshot,
)

if TYPE_CHECKING:
    from filterd.imap.watching import Watching

_KNOWN_LIMIT = 100_000  # flag changes told by this session itself and remembered until the next refresh


class View:
    __slots__ = (
        "_own",
        "_silent",
        "_told",
        "flags",
        "gone",
        "mailbox",
        "mailbox_id",
        "read_only",
        "rights",
        "snapshot",
        "table",
        "uids",
        "watching",
    )

    def __init__(self, snapshot: Snapshot, read_only: bool, rights: frozenset[str] = ALL) -> None:
        self.mailbox = snapshot.info.name
        self.mailbox_id = snapshot.info.id
        self.read_only = read_only or read_only_with(rights)
        self.rights = rights
        self.snapshot = snapshot
        self.uids: array[int] = snapshot.uids
        self.flags: array[int] = snapshot.flags
        self.gone: set[int] = set()
        self.table = FlagTable(snapshot.keywords)
        self._told: dict[int, int] = {}
        self._own: set[int] = set()  # modseqs that were given out for nothing else than what was told
        self._silent = False  # messages have come that the client did not want to hear of
        self.watching: Watching | None = None

    # -- numbers ------------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.uids)

    def number_of(self, uid: int) -> int:
        """The message's number, 0 when the view has no such UID."""
        at = bisect_left(self.uids, uid)
        return at + 1 if at < len(self.uids) and self.uids[at] == uid else 0

    def numbers_of(self, uids: Sequence[int]) -> Sequence[int]:
        """Numbers of UIDs (ascending)."""
        first = self.number_of(uids[0]) if uids else 0
        if first and self.number_of(uids[-1]) - first + 1 == len(uids):
            return range(first, first + len(uids))
        return [self.number_of(uid) for uid in uids]

    def told(self, change: FlagChange) -> None:
        """The client has been (or need not be) told of this: do not tell it again."""
        if len(self._told) < _KNOWN_LIMIT:
            made = frozenset(change.made)
            self._told.update([(uid, modseq) for uid, _, modseq in change.changed if modseq not in made])
            self._own.update(made)
        if self.watching:
            self.watching.changed([uid for uid, _, _ in change.changed])

    def still(self, store: AccountStore) -> bool:
        """The client knows the newest state; ``refresh`` would have nothing to tell. May raise NotReady."""
        return not self.gone and not self._silent and store.snapshot(self.mailbox) is self.snapshot

    # -- following the store ------------------------------------------------------------------------------------
    def refresh(
        self,
        store: AccountStore,
        *,
        expunge: bool,
        style: Style,
        fresh: bool = False,
        heard: set[int] | None = None,
    ) -> Iterator[bytes]:
        """Untagged responses that bring the client up to date; EXPUNGE only when ``expunge``. ``fresh``: the store was
        looked at a moment ago, in the same step. ``heard`` gets the UIDs whose flags are told."""
        if not fresh:
            new = self._newest(store)
            if new.modseq != self.snapshot.modseq or len(new.uids) != len(self.snapshot.uids):
                if style.quiet:
                    before = len(self.uids)
                    for line in self._follow(store, new, style):
                        if line.startswith(b"* FLAGS"):  # of the rest the client does not want to hear
                            yield line
                    self._silent |= len(self.uids) > before
                else:
                    yield from self._follow(store, new, style, heard)
        if self._silent and not style.quiet:
            self._silent = False
            yield b"* %d EXISTS\r\n" % len(self.uids)
        if expunge and self.gone and not style.quiet:
            if self.watching:
                yield from self.watching.leaving(self, sorted(self.gone))
            yield from self._tell_expunged(style)

    def _newest(self, store: AccountStore) -> Snapshot:
        try:
            new = store.snapshot(self.mailbox)
        except NoSuchMailbox:
            new = self._renamed(store)
        if new.info.id != self.mailbox_id or new.info.uidvalidity != self.snapshot.info.uidvalidity:
            raise Fatal("The selected mailbox was deleted")
        return new

    def _renamed(self, store: AccountStore) -> Snapshot:
        for info in store.mailboxes():
            if info.id == self.mailbox_id:
                self.mailbox = info.name
                try:
                    return store.snapshot(info.name)
                except NoPermission:
                    raise Fatal("The right to read the selected mailbox was taken away") from None
        raise Fatal("The selected mailbox was deleted")

    def _follow(
        self, store: AccountStore, new: Snapshot, style: Style, heard: set[int] | None = None
    ) -> Iterator[bytes]:
        old = self.snapshot
        changes = self._changes(store, new)
        first_new = bisect_left(new.uids, old.uidnext)
        arrived = len(new.uids) - first_new
        lost: set[int] = set()
        if first_new != len(old.uids):
            lost = missing(old.uids, new.uids[:first_new])
        before = len(self.uids)
        yield from self.learn_keywords(new.keywords)
        self.gone |= lost
        self.snapshot = new
        self._lay_out(new)
        if arrived:
            yield b"* %d EXISTS\r\n" % (before + arrived)
        if changes.complete:
            changed: Iterable[tuple[int, int, int]] = changes.flags
        else:
            changed = _compare(old, new)
        if self.watching:
            changed = list(changed)
            self.watching.changed([uid for uid, _, _ in changed])
            self.watching.came(new.uids[first_new:], quiet=style.quiet)
        yield from self._tell_flags(
            changed, old.uidnext, new.modseq, style, set() if heard is None else heard
        )
        self._told.clear()
        self._own.clear()

    def _changes(self, store: AccountStore, new: Snapshot) -> Changes:
        """What happened between the snapshots; not asked for when it was all our own doing: then nothing is to be told."""
        old = self.snapshot
        span = range(old.modseq + 1, new.modseq + 1)
        if len(span) <= len(self._own) and self._own.issuperset(span):
            return Changes(new.modseq, new.uidnext, (), (), (), new.keywords)
        return store.changes(self.mailbox, old.modseq)

    def learn_keywords(self, keywords: tuple[str, ...]) -> Iterator[bytes]:
        """New flags are announced before they are used (RFC 9051 7.3.5)."""
        if SYSTEM_FLAGS + keywords != self.table.names:
            self.table = FlagTable(keywords)
            yield self.describe_flags()

    def learn_of(self, store: AccountStore, change: FlagChange) -> Iterator[bytes]:
        """Before its flags are told: they may have a name that came after the newest state that we know."""
        unnamed = 1 << len(self.table.names)
        if any(mask >= unnamed for mask in {mask for _, mask, _ in change.changed}):
            yield from self.learn_keywords(store.snapshot(self.mailbox).keywords)

    def _lay_out(self, new: Snapshot) -> None:
        if not self.gone:
            self.uids, self.flags = new.uids, new.flags
            return
        gone = sorted(self.gone)
        kept = flags_of(self.uids, self.flags, gone)
        self.uids, self.flags = joined(new.uids, new.flags, gone, kept)

    def _tell_flags(
        self,
        changed: Iterable[tuple[int, int, int]],
        uidnext: int,
        top: int,
        style: Style,
        heard: set[int],
    ) -> Iterator[bytes]:
        told, own, table = self._told, self._own, self.table
        if style.mute:
            return
        for uid, mask, modseq in changed:
            if uid >= uidnext or modseq > top or modseq in own or told.get(uid) == modseq:
                continue
            number = self.number_of(uid)
            if number and uid not in self.gone:
                heard.add(uid)
                yield style.flags(number, uid, table[mask], modseq)

    def _tell_expunged(self, style: Style) -> Iterator[bytes]:
        gone = sorted(self.gone)
        if style.vanished:
            yield b"* VANISHED %b\r\n" % numset.render(gone)
        else:
            numbers = self.numbers_of(gone)
            if isinstance(numbers, range):  # each one gone, the next has its number
                yield b"* %d EXPUNGE\r\n" % numbers[0] * len(gone)
            else:
                yield b"".join([b"* %d EXPUNGE\r\n" % (n - already) for already, n in enumerate(numbers)])
        self.gone = set()
        self.uids, self.flags = self.snapshot.uids, self.snapshot.flags

    # -- responses of SELECT ------------------------------------------------------------------------------------
    def describe_flags(self) -> bytes:
        names = self.table.listed()
        if self.read_only:
            permanent = b""
        else:
            # RFC 4314 5.1.1: those that the reader's rights let him change.
            room = len(names.split(b" ")) < len(SYSTEM_FLAGS) + MAX_KEYWORDS and "w" in self.rights
            kept = permitted(names.decode("ascii").split(" "), self.rights)
            permanent = " ".join(kept + ["\\*"] * room).encode("ascii")
        return b"* FLAGS (%b)\r\n* OK [PERMANENTFLAGS (%b)] Flags kept\r\n" % (names, permanent)


class Style:
    """How a session wants to hear of changes."""

    __slots__ = ("modseq", "mute", "quiet", "uid", "uidonly", "vanished")

    def __init__(
        self,
        *,
        uid: bool,
        modseq: bool,
        vanished: bool,
        uidonly: bool,
        quiet: bool = False,
        mute: bool = False,
    ) -> None:
        self.uid = uid
        self.modseq = modseq
        self.vanished = vanished or uidonly
        self.uidonly = uidonly
        self.quiet = quiet  # nothing that others do is told (NOTIFY)
        self.mute = mute  # of flags

    def flags(self, number: int, uid: int, flags: bytes, modseq: int) -> bytes:
        if self.uidonly:  # RFC 9586 3.3
            if self.modseq:
                return b"* %d UIDFETCH (FLAGS (%b) MODSEQ (%d))\r\n" % (uid, flags, modseq)
            return b"* %d UIDFETCH (FLAGS (%b))\r\n" % (uid, flags)
        if self.modseq and modseq:
            return b"* %d FETCH (UID %d FLAGS (%b) MODSEQ (%d))\r\n" % (number, uid, flags, modseq)
        if self.uid:
            return b"* %d FETCH (UID %d FLAGS (%b))\r\n" % (number, uid, flags)
        return b"* %d FETCH (FLAGS (%b))\r\n" % (number, flags)

    def all_flags(
        self, numbers: Sequence[int], changed: Sequence[tuple[int, int, int]], table: FlagTable
    ) -> bytes:
        """``flags`` for many: (uid, mask, modseq) beside their numbers."""
        if self.uidonly or self.modseq:
            return b"".join(
                [
                    self.flags(n, uid, table[mask], modseq)
                    for n, (uid, mask, modseq) in zip(numbers, changed, strict=True)
                ]
            )
        shown = [table[mask] for _, mask, _ in changed]
        if self.uid:
            line = b"* %d FETCH (UID %d FLAGS (%b))\r\n".__mod__
            return b"".join(map(line, zip(numbers, [uid for uid, _, _ in changed], shown, strict=True)))
        return b"".join(map(b"* %d FETCH (FLAGS (%b))\r\n".__mod__, zip(numbers, shown, strict=True)))


def _compare(old: Snapshot, new: Snapshot) -> Iterator[tuple[int, int, int]]:
    """Flag changes when the store's record does not reach back: by comparing, the modseq is the newest."""
    before = dict(zip(old.uids, old.flags, strict=True))
    for uid, mask in zip(new.uids, new.flags, strict=True):
        if uid in before and before[uid] != mask:
            yield uid, mask, new.modseq
