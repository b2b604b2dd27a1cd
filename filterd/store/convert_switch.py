"""Behind the one rename of a conversion (``convert``): what a run that was cut short owes is done by the next one.

``switch`` in the work directory, JSON, is on disk before the rename; it counts only when the account is of the kind that it names.
It says where the old files go, and what only the old index knew. Everything here may be done twice.

Mail that others put into the old files once these had been read is told from what was read: a Maildir file by its name (ours carry
a UID), a message in an mbox by lying behind what was read or, when somebody has rewritten the file, by its text. It goes into the
same mailbox of the new kind, with a delivery key, so that it is there once however often this runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from filterd.store import durable, mbox_tree, names
from filterd.store import flags as fl
from filterd.store import mbox_format as fmt
from filterd.store.base import NewMessage, NoSuchMailbox, OverQuota
from filterd.store.choice import MBOX, ChosenStore, format_of
from filterd.store.durable import opened
from filterd.store.folder import claimed_uid
from filterd.store.maildir import MaildirAccount
from filterd.store.mbox_file import MboxFile
from filterd.store.mbox_journal import ANCHOR
from filterd.store.mbox_scan import Area
from filterd.store.record import to_crlf

WORK = "filterd-convert"
NOTE = "switch"


@dataclass(slots=True)
class Converted:
    """``old``: where the files of before are."""

    mailboxes: int = 0
    messages: int = 0
    old: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Box:
    """A mailbox as it was read. ``place``: its directory or file, below the account's directory; "" is INBOX."""

    name: str
    mid: str
    place: str
    unmarked: list[str] = field(default_factory=list)  # base names without a UID that were read all the same
    octets: int = 0  # of an mbox file
    anchor: str = ""  # digest of the octets before that


@dataclass(slots=True)
class Switch:
    """The note. ``old`` is a name in the account's directory, ``parts`` what is to be there."""

    to: str = ""
    old: str = ""
    parts: list[str] = field(default_factory=list)
    mailboxes: int = 0
    messages: int = 0
    boxes: list[Box] = field(default_factory=list)
    metadata: list[tuple[str, str, str]] = field(default_factory=list)  # mailbox id, name, value
    state: list[tuple[str, float]] = field(default_factory=list)  # key in hexadecimal, until
    keywords: dict[str, dict[str, list[int]]] = field(
        default_factory=dict
    )  # that no file name can say: mailbox -> keyword -> UIDs

    def write(self, disk: durable.Disk, work: durable.Dir) -> None:
        durable.replace_small(disk, work, NOTE, json.dumps(asdict(self)).encode("ascii"))


def read_note(path: str) -> Switch | None:
    """Of the account in ``path``; None when there is none that counts."""
    try:
        with open(f"{path}/{WORK}/{NOTE}", "rb") as file:
            values = json.load(file)
    except FileNotFoundError:
        return None
    switch = Switch(**values)
    switch.boxes = [Box(**box) for box in values["boxes"]]
    return switch if switch.to == format_of(path) else None


def anchor_of(mbox: MboxFile, octets: int) -> str:
    state = hashlib.blake2b(digest_size=16)
    for piece in mbox.pieces(max(0, octets - ANCHOR), octets):
        state.update(piece)
    return state.hexdigest()


def clear(disk: durable.Disk, path: str) -> None:
    """The work directory of the account in ``path``, and all in it; the note last."""
    work = f"{path}/{WORK}"
    for place, folders, files in os.walk(work, topdown=False):
        with opened(disk, place) as at:
            for name in files:
                disk.unlink(at, name)
            for name in folders:
                disk.remove_dir(at, name)
    with contextlib.suppress(FileNotFoundError), opened(disk, path) as at:
        disk.remove_dir(at, WORK)


def finish(store: ChosenStore, account: str) -> Converted | None:
    """What comes after the rename. None when no conversion has come so far."""
    path = store.path(account)
    switch = read_note(path)
    if switch is None:
        return None
    return _Finish(store, account, switch).run()


