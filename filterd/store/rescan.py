"""Making the index agree with the files again: foreign changes, and healing after a crash.

A scan lists ``new`` and then ``cur`` (files move that way) and compares names. A name that changed behind its base is a change
of flags; a name that is missing is believed gone only after a second listing, because a directory that is renamed in while it
is read may hide an entry; what remains is new and gets a UID, in the order of the delivery times in the names, and a file name
that carries it. A file that cannot be read or renamed costs that one message and nothing else.

A UID in a file name is believed only while healing, only from ``trust`` on (what the index had not yet given out when it was
last whole: smaller ones it would know, so they were expunged), only for this mailbox, and once.

Work is cut into slices of SLICE_SECONDS, each with its own lock and transaction; ``trust`` is kept in the index meanwhile.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filterd.store import flags as fl
from filterd.store import intake, quota, snapshot
from filterd.store.base import FIRST_KEYWORD_BIT
from filterd.store.folder import Folder, Rest, claimed_uid, key_of, read_mailbox_file, seconds_of, with_uid
from filterd.store.index import AFTER_POWER, FRESH, Cold, HotRow, MailboxRow
from filterd.store.record import render

if TYPE_CHECKING:
    from filterd.store.core import Core

log = logging.getLogger("filterd.store")

SLICE_SECONDS = 0.25
COARSE = 50_000_000  # ns: the file system's tick, with a margin
CONFIRM_SECONDS = 2.0  # so long may a foreign change hide behind our own
CONFIRM_FACTOR = 50  # and a confirming scan may take one part in so many of the time
KEY_LIFE = 86_400


@dataclass(slots=True)
class _Scan:
    """One comparison of names."""

    vanished: dict[str, HotRow] = field(default_factory=dict)  # by base
    renamed: list[tuple[HotRow, str, int]] = field(default_factory=list)  # (row, name, fresh)
    appeared: list[tuple[str, int]] = field(default_factory=list)  # (name, fresh)


def refresh(core: Core, folder: Folder, row: MailboxRow) -> MailboxRow:
    """The row after foreign changes have been taken in; cheap when there are none."""
    times = folder.times()
    if times == (row.new_mtime, row.cur_mtime):
        if not row.unsure or core.settings.clock.monotonic() < core.confirm.get(folder.id, 0.0):
            return row
    return force(core, folder)


def force(core: Core, folder: Folder) -> MailboxRow:
    """Scan now, whatever the mtimes say."""
    clock = core.settings.clock
    started = clock.monotonic()
    done = False
    while not done:
        with core.locked():
            row = core.fresh_row(folder)
            done = _slice(core, folder, row, trust=0)
    core.confirm[folder.id] = clock.monotonic() + max(
        CONFIRM_SECONDS, CONFIRM_FACTOR * (clock.monotonic() - started)
    )
    return row


Slice = Callable[["Core", Folder, MailboxRow, int], bool]


def heal(core: Core, folder: Folder, one_slice: Slice | None = None) -> bool:
    """After an unclean stop: numbering goes on at the marks, files and index agree, the mailbox is fresh again.

    Under the lock, one slice a call: False means come again. A mailbox that is not whole yet is shown to nobody.
    """
    index = core.index
    row = index.mailbox(folder.id)
    if row is None or row.stale == FRESH:
        return True
    key = f"trust:{row.id}"
    trust = int(index.meta(key) or 0)
    if not trust:
        trust = row.uidnext
        before = row.modseq
        _restart_numbering(folder, row)
        snapshot.numbers(core, folder, row)
        with index.transaction():
            index.set_meta(key, str(trust))
            index.set_meta(f"healing:{row.id}", f"{before} {row.modseq}")
            index.save(row)
    if not (one_slice or _slice)(core, folder, row, trust):
        return False
    knew, _, begun = index.meta(f"healing:{row.id}").partition(" ")
    snapshot.restore_mailbox(core, folder, row, int(knew or row.modseq), int(begun or row.modseq))
    index.recount(row)
    row.stale = FRESH
    with index.transaction():
        index.save(row)
        index.execute("delete from meta where key in (?, ?)", (key, f"healing:{row.id}"))
    quota.rewrite(core)
    core.changed(row)
    return True


def _restart_numbering(folder: Folder, row: MailboxRow) -> None:
    """HOUSE item 13: never reused, never backwards."""
    file = read_mailbox_file(folder.top)
    if file is not None and file.id == row.mid:
        row.uid_mark = max(row.uid_mark, file.uids)
        row.modseq_mark = max(row.modseq_mark, file.modseqs)
        row.uidvalidity = max(row.uidvalidity, file.uidvalidity)
    words = folder.read_keywords()
    if len(words) > len(row.keyword_list):
        row.keywords = "\n".join(words)
    row.uidnext = max(row.uidnext, row.uid_mark)
    row.modseq = max(row.modseq, row.modseq_mark)
    if row.stale == AFTER_POWER:
        row.floor = row.modseq  # what was expunged in the lost part is not known


def _slice(core: Core, folder: Folder, row: MailboxRow, trust: int) -> bool:
    """Compare, and change what SLICE_SECONDS allow. True when the index agrees with the files.

    What was listed and not come to is kept (``Folder.rest``) for the next slice, if nobody has touched anything until then: to list
    a hundred thousand names for each quarter of a second would never end.
    """
    before = folder.times()
    rest, folder.rest = folder.rest, None
    turn = core.lock.turn()
    if (
        rest is not None
        and rest.trust == trust
        and before == rest.times
        and turn in (rest.turn, rest.turn + 2)
    ):
        scan, arrivals = _Scan(), rest.arrivals
    else:
        seen_at = core.settings.disk.now()
        scan = _compare(core, folder)
        if not scan.vanished and not scan.renamed and not scan.appeared:
            unsure = int(seen_at - max(before) < COARSE)
            if (row.new_mtime, row.cur_mtime, row.unsure) != (*before, unsure):
                row.new_mtime, row.cur_mtime, row.unsure = *before, unsure
                with core.index.transaction():
                    core.index.save(row)
            return True
        arrivals = _in_order(core, row, trust, scan.appeared)
    folder.reserve(row, len(arrivals), 2)
    with core.publishing(row.id):
        taken = _Apply(core, folder, row, trust).run(scan, arrivals)
    after, done = folder.times(), taken == len(arrivals)
    if done:
        row.new_mtime, row.cur_mtime, row.unsure = *after, 1
        with core.index.transaction():
            core.index.save(row)
    elif turn >= 0:
        folder.rest = Rest(arrivals[taken:], trust, turn, after)
    core.changed(row)
    return done


def list_names(folder: Folder) -> dict[str, int]:
    """File names and whether they lie in ``new``; hidden ones are nobody's mail."""
    names = dict.fromkeys((name for name in os.listdir(folder.new.fd) if name[0] != "."), 1)
    names.update(dict.fromkeys((name for name in os.listdir(folder.cur.fd) if name[0] != "."), 0))
    return names


