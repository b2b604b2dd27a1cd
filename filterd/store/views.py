"""What sessions see: snapshots, changes, status, rows, texts.

A snapshot is kept per mailbox and shared by all sessions of the process; it is brought forward from its modseq by what changed
since. The first one of a process starts from the ``view`` table (uid and flags arrays at a modseq), which is written when a
mailbox of VIEW_FROM messages or more was read row by row, or has moved on by VIEW_AGE changes.
"""

from __future__ import annotations

import bisect
import contextlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from filterd.store import intake, rescan, rowcache, tree
from filterd.store.base import Changes, Field, MailboxInfo, Row, Snapshot, Status, StoreUnavailable
from filterd.store.folder import Folder, Place
from filterd.store.index import HotRow, MailboxRow
from filterd.store.latenotes import MANY
from filterd.store.record import CRLF_FORM, email_id_text, render, to_crlf

if TYPE_CHECKING:
    from filterd.store.core import Core

VIEW_FROM = 1000
VIEW_AGE = 2000
KEPT_VIEWS = 32
READ_BLOCK = 128  # files looked up at once
FEW = 32  # messages that are asked for together by who asks for one after the other
PLACES = 128  # messages whose files are remembered together

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Arrays = tuple["array[int]", "array[int]"]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stamp(Generic[T]):
    """By what it is known that ``value`` (a snapshot, a status) is still the newest (``ready``)."""

    id: int
    turn: int
    times: tuple[int, int]
    unsure: int
    info: MailboxInfo
    value: T


