"""Messages that are there already: flags, copies, moves, removal.

Order: names on disk, then the index (HOUSE item 12). Copies and removals are synced before the index commits, so that what was
answered survives; changes of flags are not (no protocol asks for it), a power failure may undo the last seconds of them. The names
of many messages whose flags change follow the index (``laternames``).
Whatever was not where the index said (ENOENT: another program renamed it) is looked for once by a scan and tried once more.
Long lists go in blocks of BLOCK messages, each its own lock and transaction, but for ``copy``, which is all or none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filterd.store import flags as fl
from filterd.store import names, quota, rescan, tree
from filterd.store.attempt import FileAttempt
from filterd.store.base import DELETED, Copied, FlagChange, StoreError
from filterd.store.core import touched
from filterd.store.folder import Folder, stem
from filterd.store.index import FlagRow, GoneRow, HotRow, MailboxRow
from filterd.store.latenotes import MANY
from filterd.store.memory import new_mask
from filterd.store.rowsets import Ways

if TYPE_CHECKING:
    from filterd.store.core import Core

BLOCK = 2000


def blocks(uids: Iterable[int]) -> list[list[int]]:
    """Ascending, without repeats, in blocks."""
    ordered = sorted(set(uids))
    return [ordered[at : at + BLOCK] for at in range(0, len(ordered), BLOCK)]


# -- flags --------------------------------------------------------------------------------------------------------------------


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
    out = _Flagged()
    for block in blocks(uids):
        with core.locked():
            folder, _ = core.box(mailbox)
            missing = _flag_block(core, folder, block, (mode, flags, unchanged_since), out)
            if missing:
                rescan.force(core, folder)
                _flag_block(core, folder, missing, (mode, flags, unchanged_since), out)
    return FlagChange(tuple(sorted(out.changed)), tuple(sorted(out.modified)), tuple(out.made))


def advance(core: Core, mailbox: str) -> int:
    """The next modseq, for no message of the mailbox."""
    core.box(mailbox)
    with core.locked():
        folder, _ = core.box(mailbox)
        row = core.fresh_row(folder)
        folder.reserve(row, 0)
        row.modseq += 1
        with core.index.transaction():
            core.index.save(row)
        core.changed(row)
        return row.modseq


@dataclass(slots=True)
class _Flagged:
    """What becomes a FlagChange."""

    changed: list[tuple[int, int, int]] = field(default_factory=list)
    modified: list[int] = field(default_factory=list)
    made: list[int] = field(default_factory=list)


def _flag_block(
    core: Core,
    folder: Folder,
    uids: list[int],
    how: tuple[str, tuple[str, ...], int | None],
    out: _Flagged,
) -> list[int]:
    """Appends to ``out``; the UIDs whose file was not found."""
    mode, flags, unchanged_since = how
    changed, modified = out.changed, out.modified
    row = core.fresh_row(folder)
    mask, keywords = fl.mask_of(flags, row.keyword_list, create=mode != "remove")
    masks: dict[int, int] = {}  # what becomes of the flags that a message has: there are few
    todo: list[FlagRow] = []
    for hot in core.index.flag_rows(row.id, uids):
        old = hot.flags
        if unchanged_since is not None and hot.modseq > unchanged_since:
            modified.append(hot.uid)
            continue
        if old not in masks:
            masks[old] = new_mask(old, mode, mask)
        if masks[old] == old:
            changed.append((hot.uid, old, hot.modseq))
        else:
            todo.append(hot)
    if not todo:
        return []
    if keywords != row.keyword_list:
        folder.write_keywords(keywords)
        row.keywords = "\n".join(keywords)
    folder.reserve(row, 0)
    before = row.modseq
    ways = Ways(before + 1, masks)
    missing: list[int] = []
    if len(todo) >= MANY and not any([hot.fresh for hot in todo]):
        renamed = [(hot, hot.name) for hot in todo]
        ways.keep_names()
        row.modseq = ways.modseq
        with core.index.transaction():
            core.index.reflag(row, renamed, ways)
            core.late.put(core.index, row.id, [hot.uid for hot in todo])
            core.index.save(row)
    else:
        renamed, missing = _flag_names(core, folder, row, todo, ways)
    if renamed:
        core.changed(row)
        modseq = ways.modseq
        now = [(hot.uid, masks[hot.flags], modseq) for hot, _ in renamed]
        core.own.note(row.id, before, modseq, [uid for uid, _, _ in now], [flags for _, flags, _ in now])
        changed += now
        out.made.append(modseq)
    return missing


def _flag_names(
    core: Core, folder: Folder, row: MailboxRow, todo: list[FlagRow], ways: Ways
) -> tuple[list[tuple[FlagRow, str]], list[int]]:
    """Names first, then the index: what has its new name, and the UIDs of what was not found."""
    with core.publishing(row.id):
        times = folder.times()
        renamed, missing = _rename_for_flags(core, folder, todo, ways)
        touched(row, times, folder.times())
        if renamed:
            row.modseq = ways.modseq
        with core.index.transaction():
            core.index.reflag(row, renamed, ways)
            core.index.save(row)
    return renamed, missing


def _rename_for_flags(
    core: Core, folder: Folder, todo: list[FlagRow], ways: Ways
) -> tuple[list[tuple[FlagRow, str]], list[int]]:
    """What has its new name, and the UIDs of what was not found."""
    done: list[tuple[FlagRow, str]] = []
    missing = []
    rename, cur = core.settings.disk.rename, folder.cur
    ends: dict[tuple[int, str], str] = {}  # (flags, old end) -> the end of the new name
    for hot in todo:
        _, uid, flags, _, fresh, old = hot
        base, mark, letters = old.rpartition(fl.MARK)
        if not mark:
            base, letters = old, ""
        ending = mark + letters
        end = ends.get((flags, ending))
        if end is None:
            unknown = fl.mask_of_letters(letters)[1] if letters else ""
            end = ends[flags, ending] = fl.info_of(ways.masks[flags], unknown)
            ways.note(flags, ending, end)
        name = base + end
        if fresh or name != old:
            try:
                rename(folder.new if fresh else cur, old, cur, name)
            except FileNotFoundError:
                missing.append(uid)
                continue
        done.append((hot, name))
    return done, missing


# -- removal ------------------------------------------------------------------------------------------------------------------


def expunge(core: Core, mailbox: str, uids: Sequence[int] | None) -> tuple[int, ...]:
    core.box(mailbox)
    if uids is None or len(uids) > BLOCK:  # of a large mailbox few go: the others are not even read
        uids = _marked(core, mailbox, uids)
    gone: list[int] = []
    for block in blocks(uids):
        with core.locked():
            folder, _ = core.box(mailbox)
            missing = _expunge_block(core, folder, block, gone)
            if missing:
                rescan.force(core, folder)
                _expunge_block(core, folder, missing, gone)
    return tuple(sorted(gone))


def _marked(core: Core, mailbox: str, uids: Sequence[int] | None) -> list[int]:
    """Those of ``uids`` (None: of all) that are to go, ascending."""
    with core.locked():
        folder, _ = core.box(mailbox)
        row = core.fresh_row(folder)
    found = core.index.query("select uid from hot where mbox=? and flags & ? order by uid", (row.id, DELETED))
    marked = [int(uid) for (uid,) in found if isinstance(uid, int)]
    if uids is None or not marked:
        return marked
    wanted = frozenset(uids)
    return [uid for uid in marked if uid in wanted]


def _expunge_block(core: Core, folder: Folder, uids: list[int], gone: list[int]) -> list[int]:
    row = core.fresh_row(folder)
    doomed = core.index.gone_rows(row.id, uids)
    if not doomed:
        return []
    folder.reserve(row, 0)
    missing = []
    removed = []
    disk = core.settings.disk
    unlink, places = disk.unlink, (folder.cur, folder.new)
    with core.publishing(row.id):
        before = folder.times()
        for hot in doomed:
            try:
                unlink(places[hot.fresh], hot.name)
                removed.append(hot)
            except FileNotFoundError:
                missing.append(hot.uid)
        for fresh in {hot.fresh for hot in removed}:
            disk.sync_dir(folder.place(fresh))
        touched(row, before, folder.times())
        _forget(core, row, removed)
    quota.count(core, -sum(hot.disk_size for hot in removed), -len(removed))
    gone += [hot.uid for hot in removed]
    return missing


def _forget(core: Core, row: MailboxRow, removed: list[GoneRow]) -> None:
    with core.index.transaction():
        if removed:
            row.modseq += 1
            core.index.remove(row, removed, row.modseq, core.now())
            core.changed(row)
        core.index.save(row)
    if removed:
        core.own.note(row.id, row.modseq - 1, row.modseq, [hot.uid for hot in removed], None)


# -- copies and moves -----------------------------------------------------------------------------------------------------------


class _Transfer:
    """Messages of one mailbox into another (or the same one), under one lock."""

    def __init__(self, core: Core, mailbox: str, destination: str) -> None:
        self.core = core
        self.disk = core.settings.disk
        self.target_folder, _ = core.box(destination)
        self.folder, _ = core.box(mailbox)
        self.target = core.fresh_row(self.target_folder)
        same = self.folder.id == self.target_folder.id
        self.source = self.target if same else core.fresh_row(self.folder)
        self.done: list[tuple[HotRow, HotRow]] = []
        self.missing: list[int] = []
        self.keywords = self.target.keyword_list
        self.attempt: FileAttempt | None = None

    def run(self, uids: Sequence[int], move: bool) -> list[tuple[int, int]]:
        """(UID there, UID here) of what was transferred."""
        hots = self._known(uids)
        if not hots:
            return []
        if not move:
            quota.check(self.core, sum(hot.disk_size for hot in hots))
        copies = self._plan(hots)
        self.target_folder.reserve(self.target, len(hots), 2)
        self.folder.reserve(self.source, 0)
        if self.keywords != self.target.keyword_list:
            self.target_folder.write_keywords(self.keywords)
            self.target.keywords = "\n".join(self.keywords)
        with self.core.publishing(self.source.id, self.target.id):
            try:
                if self.attempt is not None:
                    self.attempt.add((self.target.mid, copy.name) for _, copy in copies)
                self._names(copies, move)
                self._commit(move)
            except BaseException:
                self._undo(move)
                raise
        octets, count = sum(hot.disk_size for hot, _ in self.done), len(self.done)
        if not move:
            quota.count(self.core, octets, count)
        return [(hot.uid, copy.uid) for hot, copy in self.done]

    def _known(self, uids: Sequence[int]) -> list[HotRow]:
        """The rows; the files are made sure of by one scan when the directory moved under us."""
        row = rescan.refresh(self.core, self.folder, self.source)
        if row is not self.source:
            if self.source is self.target:
                self.target = row
            self.source = row
        return self.core.index.hot(self.source.id, uids)

    def _plan(self, hots: list[HotRow]) -> list[tuple[HotRow, HotRow]]:
        words = self.source.keyword_list
        uid, modseq, now = self.target.uidnext, self.target.modseq + 1, self.core.now()
        copies = []
        for hot in hots:
            mask, self.keywords = fl.translate(hot.flags, words, self.keywords)
            base, letters = fl.split_name(hot.name)
            unknown = fl.mask_of_letters(letters)[1] if letters else ""
            name = f"{stem(base)},U={self.target.mid}.{uid}{fl.info_of(mask, unknown)}"
            copy = HotRow(
                self.target.id,
                uid,
                mask,
                modseq,
                modseq,
                hot.size,
                hot.date,
                now,
                hot.header_size,
                hot.email_id,
                hot.form,
                0,
                name,
                hot.inode,
                hot.disk_size,
                hot.mtime,
            )
            copies.append((hot, copy))
            uid += 1
        return copies

    def _names(self, copies: list[tuple[HotRow, HotRow]], move: bool) -> None:
        befores = self.folder.times(), self.target_folder.times()
        act = self.disk.rename if move else self.disk.link
        for hot, copy in copies:
            try:
                act(self.folder.place(hot.fresh), hot.name, self.target_folder.cur, copy.name)
            except FileNotFoundError:
                self.missing.append(hot.uid)  # somebody else took or renamed it: the next look tells
                continue
            self.done.append((hot, copy))
        self.disk.sync_dir(self.target_folder.cur)
        if move:
            for fresh in {hot.fresh for hot, _ in self.done}:
                self.disk.sync_dir(self.folder.place(fresh))
        touched(self.target, befores[1], self.target_folder.times())
        if self.source is not self.target:
            touched(self.source, befores[0], self.folder.times())

    def _commit(self, move: bool) -> None:
        index = self.core.index
        if not self.done:
            return
        with index.transaction():
            self.target.modseq += 1
            self.target.uidnext = self.done[-1][1].uid + 1
            index.add_copies(self.target, self.done)
            if move:
                self.source.modseq += 1
                index.remove(self.source, [hot for hot, _ in self.done], self.source.modseq, self.core.now())
                index.save(self.source)
            index.save(self.target)
        self.core.changed(self.target)
        if move:
            self.core.changed(self.source)

    def _undo(self, move: bool) -> None:
        for hot, copy in self.done:
            with contextlib.suppress(OSError):
                if move:
                    self.disk.rename(
                        self.target_folder.cur, copy.name, self.folder.place(hot.fresh), hot.name
                    )
                else:
                    self.disk.unlink(self.target_folder.cur, copy.name)


def copy(core: Core, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
    with core.locked():
        transfer = _Transfer(core, mailbox, destination)
        attempt = transfer.attempt = FileAttempt.of(core, len(uids))
        try:
            pairs = transfer.run(uids, move=False)
            if transfer.missing:
                pairs += _rest(core, transfer, mailbox, destination, move=False)
        except BaseException:
            if attempt is not None:
                with contextlib.suppress(StoreError):
                    attempt.end()
            raise
        if attempt is not None:
            attempt.end()
        return _copied(core, transfer, pairs)


def move(core: Core, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
    pairs: list[tuple[int, int]] = []
    with core.locked():
        transfer = _Transfer(core, mailbox, destination)
    for block in blocks(uids):
        with core.locked():
            transfer = _Transfer(core, mailbox, destination)
            pairs += transfer.run(block, move=True)
            if transfer.missing:
                pairs += _rest(core, transfer, mailbox, destination, move=True)
    return _copied(core, transfer, pairs)


def _rest(
    core: Core, transfer: _Transfer, mailbox: str, destination: str, move: bool
) -> list[tuple[int, int]]:
    """Some had no file under the name we knew: look, and try those once more."""
    rescan.force(core, transfer.folder)
    again = _Transfer(core, mailbox, destination)
    again.attempt = transfer.attempt
    try:
        return again.run(transfer.missing, move)
    except StoreError:
        if move:
            return []  # the others have moved; these stay
        raise


def _copied(core: Core, transfer: _Transfer, pairs: list[tuple[int, int]]) -> Copied:
    pairs.sort()
    info = tree.info_of(core, transfer.target)
    return Copied(info, tuple(source for source, _ in pairs), tuple(uid for _, uid in pairs))


def rename_inbox(core: Core, new: str) -> None:
    """RFC 9051 6.3.6: INBOX's messages move to a new mailbox, INBOX stays."""
    tree.create(core, new)
    _, row = core.box(names.INBOX)
    uids = [
        int(uid)
        for (uid,) in core.index.query("select uid from hot where mbox=?", (row.id,))
        if isinstance(uid, int)
    ]
    move(core, names.INBOX, uids, new)
