"""Messages in mbox files that are there already: flags, copies, moves, removal.

Flags are written in place where the padding of the state fields allows it (one write, not synced, as no protocol asks for that);
else, and for a message of another program that has no such fields yet, the rest of the file is moved by a journalled change
(``mbox_journal``), and while it is moved every message behind gets its fields and its padding: so a file that other
programs fill is moved once and not once a message. Removal is a journalled change too, a move is one of both files: it
happens in both or in none. Copies are appended (``mbox_delivery``). Expunging rewrites what follows the first removed message.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from filterd.store import flags as fl
from filterd.store import mbox_format as fmt
from filterd.store import mbox_journal, mbox_sync, mbox_tree, names, quota, tree
from filterd.store.base import DELETED, Copied, FlagChange
from filterd.store.folder import Folder
from filterd.store.index import HotRow, MailboxRow
from filterd.store.mbox_delivery import Appending, area_of, note_last, prepared
from filterd.store.mbox_file import MboxFile, mbox_of
from filterd.store.mbox_journal import Change, Piece
from filterd.store.memory import new_mask
from filterd.store.transfer import blocks

if TYPE_CHECKING:
    from filterd.store.core import Core

MOVE_OCTETS = 32 * 1024 * 1024  # of messages that are moved by one change


@dataclass(slots=True)
class _Rewrite:
    """The rest of a file from the first of some changes on; ``moved``: where its messages come to lie."""

    start: int
    pieces: list[Piece] = field(default_factory=list)
    moved: list[tuple[int, int, str, int, int, int]] = field(
        default_factory=list
    )  # as mbox_sync.REPLACE wants it
    grown: int = 0  # octets
    end: int = 0

    def add(self, piece: Piece) -> None:
        if isinstance(piece, tuple):
            if piece[1] <= piece[0]:
                return
            last = self.pieces[-1] if self.pieces else b""
            if isinstance(last, tuple) and last[1] == piece[0]:
                self.pieces[-1] = (last[0], piece[1])
            else:
                self.pieces.append(piece)
            self.end += piece[1] - piece[0]
        elif piece:
            self.pieces.append(piece)
            self.end += len(piece)


def _rewritten(
    mbox: MboxFile, row: MailboxRow, hots: list[HotRow], heads: dict[int, bytes], dropped: set[int]
) -> _Rewrite:
    """``hots``: all messages of the mailbox in the order of the file. ``heads``: by UID."""
    touched = [hot.inode for hot in hots if hot.uid in heads or hot.uid in dropped]
    rewrite = _Rewrite(min(touched))
    rewrite.end = rewrite.start
    first = rewrite.start == 0
    at = rewrite.start
    for hot in hots:
        if hot.inode < rewrite.start:
            continue
        rewrite.add((at, hot.inode))
        at = hot.inode + hot.disk_size
        if hot.uid in dropped:
            continue
        old = mbox.scanner().head(hot.inode)
        head = heads.get(hot.uid, old)
        if head is old and (fmt.state_of(old).uid != hot.uid):
            head = fmt.restate(
                old, hot.uid, hot.flags, fl.names_of(hot.flags & ~fl.SYSTEM_MASK, row.keyword_list), hot.fresh
            )
        if first:
            head = fmt.with_base(head, fmt.base_line(row.uidvalidity, row.uidnext - 1, row.keyword_list))
            first = False
        where = rewrite.end
        if head == old:
            rewrite.add((hot.inode, at))
            rewrite.moved.append((where, hot.disk_size, hot.name, hot.mtime, row.id, hot.uid))
            continue
        rewrite.add(head)
        rewrite.add((hot.inode + len(old), at))
        size = hot.disk_size + len(head) - len(old)
        length, mark = fmt.measure(head)
        rewrite.moved.append((where, size, str(length), mark, row.id, hot.uid))
        rewrite.grown += size - hot.disk_size
    rewrite.add((at, mbox.size()))
    return rewrite


def _in_order(core: Core, row: MailboxRow) -> list[HotRow]:
    return sorted(core.index.hot_all(row.id), key=lambda hot: hot.inode)


def _moved(core: Core, row: MailboxRow, rewrite: _Rewrite) -> None:
    """Inside a transaction."""
    core.index.execute_many(mbox_sync.REPLACE, rewrite.moved)
    row.disk_size += rewrite.grown


@contextlib.contextmanager
def _carried_out(
    core: Core,
    rows: Sequence[MailboxRow],
    mboxes: Sequence[MboxFile],
    changes: Sequence[tuple[int, Sequence[Piece]]],
) -> Iterator[None]:
    """Do it on disk; inside, the index is to follow."""
    with mbox_tree.home(core) as home:
        todo = [
            Change(row.directory, mbox, at, pieces)
            for row, mbox, (at, pieces) in zip(rows, mboxes, changes, strict=True)
        ]
        mbox_journal.carry_out(core.settings.disk, home, todo)
        for row, mbox in zip(rows, mboxes, strict=True):
            note_last(mbox, row)
            row.new_mtime, row.cur_mtime = mbox.stamp()
        yield
        mbox_journal.done(core.settings.disk, home)


# -- flags ------------------------------------------------------------------------------------------------------------------


def set_flags(
    core: Core,
    mailbox: str,
    uids: Sequence[int],
    mode: str,
    flags: Iterable[str],
    unchanged_since: int | None,
) -> FlagChange:
    flags = tuple(flags)
    core.box(mailbox)
    changed: list[tuple[int, int, int]] = []
    modified: list[int] = []
    with core.locked():
        folder, _ = core.box(mailbox)
        with mbox_of(folder).held():
            row = mbox_sync.current(core, folder)
            mask, keywords = fl.mask_of(flags, row.keyword_list, create=mode != "remove")
            todo: dict[int, int] = {}
            for hot in core.index.flag_rows(row.id, uids):
                if unchanged_since is not None and hot.modseq > unchanged_since:
                    modified.append(hot.uid)
                elif (new := new_mask(hot.flags, mode, mask)) == hot.flags:
                    changed.append((hot.uid, new, hot.modseq))
                else:
                    todo[hot.uid] = new
            if todo:
                if keywords != row.keyword_list:
                    folder.write_keywords(keywords)
                    row.keywords = "\n".join(keywords)
                _set(core, folder, row, todo)
                changed += [(uid, new, row.modseq) for uid, new in todo.items()]
    return FlagChange(tuple(sorted(changed)), tuple(sorted(modified)))


def _set(core: Core, folder: Folder, row: MailboxRow, todo: dict[int, int]) -> None:
    mbox = mbox_of(folder)
    folder.reserve(row, 0)
    row.modseq += 1
    hots = core.index.hot(row.id, list(todo))
    longer: dict[int, bytes] = {}
    places: list[tuple[int, int, str, int, int, int]] = []
    changes = [(hot, todo[hot.uid], row.modseq, 0, hot.name) for hot in hots]
    with core.publishing(row.id), contextlib.ExitStack() as stack:
        for hot in hots:
            head = mbox.scanner().head(hot.inode)
            mask = todo[hot.uid]
            new = fmt.restate(head, hot.uid, mask, fl.names_of(mask & ~fl.SYSTEM_MASK, row.keyword_list), 0)
            if len(new) == len(head):
                _write_difference(mbox, hot.inode, head, new)
                places.append((hot.inode, hot.disk_size, hot.name, fmt.measure(new)[1], row.id, hot.uid))
            else:
                longer[hot.uid] = new
        note_last(mbox, row)
        row.new_mtime, row.cur_mtime = mbox.stamp()
        rewrite = None
        if longer:
            rewrite = _rewritten(mbox, row, _in_order(core, row), longer, set())
            stack.enter_context(_carried_out(core, [row], [mbox], [(rewrite.start, rewrite.pieces)]))
        with core.index.transaction():
            core.index.change(row, changes)
            core.index.execute_many(mbox_sync.REPLACE, places)
            if rewrite is not None:
                _moved(core, row, rewrite)
            core.index.save(row)
    core.changed(row)


def _write_difference(mbox: MboxFile, offset: int, old: bytes, new: bytes) -> None:
    if old == new:
        return
    start = next(at for at, (one, other) in enumerate(zip(old, new, strict=True)) if one != other)
    end = next(at for at, (one, other) in enumerate(zip(old[::-1], new[::-1], strict=True)) if one != other)
    mbox.write(offset + start, new[start : len(new) - end])


# -- removal ------------------------------------------------------------------------------------------------------------------


def expunge(core: Core, mailbox: str, uids: Sequence[int] | None) -> tuple[int, ...]:
    core.box(mailbox)
    with core.locked():
        folder, _ = core.box(mailbox)
        mbox = mbox_of(folder)
        with mbox.held():
            row = mbox_sync.current(core, folder)
            wanted = None if uids is None else set(uids)
            hots = _in_order(core, row)
            doomed = [hot for hot in hots if hot.flags & DELETED and (wanted is None or hot.uid in wanted)]
            if not doomed:
                return ()
            folder.reserve(row, 0)
            rewrite = _rewritten(mbox, row, hots, {}, {hot.uid for hot in doomed})
            with (
                core.publishing(row.id),
                _carried_out(core, [row], [mbox], [(rewrite.start, rewrite.pieces)]),
            ):
                row.modseq += 1
                with core.index.transaction():
                    core.index.remove(row, doomed, row.modseq, core.now())
                    _moved(core, row, rewrite)
                    core.index.save(row)
            core.changed(row)
    return tuple(sorted(hot.uid for hot in doomed))


# -- copies and moves -----------------------------------------------------------------------------------------------------------


class _Transfer:
    """Messages of one mailbox into another (or the same one), all files held."""

    def __init__(self, core: Core, mailbox: str, destination: str, stack: contextlib.ExitStack) -> None:
        self.core = core
        self.target_folder, _ = core.box(destination)
        self.folder, _ = core.box(mailbox)
        for folder in sorted((self.folder, self.target_folder), key=lambda folder: folder.id):
            stack.enter_context(mbox_of(folder).held())
        self.target = mbox_sync.current(core, self.target_folder)
        same = self.folder.id == self.target_folder.id
        self.source = self.target if same else mbox_sync.current(core, self.folder)
        self.mbox = mbox_of(self.folder)
        self.target_mbox = mbox_of(self.target_folder)

    def _plan(self, hots: list[HotRow]) -> list[tuple[HotRow, HotRow]]:
        """Rows of the copies, still without a place."""
        words, keywords = self.source.keyword_list, self.target.keyword_list
        now, modseq = self.core.now(), self.target.modseq + 1
        self.target_folder.reserve(self.target, len(hots), 2)
        self.folder.reserve(self.source, 0)
        copies = []
        for hot in hots:
            mask, keywords = fl.translate(hot.flags, words, keywords)
            new = replace(
                hot,
                mbox=self.target.id,
                uid=self.target.uidnext,
                flags=mask,
                modseq=modseq,
                born=modseq,
                savedate=now,
                fresh=0,
            )
            self.target.uidnext += 1
            copies.append((hot, new))
        if keywords != self.target.keyword_list:
            self.target_folder.write_keywords(keywords)
            self.target.keywords = "\n".join(keywords)
        return copies

    def _area(self, hot: HotRow, new: HotRow, group: int = 0) -> bytes:
        """The message for its new place, as one of ours."""
        data = self.mbox.read(hot.inode, hot.disk_size)
        text = prepared(fmt.text_of(data, mbox_tree.quoting(self.core)))
        own = fmt.own_of(data[: fmt.head_end(data)])
        key = own.key if own is not None else b""
        return area_of(text, self.target, new.uid, (new.flags, 0), (new.date, new.savedate), key, group)

    def copy(self, uids: Sequence[int]) -> list[tuple[int, int]]:
        hots = self.core.index.hot(self.source.id, uids)
        if not hots:
            return []
        base = fmt.BASE_OCTETS + len("X-IMAPbase: \n")  # of the first message in the file
        quota.check(self.core, sum(hot.disk_size - (0 if hot.inode else base) for hot in hots))
        copies = self._plan(hots)
        appending = Appending(self.target_mbox, self.target)
        appending.together = len(copies) > 1
        group = copies[0][1].uid if appending.together else 0
        with self.core.publishing(self.target.id):
            try:
                for hot, new in copies:
                    placed = appending.add(self._area(hot, new, group))
                    new.inode, new.disk_size, new.name, new.mtime = (
                        placed.offset,
                        placed.size,
                        str(placed.head),
                        placed.mark,
                    )
                appending.finish()
                with self.core.index.transaction():
                    self.target.modseq += 1
                    self.core.index.add_copies(self.target, copies)
                    self.core.index.save(self.target)
            except BaseException:
                appending.undo()
                raise
        self.core.changed(self.target)
        return [(hot.uid, new.uid) for hot, new in copies]

    def move(self, uids: Sequence[int]) -> list[tuple[int, int]]:
        core, index = self.core, self.core.index
        hots = index.hot(self.source.id, uids)
        if not hots:
            return []
        copies = self._plan(hots)
        rewrite = _rewritten(
            self.mbox, self.source, _in_order(core, self.source), {}, {hot.uid for hot in hots}
        )
        same = self.source is self.target
        start = rewrite.end if same else self.target_mbox.size()
        pieces: list[Piece] = [
            mbox_journal.glue(self.mbox, self.mbox.size())
            if same
            else mbox_journal.glue(self.target_mbox, start)
        ]
        at = start + sum(len(piece) for piece in pieces if isinstance(piece, bytes))
        for hot, new in copies:
            area = self._area(hot, new).replace(b"\nX-Filterd-Mbox: w=0 ", b"\nX-Filterd-Mbox: w=1 ", 1)
            if not at:
                head = area[: fmt.head_end(area)]
                line = fmt.base_line(
                    self.target.uidvalidity, self.target.uidnext - 1, self.target.keyword_list
                )
                area = fmt.with_base(head, line) + area[len(head) :]
            length, mark = fmt.measure(area)
            new.inode, new.disk_size, new.name, new.mtime = at, len(area), str(length), mark
            pieces.append(area)
            at += len(area)
        rows, mboxes = [self.source], [self.mbox]
        if same:
            changes: list[tuple[int, Sequence[Piece]]] = [(rewrite.start, [*rewrite.pieces, *pieces])]
        else:
            rows.append(self.target)
            mboxes.append(self.target_mbox)
            changes = [(rewrite.start, rewrite.pieces), (start, pieces)]
        with (
            core.publishing(self.source.id, self.target.id),
            _carried_out(core, rows, mboxes, changes),
            index.transaction(),
        ):
            self.target.modseq += 1
            index.add_copies(self.target, copies)
            if not same:
                self.source.modseq += 1
            index.remove(self.source, hots, self.source.modseq + (1 if same else 0), core.now())
            if same:
                self.target.modseq += 1
            _moved(core, self.source, rewrite)
            index.save(self.source)
            index.save(self.target)
        core.changed(self.source)
        core.changed(self.target)
        return [(hot.uid, new.uid) for hot, new in copies]


def copy(core: Core, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
    with core.locked(), contextlib.ExitStack() as stack:
        transfer = _Transfer(core, mailbox, destination, stack)
        return _copied(core, transfer, transfer.copy(uids))


def move(core: Core, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
    pairs: list[tuple[int, int]] = []
    left = [uid for block in blocks(uids) for uid in block]
    while True:
        with core.locked(), contextlib.ExitStack() as stack:
            transfer = _Transfer(core, mailbox, destination, stack)
            octets = 0
            count = 0
            for _, size in core.index.columns(transfer.source.id, left, ("disk_size",)):
                octets += int(size or 0)
                count += 1
                if octets > MOVE_OCTETS:
                    break
            known = [int(uid or 0) for uid, _ in core.index.columns(transfer.source.id, left, ("disk_size",))]
            now, left = known[:count], known[count:]
            pairs += transfer.move(now)
            if not left:
                return _copied(core, transfer, pairs)


def _copied(core: Core, transfer: _Transfer, pairs: list[tuple[int, int]]) -> Copied:
    info = tree.info_of(core, transfer.target)
    pairs.sort()
    return Copied(info, tuple(source for source, _ in pairs), tuple(uid for _, uid in pairs))


def rename_inbox(core: Core, new: str) -> None:
    """RFC 9051 6.3.6: INBOX's messages move to a new mailbox, INBOX stays."""
    mbox_tree.create(core, new)
    _, row = core.box(names.INBOX)
    found = core.index.query("select uid from hot where mbox=?", (row.id,))
    move(core, names.INBOX, [int(uid) for (uid,) in found if isinstance(uid, int)], new)
