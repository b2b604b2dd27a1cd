"""File names that follow: a change of many flags at once is in the index when it is answered, and in the names soon after.

A rename is 11 of the 16 us that such a change costs a message (decision 0007). Below MANY messages names change first, as ever
(``transfer``). From there on the index commits the flags with a note of which rows are concerned (``latenotes``), and the
account's idle time, a tenth of a second later, renames (``step``). Until then the row's ``name`` is still what the file is
called, so nothing that looks for the file is disturbed, and a name that another program changes meanwhile is merged: what it
changed against the old name, on top of our flags (``flags.merged``).

The note is a range, not a list: a row is late when its name does not say its flags. A killed process leaves notes; who opens
the index next finds them. Power failure: what the index loses of the last seconds is lost as it is with names (``transfer``).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from filterd.store import flags as fl
from filterd.store import rescan
from filterd.store.base import NoSuchMailbox
from filterd.store.core import touched

if TYPE_CHECKING:
    from filterd.store.core import Core
    from filterd.store.folder import Folder
    from filterd.store.index import MailboxRow
    from filterd.store.latenotes import Note

log = logging.getLogger("filterd.store")

BLOCK = 500  # renames, some 6 ms of the writer's lock
_OF_ONE_FILE = (errno.ENAMETOOLONG, errno.EINVAL, errno.EPERM)  # EPERM: chattr +i
STEP_SECONDS = 0.015  # at a time: a client that asks meanwhile waits so long


def finish(core: Core, seconds: float) -> bool:
    """All names, if so many seconds are enough."""
    clock = core.settings.clock
    until = clock.monotonic() + seconds
    while core.late.due(core.opened_index) and clock.monotonic() < until:
        step(core, until - clock.monotonic())
    return not core.late.some


def step(core: Core, seconds: float) -> None:
    """Some names: blocks until ``seconds`` are over, one at least."""
    clock = core.settings.clock
    until = clock.monotonic() + min(seconds, STEP_SECONDS)
    while (note := core.late.first(core.index)) is not None:
        try:
            _block(core, note)
        except OSError as error:
            core.late.stuck = True
            log.warning("%s: names of files do not follow their flags: %s", core.account, error)
            return
        if clock.monotonic() >= until:
            return


def _block(core: Core, note: Note) -> None:
    """The first rows of a note, which becomes shorter."""
    mailbox, first, last = note
    known = core.index.mailbox(mailbox)
    with core.locked():
        try:
            folder, row = core.box(known.name) if known is not None else (None, None)
        except NoSuchMailbox:
            folder = row = None
        if folder is None or row is None or row.id != mailbox:
            core.late.shorten(core.index, note, last)
            return
        for turn in range(2):
            row = core.fresh_row(folder)
            rows = core.index.query(
                "select uid, flags, name from hot where mbox=? and uid between ? and ? and fresh=0 order by uid limit ?",
                (mailbox, first, last, BLOCK),
            )
            end = int(rows[-1][0] or 0) if len(rows) == BLOCK else last
            late = [
                (int(uid or 0), str(name), new)
                for uid, flags, name in rows
                if (new := name_of(str(name), int(flags or 0))) != name
            ]
            missing = _rename(core, folder, row, late)
            if not missing or turn:
                break
            rescan.force(core, folder)
        core.late.shorten(core.index, note, end)


def _rename(core: Core, folder: Folder, row: MailboxRow, late: Sequence[tuple[int, str, str]]) -> int:
    """(UID, old name, new name): how many were not found. A file that cannot have the name costs itself only; raises what else went
    wrong once the others are in the index."""
    done: list[tuple[str, int, int]] = []
    missing = 0
    odd: list[str] = []
    failed: OSError | None = None
    with core.publishing(row.id):
        times = folder.times()
        for uid, old, new in late:
            try:
                core.settings.disk.rename(folder.cur, old, folder.cur, new)
                done.append((new, row.id, uid))
            except FileNotFoundError:
                missing += 1
            except OSError as error:
                if error.errno not in _OF_ONE_FILE:
                    failed = error
                    break
                odd.append(f"{old!r}: {error.strerror}")
        touched(row, times, folder.times())
        with core.index.transaction():
            core.index.execute_many("update hot set name=? where mbox=? and uid=?", done)
            core.index.save(row)
    if odd:
        log.warning(
            "%s: %d files keep names without their flags, the first is %s", folder.cur.path, len(odd), odd[0]
        )
    if failed is not None:
        raise failed
    return missing


def name_of(name: str, flags: int) -> str:
    """The name that says these flags; letters of other programs stay. The name itself when its letters say them in any order."""
    base, letters = fl.split_name(name)
    mask, unknown = fl.mask_of_letters(letters)
    return name if mask == flags & fl.NAMED_MASK else base + fl.info_of(flags, unknown)
