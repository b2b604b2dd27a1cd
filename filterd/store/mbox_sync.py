"""Making the index agree with an mbox file again: what other programs did, and healing after a crash.

Theory of operation. The index keeps of each message where it begins (``hot.inode``), its octets (``disk_size``), the octets of its
head (``hot.name``, at most LOOKED_AT) and the head's fingerprint (``hot.mtime``); of the file its mtime and size when they last
agreed (``mailbox.new_mtime``, ``cur_mtime``). When these two differ, the heads are compared first: as far as they stand,
nothing has moved, and only what is behind is read: what was appended, or all from the first difference on. A head that
changed at its place (another program wrote its flags there) costs that message only. Behind the first difference messages are
paired with rows by the UID they carry, then by the digest of their text; what has no row is new, a row without a message was
expunged by others. So their UIDs stay whatever a program does to the file.

A body that changed without head or size is found when it is read: each text is compared with its digest (``mbox_read``).

While healing (``trust`` > 0, see ``rescan``) UIDs in messages are believed; what a crash left half written is cut off:
octets behind what we know that begin with no From_ line, and messages of ours that end too early and were never marked as
written. What another program has appended to such a torn end, be it in the midst of a line, is kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.store import flags as fl
from filterd.store import intake, mbox_journal, mbox_tree, rescan
from filterd.store import mbox_format as fmt
from filterd.store.base import LimitReached, StoreUnavailable
from filterd.store.folder import MAX_UID, Folder
from filterd.store.index import Cold, HotRow, MailboxRow
from filterd.store.intake import MAX_FILE_OCTETS
from filterd.store.mbox_file import MboxFile, mbox_of
from filterd.store.mbox_format import LOOKED_AT
from filterd.store.mbox_journal import Change, Piece
from filterd.store.mbox_scan import Area
from filterd.store.record import EMAIL_ID_OCTETS, form_of, render

if TYPE_CHECKING:
    from filterd.store.core import Core

LOOK_SECONDS = 2.0  # so long does somebody who only looks wait for another program's lock
SLICE_SECONDS = 0.25
KEY_LIFE = 86_400
MAX_BASE_UID = 2**31
_BEGUN = re.compile(
    rb"(?:(?:X-UID|Status|X-Status|X-Keywords|X-IMAPbase): [^\n]*\n)*[^\n]*"
)  # no more than the first lines
_OUR_LINES = re.compile(rb"(?:(?:X-UID|Status|X-Status|X-Keywords|X-IMAPbase): [^\n]*\n)*")
_OUR_FIELDS = (b"X-UID: ", b"Status: ", b"X-Status: ", b"X-Keywords: ", b"X-IMAPbase: ", b"X-Filterd-Mbox: ")
REPLACE = "update hot set inode=?, disk_size=?, name=?, mtime=? where mbox=? and uid=?"

Known = tuple[int, int, int, int, int]  # uid, offset, octets, octets of the head, fingerprint


@dataclass(slots=True)
class Seen:
    """A message found in the file."""

    offset: int
    size: int
    head: int
    mark: int  # the head's fingerprint
    state: fmt.State
    own: fmt.Own | None
    email_id: bytes
    date: int


def refresh(core: Core, folder: Folder, row: MailboxRow) -> MailboxRow:
    """For readers: the row after foreign changes; the one there is while another program has the file locked."""
    if mbox_of(folder).times() == (row.new_mtime, row.cur_mtime):
        return row
    try:
        with core.locked():
            return current(core, folder, LOOK_SECONDS)
    except StoreUnavailable:
        return core.index.mailbox(row.id) or row


def current(core: Core, folder: Folder, seconds: float | None = None) -> MailboxRow:
    """Under the account's lock: the row, in agreement with the file. Raises StoreUnavailable."""
    row = core.fresh_row(folder)
    mbox = mbox_of(folder)
    with mbox.held(seconds):
        while mbox.times() != (row.new_mtime, row.cur_mtime):
            one_slice(core, folder, row, 0)
            row = core.fresh_row(folder)
    return row


def look_at_all(core: Core, folder: Folder, row: MailboxRow) -> None:
    """Under both locks: read the whole file, whatever the heads say. A body has changed behind our back."""
    sync = _Sync(core, folder, row, 0)
    sync.known = [(uid, offset, octets, 0, -1) for uid, offset, octets, _, _ in sync.known]
    sync.run()


def heal(core: Core, folder: Folder) -> bool:
    return rescan.heal(core, folder, one_slice)