def _compare(core: Core, folder: Folder) -> _Scan:
    index = core.index
    listing = list_names(folder)
    known = index.query("select name, fresh, uid from hot where mbox=?", (folder.id,))
    lost = []
    for name, fresh, uid in known:
        if listing.get(str(name)) == fresh:
            del listing[str(name)]
        elif isinstance(uid, int):
            lost.append(uid)
    missing = index.hot(folder.id, lost) if lost else []
    scan = _Scan()
    if missing:
        listing = _match(scan, missing, listing)
        if scan.vanished:
            listing = _second_look(folder, scan, listing)
    scan.appeared = list(listing.items())
    if scan.appeared:
        _moved_while_listing(core, folder, scan)
    return scan


def _second_look(folder: Folder, scan: _Scan, listing: dict[str, int]) -> dict[str, int]:
    """Nothing is believed gone before it is missing twice; what is left of the listing."""
    again = list_names(folder)
    rows, scan.vanished = scan.vanished, {}
    still = [(base, hot) for base, hot in rows.items() if again.get(hot.name) != hot.fresh]
    taken = {name for _, name, _ in scan.renamed}
    by_base = {fl.split_name(name)[0]: name for name in again if name not in taken} if still else {}
    for base, hot in still:
        name = by_base.get(base)
        if name is None:
            scan.vanished[base] = hot
        else:
            scan.renamed.append((hot, name, again[name]))
            listing.pop(name, None)
    return listing