class _Finish:
    def __init__(self, store: ChosenStore, account: str, switch: Switch) -> None:
        self.store = store
        self.path = store.path(account)
        self.account = account
        self.disk = store.maildir.disk
        self.switch = switch
        self.old = f"{self.path}/{switch.old}"
        self.done = Converted(switch.mailboxes, switch.messages, self.old)
        self.came = 0
        self.left = False  # of the mailbox at hand something was not taken along

    def run(self) -> Converted:
        store = self.store
        store.close_account(self.account)
        core = store.of(self.account).core(self.account)
        try:
            with core.guard(), core.locked():  # whoever opens a new mbox account finishes its spool
                self._move()
        finally:
            core.close()
        account = store.account(self.account)
        for info in account.mailboxes():
            account.status(info.name)  # heals
        self._restore(account)
        for box in self.switch.boxes:
            late = self._from_maildir(box) if self.switch.to == MBOX else self._from_mbox(account, box)
            self.left = False
            for message in late:
                self._take(account, box, message)
        if self.came:
            self.done.notes.append(f"{self.came} messages that others put in meanwhile were taken along")
        clear(self.disk, self.path)
        return self.done

    def _move(self) -> None:
        disk = self.disk
        with opened(disk, self.path) as root, opened(disk, self.old) as old:
            for part in self.switch.parts:
                if not os.path.lexists(f"{self.old}/{part}"):
                    with contextlib.suppress(FileNotFoundError):
                        disk.rename(root, part, old, part)
            disk.sync_dir(old)
            disk.sync_dir(root)

    def _restore(self, account: MaildirAccount) -> None:
        """What only the old index knew; what has been said since goes before it."""
        for name, words in self.switch.keywords.items():
            for word, uids in words.items():
                with contextlib.suppress(NoSuchMailbox):
                    account.set_flags(name, uids, "add", (word,))
        boxes = {info.id: info.name for info in account.mailboxes()}
        for mid, entry, value in self.switch.metadata:
            if not mid or mid in boxes:
                mailbox = boxes[mid] if mid else None
                if account.get_metadata(mailbox, entry) is None:
                    account.set_metadata(mailbox, entry, value)
        core = self.store.of(self.account).core(self.account)
        state = [(bytes.fromhex(key), until) for key, until in self.switch.state]
        try:
            with core.guard(), core.locked(), core.index.transaction(durable=True):
                core.index.execute_many("insert or ignore into state values(?, ?)", state)
        finally:
            core.close()

    # -- what came meanwhile ----------------------------------------------------------------------------------------------------
    def _take(self, account: MaildirAccount, box: Box, message: NewMessage) -> None:
        try:
            try:
                stored = account.deliver(box.name, message)
            except NoSuchMailbox:
                stored = account.deliver(names.INBOX, message)
        except OverQuota:
            self.left = True
            self.done.notes.append(
                f"mail for {box.name} that came meanwhile is over quota: it stays in the old files"
            )
            return
        self.came += not stored.duplicate

    def _from_maildir(self, box: Box) -> Iterator[NewMessage]:
        for part in ("new", "cur"):
            place = f"{self.old}/{box.place}/{part}" if box.place else f"{self.old}/{part}"
            try:
                found = sorted(os.listdir(place))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in found:
                base, letters = fl.split_name(name)
                if name[0] == "." or claimed_uid(base, box.mid) or base in box.unmarked:
                    continue
                try:
                    with open(
                        os.open(f"{place}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb"
                    ) as file:
                        data, date = file.read(), int(os.fstat(file.fileno()).st_mtime)
                except OSError as error:
                    self.done.notes.append(f"{place}/{name} cannot be read: {error.strerror}")
                    continue
                mask, _ = fl.mask_of_letters(letters, 0)
                key = b"convert " + os.fsencode(f"{box.mid} {base}")
                yield NewMessage(to_crlf(data), fl.names_of(mask, ()), date, key)

    def _from_mbox(self, account: MaildirAccount, box: Box) -> Iterator[NewMessage]:
        settings = self.store.mbox.mbox
        inbox = mbox_tree.inbox_path(settings, self.path, self.account)
        spool = not box.place and os.path.dirname(inbox) != self.path
        place = inbox if spool else f"{self.old}/{box.place or os.path.basename(inbox)}"
        if not os.path.isfile(place):
            return
        mbox = MboxFile(self.disk, place, settings.locks)
        try:
            with mbox.held():
                size = mbox.size()
                if not (spool and not size):
                    yield from self._late_areas(account, box, mbox, size)
                if spool and self.left:
                    self.done.notes.append(f"{place} is not read any more and not emptied: it has more")
                elif spool:
                    self._empty(mbox)
        finally:
            mbox.close()

    def _late_areas(
        self, account: MaildirAccount, box: Box, mbox: MboxFile, size: int
    ) -> Iterator[NewMessage]:
        scanner = mbox.scanner()
        if size >= box.octets and anchor_of(mbox, box.octets) == box.anchor:
            areas = [each for each in scanner.areas(self._behind(mbox, box.octets)) if size > box.octets]
        else:
            areas = self._unknown(account, box, mbox, list(scanner.areas(0)))
        for area in areas:
            mbox.touch()
            data = mbox.read(area.offset, area.size)
            text = self._text(data)
            if not area.mail or not text:
                self.left |= not area.mail and bool(data.strip(b"\0\r\n"))
                continue
            state = fmt.state_of(data[: fmt.head_end(data)])
            if state.pseudo:
                continue
            date = fmt.from_date(data[: data.find(b"\n")]) or 0
            key = b"convert %s %d " % (box.mid.encode(), area.offset) + hashlib.sha256(data).digest()
            yield NewMessage(text, fl.names_of(state.mask & fl.SYSTEM_MASK, ()), date, key)

    def _behind(self, mbox: MboxFile, octets: int) -> int:
        """Where what was appended begins: the empty lines that stand before it are of the message before."""
        near = mbox.read(octets, 8)
        return octets + len(near) - len(near.lstrip(b"\r\n"))

    def _unknown(self, account: MaildirAccount, box: Box, mbox: MboxFile, areas: list[Area]) -> list[Area]:
        """Of a file that was rewritten: what the new mailbox has not, or has less often."""
        known: Counter[bytes] = Counter()
        with contextlib.suppress(NoSuchMailbox):
            for uid in account.snapshot(box.name).uids:
                known[hashlib.sha256(account.read(box.name, uid) or b"").digest()] += 1
        unknown = []
        for area in areas:
            digest = hashlib.sha256(self._text(mbox.read(area.offset, area.size))).digest()
            if known[digest]:
                known[digest] -= 1
            else:
                unknown.append(area)
        return unknown

    def _text(self, data: bytes) -> bytes:
        return fmt.text_of(data, self.store.mbox.mbox.quoting)

    def _empty(self, spool: MboxFile) -> None:
        """INBOX in the spool: its messages are in the Maildir, and others go on delivering there."""
        try:
            spool.cut(0)
            spool.sync()
        except OSError as error:
            self.done.notes.append(
                f"{spool.path} is not read any more but cannot be emptied: {error.strerror}"
            )
        else:
            self.done.notes.append(f"{spool.path} is empty now and not read any more")