def one_slice(core: Core, folder: Folder, row: MailboxRow, trust: int) -> bool:
    """Compare, and take in what SLICE_SECONDS allow. True when the index agrees with the file."""
    with mbox_of(folder).held():
        return _Sync(core, folder, row, trust).run()


class _Sync:
    def __init__(self, core: Core, folder: Folder, row: MailboxRow, trust: int) -> None:
        self.core = core
        self.folder = folder
        self.mbox: MboxFile = mbox_of(folder)
        self.row = row
        self.trust = trust
        self.known: list[Known] = core.index.query(
            "select uid, inode, disk_size, cast(name as integer), mtime from hot where mbox=? order by inode",
            (row.id,),
        )  # type: ignore[assignment]  # integers
        self.uids = {known[0] for known in self.known}
        self.scanner = self.mbox.scanner()
        self.size = self.mbox.size()
        self.adopting = not self.known and not row.new_mtime and not row.cur_mtime
        self.base: tuple[int, int] | None = None
        self.cuts: list[Area] = []
        self.modseq = row.modseq + 1
        self.words = row.keyword_list
        self.quoting = mbox_tree.quoting(core)

    def run(self) -> bool:
        self._find_base()
        changed, start, rest = self._skim()
        found, end = self._scan(start, bool(rest or changed))
        if not self.cuts:
            self._cut_parts(found)
        if self.cuts:
            self._cut()
            return False
        again = {uid: self._seen(Area(offset, octets)) for uid, offset, octets, _, _ in changed}
        self._apply(again, rest, found, end)
        return end >= self.size

    # -- comparing ------------------------------------------------------------------------------------------------------------
    def _skim(self) -> tuple[list[Known], int, list[Known]]:
        """(rows whose head changed at its place, where to read on, rows that lie behind that)."""
        changed: list[Known] = []
        for at, known in enumerate(self.known):
            _, offset, octets, length, mark = known
            head = self.mbox.read(offset, length)
            if len(head) == length and fmt.fingerprint(head) == mark:
                continue
            if self.scanner.is_from(offset) and self._ends_at(offset, offset + octets) and self._stays(known):
                changed.append(known)
                continue
            return changed, offset, self.known[at:]
        end = min(self.row.cur_mtime, self.size) if self.row.cur_mtime <= self.size else -1
        if end < 0:
            return self._from_last(changed)
        near = self.mbox.read(end, 8)
        end += len(near) - len(near.lstrip(b"\r\n"))
        if end >= self.size or self.scanner.is_from(end) or self.trust or not self.known:
            return changed, end, []
        return self._from_last(changed)

    def _from_last(self, changed: list[Known]) -> tuple[list[Known], int, list[Known]]:
        if not self.known:
            return changed, 0, []
        last = self.known[-1]
        return [known for known in changed if known is not last], last[1], [last]

    def _stays(self, known: Known) -> bool:
        """The message that lies there is still that one."""
        seen = self._seen(Area(known[1], known[2]))
        hots = self.core.index.hot(self.row.id, (known[0],))
        return self._claim(seen) == known[0] or bool(hots and hots[0].email_id == seen.email_id)

    def _ends_at(self, offset: int, end: int) -> bool:
        """The message at ``offset`` still ends there (line ends apart)."""
        found = self.scanner.end_of(offset)
        low, high = min(found, end), max(found, end)
        return high - low <= 8 and not self.mbox.read(low, high - low).strip(b"\r\n")

    def _find_base(self) -> None:
        """X-IMAPbase of the first message."""
        if self.size and self.scanner.is_from(0):
            base = fmt.state_of(self.scanner.head(0)).base
            if base is not None and self.adopting and 0 < base[0] <= MAX_UID and base[1] < MAX_BASE_UID:
                self.row.uidvalidity = base[0]
                self.row.uidnext = max(self.row.uidnext, base[1] + 1)
                self.folder.reserve(self.row, 0)
                self.folder.write_mailbox_file(self.row)
            if base is not None and base[0] == self.row.uidvalidity:
                self.base = base

    def _scan(self, start: int, whole: bool) -> tuple[list[Seen], int]:
        """Messages from ``start`` on and where they end; ``whole``: all of them, however long it takes."""
        found: list[Seen] = []
        monotonic = self.core.settings.clock.monotonic
        deadline = monotonic() + SLICE_SECONDS
        end = start
        for area in self.scanner.areas(start):
            if found and not whole and monotonic() > deadline and not self._is_part(found[-1]):
                return found, end
            end = area.offset + area.size
            self.mbox.touch()
            if not area.mail:
                if self.trust and (self.known or area.offset or self._may_be_ours(area)):
                    self._cut_torn(area)
                continue
            if area.size > MAX_FILE_OCTETS:
                continue
            seen = self._seen(area)
            if seen.state.pseudo and area.offset == 0:
                continue
            if not self._is_torn(seen):
                found.append(seen)
        return found, end

    def _seen(self, area: Area) -> Seen:
        data = self.mbox.read(area.offset, area.size)
        length, mark = fmt.measure(data)
        head = data[: fmt.head_end(data)]
        own = fmt.own_of(head)
        text = fmt.text_of(data, self.quoting)
        email_id = hashlib.sha256(text).digest()[:EMAIL_ID_OCTETS]
        date = fmt.from_date(data[: data.find(b"\n")])
        if own is not None:
            date = own.date
        return Seen(area.offset, area.size, length, mark, fmt.state_of(head), own, email_id, date or 0)

    def _is_torn(self, seen: Seen) -> bool:
        """A message of ours that a crash cut short; octets behind a whole one that are no message."""
        own = seen.own
        area = Area(seen.offset, seen.size)
        if self.trust and own is None:
            first = self.mbox.read(area.offset, LOOKED_AT).partition(b"\n")[2]
            if (area.size <= LOOKED_AT and _BEGUN.fullmatch(first) is not None) or _torn_before_another(
                first
            ):
                self._cut_torn(area)
                return True
        if not self.trust or own is None or own.mid != self.row.mid:
            return False
        doubtful = not own.written and own.uid not in self.uids
        if own.octets > seen.size - own.text_at:
            if doubtful:
                self._cut_torn(area)
            return doubtful
        end = seen.offset + own.text_at + own.octets
        behind = self.mbox.read(end, seen.offset + seen.size - end)
        junk = behind.lstrip(b"\r\n")
        rest = junk.startswith((b"\0", b"From ")) or b"From ".startswith(junk)
        if doubtful and junk and not rest:
            length = end - area.offset
            if 0 < _glued(self.mbox.read(area.offset, length + fmt.MAX_FROM_OCTETS)) < length:
                self._cut_torn(area)  # cut short, and long enough again by what another program has added
                return True
        # its owner may have added to it; but no one adds the begin of a message, or nothing at all
        if junk and (doubtful or rest):
            self._cut_torn(Area(seen.offset + seen.size - len(junk), len(junk)))
        return False

    def _is_part(self, seen: Seen) -> bool:
        """Of a COPY or MULTIAPPEND that perhaps did not come to its end."""
        own = seen.own
        return bool(
            self.trust and own is not None and own.group and not own.written and own.mid == self.row.mid
        )

    def _cut_parts(self, found: list[Seen]) -> None:
        """What was to be there all or not at all: a mark was made when all were on the disk."""
        groups = {seen.own.group for seen in found if seen.own is not None and self._is_part(seen)}
        if not groups:
            return
        whole = {
            seen.own.group
            for seen in found
            if seen.own is not None
            and seen.own.mid == self.row.mid
            and (seen.own.written or seen.own.uid in self.uids)
        }
        for seen in found:
            if seen.own is not None and self._is_part(seen) and seen.own.group not in whole:
                self.cuts.append(Area(seen.offset, seen.size))

    def _may_be_ours(self, area: Area) -> bool:
        """The begin of a From_ line, or room without anything in it."""
        data = self.mbox.read(area.offset, 10)
        torn = tuple(b"From "[:length] + b"From " for length in range(1, 5))  # and another's behind it
        return b"From ".startswith(data) or data.startswith((b"From ", b"\0", *torn))

    def _cut_torn(self, area: Area) -> None:
        """Leave out an area, but for what begins with a From_ line somewhere in it, though not on a line of its own."""
        at = _glued(self.mbox.read(area.offset, area.size))
        self.cuts.append(Area(area.offset, at if at > 0 else area.size))

    def _cut(self) -> None:
        """Take the cuts out of the file."""
        first = self.cuts[0].offset
        pieces: list[Piece] = []
        at = first
        for cut in self.cuts:
            if cut.offset > at:
                pieces.append((at, cut.offset))
            at = cut.offset + cut.size
        if at < self.size:
            pieces.append((at, self.size))
        if not pieces:
            self.mbox.cut(first)
            self.mbox.sync()
            return
        disk = self.core.settings.disk
        # left by an error, the note has the next one finish what the journal says
        with self.core.publishing(self.row.id), mbox_tree.home(self.core) as home:
            mbox_journal.carry_out(disk, home, [Change(self.row.directory, self.mbox, first, pieces)])
            mbox_journal.done(disk, home)

    # -- taking in --------------------------------------------------------------------------------------------------------------
    def _apply(self, again: dict[int, Seen], rest: Sequence[Known], found: list[Seen], end: int) -> None:
        core, row, index = self.core, self.row, self.core.index
        pairs, fresh = self._pair([known[0] for known in rest], found)
        pairs.update(again)
        self.folder.reserve(row, len(fresh), 2)
        gone = index.hot(row.id, [known[0] for known in rest if known[0] not in pairs])
        hots = {hot.uid: hot for hot in index.hot(row.id, list(pairs))}
        self.mbox_written([*pairs.values(), *fresh])
        with core.publishing(row.id), index.transaction():
            used = any([self._moved(hots[uid], seen) for uid, seen in pairs.items()])
            if gone:
                index.remove(row, gone, self.modseq, core.now())
                used = True
            if fresh:
                added = self._added(fresh)
                index.add(row, added)
                self._restore_keys(added, fresh)
                used = True
            if self.words != row.keyword_list:
                row.keywords = "\n".join(self.words)
                self.folder.write_keywords(self.words)
            if used:
                row.modseq = self.modseq
                core.changed(row)
            whole = end >= self.size
            row.new_mtime, row.cur_mtime = self.mbox.stamp() if whole else (0, end)
            index.save(row)

    def mbox_written(self, seen: Sequence[Seen]) -> None:
        """Mark what we have found whole as written."""
        late = [
            each
            for each in seen
            if each.own is not None and not each.own.written and each.own.mid == self.row.mid
        ]
        if late:
            self.mbox.sync()
            for each in late:
                mark_written(self.mbox, each.offset, each.head)

    def _claim(self, seen: Seen) -> int:
        """The UID that a message carries for this mailbox, 0 for none."""
        if seen.own is not None:
            return seen.own.uid if seen.own.mid == self.row.mid and seen.own.uid <= MAX_UID else 0
        if self.base is not None:
            return seen.state.uid if seen.state.uid <= self.base[1] else 0
        return seen.state.uid if seen.state.uid < self.row.uid_mark else 0

    def _pair(self, uids: list[int], found: list[Seen]) -> tuple[dict[int, Seen], list[Seen]]:
        """Rows and messages that belong together; messages that are new."""
        digests = {hot.uid: hot.email_id for hot in self.core.index.hot(self.row.id, uids)} if uids else {}
        pairs: dict[int, Seen] = {}
        left = found
        for same in (True, False):  # the same text under the same UID; then another text under it
            others = []
            for seen in left:
                uid = self._claim(seen)
                if uid in digests and uid not in pairs and (not same or digests[uid] == seen.email_id):
                    pairs[uid] = seen
                else:
                    others.append(seen)
            left = others
            if same:  # then the same text, whatever it carries
                by_text: dict[bytes, list[int]] = {}
                for uid in reversed(uids):
                    if uid in digests and uid not in pairs:
                        by_text.setdefault(digests[uid], []).append(uid)
                others = []
                for seen in left:
                    itself = (
                        self.trust and self._claim(seen) >= self.trust
                    )  # new since what the index remembers
                    if not itself and (matching := by_text.get(seen.email_id)):
                        pairs[matching.pop()] = seen
                    else:
                        others.append(seen)
                left = others
        return pairs, left

    def _mask(self, state: fmt.State) -> int:
        mask = state.mask
        for word in state.words:
            try:
                bit, self.words = fl.mask_of((word,), self.words)
            except LimitReached:
                continue
            mask |= bit
        return mask

    def _fresh(self, state: fmt.State, mask: int) -> int:
        return 0 if state.old or mask else 1

    def _moved(self, hot: HotRow, seen: Seen) -> bool:
        """True when clients must be told."""
        index, row = self.core.index, self.row
        mask = self._mask(seen.state)
        fresh = self._fresh(seen.state, mask) if hot.fresh else 0
        if seen.email_id != hot.email_id:
            text = fmt.text_of(self.mbox.read(seen.offset, seen.size), self.quoting)
            new, cold = self._row(seen, hot.uid, mask, text)
            new.born, new.savedate, new.fresh = hot.born, hot.savedate, fresh
            index.replace(row, hot, new, cold)
            index.execute("delete from meta where key=?", (f"pack:{row.mid}",))
            return True
        index.execute(REPLACE, (seen.offset, seen.size, str(seen.head), seen.mark, row.id, hot.uid))
        row.disk_size += seen.size - hot.disk_size
        if mask == hot.flags and fresh == hot.fresh:
            return False
        modseq = self.modseq if mask != hot.flags else hot.modseq
        index.change(row, [(hot, mask, modseq, fresh, str(seen.head))])
        return mask != hot.flags

    def _added(self, fresh: list[Seen]) -> list[tuple[HotRow, Cold]]:
        believed: dict[int, int] = {}
        if self.trust or self.adopting:
            for at, seen in enumerate(fresh):
                uid = self._claim(seen)
                if uid >= self.trust and uid and uid not in believed:
                    believed[uid] = at
            for uid in rescan.given_out(self.core, self.row, list(believed)):
                del believed[uid]
        uid_of = {at: uid for uid, at in believed.items()}
        if believed:
            self.row.uidnext = max(self.row.uidnext, max(believed) + 1)
            self.folder.reserve(self.row, len(fresh), 2)
        added = []
        for at, seen in enumerate(fresh):
            uid = uid_of.get(at, 0)
            if not uid:
                uid = self.row.uidnext
                self.row.uidnext += 1
            text = fmt.text_of(self.mbox.read(seen.offset, seen.size), self.quoting)
            added.append(self._row(seen, uid, self._mask(seen.state), text))
        return added

    def _row(self, seen: Seen, uid: int, mask: int, text: bytes) -> tuple[HotRow, Cold]:
        record = render(text)
        saved = seen.own.saved if seen.own is not None else self.core.now()
        hot = HotRow(
            mbox=self.row.id,
            uid=uid,
            flags=mask,
            modseq=self.modseq,
            born=self.modseq,
            size=record.size,
            date=seen.date,
            savedate=saved,
            header_size=record.header_size,
            email_id=record.email_id,
            form=form_of(text),
            fresh=self._fresh(seen.state, mask),
            name=str(seen.head),
            inode=seen.offset,
            disk_size=seen.size,
            mtime=seen.mark,
        )
        return hot, intake.cold_of(record)

    def _restore_keys(self, added: list[tuple[HotRow, Cold]], fresh: list[Seen]) -> None:
        """While healing: a delivery that nobody may have heard of is known again, unacknowledged (HOUSE item 11)."""
        row, limit = self.row, self.core.now() - KEY_LIFE
        keys = [
            (seen.own.key, row.id, row.name, row.uidvalidity, hot.uid, seen.own.saved)
            for (hot, _), seen in zip(added, fresh, strict=True)
            if self.trust and seen.own is not None and seen.own.key and seen.own.saved > limit
        ]
        self.core.index.execute_many("insert or ignore into delivery values(?, ?, ?, ?, ?, ?)", keys)


