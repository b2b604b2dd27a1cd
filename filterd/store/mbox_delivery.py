"""New messages into mbox files: deliveries, APPEND and copies go to the end, under the locks of the account and of the file.

Order: the file is in agreement with the index; messages are written behind its end, each saying how long it is and that it is not
yet known to be whole; one sync a file; then they are marked as whole, and one index transaction follows. A crash in between
leaves whole messages, which healing finds (they carry UID and delivery key), or a torn end, which it cuts off (``mbox_sync``).
No other journal is needed for what only adds. An error cuts the file back to where it ended. Messages of one COPY or MULTIAPPEND
carry the number of their group: where none of them is marked, all are cut off; one mark says that all are whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.store import flags as fl
from filterd.store import mbox_format as fmt
from filterd.store import mbox_sync
from filterd.store.base import NewMessage, SieveState
from filterd.store.delivery import Batch, Draft, Item, fingerprint
from filterd.store.durable import NewFile
from filterd.store.folder import Folder
from filterd.store.index import MailboxRow
from filterd.store.mbox_file import MboxFile, mbox_of
from filterd.store.mbox_journal import glue
from filterd.store.record import CRLF_FORM, render, to_crlf

if TYPE_CHECKING:
    from filterd.store.core import Core

BLOCK_OCTETS = 450  # about what our fields and the From_ line take


@dataclass(slots=True)
class Placed:
    """Where a message came to lie."""

    offset: int
    size: int
    head: int
    mark: int


@dataclass(slots=True)
class Text:
    """A message as it will be written: ``octets`` behind the block."""

    text: bytes
    octets: bytes
    form: str
    open_end: bool


def prepared(text: bytes) -> Text:
    return Text(text, *fmt.stored(text))


def area_of(
    text: Text,
    row: MailboxRow,
    uid: int,
    state: tuple[int, int],
    dates: tuple[int, int],
    key: bytes,
    group: int = 0,
) -> bytes:
    """The whole area of a new message. ``state``: (mask, fresh); ``dates``: (INTERNALDATE, saved). ``group``: the first UID of
    those that are to be there all or not at all."""
    mask, fresh = state
    words = fl.names_of(mask & ~fl.SYSTEM_MASK, row.keyword_list)
    rest = f"n={int(text.open_end)}" + (f" k={key.hex()}" if key else "") + (f" a={group}" if group else "")
    return b"".join(
        (
            fmt.from_line(text.text, dates[0]),
            fmt.state_lines(uid, mask, words, fresh, fmt.KEYWORD_ROOM),
            fmt.own_line(0, row.mid, uid, *dates, len(text.octets), text.form, rest),
            text.octets,
            b"\n",
        )
    )


class Appending:
    """Areas on their way to the end of a file that is held and agrees with the index."""

    def __init__(self, mbox: MboxFile, row: MailboxRow) -> None:
        self.mbox = mbox
        self.row = row
        self.start = mbox.size()
        self.end = self.start
        self.placed: list[Placed] = []
        self.together = False  # all or none: what says so must be on the disk as well

    def add(self, area: bytes) -> Placed:
        if not self.end:
            head = area[: fmt.head_end(area)]
            line = fmt.base_line(self.row.uidvalidity, self.row.uidnext - 1, self.row.keyword_list)
            area = fmt.with_base(head, line) + area[len(head) :]
        before = glue(self.mbox, self.end) if self.end == self.start else b""
        self.mbox.write(self.end, before + area)
        length, mark = fmt.measure(area)
        placed = Placed(self.end + len(before), len(area), length, mark)
        self.placed.append(placed)
        self.end += len(before) + len(area)
        return placed

    def finish(self) -> None:
        """Durable, and known to be."""
        note_last(self.mbox, self.row)
        self.mbox.sync()
        for placed in self.placed:
            mbox_sync.mark_written(self.mbox, placed.offset, placed.head)
        if self.together:
            self.mbox.sync()
        self.row.new_mtime, self.row.cur_mtime = self.mbox.stamp()

    def undo(self) -> None:
        with contextlib.suppress(OSError):
            self.mbox.cut(self.start)
            self.mbox.sync()


def note_last(mbox: MboxFile, row: MailboxRow) -> None:
    """Last UID and keywords in X-IMAPbase, where they can be written in place: other IMAP servers go by them."""
    head = mbox.read(0, fmt.LOOKED_AT)
    head = head[: fmt.head_end(head)]
    place = fmt.base_place(head)
    if place is None or place[1] != row.uidvalidity:
        return
    if at := fmt.base_value(head):
        value = fmt.base_line(row.uidvalidity, row.uidnext - 1, row.keyword_list)[
            len(b"X-IMAPbase: ") :
        ].rstrip(b"\n")
        if head[at : at + len(value)] != value:
            mbox.write(at, value)
    elif place[2] < row.uidnext - 1:
        mbox.write(place[0], b"%010d" % (row.uidnext - 1))


class MboxBatch(Batch):
    """``delivery.Batch`` with other files."""

    puts_aside = False

    def __init__(self, core: Core, items: Sequence[Item], whole: bool) -> None:
        super().__init__(core, items, whole)
        self._texts: dict[int, Text] = {}
        self._held = contextlib.ExitStack()
        self._appending: dict[int, Appending] = {}

    def _draft(self, at: int, folder: Folder, message: NewMessage, state: SieveState | None) -> Draft:
        text = message.data if message.crlf else to_crlf(message.data)
        self._texts[at] = prepared(text)
        date = int(self.seconds) if message.date is None else message.date
        file = NewFile(folder.new, -1, "", 0, len(self._texts[at].octets) + BLOCK_OCTETS, 0)
        key = fingerprint(message.key) if message.key and not self.whole else b""
        return Draft(
            at, folder, message, state, render(text), CRLF_FORM, file, date, 0 if message.flags else 1, key
        )

    def _sync(self) -> None:
        """Nothing is written before the numbers are known."""

    def _commit(self) -> None:
        with self._held:
            super()._commit()

    def _row(self, folder: Folder) -> MailboxRow:
        row = self.rows.get(folder.id)
        if row is None:
            self._held.enter_context(mbox_of(folder).held())
            row = self.rows[folder.id] = mbox_sync.current(self.core, folder)
        return row

    def _name(self, draft: Draft, row: MailboxRow) -> str:
        self.core.serial += 1
        return ""

    def _publish(self, accepted: list[Draft], names: list[Draft]) -> None:
        now = int(self.seconds)
        group = accepted[0].uid if self.whole and len(accepted) > 1 else 0
        for draft in accepted:
            row = self.rows[draft.folder.id]
            appending = self._appending.get(row.id)
            if appending is None:
                appending = self._appending[row.id] = Appending(mbox_of(draft.folder), row)
                appending.together = group > 0
            state = (draft.mask, draft.fresh)
            text = self._texts.pop(draft.at)
            placed = appending.add(area_of(text, row, draft.uid, state, (draft.date, now), draft.key, group))
            draft.name = str(placed.head)
            draft.file.inode, draft.file.size, draft.file.mtime = placed.offset, placed.size, placed.mark
        for appending in self._appending.values():
            appending.finish()

    def _withdraw(self, names: list[Draft]) -> None:
        for appending in self._appending.values():
            appending.undo()