def _moved_while_listing(core: Core, folder: Folder, scan: _Scan) -> None:
    """A file seen in ``new`` may have gone to ``cur`` before that was listed: its second name is no second message."""
    known = core.index.query("select name, uid from hot where mbox=?", (folder.id,))
    uids = {fl.split_name(str(name))[0]: uid for name, uid in known}
    moved = {hot.uid for hot, _, _ in scan.renamed}
    appeared, scan.appeared = scan.appeared, []
    for name, fresh in appeared:
        uid = uids.get(fl.split_name(name)[0])
        hots = core.index.hot(folder.id, (uid,)) if isinstance(uid, int) and uid not in moved else []
        if not hots or os.path.lexists(f"{folder.place(hots[0].fresh).path}/{hots[0].name}"):
            scan.appeared.append((name, fresh))
        else:
            moved.add(hots[0].uid)
            scan.renamed.append((hots[0], name, fresh))


def _match(scan: _Scan, missing: list[HotRow], listing: dict[str, int]) -> dict[str, int]:
    """Pair missing rows with listed names of the same base; what is left of the listing."""
    rows = {fl.split_name(hot.name)[0]: hot for hot in missing}
    left = {}
    for name, fresh in listing.items():
        hot = rows.pop(fl.split_name(name)[0], None)
        if hot is None:
            left[name] = fresh
        else:
            scan.renamed.append((hot, name, fresh))
    scan.vanished = rows
    return left