class Views:
    """The snapshots of one account. ``stamps`` and ``statuses``: by the name asked for."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._kept: dict[int, Snapshot] = {}
        self.stamps: dict[str, Stamp[Snapshot]] = {}
        self.statuses: dict[str, Stamp[Status]] = {}

    def snapshot(self, mailbox: str) -> Snapshot:
        core = self._core
        turn = core.lock.turn()  # first: what is changed from here on has another one
        folder, row = core.box(mailbox)
        row = core.settings.layout.refresh(core, folder, row)
        kept = self._kept.pop(row.id, None)
        info = tree.info_of(core, row)
        if kept is None or kept.modseq != row.modseq or kept.uidnext != row.uidnext or kept.info != info:
            kept = self._build(row.id, kept)
        self._kept[row.id] = kept  # last used is last
        while len(self._kept) > KEPT_VIEWS:
            del self._kept[next(iter(self._kept))]
        if kept.modseq == row.modseq:
            self._stamp(self.stamps, mailbox, turn, row, info, kept)
        return kept

    def _stamp(
        self,
        stamps: dict[str, Stamp[T]],
        mailbox: str,
        turn: int,
        row: MailboxRow,
        info: MailboxInfo,
        value: T,
    ) -> None:
        """``turn``: as it was before anything was read."""
        stamps.pop(mailbox, None)
        if turn >= 0 and not turn & 1 and self._core.local:
            times = row.new_mtime, row.cur_mtime
            stamps[mailbox] = Stamp(row.id, turn, times, row.unsure, info, value)
            while len(stamps) > KEPT_VIEWS:
                del stamps[next(iter(stamps))]

    def _build(self, mailbox_id: int, kept: Snapshot | None) -> Snapshot:
        core, index = self._core, self._core.index
        moved: Sequence[int] = ()
        with index.reading():
            row = index.mailbox(mailbox_id)
            if row is None:
                raise StoreUnavailable("the mailbox went away")
            own = None
            if kept is not None and kept.uidnext == row.uidnext:
                own = core.own.forward(row.id, row.modseq, kept)
            start = self._start(row, kept)
            if own is not None:
                moved, arrays = own
            elif start is None:
                arrays = _read_all(core, row.id)
            else:
                since, arrays = start
                moved, arrays = _forward(core, row, since, arrays)
                if len(moved) >= MANY:  # another process: it may be killed before their names have followed
                    core.late.asked = None
        if len(arrays[0]) >= VIEW_FROM and (start is None or (kept is None and len(moved) > VIEW_AGE)):
            self._keep(row, arrays)
        made = Snapshot(tree.info_of(core, row), row.modseq, row.uidnext, *arrays, row.keyword_list)
        rowcache.follow(core, kept if start is not None else None, made, moved)
        return made

    def _start(self, row: MailboxRow, kept: Snapshot | None) -> tuple[int, Arrays] | None:
        if kept is not None and kept.modseq >= row.floor:
            return kept.modseq, (kept.uids, kept.flags)
        if row.messages < VIEW_FROM:
            return None
        found = self._core.index.query("select modseq, uids, flags from view where mbox=?", (row.id,))
        if not found or int(found[0][0] or 0) < row.floor:
            return None
        modseq, uid_octets, flag_octets = found[0]
        uids, masks = array("I"), array("Q")
        if not isinstance(uid_octets, bytes) or not isinstance(flag_octets, bytes):
            return None
        uids.frombytes(uid_octets)
        masks.frombytes(flag_octets)
        return int(modseq or 0), (uids, masks)

    def _keep(self, row: MailboxRow, arrays: Arrays) -> None:
        core = self._core
        with contextlib.suppress(StoreUnavailable), core.locked(), core.index.transaction():
            core.index.execute(
                "insert or replace into view values(?, ?, ?, ?)",
                (row.id, row.modseq, arrays[0].tobytes(), arrays[1].tobytes()),
            )

    def fields(self, mailbox: str, uids: Sequence[int], wanted: Sequence[str]) -> list[tuple[Field, ...]]:
        """Of few messages: with those near them, which are asked for next and then told at once (``ready``)."""
        near = rowcache.neighbours(uids)
        kept = self._kept.get(self._core.seen(mailbox).id) if near is not None else None
        if near is None or kept is None:
            return fields(self._core, mailbox, uids, wanted)
        rows = fields(self._core, mailbox, near, wanted)
        rowcache.keep(self._core, kept, tuple(wanted), rows)
        asked = set(uids)
        return [row for row in rows if row[0] in asked]

    def changes(self, mailbox: str, since: int) -> Changes:
        core, index = self._core, self._core.index
        folder, row = core.box(mailbox)
        row = core.settings.layout.refresh(core, folder, row)
        if since >= row.modseq:
            return Changes(row.modseq, row.uidnext, (), (), (), row.keyword_list)
        with index.reading():
            now = index.mailbox(row.id) or row
            found = changed_since(core, "uid, flags, modseq, born", row.id, since)
            gone = numbers(
                core,
                "select uid, born from expunged where mbox=? and modseq>? order by uid",
                (row.id, since),
            )
        return Changes(
            modseq=now.modseq,
            uidnext=now.uidnext,
            appended=tuple((uid, mask) for uid, mask, _, born in found if born > since),
            flags=tuple((uid, mask, modseq) for uid, mask, modseq, born in found if born <= since),
            expunged=tuple(uid for uid, born in gone if born <= since),
            keywords=now.keyword_list,
            complete=since >= now.floor,
            fleeting=tuple(uid for uid, born in gone if born > since),
        )

    def status(self, mailbox: str) -> Status:
        turn = self._core.lock.turn()
        folder, row = self._core.box(mailbox)
        row = self._core.settings.layout.refresh(self._core, folder, row)
        status = Status(
            messages=row.messages,
            unseen=row.unseen,
            recent=row.recent,
            uidnext=row.uidnext,
            uidvalidity=row.uidvalidity,
            highestmodseq=row.modseq,
            size=row.size,
            deleted=row.deleted,
        )
        self._stamp(self.statuses, mailbox, turn, row, tree.info_of(self._core, row), status)
        return status


def numbers(core: Core, statement: str, values: Sequence[int]) -> list[tuple[int, ...]]:
    return core.index.query(statement, values)  # type: ignore[return-value]  # integer columns only


def changed_since(core: Core, columns: str, mailbox_id: int, modseq: int) -> list[tuple[int, ...]]:
    """Integer ``columns`` of the messages that came or changed after ``modseq``, ascending by UID.

    SQLite walks the whole mailbox for the order's sake when it is left to choose. That is right only where most have changed.
    """
    count = "(select count(*) from hot where mbox=?1 and modseq>?2)"  # by the index alone
    ((many, messages),) = numbers(
        core, f"select {count}, (select messages from mailbox where id=?1)", (mailbox_id, modseq)
    )
    if not many:
        return []
    order = "uid" if many > (messages or 0) // 4 else "+uid"
    return numbers(
        core, f"select {columns} from hot where mbox=? and modseq>? order by {order}", (mailbox_id, modseq)
    )


def _read_all(core: Core, mailbox_id: int) -> Arrays:
    rows = numbers(core, "select uid, flags from hot where mbox=? order by uid", (mailbox_id,))
    if not rows:
        return array("I"), array("Q")
    uids, masks = zip(*rows, strict=True)
    return array("I", uids), array("Q", masks)


def _forward(core: Core, row: MailboxRow, since: int, arrays: Arrays) -> tuple[list[int], Arrays]:
    """(UIDs of what changed, the arrays at the row's modseq). The given ones are left as they are."""
    later = changed_since(core, "uid, flags", row.id, since)
    gone = numbers(core, "select uid from expunged where mbox=? and modseq>? order by uid", (row.id, since))
    uids, masks = arrays[0][:], arrays[1][:]
    at = bisect.bisect_left(uids, gone[0][0]) if gone else 0
    if len(gone) > 1 and uids[at : at + len(gone)] == array("I", [uid for (uid,) in gone]):
        del uids[at : at + len(gone)], masks[at : at + len(gone)]
    elif len(gone) > 500:
        dead = {uid for (uid,) in gone}
        left = [(uid, mask) for uid, mask in zip(uids, masks, strict=True) if uid not in dead]
        uids, masks = array("I", [uid for uid, _ in left]), array("Q", [mask for _, mask in left])
    else:
        for (uid,) in gone:
            at = bisect.bisect_left(uids, uid)
            if at < len(uids) and uids[at] == uid:
                del uids[at], masks[at]
    changed = later
    if len(later) > 500:
        known = {uid: mask for uid, mask in later}  # tells the types
        masks = array("Q", [known.get(uid, mask) for uid, mask in zip(uids, masks, strict=True)])
        changed = [(uid, known[uid]) for uid in sorted(known.keys() - set(uids))]
    for uid, mask in changed:
        at = len(uids) if not uids or uid > uids[-1] else bisect.bisect_left(uids, uid)
        if at < len(uids) and uids[at] == uid:
            masks[at] = mask
        else:
            uids.insert(at, uid)
            masks.insert(at, mask)
    return [uid for uid, _ in later] + [uid for (uid,) in gone], (uids, masks)


# -- rows and texts ---------------------------------------------------------------------------------------------------------------


def rows(core: Core, mailbox: str, uids: Sequence[int], cold: bool) -> list[Row]:
    _, box = core.box(mailbox)
    found = core.index.full(box.id, uids, cold)
    return [
        Row(uid, mask, modseq, size, date, savedate, header_size, email_id_text(email_id), *more)  # type: ignore[arg-type]  # columns as index.full says
        for _, uid, mask, modseq, size, date, savedate, header_size, email_id, *more in found
    ]


def fields(core: Core, mailbox: str, uids: Sequence[int], wanted: Sequence[str]) -> list[tuple[Field, ...]]:
    found = core.index.columns(core.seen(mailbox).id, uids, wanted)
    if "email_id" in wanted:
        at = list(wanted).index("email_id") + 1
        found = [(*row[:at], email_id_text(row[at]), *row[at + 1 :]) for row in found]  # type: ignore[arg-type]  # a blob
    return found  # type: ignore[return-value]  # no column asked for is NULL


_FILE = Place._fields[1:]
_PLACE = partial(tuple.__new__, Place)


def kept_place(core: Core, mid: str, uid: int) -> Place | None:
    """Where the file of a message was when it was read last, or one near it."""
    found = core.settings.shelf.get((core.account, mid, f"files {uid // PLACES}"))
    return cast(dict[int, Place], found).get(uid) if found is not None else None


def _places(core: Core, folder: Folder, uids: Sequence[int]) -> dict[int, Place]:
    return {place.uid: place for place in map(_PLACE, core.index.columns(folder.id, uids, _FILE))}


def _keep_places(core: Core, folder: Folder, first: int, last: int) -> dict[int, Place]:
    """Those of these blocks, for who asks for one message after the other."""
    places = _places(core, folder, range(max(1, first * PLACES), (last + 1) * PLACES))
    for block in range(first, last + 1):
        kept = {uid: place for uid, place in places.items() if uid // PLACES == block}
        core.settings.shelf.put((core.account, folder.mid, f"files {block}"), kept, 400 * len(kept))
    return places


def read_many(core: Core, mailbox: str, uids: Sequence[int], octets: int) -> list[bytes | None]:
    """Where a file is as the index says it is read without another look; else like ``read``.

    Who reads a whole mailbox comes again for the next ones: their places are looked up together and kept for him."""
    folder = core.seen(mailbox)
    known, folder.ahead = folder.ahead, {}
    texts: list[bytes | None] = []
    asked: Sequence[int] = ()
    if 0 < len(uids) <= FEW and not all(uid in known for uid in uids):
        first, last = min(uids) // PLACES, max(uids) // PLACES
        if last - first <= 1:
            known, asked = _keep_places(core, folder, first, last), uids
    fds = folder.cur.fd, folder.new.fd
    for at, uid in enumerate(uids):
        place = known.get(uid)
        if place is None and uid not in asked:
            asked = uids[at : at + READ_BLOCK]
            known = _places(core, folder, asked)
            place = known.get(uid)
        text = None
        if place is not None:
            text = _read_known(fds, place)
            if text is None:
                text = read(core, mailbox, uid)
        texts.append(text)
        if text is not None:
            octets -= len(text)
            if octets <= 0:
                break
    if len(texts) < len(uids):
        folder.ahead = known
    return texts


def _read_known(fds: tuple[int, int], place: Place) -> bytes | None:
    """The text of a file that is just as the index knows it, below ``cur`` or ``new``; None: look closer."""
    _, name, fresh, form, inode, size, mtime = place
    try:
        fd = os.open(name, _READ, dir_fd=fds[fresh])
    except FileNotFoundError:
        return None
    try:
        facts = os.fstat(fd)
        if facts.st_ino != inode or facts.st_size != size or facts.st_mtime_ns != mtime:
            return None
        data = os.read(fd, size)
    finally:
        os.close(fd)
    if len(data) != size:
        return None
    return data if form == CRLF_FORM else to_crlf(data, form)


def read(core: Core, mailbox: str, uid: int) -> bytes | None:
    """The text of a message; looked for once when it is not under the name we knew."""
    folder, row = core.box(mailbox)
    for attempt in range(2):
        hots = core.index.hot(row.id, (uid,))
        if not hots:
            return None
        hot = hots[0]
        try:
            found = intake.read_file(folder.place(hot.fresh), hot.name)
        except FileNotFoundError:
            if attempt == 0:
                rescan.force(core, folder)
            continue
        if found is None:
            return None
        if (found.inode, found.disk_size, found.mtime) != (hot.inode, hot.disk_size, hot.mtime):
            _render_anew(core, folder, hot, found)
        return found.text
    return None


def _render_anew(core: Core, folder: Folder, seen: HotRow, found: intake.Found) -> None:
    """HOUSE item 12: another program changed the file's content; the index follows, the UID stays."""
    with core.locked():
        row = core.fresh_row(folder)
        hots = core.index.hot(row.id, (seen.uid,))
        if not hots or hots[0].name != seen.name:
            return
        old = hots[0]
        record = render(found.text)
        folder.reserve(row, 0)
        row.modseq += 1
        new = HotRow(
            row.id,
            old.uid,
            old.flags,
            row.modseq,
            old.born,
            record.size,
            old.date,
            old.savedate,
            record.header_size,
            record.email_id,
            found.form,
            old.fresh,
            old.name,
            found.inode,
            found.disk_size,
            found.mtime,
        )
        with core.index.transaction():
            core.index.replace(row, old, new, intake.cold_of(record))
            core.index.execute(
                "delete from meta where key=?", (f"pack:{row.mid}",)
            )  # its text is packed anew
            core.index.save(row)
        core.changed(row)