def _glued(data: bytes) -> int:
    """Where in an area another From_ line begins, which no line end stands before; -1: nowhere."""
    at = data.find(b"From ", 1)
    while at > 0:
        line = data[at : at + fmt.MAX_FROM_OCTETS].partition(b"\n")
        if line[1] and fmt.from_date(line[0]) is not None:
            break
        at = data.find(b"From ", at + 1)
    return at


def _torn_before_another(block: bytes) -> bool:
    """Behind our From_ line: our first lines, the last of them cut short, and on that line the From_ line of what another program
    has added since."""
    found = _OUR_LINES.match(block)
    line = block[found.end() if found is not None else 0 :].partition(b"\n")[0]
    at = line.find(b"From ", 1)
    while at > 0:
        ours = any(field.startswith(line[:at]) or line.startswith(field) for field in _OUR_FIELDS)
        if ours and fmt.from_date(line[at:]) is not None:
            return True
        at = line.find(b"From ", at + 1)
    return False


def mark_written(mbox: MboxFile, offset: int, head: int) -> None:
    """These octets have been synced: from now on they are a message, whatever becomes of them."""
    at = mbox.read(offset, head).find(b"\nX-Filterd-Mbox: w=0 ")
    if at >= 0:
        mbox.write(offset + at + 1 + fmt.WRITTEN_AT, b"1")