def _can_be_stored(name: str) -> bool:
    """Not octets that are no text; such a name could not be changed, and is looked at again each time."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def given_out(core: Core, row: MailboxRow, uids: list[int]) -> set[int]:
    """Those of ``uids`` that another message has or had."""
    index, box = core.index, row.id
    known = {hot.uid for hot in index.hot(box, uids)}
    for at in range(0, len(uids), 500):
        block = uids[at : at + 500]
        marks = ", ".join("?" * len(block))
        rows = index.query(f"select uid from expunged where mbox=? and uid in ({marks})", (box, *block))
        known |= {int(uid) for (uid,) in rows if isinstance(uid, int)}
    return known


def _in_order(
    core: Core, row: MailboxRow, trust: int, appeared: list[tuple[str, int]]
) -> list[tuple[str, int, int]]:
    """(name, fresh, believed UID or 0): believed ones first, by UID; then by the time in the name."""
    believed: dict[int, tuple[str, int]] = {}
    others = []
    for name, fresh in sorted(appeared):
        uid = claimed_uid(fl.split_name(name)[0], row.mid)
        if uid >= trust > 0 and uid not in believed:
            believed[uid] = (name, fresh)
        else:
            others.append((name, fresh))
    for uid in given_out(core, row, list(believed)):
        others.append(believed.pop(uid))
    others.sort(key=lambda item: (seconds_of(item[0]), item[0]))
    first = [(name, fresh, uid) for uid, (name, fresh) in sorted(believed.items())]
    return [*first, *((name, fresh, 0) for name, fresh in others)]


class _Apply:
    """Writes one slice of a scan into files and index."""

    def __init__(self, core: Core, folder: Folder, row: MailboxRow, trust: int) -> None:
        self.core = core
        self.folder = folder
        self.row = row
        self.trust = trust
        self.modseq = row.modseq + 1
        self.keywords = len(row.keyword_list)
        self.renames = 0

    def run(self, scan: _Scan, arrivals: Sequence[tuple[str, int, int]]) -> int:
        """How many of the arrivals were dealt with."""
        core, row, index = self.core, self.row, self.core.index
        used = row.modseq
        deadline = core.settings.clock.monotonic() + SLICE_SECONDS
        changes = [self._renamed(*each) for each in scan.renamed]
        changes = [change for change in changes if _can_be_stored(change[4])]
        ready: list[tuple[HotRow, Cold]] = []
        taken = 0
        for name, fresh, uid in arrivals:
            if ready and core.settings.clock.monotonic() > deadline:
                break
            taken += 1
            arrival = self._arrived(name, fresh, uid)
            if arrival is not None:
                ready.append(arrival)
        if self.renames:
            core.settings.disk.sync_dir(self.folder.new)
            core.settings.disk.sync_dir(self.folder.cur)
        with index.transaction():
            index.change(row, changes)
            if scan.vanished:
                index.remove(row, list(scan.vanished.values()), self.modseq, core.now())
                used = self.modseq
            if ready:
                index.add(row, ready)
                self._restore_keys([hot for hot, _ in ready])
                used = self.modseq
            if any(mask != hot.flags for hot, mask, _, _, _ in changes):
                used = self.modseq
            row.modseq = used
            index.save(row)
        gone = list(scan.vanished.values())
        if gone or ready:
            added = [hot.disk_size for hot, _ in ready]
            quota.count(core, sum(added) - sum(hot.disk_size for hot in gone), len(added) - len(gone))
        return taken

    def _mask(self, letters: str) -> int:
        return fl.mask_of_letters(letters, min(self.keywords, fl.LETTER_KEYWORDS))[0]

    def _renamed(self, hot: HotRow, name: str, fresh: int) -> tuple[HotRow, int, int, int, str]:
        base, letters = fl.split_name(name)
        clean = base + fl.MARK + fl.clean(letters)
        if letters and clean != name and self._rename(name, fresh, clean):
            name = clean
        mask = fl.merged(hot.flags, self._mask(fl.split_name(hot.name)[1]), self._mask(letters))
        return hot, mask, hot.modseq if mask == hot.flags else self.modseq, fresh, name

    def _arrived(self, name: str, fresh: int, uid: int) -> tuple[HotRow, Cold] | None:
        at = self.folder.place(fresh)
        try:
            found = intake.read_file(at, name)
        except OSError as error:
            log.warning("%s: %r is left out: %s", at.path, name, error.strerror)
            return None
        if found is None:
            return None
        uid = uid or self.row.uidnext
        self.row.uidnext = max(self.row.uidnext, uid + 1)  # a mark that came from a backup may be too low
        name = self._name_for(name, fresh, uid)
        if not name:
            return None
        record = render(found.text)
        mask = self._mask(fl.split_name(name)[1])
        seconds = found.mtime // 1_000_000_000
        hot = HotRow(
            mbox=self.row.id,
            uid=uid,
            flags=mask & ((1 << (FIRST_KEYWORD_BIT + self.keywords)) - 1),
            modseq=self.modseq,
            born=self.modseq,
            size=record.size,
            date=seconds,
            savedate=seconds_of(name) or seconds,
            header_size=record.header_size,
            email_id=record.email_id,
            form=found.form,
            fresh=fresh,
            name=name,
            inode=found.inode,
            disk_size=found.disk_size,
            mtime=found.mtime,
        )
        return hot, intake.cold_of(record)

    def _name_for(self, name: str, fresh: int, uid: int) -> str:
        """Make the file's name carry the UID; "" when it must and cannot."""
        base, letters = fl.split_name(name)
        wanted = with_uid(base, self.row.mid, uid) if claimed_uid(base, self.row.mid) != uid else base
        if not fresh or letters:
            wanted += fl.MARK + fl.clean(letters)
        if wanted == name or self._rename(name, fresh, wanted):
            return wanted
        return name if name.isascii() and os.path.lexists(f"{self.folder.place(fresh).path}/{name}") else ""

    def _rename(self, name: str, fresh: int, wanted: str) -> bool:
        at = self.folder.place(fresh)
        try:
            self.core.settings.disk.rename(at, name, at, wanted)
        except OSError as error:
            log.warning("%s: %r keeps its name: %s", at.path, name, error.strerror)
            return False
        self.renames += 1
        return True

    def _restore_keys(self, rows: list[HotRow]) -> None:
        """While healing: a delivery that nobody may have heard of is known again, unacknowledged (HOUSE item 11)."""
        if not self.trust:
            return
        row = self.row
        limit = self.core.now() - KEY_LIFE
        keys = [(key_of(hot.name), hot.uid) for hot in rows]
        self.core.index.execute_many(
            "insert or ignore into delivery values(?, ?, ?, ?, ?, ?)",
            [
                (key[1], row.id, row.name, row.uidvalidity, uid, key[0])
                for key, uid in keys
                if key is not None and key[0] > limit
            ],
        )
